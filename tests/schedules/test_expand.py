"""From a run to jobs and back: on a real node, with the jobs run for real."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
from django.utils import timezone

from apps.backups.models import Backup
from apps.clusters.models import Cluster
from apps.jobs.models import Job
from apps.jobs.runner import run_job
from apps.sandbox import SandboxNode
from apps.schedules.expand import claim_run, expand, expand_runs, runs_waiting
from apps.schedules.models import CollectionTag, RunItem, Schedule, ScheduleRun
from apps.schedules.services import ScheduleBusy, run_now
from apps.schedules.settle import settle_runs
from apps.storage.models import StorageConfig
from tests.schedules.conftest import make_backup, make_policy, maker
from tests.support import Collections, story

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def make_here(cluster: Cluster, storage: StorageConfig) -> Callable[..., Schedule]:
    return partial(maker(cluster), now=timezone.now())


def go(schedule: Schedule, *, jobs: bool = True) -> ScheduleRun:
    """Run the schedule now, to its end."""
    run = run_now(schedule=schedule, now=timezone.now())
    expand_runs()
    while jobs and run_job(""):
        pass
    settle_runs(now=timezone.now())
    return ScheduleRun.objects.get(pk=run.pk)


def take_run(*, now: datetime) -> ScheduleRun | None:
    """Take the run that waits first."""
    return next((run for run_id in runs_waiting(now=now) if (run := claim_run(run_id, now=now))), None)


def items(run: ScheduleRun) -> dict[str, str]:
    return dict(run.items.values_list("collection_name", "status"))


def test_backs_up_what_it_selects_and_says_what_came_of_it(
    make_here: Callable[..., Schedule], collections: Collections
) -> None:
    for name in ("films", "films-old", "songs"):
        collections.create(name, 5, shards=1)
    policy = make_policy()
    schedule = make_here(include=["films*"], exclude=["*-old"], policy=policy)

    run = go(schedule)

    assert (run.status, run.error, run.counts) == ("ok", "", {"ok": 1})
    assert (run.matched, run.excluded) == (["films"], ["films-old"])
    backup = Backup.objects.get()
    assert (backup.collection_name, backup.schedule_id, backup.policy) == ("films", schedule.pk, policy)


@pytest.mark.parametrize("name", ["a*b", "a/b", "a?b"])
def test_names_that_no_collection_can_have_are_no_names_here_either(collections: Collections, name: str) -> None:
    """Of `*[]/` Qdrant itself refuses all but the brackets, which the test below takes."""
    with pytest.raises(Exception, match="4(00|04|22)"):
        collections.create(name, 1, shards=1)


def test_a_collection_that_is_made_while_they_are_listed_joins_with_the_next_run(
    make_here: Callable[..., Schedule], collections: Collections, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apps.schedules import expand as module

    collections.create("films", 1, shards=1)
    schedule = make_here()
    listed = module.list_collections

    def slow(cluster: Cluster) -> list[str]:
        names = listed(cluster)
        if "late" not in names:
            collections.create("late", 1, shards=1)  # after the node has answered, before any job is made
        return names

    monkeypatch.setattr(module, "list_collections", slow)
    first = go(schedule)
    second = go(schedule)

    assert (first.status, items(first)) == ("ok", {"films": "ok"})
    assert (second.status, items(second)) == ("ok", {"films": "ok", "late": "ok"})
    assert second.vanished == []


def test_a_collection_that_is_dropped_while_it_is_copied_fails_alone(
    make_here: Callable[..., Schedule], collections: Collections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropped between two steps of its own backup: not before, and not after it."""
    from apps.backups import copying

    collections.create("films", 50, shards=1)
    collections.create("songs", 1, shards=1)
    made = copying.make_snapshot

    @contextmanager
    def then_dropped(*args: Any, **named: Any) -> Iterator[Any]:
        with made(*args, **named) as snapshot:
            if "films" in str(args) + str(named) and not dropped:
                dropped.append(True)
                collections.delete("films")
            yield snapshot

    dropped: list[bool] = []
    monkeypatch.setattr(copying, "make_snapshot", then_dropped)
    run = go(make_here())

    assert dropped
    run.refresh_from_db()
    assert items(run)["songs"] == "ok"
    assert items(run)["films"] in ("failed", "queued")  # queued: it is tried again, should the collection come back
    assert Backup.objects.get().collection_name == "songs"


def test_names_with_signs_of_globs_and_other_alphabets(
    make_here: Callable[..., Schedule], collections: Collections
) -> None:
    names = ["a[1]", "a1", "Łódź", "фільми"]
    for name in names:
        collections.create(name, 1, shards=1)

    run = go(make_here(include=["a[1]", "Ł*", "ф*"]), jobs=False)

    assert run.matched == sorted(["a[1]", "a1", "Łódź", "фільми"])
    assert len(items(run)) == 4


def test_tags_select(make_here: Callable[..., Schedule], collections: Collections, cluster: Cluster) -> None:
    for name in ("films", "songs"):
        collections.create(name, 1, shards=1)
    CollectionTag.objects.create(cluster=cluster, collection_name="songs", tag="gold")

    assert go(make_here(tags=["gold", "silver"]), jobs=False).matched == ["songs"]


def test_a_new_collection_joins_by_itself_and_one_that_went_is_named(
    make_here: Callable[..., Schedule], collections: Collections
) -> None:
    collections.create("films", 1, shards=1)
    collections.create("songs", 1, shards=1)
    schedule = make_here()
    go(schedule)
    collections.delete("films")
    collections.create("books", 1, shards=1)

    run = go(schedule)

    assert run.matched == ["books", "songs"]
    assert run.vanished == ["films"]


def test_nothing_matched_is_a_failure_unless_said_otherwise(
    make_here: Callable[..., Schedule], collections: Collections
) -> None:
    collections.create("films", 1, shards=1)

    failed = go(make_here(include=["books"]))
    fine = go(make_here("fine", include=["books"], nothing_matched="warn"))

    assert failed.status == "failed" and "matches no collection" in failed.error
    assert fine.status == "ok" and "matches no collection" in fine.error


def test_a_cluster_that_is_away_is_asked_again_and_then_the_run_fails(
    make_here: Callable[..., Schedule], cluster: Cluster
) -> None:
    schedule = make_here()
    Cluster.objects.update(url="http://127.0.0.1:9")

    run = go(schedule)

    assert run.status == "expanding"
    assert run.error.startswith("The collections of 'main' could not be listed: ")
    assert take_run(now=timezone.now()) is None
    for _ in range(3):
        taken = take_run(now=timezone.now() + timedelta(hours=1))
        assert taken is not None
        expand(taken)
    run.refresh_from_db()
    assert run.status == "failed"
    assert run.items.count() == 0


def test_it_fails_at_once_when_no_later_try_would_come_in_time(
    make_here: Callable[..., Schedule], cluster: Cluster
) -> None:
    schedule = make_here()
    Cluster.objects.update(url="http://127.0.0.1:9")
    Schedule.objects.filter(pk=schedule.pk).update(start_deadline_seconds=1)

    run = go(schedule)

    assert run.status == "failed"


def test_one_bad_collection_stops_no_other(make_here: Callable[..., Schedule], collections: Collections) -> None:
    collections.create("films", 1, shards=1)
    collections.create("songs", 1, shards=1)
    run = run_now(schedule=make_here(), now=timezone.now())
    expand_runs()
    collections.delete("films")
    while run_job(""):
        pass
    settle_runs(now=timezone.now())

    run.refresh_from_db()
    assert run.status == "partial"
    assert items(run) == {"films": "failed", "songs": "ok"}
    assert run.error.startswith("films: ")


class TestOverlap:
    def twice(self, schedule: Schedule) -> tuple[ScheduleRun, ScheduleRun]:
        first = go(schedule, jobs=False)
        second = ScheduleRun.objects.create(
            schedule=schedule, slot=timezone.now() + timedelta(hours=1), created_at=timezone.now()
        )
        expand_runs()
        settle_runs(now=timezone.now())
        return ScheduleRun.objects.get(pk=first.pk), ScheduleRun.objects.get(pk=second.pk)

    def test_skip(self, make_here: Callable[..., Schedule], collections: Collections) -> None:
        collections.create("films", 1, shards=1)

        first, second = self.twice(make_here())

        assert second.status == "skipped_overlap"
        assert second.items.get().blocker == first.items.get().job
        assert Job.objects.count() == 1

    def test_queue_one_waits_behind_a_running_one_and_no_longer_queue_forms(
        self, make_here: Callable[..., Schedule], collections: Collections
    ) -> None:
        collections.create("films", 1, shards=1)
        schedule = make_here(overlap="queue_one")
        go(schedule, jobs=False)
        Job.objects.update(status="running")
        for hour in (1, 2):
            ScheduleRun.objects.create(
                schedule=schedule, slot=timezone.now() + timedelta(hours=hour), created_at=timezone.now()
            )
        expand_runs()
        settle_runs(now=timezone.now())

        assert Job.objects.count() == 2
        assert ScheduleRun.objects.filter(status="skipped_overlap").count() == 1

    def test_cancel_running(self, make_here: Callable[..., Schedule], collections: Collections) -> None:
        collections.create("films", 1, shards=1)

        first, second = self.twice(make_here(overlap="cancel_running"))

        assert first.status == "failed" and items(first) == {"films": "cancelled"}
        assert second.items.get().job is not None and second.items.get().job.status == "pending"


def test_a_fresh_backup_is_enough(
    make_here: Callable[..., Schedule], collections: Collections, cluster: Cluster, storage: StorageConfig
) -> None:
    collections.create("films", 1, shards=1)
    make_backup(cluster, storage, timezone.now() - timedelta(minutes=50))

    assert go(make_here("hourly", min_interval_seconds=3600)).status == "fresh_enough"
    assert go(make_here("often", min_interval_seconds=1800)).status == "ok"


def test_run_now_names_the_job_that_is_in_the_way(make_here: Callable[..., Schedule], collections: Collections) -> None:
    collections.create("films", 1, shards=1)
    schedule = make_here()
    go(schedule, jobs=False)

    with pytest.raises(ScheduleBusy) as caught:
        run_now(schedule=schedule, now=timezone.now())

    assert caught.value.job == Job.objects.get()


def test_what_could_not_start_in_time_expires(make_here: Callable[..., Schedule], collections: Collections) -> None:
    from apps.jobs.tick import expire

    collections.create("films", 1, shards=1)
    run = go(make_here(), jobs=False)
    later = timezone.now() + timedelta(hours=7)

    expire(now=later)
    settle_runs(now=later)

    run.refresh_from_db()
    assert run.status == "expired"
    assert "could not start by" in Job.objects.get().error


@pytest.mark.parametrize(("wait", "again"), [(1500.0, True), (2400.0, False)])
def test_a_job_is_tried_again_only_before_the_next_run(
    make_here: Callable[..., Schedule],
    collections: Collections,
    node: SandboxNode,
    settings: Any,
    wait: float,
    again: bool,
) -> None:
    collections.create("films", 1, shards=1)
    schedule = make_here(kind="interval", interval_seconds=3600, anchor_at=timezone.now() - timedelta(minutes=30))
    settings.BACKUPMGR_RETRY_DELAYS_SECONDS = [wait]
    node.faults.add(
        action="status", method="POST", path="/collections/[^/]+/shards/[0-9]+/snapshots", status=500, body="disk"
    )

    run = go(schedule)

    job = Job.objects.get()
    assert job.retry_by == schedule.next_run_at
    assert (job.status, run.status) == (("pending", "running") if again else ("failed", "failed"))
    assert ("Not tried again: the next run of its schedule is due at" in story(job)) is not again


def test_what_takes_too_long_is_stopped_and_says_so(
    make_here: Callable[..., Schedule], collections: Collections
) -> None:
    from apps.jobs.jobrun import JobRun
    from apps.jobs.lease import claim_next

    collections.create("films", 1, shards=1)
    go(make_here(), jobs=False)
    job = claim_next(worker="w", pid=1, now=timezone.now() - timedelta(seconds=0))
    assert job is not None and job.max_runtime_seconds == 24 * 3600
    job.max_runtime_seconds = 60
    run = JobRun(job)
    run._began -= 61  # by the clock that nobody sets

    run._check_runtime()

    with pytest.raises(Exception, match="ran longer than 1 min"):
        run.abort.check()


def test_a_blackout_may_cancel_what_runs(make_here: Callable[..., Schedule], collections: Collections) -> None:
    from apps.schedules.timing.blackouts import Window

    collections.create("films", 1, shards=1)
    now = timezone.now()
    window = Window(starts_at=now + timedelta(hours=1), ends_at=now + timedelta(hours=2), cancels=True)
    go(make_here(blackouts=[window]), jobs=False)
    Job.objects.update(status="running")

    settle_runs(now=now + timedelta(minutes=59))
    assert Job.objects.get().cancel_requested_at is None
    settle_runs(now=now + timedelta(minutes=61))

    assert Job.objects.get().cancel_requested_at is not None


def test_an_expansion_that_was_killed_goes_on_without_doubling(
    make_here: Callable[..., Schedule], collections: Collections, monkeypatch: Any
) -> None:
    from apps.schedules import expand as module

    monkeypatch.setattr(module, "CHUNK", 2)
    for n in range(5):
        collections.create(f"c{n}", 1, shards=1)
    run_now(schedule=make_here(), now=timezone.now())
    add, calls = module._add_items, []

    def dies(*args: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            add(*args)  # inside the transaction that is rolled back
            raise KeyboardInterrupt
        add(*args)

    monkeypatch.setattr(module, "_add_items", dies)
    with pytest.raises(KeyboardInterrupt):
        expand_runs()
    assert RunItem.objects.count() == Job.objects.count() == 2

    run = take_run(now=timezone.now() + timedelta(minutes=3))
    assert run is not None
    expand(run)

    assert RunItem.objects.count() == Job.objects.count() == 5
    assert ScheduleRun.objects.get().status == "running"


def test_a_process_that_lost_its_claim_writes_nothing(
    make_here: Callable[..., Schedule], collections: Collections
) -> None:
    from apps.schedules.expand import ClaimLost

    collections.create("films", 1, shards=1)
    run_now(schedule=make_here(), now=timezone.now())
    slow = take_run(now=timezone.now() - timedelta(minutes=3))
    quick = take_run(now=timezone.now())
    assert slow is not None and quick is not None

    with pytest.raises(ClaimLost):
        expand(slow)
    expand(quick)

    assert Job.objects.count() == 1


def test_more_runs_than_are_looked_for_at_once_all_get_their_jobs_the_urgent_ones_first(
    make_here: Callable[..., Schedule], collections: Collections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.schedules.expand.TAKEN_AT_ONCE", 3)
    for n in range(8):
        collections.create(f"c{n}", 1, shards=1)
        run_now(schedule=make_here(f"schedule {n}", include=[f"c{n}"], priority=n), now=timezone.now())

    assert expand_runs() == 8

    assert not ScheduleRun.objects.exclude(status="running").exists()
    begun = ScheduleRun.objects.order_by("started_at").values_list("schedule__priority", flat=True)
    assert list(begun) == [7, 6, 5, 4, 3, 2, 1, 0]


def test_a_run_that_another_process_has_taken_meanwhile_is_left_to_it(
    make_here: Callable[..., Schedule], collections: Collections
) -> None:
    collections.create("films", 1, shards=1)
    first, second = (run_now(schedule=make_here(name), now=timezone.now()) for name in ("one", "two"))
    waiting = runs_waiting(now=timezone.now())
    assert waiting == [first.pk, second.pk]
    assert claim_run(first.pk, now=timezone.now()) is not None

    assert claim_run(first.pk, now=timezone.now()) is None
    assert expand_runs() == 1

    first.refresh_from_db()
    assert first.status == "expanding"
