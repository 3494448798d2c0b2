"""How a target stands while its backup runs: stuck, slow, or getting on; and that all storages count."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from apps.alerts.models import Target
from apps.alerts.target_states import TargetState, read_targets, target_state
from apps.alerts.targets import refresh_targets
from apps.clusters.models import Cluster, ObservedCollection
from apps.jobs.models import Job
from apps.protection.facts import read_facts
from apps.protection.judge import judge
from apps.schedules.models import ItemStatus, RunItem, RunStatus, Schedule, ScheduleRun
from apps.storage.models import StorageConfig
from tests.admin.world import make_job
from tests.schedules.conftest import maker

pytestmark = pytest.mark.django_db

MINUTE = timedelta(minutes=1)


class World:
    """A schedule with one collection whose backup runs since forty minutes; it usually takes ten."""

    def __init__(self, folder: Any) -> None:
        self.now = timezone.now()
        self.storage = StorageConfig.objects.create(name="vault", type="local", path=str(folder))
        self.cluster = Cluster.objects.create(name="berlin", url="http://127.0.0.1:9")
        ObservedCollection.objects.create(
            cluster=self.cluster, name="products", first_seen_at=self.now - timedelta(days=9)
        )
        self.schedule = maker(self.cluster)(now=self.now - timedelta(days=3))
        for day in range(1, 5):
            began = self.now - timedelta(days=day)
            make_job(self.cluster, self.storage, started_at=began, completed_at=began + 10 * MINUTE)
        self.job = make_job(
            self.cluster, self.storage, status="running", schedule_id=self.schedule.pk,
            started_at=self.now - 40 * MINUTE, heartbeat_at=self.now, progress_at=self.now,
        )  # fmt: skip
        self.run = ScheduleRun.objects.create(
            schedule=self.schedule, slot=self.now - 40 * MINUTE, created_at=self.now - 40 * MINUTE,
            status=RunStatus.RUNNING,
        )  # fmt: skip
        RunItem.objects.create(run=self.run, collection_name="products", storage=self.storage, job=self.job)
        self.target = Target.objects.create(
            schedule=self.schedule, collection_name="products", first_seen_at=self.now - timedelta(days=3),
            due_at=self.now - 40 * MINUTE, deadline_at=self.now + timedelta(hours=6),
        )  # fmt: skip

    def state(self) -> TargetState:
        (found,) = read_targets(judge(read_facts(self.now)), now=self.now)
        return found.state

    def job_is(self, **fields: datetime) -> None:
        Job.objects.filter(pk=self.job.pk).update(**fields)


@pytest.fixture
def world(db: None, folder: Any) -> World:
    return World(folder)


def test_what_takes_more_than_three_times_as_long_as_usual_is_slow(world: World) -> None:
    assert world.state() == TargetState.SLOW
    world.job_is(started_at=world.now - 29 * MINUTE)
    assert world.state() == TargetState.RUNNING


def test_usual_is_the_median_and_one_odd_run_changes_nothing(world: World) -> None:
    odd = Job.objects.filter(status="completed").earliest("completed_at")
    Job.objects.filter(pk=odd.pk).update(completed_at=odd.started_at + timedelta(hours=9))

    assert world.state() == TargetState.SLOW


@pytest.mark.parametrize(
    ("silent", "still", "state"),
    [
        (4 * MINUTE, 0 * MINUTE, TargetState.STUCK),
        (2 * MINUTE, 0 * MINUTE, TargetState.SLOW),
        (0 * MINUTE, 31 * MINUTE, TargetState.STUCK),
        (0 * MINUTE, 29 * MINUTE, TargetState.SLOW),
    ],
)
def test_what_gives_no_sign_of_life_or_moves_nothing_is_stuck(
    world: World, silent: timedelta, still: timedelta, state: TargetState
) -> None:
    world.job_is(heartbeat_at=world.now - silent, progress_at=world.now - still)

    assert world.state() == state


def test_what_is_overdue_hides_nothing_and_is_hidden_by_nothing(world: World) -> None:
    """The worst first: overdue, stuck, failing, slow, running, late."""
    target, now = world.target, world.now
    every = {"running": True, "failing": True, "stuck": True, "slow": True}
    target.deadline_at = now - MINUTE
    order = [target_state(target, now=now, **every)]
    target.deadline_at = now + MINUTE
    for name in ("stuck", "failing", "slow", "running"):
        order.append(target_state(target, now=now, **every))
        every[name] = False
    order.append(target_state(target, now=now, **every))

    assert order == ["overdue", "stuck", "failing", "slow", "running", "late"]


def test_states_are_told_by_the_metrics(world: World, admin_client: Any) -> None:
    page = admin_client.get("/metrics").content.decode()
    labels = 'cluster="berlin",collection="products",schedule="nightly"'
    assert f'backupmgr_target_state{{{labels},state="slow"}} 1.0' in page
    assert 'backupmgr_targets{cluster="berlin",schedule="nightly",state="slow"} 1.0' in page
    world.job_is(heartbeat_at=world.now - 4 * MINUTE)
    assert f'{labels},state="stuck"}} 1.0' in admin_client.get("/metrics").content.decode()


def test_the_api_lists_what_a_schedule_owes(world: World, admin_client: Any) -> None:
    (found,) = admin_client.get(f"/api/v1/schedules/{world.schedule.pk}/targets").json()["result"]

    assert (found["collection"], found["state"]) == ("products", "slow")
    assert found["last_ok_slot"] is None
    assert found["due_at"] < found["deadline_at"]
    Schedule.objects.update(enabled=False, next_fire_at=None, next_run_at=None)
    assert admin_client.get(f"/api/v1/schedules/{world.schedule.pk}/targets").json()["result"] == []
    assert admin_client.get(f"/api/v1/schedules/{world.cluster.pk}/targets").status_code == 404


def test_a_run_counts_for_a_collection_only_when_all_storages_have_it(world: World) -> None:
    second = StorageConfig.objects.create(name="second", type="local", path=world.storage.path)
    slot = world.run.slot
    RunItem.objects.update(status=ItemStatus.OK)
    lacking = RunItem.objects.create(
        run=world.run, collection_name="products", storage=second, status=ItemStatus.FAILED
    )

    def ok_slot() -> datetime | None:
        refresh_targets(now=world.now)
        return Target.objects.get().last_ok_slot

    assert ok_slot() is None
    for status in (ItemStatus.QUEUED, ItemStatus.CANCELLED, ItemStatus.EXPIRED, ItemStatus.SKIPPED_OVERLAP):
        RunItem.objects.filter(pk=lacking.pk).update(status=status)
        assert ok_slot() is None, status
    RunItem.objects.filter(pk=lacking.pk).update(status=ItemStatus.FRESH_ENOUGH)
    assert ok_slot() == slot
    assert Schedule.objects.count() == 1
