"""What the form says of a run's load: how many backups, for how long, and which schedules run at the same time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from apps.clusters.models import Cluster
from apps.schedules.load import Load, expected_load
from apps.schedules.models import RunStatus, Schedule, ScheduleRun
from apps.schedules.services import pause_schedule
from apps.schedules.timing.blackouts import Window
from apps.storage.models import StorageConfig
from tests.admin.world import make_job
from tests.schedules.conftest import NOW

pytestmark = pytest.mark.django_db
MINUTE = timedelta(minutes=1)


def load_of(schedule: Schedule, *collections: str, storages: int = 1) -> Load:
    return expected_load(schedule, schedule.timing(), collections=collections, storages=storages, now=NOW)


def took(cluster: Cluster, name: str, length: timedelta, **fields: Any) -> None:
    began = NOW - timedelta(days=1)
    make_job(cluster, StorageConfig.objects.get(), name, started_at=began, completed_at=began + length, **fields)


def ran(schedule: Schedule, length: timedelta, at: datetime = NOW - timedelta(days=1)) -> None:
    ScheduleRun.objects.create(
        schedule=schedule, slot=at, created_at=at, completed_at=at + length, status=RunStatus.OK
    )  # fmt: skip


def test_it_counts_backups_and_how_long_they_took(make: Callable[..., Schedule], away: Cluster) -> None:
    Cluster.objects.update(max_jobs=2)
    schedule = make()
    for minutes in (10, 20):
        took(away, "films", minutes * MINUTE)
    took(away, "songs", 5 * MINUTE)
    took(away, "songs", 500 * MINUTE, status="failed")

    load = load_of(schedule, "films", "new", "songs", storages=2)

    assert load.sentences == (
        "A run makes 6 backups, at most 2 of them at once.",
        "It takes about 20 min, going by how long its collections took lately; 1 of them not measured yet.",
        "While the next one runs (02:30 to 02:50), no other schedule runs on main.",
    )


def test_it_names_the_schedules_that_run_meanwhile(make: Callable[..., Schedule], away: Cluster) -> None:
    schedule = make()
    took(away, "films", 20 * MINUTE)
    make("inside", cron="40 2 * * *")
    make("after", cron="51 2 * * *")
    before = make("before", cron="0 2 * * *")
    make("paused", cron="40 2 * * *")
    make("asked", kind="manual")
    pause_schedule(schedule=Schedule.objects.get(name="paused"), reason="x", now=NOW)
    other = Cluster.objects.create(name="other", url="http://127.0.0.1:9")
    make("elsewhere", cluster=other, cron="40 2 * * *")

    assert load_of(schedule, "films").overlaps == ("inside",)
    ran(before, 29 * MINUTE)
    assert load_of(schedule, "films").overlaps == ("inside",)  # it will have ended
    ran(before, 35 * MINUTE, NOW - timedelta(days=2))
    load = load_of(schedule, "films")
    assert load.overlaps == ("before", "inside")
    assert "these run on main as well: before (02:00, about 32 min), inside (02:40)." in load.sentences[-1]


def test_what_a_blackout_puts_off_is_seen_where_it_runs(make: Callable[..., Schedule], away: Cluster) -> None:
    schedule = make()
    window = Window(starts_at=NOW, ends_at=NOW + timedelta(hours=14, minutes=31))
    make("deferred", cron="0 1 * * *", blackouts=[window])
    make("skipped", cron="31 2 * * *", blackouts=[Window(starts_at=NOW, ends_at=NOW + timedelta(days=1), skips=True)])
    took(away, "films", 20 * MINUTE)

    assert load_of(schedule, "films").overlaps == ("deferred",)


def test_times_are_those_of_the_schedules_own_clock(make: Callable[..., Schedule], away: Cluster) -> None:
    schedule = make(tz="Europe/Berlin")  # 02:30 there is 01:30 in UTC
    took(away, "films", 20 * MINUTE)
    make("inside", cron="40 1 * * *")

    assert "(02:30 to 02:50), these run on main as well: inside (02:40)." in load_of(schedule, "films").sentences[-1]


def test_a_manual_one_and_one_that_matches_nothing_say_little(make: Callable[..., Schedule]) -> None:
    assert load_of(make("asked", kind="manual"), "films").sentences == (
        "A run makes 1 backup.",
        "How long it takes is not known: none of its collections has been backed up lately.",
    )
    assert load_of(make()).sentences == ("While the next one runs (02:30), no other schedule runs on main.",)


def test_as_many_queries_for_many_schedules(make: Callable[..., Schedule]) -> None:
    schedule = make()

    def count() -> int:
        with CaptureQueriesContext(connection) as asked:
            load_of(schedule, "films")
        return len(asked)

    make("one")
    few = count()
    for number in range(20):
        make(f"s{number}")
    assert count() == few <= 5
