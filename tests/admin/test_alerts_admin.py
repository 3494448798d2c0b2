"""Channels, incidents and deliveries as people see them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.alerts.models import Channel, Delivery, Incident
from apps.alerts.services import save_channel
from apps.alerts.services import test_channel as try_channel
from apps.clusters.models import Cluster
from apps.schedules.models import Schedule
from apps.storage.models import StorageConfig
from tests.schedules.conftest import maker

CANARY = "canary-in-the-address"
CHANNELS = reverse("admin:alerts_channel_changelist")


def form(address: str, **fields: Any) -> dict[str, Any]:
    return {
        "name": "ops", "kind": "webhook", "enabled": "on", "address": address, "min_severity": "warning",
        "digest": "none", "time_zone": "UTC", "clusters": "ber*, ham*", "schedules": "", **fields,
    }  # fmt: skip


@pytest.fixture
def incident(db: None) -> Incident:
    now = timezone.now()
    return Incident.objects.create(
        rule="failing",
        target_key="a/b",
        severity="critical",
        summary="<b>b</b> fails.",
        opened_at=now,
        last_seen_at=now,
    )


def test_a_channel_is_added_tested_and_never_shows_its_address(root: Client, httpserver: Any) -> None:
    httpserver.expect_request(f"/{CANARY}").respond_with_data("ok")

    answer = root.post(reverse("admin:alerts_channel_add"), form(httpserver.url_for(f"/{CANARY}")))
    assert answer.status_code == 302, answer.context_data["adminform"].form.errors
    channel = Channel.objects.get()
    assert channel.clusters == ["ber*", "ham*"]
    page = reverse("admin:alerts_channel_change", args=[channel.pk])
    sent = root.post(reverse("admin:alerts_channel_test", args=[channel.pk]), follow=True)

    assert "took the test message" in sent.content.decode()
    assert len(httpserver.log) == 1
    assert root.post(page, form("", name="night")).status_code == 302  # empty keeps the address
    channel.refresh_from_db()
    assert channel.address.reveal().endswith(CANARY)
    for address in (
        page,
        CHANNELS,
        reverse("admin:alerts_delivery_changelist"),
        reverse("admin:audit_auditentry_changelist"),
    ):
        assert CANARY not in root.get(address).content.decode()


def test_a_ping_channel_shows_what_to_enter_at_the_receiver(root: Client, httpserver: Any, folder: Any) -> None:
    StorageConfig.objects.create(name="vault", type="local", path=str(folder))
    make = maker(Cluster.objects.create(name="berlin", url="http://127.0.0.1:9"))
    make("nightly", now=timezone.now(), cron="H 2 * * *", tz="Europe/Berlin", grace_seconds=3600, jitter_seconds=600)
    make("night-2", now=timezone.now(), kind="interval", interval_seconds=7200)
    make("by hand", now=timezone.now(), kind="manual")
    make("night-by-hand", now=timezone.now(), kind="manual")
    address = httpserver.url_for(f"/{CANARY}")
    pings = save_channel(channel=None, data={"name": "p", "kind": "kuma", "address": address, "schedules": ["night*"]})
    heart = save_channel(channel=None, data={"name": "h", "kind": "ping", "address": address})

    page = root.get(reverse("admin:alerts_channel_change", args=[pings.pk])).content.decode()
    cron = Schedule.objects.get(name="nightly").cron_resolved
    assert cron.endswith(" 2 * * *")
    for words in (cron, "Europe/Berlin", "1 h 10 min", "night-2 on berlin", "2 h", "30 min"):
        assert words in page
    assert "by hand" not in page
    assert "by-hand" not in page
    page = root.get(reverse("admin:alerts_channel_change", args=[heart.pk])).content.decode()
    assert "Heartbeat of this installation" in page
    assert "10 min" in page
    mail = save_channel(channel=None, data={"name": "m", "kind": "webhook", "address": address})
    assert "at the receiver" not in root.get(reverse("admin:alerts_channel_change", args=[mail.pk])).content.decode()


def test_a_schedules_page_shows_what_to_enter_at_a_receiver_of_its_pings(
    root: Client, as_: Callable[[str], Client], httpserver: Any, folder: Any
) -> None:
    StorageConfig.objects.create(name="vault", type="local", path=str(folder))
    make = maker(Cluster.objects.create(name="berlin", url="http://127.0.0.1:9"))
    schedule = make("nightly", now=timezone.now(), cron="17 2 * * *", tz="Europe/Berlin", grace_seconds=5400)
    page = reverse("admin:schedules_schedule_change", args=[schedule.pk])
    assert "none tells of its runs yet" in root.get(page).content.decode()
    data = {"name": "hc", "kind": "ping", "address": httpserver.url_for(f"/{CANARY}"), "schedules": ["n*"]}
    save_channel(channel=None, data=data)
    save_channel(channel=None, data=data | {"name": "elsewhere", "schedules": ["x*"]})

    shown = root.get(page).content.decode()
    for words in ("Dead-man pings", ">17 2 * * *<", ">Europe/Berlin<", "1 h 30 min", ">hc<"):
        assert words in shown
    assert "elsewhere" not in shown
    assert CANARY not in shown
    assert "Dead-man pings" not in as_("viewer").get(page).content.decode()


def test_the_default_channel_and_successes_are_set_in_the_form(root: Client, httpserver: Any) -> None:
    address = httpserver.url_for("/x")
    data = form(address, is_default="on", tell_success="on")
    assert root.post(reverse("admin:alerts_channel_add"), data).status_code == 302
    first = Channel.objects.get()
    assert (first.is_default, first.tell_success) == (True, True)
    root.post(reverse("admin:alerts_channel_add"), form(address, name="second", is_default="on"))

    first.refresh_from_db()
    assert not first.is_default
    refused = root.post(reverse("admin:alerts_channel_add"), form(address, name="third", kind="url", is_default="on"))
    assert set(refused.context_data["adminform"].form.errors) == {"is_default"}
    assert Channel.objects.get(is_default=True).name == "second"


def test_each_problem_stands_beside_its_field(root: Client) -> None:
    answer = root.post(reverse("admin:alerts_channel_add"), form("http://169.254.169.254/", time_zone="Mars"))

    errors = answer.context_data["adminform"].form.errors
    assert set(errors) == {"address", "time_zone"}
    assert not Channel.objects.exists()


def test_an_incident_tells_who_was_told_and_is_acknowledged_by_operators(
    as_: Callable[[str], Client], incident: Incident, httpserver: Any
) -> None:
    channel = save_channel(channel=None, data={"name": "ops", "kind": "webhook", "address": httpserver.url_for("/x")})
    delivery = try_channel(channel=channel, now=timezone.now(), clock=timezone.now)
    delivery.incidents.add(incident)
    page = reverse("admin:alerts_incident_change", args=[incident.pk])
    acknowledge = reverse("admin:alerts_incident_acknowledge", args=[incident.pk])

    viewer, operator = as_("viewer"), as_("operator")
    seen = viewer.get(page).content.decode()
    assert "&lt;b&gt;b" in seen
    assert "I know" not in seen
    assert viewer.post(acknowledge).status_code == 403
    assert operator.get(acknowledge).status_code == 405
    assert operator.post(acknowledge).status_code == 302
    incident.refresh_from_db()
    assert incident.acknowledged_by == "operator"
    assert operator.get(CHANNELS).status_code == 403
    administrator = as_("administrator")
    assert administrator.get(reverse("admin:alerts_delivery_change", args=[delivery.pk])).status_code == 200
    assert administrator.get(reverse("admin:alerts_incident_changelist") + "?open=yes").status_code == 200
    assert Delivery.objects.count() == 1
