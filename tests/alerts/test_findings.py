"""What is wrong is found: for each rule that a channel can ask for there is a world in which it is told, and once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from apps.alerts.findings import look
from apps.alerts.incidents import settle_incidents
from apps.alerts.messages import delivery_key, tell
from apps.alerts.models import Channel, Delivery, DeliveryState, Rule, Target
from apps.alerts.outbox import forget_old
from apps.backups.models import Leftover
from apps.backups.policies import RetentionPolicy
from apps.clusters.models import Cluster, ClusterObservation, ObservedCollection
from apps.jobs.models import Job, Worker
from apps.protection.facts import read_facts
from apps.protection.judge import State, judge
from apps.schedules.ages import read_ages, set_age
from apps.schedules.clock import keep_time, tick_problem
from apps.schedules.models import Clock, CollectionTag, RetentionRun, RunItem, RunStatus, Schedule, ScheduleRun
from apps.schedules.services import pause_schedule
from apps.schedules.tags import set_tags
from apps.schedules.tick import tick
from apps.storage.models import StorageConfig
from apps.storage.observations import keep as keep_look
from apps.storage.observed import StorageObservation
from tests.admin.world import make_backup, make_job
from tests.alerts.conftest import finding
from tests.schedules.conftest import maker

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


class World:
    """A cluster that answers, one collection in a schedule, backed up and tested: nothing is wrong."""

    def __init__(self, folder: Any) -> None:
        self.now = timezone.now()
        self.storage = StorageConfig.objects.create(name="vault", type="local", path=str(folder))
        self.cluster = Cluster.objects.create(name="berlin", url="http://127.0.0.1:9")
        self.observation = ClusterObservation.objects.create(
            cluster=self.cluster, next_check_at=self.now, seen_at=self.now
        )
        self.collection = ObservedCollection.objects.create(
            cluster=self.cluster, name="products", first_seen_at=self.now - 30 * DAY
        )
        self.backup = make_backup(self.cluster, self.storage, checked_at=self.now - HOUR)
        self.schedule = maker(self.cluster)(now=self.now - 3 * DAY)
        self.worker = Worker.objects.create(host="a", pid=1, processes=1, started_at=self.now, seen_at=self.now)

    def rules(self) -> list[str]:
        return sorted(one.rule for one in look(self.now)[0])

    def words(self) -> str:
        return " ".join(one.summary for one in look(self.now)[0])


@pytest.fixture
def world(db: None, folder: Any) -> World:
    return World(folder)


def failing(world: World) -> None:
    make_job(world.cluster, world.storage, status="failed", error="The disk is full.", completed_at=world.now)


def overdue(world: World) -> None:
    Target.objects.create(
        schedule=world.schedule, collection_name="products", first_seen_at=world.now - DAY,
        deadline_at=world.now - HOUR,
    )  # fmt: skip


def unprotected(world: World) -> None:
    ObservedCollection.objects.create(cluster=world.cluster, name="films", first_seen_at=world.now)


def unscheduled(world: World) -> None:
    Schedule.objects.update(include=["film*"])


def never_verified(world: World) -> None:
    type(world.backup).objects.update(checked_at=None)


def damaged(world: World) -> None:
    old = world.now - 5 * DAY
    make_backup(world.cluster, world.storage, status="damaged", created_at=old)


def unreachable(world: World) -> None:
    ClusterObservation.objects.update(seen_at=world.now - HOUR, problem="Qdrant cannot be reached.")


def run_failed(world: World) -> None:
    ScheduleRun.objects.create(
        schedule=world.schedule, slot=world.now - HOUR, created_at=world.now - HOUR, completed_at=world.now,
        status=RunStatus.FAILED, error="It matches no collection.",
    )  # fmt: skip


def schedule_broken(world: World) -> None:
    Schedule.objects.update(error="There is no further run.")


def paused_long(world: World) -> None:
    pause_schedule(schedule=world.schedule, reason="Move.", until=None, now=world.now - 8 * DAY)


def deletion_stuck(world: World) -> None:
    Leftover.objects.create(
        kind="backup", storage=world.storage, subject={"kind": "backup"}, next_try_at=world.now + DAY, tries=3,
        last_error="The bucket refuses.",
    )  # fmt: skip


def retention_waits(world: World) -> None:
    policy = RetentionPolicy.objects.create(name="standard", keep_daily=7)
    for name in ("products", "films"):
        RetentionRun.objects.create(
            policy=policy, policy_version=1, cluster=world.cluster, cluster_name="berlin", collection_name=name,
            storage=world.storage, is_scheduled=True, trigger="sweep", status="waiting", digest="0",
            reason="It would let go 9 of 10 backups at once.", created_at=world.now,
        )  # fmt: skip


def no_worker(world: World) -> None:
    Worker.objects.update(seen_at=world.now - HOUR)
    make_job(world.cluster, world.storage, status="pending")


def not_firing(world: World) -> None:
    Clock.objects.create(last_tick_at=world.now - HOUR, next_sweep_at=world.now + HOUR)


def channel_broken(world: World) -> None:
    channel = Channel.objects.create(name="ops", kind="email", address="a@example.com")
    for state, at in (("sent", 3), ("dead", 2), ("withdrawn", 1)):
        Delivery.objects.create(
            channel=channel, kind="alert", key=delivery_key(state), subject="x", text="x", state=state,
            error="The mail server refuses.", next_try_at=world.now, created_at=world.now - at * HOUR,
        )  # fmt: skip


def running(world: World, **fields: Any) -> Job:
    """A backup of products that began two hours ago, and usually takes twenty minutes; it gets on."""
    for day in range(1, 4):
        began = world.now - day * DAY
        make_job(
            world.cluster, world.storage, started_at=began, completed_at=began + timedelta(minutes=20),
            created_at=began,
        )  # fmt: skip
    values = {
        "status": "running", "started_at": world.now - timedelta(minutes=50), "heartbeat_at": world.now,
        "progress_at": world.now,
    } | fields  # fmt: skip
    return make_job(world.cluster, world.storage, **values)


def stuck(world: World) -> None:
    running(world, heartbeat_at=world.now - timedelta(minutes=3, seconds=1))


def slow(world: World) -> None:
    running(world, started_at=world.now - timedelta(minutes=61))


def never_succeeded(world: World) -> None:
    unprotected(world)
    Target.objects.create(
        schedule=world.schedule, collection_name="films", first_seen_at=world.now - DAY, deadline_at=world.now - HOUR
    )


def verify_failed(world: World) -> None:
    make_job(
        world.cluster, world.storage, type="verify", status="failed", backup=world.backup,
        error="The storage did not answer.", completed_at=world.now,
    )  # fmt: skip


def storage_unreachable(world: World) -> None:
    look = StorageObservation.objects.create(storage=world.storage, next_check_at=world.now)
    for minute in range(4):
        keep_look(look.storage, "The folder is gone.", now=world.now + timedelta(minutes=minute - 4))


def bad_run(world: World, status: str, *items: tuple[str, str, str], **fields: Any) -> ScheduleRun:
    run = ScheduleRun.objects.create(
        schedule=world.schedule, created_at=world.now - HOUR,
        **({"slot": world.now - HOUR, "completed_at": world.now, "status": status, "counts": {"ok": 1}} | fields),
    )  # fmt: skip
    for name, state, message in items:
        RunItem.objects.create(
            run=run, collection_name=name, storage=world.storage, status=state, message=message, settled_at=world.now
        )
    return run


def run_partial(world: World) -> None:
    bad_run(world, RunStatus.PARTIAL, ("films", "ok", ""), ("products", "cancelled", "Cancelled."))


def run_skipped(world: World) -> None:
    for hour in (3, 2, 1):
        bad_run(world, RunStatus.SKIPPED_OVERLAP, slot=world.now - hour * HOUR)


def retention_run(world: World, policy: RetentionPolicy, **fields: Any) -> RetentionRun:
    values = {
        "policy": policy, "policy_version": 1, "cluster": world.cluster, "cluster_name": "berlin",
        "collection_name": "products", "storage": world.storage, "is_scheduled": True, "trigger": "sweep",
        "status": "nothing", "digest": "0", "created_at": world.now, "completed_at": world.now,
    }  # fmt: skip
    return RetentionRun.objects.create(**(values | fields))


def cap(world: World) -> None:
    policy = RetentionPolicy.objects.create(name="standard", keep_daily=7, size_cap_bytes=100, cap_action="delete")
    retention_run(world, policy, counts={"over_cap_bytes": 2048})
    retention_run(world, policy, counts={"over_cap_bytes": 0}, collection_name="films")


def retention_stale(world: World) -> None:
    policy = RetentionPolicy.objects.create(name="standard", keep_daily=7)
    retention_run(world, policy, created_at=world.now - 3 * DAY)
    RetentionPolicy.objects.update(updated_at=world.now - 9 * DAY)
    make_backup(world.cluster, world.storage, policy=policy, created_at=world.now - 4 * DAY)


def clock(world: World) -> None:
    Clock.objects.create(last_tick_at=world.now - 3 * HOUR, next_sweep_at=world.now + HOUR)
    keep_time(now=world.now, jumped_by=3 * HOUR)
    keep_time(now=world.now + timedelta(seconds=5))  # the tick that comes next does not take it back


CASES: dict[Rule, Callable[[World], None]] = {
    Rule.STUCK: stuck,
    Rule.SLOW: slow,
    Rule.NEVER_SUCCEEDED: never_succeeded,
    Rule.VERIFY_FAILED: verify_failed,
    Rule.STORAGE_UNREACHABLE: storage_unreachable,
    Rule.RUN_PARTIAL: run_partial,
    Rule.RUN_SKIPPED: run_skipped,
    Rule.CAP: cap,
    Rule.RETENTION_STALE: retention_stale,
    Rule.CLOCK: clock,
    Rule.FAILING: failing,
    Rule.OVERDUE: overdue,
    Rule.UNPROTECTED: unprotected,
    Rule.UNSCHEDULED: unscheduled,
    Rule.NEVER_VERIFIED: never_verified,
    Rule.DAMAGED: damaged,
    Rule.UNREACHABLE: unreachable,
    Rule.RUN_FAILED: run_failed,
    Rule.SCHEDULE_BROKEN: schedule_broken,
    Rule.PAUSED_LONG: paused_long,
    Rule.DELETION_STUCK: deletion_stuck,
    Rule.RETENTION_WAITS: retention_waits,
    Rule.NO_WORKER: no_worker,
    Rule.NOT_FIRING: not_firing,
    Rule.CHANNEL_BROKEN: channel_broken,
}


def test_no_rule_is_forgotten() -> None:
    assert set(CASES) == set(Rule)


def test_a_healthy_world_has_no_finding(world: World) -> None:
    assert world.rules() == []


@pytest.mark.parametrize("rule", CASES, ids=str)
def test_each_rule_is_found_and_nothing_else_is(world: World, rule: Rule) -> None:
    CASES[rule](world)

    # What has never been backed up is told as that from the day it is seen.
    also = [Rule.UNPROTECTED] if rule == Rule.NEVER_SUCCEEDED else []
    assert world.rules() == [rule, *also]


def test_a_backup_that_moves_nothing_is_stuck_and_not_slow(world: World) -> None:
    job = running(
        world, started_at=world.now - 3 * HOUR, progress_at=world.now - timedelta(minutes=31), phase="copying"
    )

    assert world.rules() == [Rule.STUCK]
    assert "products on berlin: the backup does not get on: it has moved nothing since" in world.words()
    assert "(copying)" in world.words()
    Job.objects.filter(pk=job.pk).update(progress_at=world.now - timedelta(minutes=29))
    assert world.rules() == [Rule.SLOW]
    assert "it has run for 3 h, and usually takes 20 min." in world.words()


def test_a_long_backup_is_not_slow_while_nobody_knows_what_is_usual(world: World) -> None:
    running(world, started_at=world.now - 30 * HOUR)
    Job.objects.filter(pk=Job.objects.filter(status="completed").earliest("completed_at").pk).delete()

    assert world.rules() == []


def test_a_batch_waits_for_its_children_and_is_not_stuck(world: World) -> None:
    make_job(
        world.cluster, world.storage, "*", status="running", is_batch=True, started_at=world.now - 9 * HOUR,
    )  # fmt: skip

    assert world.rules() == []


def test_a_run_of_which_one_storage_lacks_a_collection_is_told(world: World) -> None:
    """The newest job of the collection succeeded, in the other storage: its standing knows of nothing."""
    second = StorageConfig.objects.create(name="second", type="local", path=world.storage.path)
    run = bad_run(world, RunStatus.PARTIAL, ("products", "ok", ""))
    RunItem.objects.create(
        run=run, collection_name="products", storage=second, status="failed", message="The disk is full."
    )
    make_backup(world.cluster, world.storage, created_at=world.now - timedelta(minutes=1), checked_at=world.now)

    assert world.rules() == [Rule.RUN_PARTIAL]
    assert "UTC partly failed. products: The disk is full." in world.words()
    make_backup(world.cluster, world.storage, created_at=world.now + timedelta(minutes=1), checked_at=world.now)
    assert world.rules() == []  # backed up again since then


def test_a_run_whose_collection_fails_is_told_by_the_collection(world: World) -> None:
    failing(world)
    bad_run(world, RunStatus.PARTIAL, ("products", "failed", "The disk is full."), ("films", "ok", ""))

    assert world.rules() == [Rule.FAILING]


def test_a_run_that_came_to_no_job_failed_as_a_whole(world: World) -> None:
    bad_run(world, RunStatus.FAILED, ("products", "failed", "The storage is gone."), counts={"failed": 1})

    assert world.rules() == [Rule.RUN_FAILED]


def test_two_runs_left_out_are_no_matter_yet(world: World) -> None:
    run_skipped(world)
    ScheduleRun.objects.order_by("slot").first().delete()  # type: ignore[union-attr]
    assert world.rules() == []


def test_a_test_that_found_a_backup_damaged_is_told_once(world: World) -> None:
    """An older one: `damaged`. The newest one: `failing`. Neither is a failed test besides."""
    verify_failed(world)
    type(world.backup).objects.filter(pk=world.backup.pk).update(status="damaged", status_reason="Other bytes.")
    assert world.rules() == [Rule.FAILING]
    make_backup(world.cluster, world.storage, created_at=world.now, checked_at=world.now)
    assert world.rules() == [Rule.DAMAGED]


def test_a_test_that_succeeded_since_makes_up_for_one_that_failed(world: World) -> None:
    verify_failed(world)
    make_job(
        world.cluster, world.storage, type="verify", backup=world.backup, completed_at=world.now + timedelta(minutes=1)
    )

    assert world.rules() == []


def test_the_size_cap_says_by_how_much_and_where(world: World) -> None:
    cap(world)
    assert "The size cap of the policy standard cannot be met: what has to stay takes 2.0 KiB more" in world.words()
    RetentionPolicy.objects.update(cap_action="warn")
    assert "is exceeded by 2.0 KiB (products on berlin)." in world.words()
    retention_run(world, RetentionPolicy.objects.get(), created_at=world.now + HOUR, counts={"over_cap_bytes": 0})
    assert world.rules() == []


def test_a_policy_whose_plan_waits_is_not_stale_besides(world: World) -> None:
    retention_stale(world)
    RetentionRun.objects.update(status="waiting")

    assert world.rules() == [Rule.RETENTION_WAITS]


def test_a_jump_of_the_clock_is_told_for_some_minutes(world: World) -> None:
    clock(world)
    assert "The clock jumped ahead by 3.0 h" in world.words()
    keep_time(now=world.now + timedelta(minutes=11))
    world.now += timedelta(minutes=11)
    assert Rule.CLOCK not in world.rules()


def test_a_policy_that_waits_is_one_finding_with_its_reason(world: World) -> None:
    retention_waits(world)

    assert "standard waits for a confirmation, for 2 sets of backups. It would let go 9 of 10" in world.words()


def test_a_message_that_was_taken_back_is_no_fault_of_its_channel(world: World) -> None:
    channel = Channel.objects.create(name="ops", kind="email", address="a@example.com")
    minute = timedelta(minutes=1)
    for step, found in enumerate([[finding()], [finding()], [], []]):
        with transaction.atomic():
            settle_incidents(found, now=world.now + step * 2 * minute)
            tell(now=world.now + step * 2 * minute)

    (delivery,) = Delivery.objects.filter(channel=channel)
    assert delivery.state == DeliveryState.WITHDRAWN
    assert Rule.CHANNEL_BROKEN not in world.rules()
    forget_old(now=world.now + 91 * DAY)
    assert not Delivery.objects.exists()


def test_looking_takes_no_more_queries_for_many_channels(world: World, django_assert_max_num_queries: Any) -> None:
    for number in range(30):
        Channel.objects.create(name=f"ops{number}", kind="email", address="a@example.com")
    with django_assert_max_num_queries(26):
        look(world.now)


def test_a_collection_is_unscheduled_while_its_only_schedule_waits_to_be_started_by_hand(world: World) -> None:
    Schedule.objects.all().delete()
    maker(world.cluster)(now=world.now, kind="manual")

    assert world.rules() == [Rule.UNSCHEDULED]


def test_a_collection_that_has_just_come_may_be_untested_for_a_week(world: World) -> None:
    never_verified(world)
    ObservedCollection.objects.update(first_seen_at=world.now - 6 * DAY)

    assert world.rules() == []


# --- how old backups may be --------------------------------------------------------------------------------
def standing(world: World, at: timedelta) -> Any:
    return judge(read_facts(world.now + at)).standings[0]


def test_an_age_of_a_collection_counts_although_its_schedule_is_satisfied(world: World) -> None:
    Target.objects.create(
        schedule=world.schedule, collection_name="products", first_seen_at=world.now, deadline_at=world.now + 9 * DAY
    )
    assert standing(world, 30 * HOUR).state != State.OVERDUE  # a schedule goes before the cluster's 26 h
    set_age(cluster=world.cluster, collection="products", hours=12)

    late = standing(world, 30 * HOUR)
    assert late.state == State.OVERDUE
    assert "no older than 12 h" in late.sentence
    assert late.facts.max_age == 12 * HOUR
    set_age(cluster=world.cluster, collection="products", hours=None)
    assert standing(world, 30 * HOUR).state != State.OVERDUE


def test_a_deadline_that_comes_first_still_counts(world: World) -> None:
    overdue(world)
    set_age(cluster=world.cluster, collection="products", hours=900)

    late = standing(world, timedelta())
    assert late.state == State.OVERDUE
    assert "nightly" in late.sentence


def test_an_age_counts_for_a_schedule_that_is_paused_or_gone(world: World) -> None:
    set_age(cluster=world.cluster, collection="products", hours=12)
    pause_schedule(schedule=world.schedule, reason="Move.", until=None, now=world.now)
    assert standing(world, 13 * HOUR).state == State.OVERDUE
    Schedule.objects.update(enabled=False, next_fire_at=None, deleted_at=world.now)
    assert standing(world, 13 * HOUR).state == State.OVERDUE
    assert standing(world, 10 * HOUR).state != State.OVERDUE


def test_of_several_tags_the_strictest_counts_and_the_collections_own_word_before_all(world: World) -> None:
    set_tags(cluster=world.cluster, collection="products", tags=["prod", "eu"])
    set_age(cluster=world.cluster, tag="prod", hours=6)
    set_age(cluster=world.cluster, tag="eu", hours=48)
    key = (world.cluster.pk, "products")
    assert read_ages()[key].words == "no older than 6 h, as for everything tagged prod"

    set_age(cluster=world.cluster, collection="products", hours=100)
    assert read_ages()[key].words == "no older than 100 h"
    other = Cluster.objects.create(name="paris", url="http://127.0.0.1:9")
    CollectionTag.objects.create(cluster=other, collection_name="products", tag="prod")
    assert (other.pk, "products") not in read_ages()  # a tag's age is one cluster's


# --- who looks ---------------------------------------------------------------------------------------------
def test_a_tick_that_stopped_is_said_by_the_verdict_and_by_readiness(world: World, client: Any) -> None:
    not_firing(world)

    verdict = judge(read_facts(world.now))
    assert verdict.state == State.UNKNOWN
    assert verdict.sentence.startswith("No schedule fires now: no worker has looked for what is due since")
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert "no worker has looked" in answer.json()["checks"]["schedules"]
    tick(now=timezone.now())
    assert tick_problem(timezone.now()) == ""
    assert client.get("/readyz").status_code == 200


def test_with_all_workers_dead_a_deadline_passes_for_every_reader(world: World, admin_client: Any) -> None:
    Worker.objects.update(seen_at=world.now - HOUR)
    deadline = world.now - timedelta(seconds=1)
    Target.objects.create(
        schedule=world.schedule, collection_name="products", first_seen_at=world.now, deadline_at=deadline
    )

    assert "overdue" in admin_client.get("/admin/clusters/observedcollection/").content.decode().lower()
    answer = admin_client.get("/api/v1/protection").json()["result"]
    assert answer["items"][0]["state"] == "overdue"
    metrics = admin_client.get("/metrics").content.decode()
    assert 'backupmgr_collections{cluster="berlin",state="overdue"} 1.0' in metrics
