"""Deadlines of targets that are worked out only when something has changed: what must not be missed by that."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from apps.alerts.models import AlertClock, Target
from apps.alerts.targets import refresh_targets
from apps.alerts.watch import take_round
from apps.clusters.models import Cluster, ObservedCollection
from apps.schedules.models import Blackout, Clock, ItemStatus, RunItem, Schedule, ScheduleRun
from apps.schedules.services import pause_schedule, resume_schedule
from apps.storage.models import StorageConfig
from tests.schedules.conftest import maker

pytestmark = pytest.mark.django_db

#: A Thursday; the schedule runs daily at 02:30.
NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
SLOT = datetime(2026, 1, 1, 2, 30, tzinfo=UTC)
DAY = timedelta(days=1)
GRACE = timedelta(hours=6)


@pytest.fixture
def berlin(db: None, folder: Any) -> Cluster:
    for name in ("vault", "copy"):
        StorageConfig.objects.create(name=name, type="local", path=str(folder))
    cluster = Cluster.objects.create(name="berlin", url="http://127.0.0.1:9")
    ObservedCollection.objects.create(cluster=cluster, name="products", first_seen_at=NOW - timedelta(days=9))
    take_round(now=NOW)  # from now on it is remembered up to when all has been read
    return cluster


@pytest.fixture
def nightly(berlin: Cluster) -> Schedule:
    return maker(berlin)(now=NOW - timedelta(days=3))


def backed_up(schedule: Schedule, slot: datetime, settled_at: datetime, collection: str = "products") -> None:
    """Each storage of the schedule got its backup."""
    run = ScheduleRun.objects.create(schedule=schedule, slot=slot, created_at=slot, status="ok", completed_at=slot)
    for storage in StorageConfig.objects.all():
        RunItem.objects.create(
            run=run, collection_name=collection, storage=storage, status=ItemStatus.OK, settled_at=settled_at
        )


def deadline(collection: str = "products") -> datetime | None:
    return Target.objects.get(collection_name=collection).deadline_at


def test_the_first_look_reads_all_that_there_ever_was(nightly: Schedule) -> None:
    backed_up(nightly, SLOT - DAY, settled_at=SLOT - DAY)

    refresh_targets(now=NOW)

    assert Target.objects.get().last_ok_slot == SLOT - DAY
    assert deadline() == SLOT + GRACE
    assert AlertClock.objects.get().targets_at == NOW


def test_a_backup_moves_the_deadline_on(nightly: Schedule) -> None:
    refresh_targets(now=NOW)
    later = NOW + DAY
    backed_up(nightly, SLOT + DAY, settled_at=later - timedelta(minutes=2))

    refresh_targets(now=later)
    assert deadline() == SLOT + 2 * DAY + GRACE
    for n in range(1, 4):
        refresh_targets(now=later + n * timedelta(hours=1))  # long after it has been read, it stays
    assert deadline() == SLOT + 2 * DAY + GRACE


def test_what_ended_a_little_before_the_last_look_and_was_written_after_it_counts(nightly: Schedule) -> None:
    refresh_targets(now=NOW)
    backed_up(nightly, SLOT, settled_at=NOW - timedelta(minutes=1))

    refresh_targets(now=NOW + timedelta(seconds=15))

    assert deadline() == SLOT + DAY + GRACE


def test_what_ended_while_nobody_looked_counts(nightly: Schedule) -> None:
    refresh_targets(now=NOW)
    backed_up(nightly, SLOT + DAY, settled_at=SLOT + DAY)

    refresh_targets(now=NOW + 3 * DAY)

    assert deadline() == SLOT + 2 * DAY + GRACE


def test_what_ends_after_a_clock_was_put_back_counts(nightly: Schedule) -> None:
    refresh_targets(now=NOW)
    earlier = NOW - timedelta(hours=3)
    backed_up(nightly, SLOT, settled_at=earlier - timedelta(minutes=1))

    refresh_targets(now=earlier)

    assert deadline() == SLOT + DAY + GRACE


def test_one_storage_that_has_it_is_not_both(nightly: Schedule) -> None:
    refresh_targets(now=NOW)
    before = deadline()
    backed_up(nightly, SLOT, settled_at=NOW)
    second = RunItem.objects.get(storage__name="copy")
    RunItem.objects.filter(pk=second.pk).update(status=ItemStatus.QUEUED, settled_at=None)

    refresh_targets(now=NOW + timedelta(minutes=1))
    assert deadline() == before
    RunItem.objects.filter(pk=second.pk).update(status=ItemStatus.OK, settled_at=NOW + timedelta(hours=2))
    refresh_targets(now=NOW + timedelta(hours=2))

    assert deadline() == SLOT + DAY + GRACE


def test_a_target_that_comes_back_knows_its_old_backups(nightly: Schedule) -> None:
    backed_up(nightly, SLOT, settled_at=SLOT)
    refresh_targets(now=NOW)
    pause_schedule(schedule=Schedule.objects.get(), reason="Move.", now=NOW)
    refresh_targets(now=NOW + timedelta(hours=1))
    assert not Target.objects.exists()

    resume_schedule(schedule=Schedule.objects.get(), now=NOW + timedelta(hours=2))
    refresh_targets(now=NOW + timedelta(hours=2))

    assert Target.objects.get().last_ok_slot == SLOT


def test_a_new_collection_beside_old_ones_is_expected_from_when_it_was_seen(nightly: Schedule, berlin: Cluster) -> None:
    backed_up(nightly, SLOT, settled_at=SLOT)
    refresh_targets(now=NOW)
    ObservedCollection.objects.create(cluster=berlin, name="films", first_seen_at=NOW)

    refresh_targets(now=NOW + timedelta(minutes=1))

    assert (deadline("products"), deadline("films")) == (SLOT + DAY + GRACE, SLOT + DAY + GRACE)
    assert Target.objects.get(collection_name="films").last_ok_slot is None


def test_another_rule_grace_blackout_or_zone_rules_move_it(nightly: Schedule, berlin: Cluster) -> None:
    backed_up(nightly, SLOT, settled_at=SLOT)
    refresh_targets(now=NOW)

    Schedule.objects.update(grace_seconds=3600)
    refresh_targets(now=NOW)
    assert deadline() == SLOT + DAY + timedelta(hours=1)
    Schedule.objects.update(cron="0 1 * * *", cron_resolved="0 1 * * *")
    refresh_targets(now=NOW)
    assert deadline() == SLOT + DAY + timedelta(minutes=-30)  # 01:00 and an hour
    one = SLOT + DAY - timedelta(minutes=90)
    Blackout.objects.create(cluster=berlin, starts_at=one, ends_at=one + timedelta(hours=5))
    refresh_targets(now=NOW)
    assert deadline() == one + timedelta(hours=6)
    Target.objects.update(deadline_at=NOW)  # as older zone rules would have had it
    Clock.objects.create(pk=1, last_tick_at=NOW, next_sweep_at=NOW, tzdata="2026z")
    refresh_targets(now=NOW)
    assert deadline() == one + timedelta(hours=6)


def test_costs_as_many_queries_for_many_as_for_few_and_writes_nothing(berlin: Cluster) -> None:
    make = maker(berlin)

    def cost() -> int:
        with CaptureQueriesContext(
            connection,
        ) as captured:
            refresh_targets(now=NOW + timedelta(minutes=1))
        return len([query for query in captured if "SAVEPOINT" not in query["sql"]])

    make("schedule", now=NOW - timedelta(days=3))
    refresh_targets(now=NOW)
    few = cost()
    for n in range(20):
        ObservedCollection.objects.create(cluster=berlin, name=f"c{n}", first_seen_at=NOW)
        make(f"schedule {n}", now=NOW - timedelta(days=3))
    refresh_targets(now=NOW)
    assert Target.objects.count() == 21 * 21

    assert cost() == few
