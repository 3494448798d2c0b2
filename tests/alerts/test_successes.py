"""Notices of success: for those who ask, for each run that backed up everything, once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from apps.alerts.models import Channel, Delivery
from apps.alerts.successes import write_successes
from apps.alerts.watch import look_and_tell
from apps.clusters.models import Cluster
from apps.schedules.models import RunItem, RunStatus, Schedule, ScheduleRun
from apps.storage.models import StorageConfig
from tests.admin.world import make_backup, make_job
from tests.schedules.conftest import maker

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 3, 2, 23, 30, tzinfo=UTC)


@pytest.fixture
def nightly(db: None, folder: Any) -> Schedule:
    StorageConfig.objects.create(name="vault", type="local", path=str(folder))
    return maker(Cluster.objects.create(name="berlin", url="http://127.0.0.1:9"))(now=NOW - timedelta(days=3))


@pytest.fixture
def asks(channel: Callable[..., Channel]) -> Callable[..., Channel]:
    def make(name: str = "ops", **fields: Any) -> Channel:
        made = channel(name, tell_success=True, **fields)
        Channel.objects.update(created_at=NOW - timedelta(days=1))
        return made

    return make


def ran(schedule: Schedule, status: str = RunStatus.OK, minutes: int = 5, **counts: int) -> ScheduleRun:
    at = NOW - timedelta(minutes=minutes)
    return ScheduleRun.objects.create(
        schedule=schedule, slot=at, created_at=at, completed_at=NOW, status=status, matched=["products"],
        counts=counts or {"ok": 1},
    )  # fmt: skip


def test_a_run_that_succeeded_is_told_once_with_figures(nightly: Schedule, asks: Callable[..., Channel]) -> None:
    asks()
    run = ran(nightly, ok=1)
    storage = StorageConfig.objects.get()
    backup = make_backup(nightly.cluster, storage)
    job = make_job(nightly.cluster, storage, backup=backup)
    RunItem.objects.create(run=run, collection_name="products", storage=storage, job=job, status="ok")
    for _ in range(2):
        write_successes(now=NOW)

    (delivery,) = Delivery.objects.all()
    assert delivery.kind == "success"
    assert delivery.subject == "[backupmgr] nightly on berlin, run of 2026-03-02 23:25 UTC: succeeded."
    assert delivery.text.endswith("Collections: 1 succeeded.\n1.0 MiB in 5 min.")
    assert (delivery.payload["event"], delivery.payload["bytes"]) == ("success", 1024 * 1024)


@pytest.mark.parametrize(
    "status", [status for status in RunStatus.values if status not in (RunStatus.OK, RunStatus.MISSED)]
)
def test_nothing_else_is_a_success(nightly: Schedule, asks: Callable[..., Channel], status: str) -> None:
    asks()
    ran(nightly, status)
    write_successes(now=NOW)

    assert not Delivery.objects.exists()


def test_nobody_is_told_who_has_not_asked(nightly: Schedule, channel: Callable[..., Channel]) -> None:
    channel()
    ran(nightly)
    look_and_tell(now=NOW)

    assert not Delivery.objects.filter(kind="success").exists()


@pytest.mark.parametrize(
    ("wants", "told"),
    [
        ({}, 1), ({"clusters": ["ham*"]}, 0), ({"clusters": ["ber*"]}, 1), ({"collections": ["film*"]}, 0),
        ({"collections": ["prod*"]}, 1), ({"tags": ["gold"]}, 0), ({"enabled": False}, 0),
        ({"muted_until": NOW + timedelta(hours=1)}, 0),
        # What is wrong and how bad has nothing to do with it.
        ({"rules": ["overdue"], "min_severity": "critical"}, 1),
    ],
)  # fmt: skip
def test_routing_holds_for_successes(
    nightly: Schedule, asks: Callable[..., Channel], wants: dict[str, Any], told: int
) -> None:
    asks(**wants)
    ran(nightly)
    write_successes(now=NOW)

    assert Delivery.objects.count() == told


def test_a_success_waits_for_the_end_of_the_quiet_hours(nightly: Schedule, asks: Callable[..., Channel]) -> None:
    asks(quiet_hours="22:00-07:00")
    ran(nightly)
    write_successes(now=NOW)

    assert Delivery.objects.get().next_try_at == datetime(2026, 3, 3, 7, 0, tzinfo=UTC)


def test_last_week_is_no_news(nightly: Schedule, channel: Callable[..., Channel]) -> None:
    channel(tell_success=True)  # made after the run
    ran(nightly)
    ScheduleRun.objects.update(completed_at=NOW - timedelta(hours=2))
    write_successes(now=NOW)

    assert not Delivery.objects.exists()


def test_the_round_writes_them(nightly: Schedule, asks: Callable[..., Channel]) -> None:
    asks()
    ran(nightly)
    look_and_tell(now=NOW)

    assert Delivery.objects.filter(kind="success").count() == 1
