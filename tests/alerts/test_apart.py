"""Alerts stand apart from backups: a channel that fails changes nothing about a job or a run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from apps.alerts.models import Channel, Delivery, DeliveryState
from apps.alerts.outbox import deliver_due
from apps.alerts.watch import watch
from apps.audit.models import AuditEntry
from apps.clusters.models import Cluster
from apps.jobs.models import Job
from apps.schedules.models import RunItem, RunStatus, ScheduleRun
from apps.schedules.settle import settle_runs
from apps.storage.models import StorageConfig
from tests.admin.world import make_job
from tests.schedules.conftest import maker

pytestmark = pytest.mark.django_db

CANARY = "canary-key-in-the-address"


def test_channels_that_fail_change_no_job_and_no_run(
    folder: Any, channel: Callable[..., Channel], httpserver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    httpserver.expect_request("/ops").respond_with_data("no", status=500)
    now = timezone.now()
    storage = StorageConfig.objects.create(name="vault", type="local", path=str(folder))
    cluster = Cluster.objects.create(name="berlin", url="http://127.0.0.1:9")
    channel("ops")
    made = channel("pings", kind="ping", schedules=["*"])
    Channel.objects.filter(pk=made.pk).update(created_at=now - timedelta(days=1))
    broken = channel("unreadable")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE alerts_channel SET address = 'not-a-token' WHERE name = %s", [broken.name])
    schedule = maker(cluster)(now=now - timedelta(days=1))
    job = make_job(cluster, storage, "products", completed_at=now)
    run = ScheduleRun.objects.create(
        schedule=schedule, slot=now - timedelta(minutes=9), created_at=now - timedelta(minutes=9),
        status=RunStatus.RUNNING,
    )  # fmt: skip
    RunItem.objects.create(run=run, collection_name="products", storage=storage, job=job)

    settle_runs(now=now)
    for minute in range(3):
        moment = now + timedelta(minutes=minute, seconds=minute)
        watch(clock=lambda moment=moment: moment)

    run.refresh_from_db()
    assert run.status == RunStatus.OK
    assert Job.objects.get().status == "completed"
    assert Delivery.objects.exclude(error="").exists()
    assert not Delivery.objects.filter(state=DeliveryState.SENT).exists()


@pytest.mark.parametrize(
    ("kind", "address"),
    [
        ("webhook", "http://127.0.0.1:9/{key}?token={key}"),
        ("ping", "http://127.0.0.1:9/ping/{key}"),
        ("kuma", "http://127.0.0.1:9/api/push/{key}?status=up&x={key}"),
        ("url", "http://127.0.0.1:9/{key}/{{state}}?token={key}&m={{message}}"),
        ("apprise", "gotify://127.0.0.1:9/{key}"),
        ("apprise", "slack://{key}/{key}/{key}"),
        ("email", "{key}@example.com"),
    ],
)
def test_no_secret_of_a_channel_is_logged_stored_or_shown(
    channel: Callable[..., Channel], kind: str, address: str, caplog: Any, admin_client: Any, settings: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    settings.BACKUPMGR_OUTBOUND_DENY = ["0.0.0.0/0"] if kind == "apprise" and "slack" in address else []
    key = "T1JJ3T3L2" if "slack" in address else CANARY.replace("-", "")
    url = "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ" if "slack" in address else address.format(key=key)
    made = Channel(name="ops", kind=kind)
    made.address, made.signing_key = url, CANARY
    made.schedules = ["*"]
    made.save()
    now = timezone.now()
    Delivery.objects.create(
        channel=made, kind="ping" if made.is_ping else "alert", key=made.pk, subject="x", text="x", next_try_at=now,
        created_at=now,
    )  # fmt: skip
    if "slack" not in address:  # nothing leaves this host
        deliver_due(clock=lambda: now)

    delivery = Delivery.objects.get()
    seen = [
        delivery.error, Channel.objects.get().last_error, repr(made), str(made), caplog.text,
        *(str(entry.__dict__) for entry in AuditEntry.objects.all()),
    ]  # fmt: skip
    for page in (
        "/admin/alerts/channel/", f"/admin/alerts/channel/{made.pk}/change/", "/admin/alerts/delivery/",
        f"/admin/alerts/delivery/{delivery.pk}/change/", "/api/v1/channels", f"/api/v1/channels/{made.pk}",
        "/api/v1/deliveries", "/metrics",
    ):  # fmt: skip
        answer = admin_client.get(page)
        assert answer.status_code == 200, page
        seen.append(answer.content.decode())
    assert not [text for text in seen if key in text or CANARY in text]
