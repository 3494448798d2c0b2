"""Claim, lease, tick: on rows alone, without Qdrant or storage."""

from __future__ import annotations

import os
import threading
import uuid
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone
from django_q.models import OrmQ

from apps.backups.models import Leftover
from apps.backups.traces import FolderTrace, Traces
from apps.clusters.models import Cluster
from apps.jobs.lease import LeaseLost, claim, claim_next, extend, release
from apps.jobs.models import Job
from apps.jobs.services import JobHasEnded, JobNotFound, JobNotRetryable, JobRequest, cancel_job, create_job, retry_job
from apps.jobs.states import JobStatus
from apps.jobs.tick import tick
from apps.storage.models import StorageConfig

NOW = timezone.now()


@pytest.fixture
def here(db: None, folder: Any) -> None:
    """A cluster that nobody answers at, and a storage."""
    Cluster.objects.create(name="main", url="http://127.0.0.1:9")
    StorageConfig.objects.create(name="folder", type="local", path=str(folder))


def job(collection: str = "films", now: datetime | None = None) -> Job:
    return create_job(request=JobRequest(type="backup", collection_name=collection), now=now or timezone.now())


def take(now: datetime | None = None, pid: int | None = None, worker: str = "w") -> Job | None:
    return claim_next(worker=worker, pid=pid or os.getpid(), now=now or timezone.now())


@pytest.mark.usefixtures("here")
class TestClaim:
    def test_takes_the_one_that_waited_longest(self) -> None:
        first, second = job("a"), job("b")

        assert [take().pk, take().pk] == [first.pk, second.pk]  # type: ignore[union-attr]
        assert take() is None

    def test_counts_the_attempt_and_sets_a_lease(self) -> None:
        job()

        taken = take()

        assert taken is not None
        assert (taken.status, taken.attempt) == ("running", 1)
        assert taken.lease_until is not None and taken.lease_until > timezone.now()

    def test_leaves_a_job_alone_whose_collection_is_being_worked_on(self) -> None:
        job("a")
        second, other = job("a"), job("b")

        assert take() is not None
        taken = take()

        assert taken is not None and taken.pk == other.pk
        assert take() is None
        assert claim(job_id=second.pk, worker="w", pid=1, now=timezone.now()) is None
        second.refresh_from_db()
        assert second.status == "pending"

    def test_a_second_delivery_of_the_same_job_does_nothing(self) -> None:
        created = job()

        assert claim(job_id=created.pk, worker="w", pid=1, now=timezone.now()) is not None
        assert claim(job_id=created.pk, worker="v", pid=2, now=timezone.now()) is None

    def test_a_job_that_is_to_wait_is_not_taken_before(self) -> None:
        later = job()
        Job.objects.filter(pk=later.pk).update(not_before=timezone.now() + timedelta(hours=1))

        assert take() is None
        assert take(now=timezone.now() + timedelta(hours=2)) is not None


@pytest.mark.django_db(transaction=True)
def test_of_many_that_race_exactly_one_gets_each_collection(folder: Any) -> None:
    Cluster.objects.create(name="main", url="http://127.0.0.1:9")
    StorageConfig.objects.create(name="folder", type="local", path=str(folder))
    for _ in range(4):
        for name in "abc":
            job(name)
    taken: list[str] = []

    def race() -> None:
        try:
            while (won := take()) is not None:
                taken.append(won.subject_collection)
        finally:
            connection.close()

    threads = [threading.Thread(target=race) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(taken) == ["a", "b", "c"]
    assert Job.objects.filter(status="running").count() == 3


@pytest.mark.usefixtures("here")
class TestLease:
    def test_a_worker_that_lost_it_can_write_nothing(self) -> None:
        job()
        mine = take()
        assert mine is not None and mine.lease_token is not None
        Job.objects.filter(pk=mine.pk).update(lease_token=uuid.uuid4())

        with pytest.raises(LeaseLost):
            extend(job_id=mine.pk, token=mine.lease_token, now=timezone.now(), bytes_done=5)
        with pytest.raises(LeaseLost):
            release(job_id=mine.pk, token=mine.lease_token, status=JobStatus.COMPLETED, now=timezone.now())

        mine.refresh_from_db()
        assert (mine.status, mine.bytes_done) == ("running", 0)

    def test_a_completed_job_cannot_be_completed_again(self) -> None:
        job()
        mine = take()
        assert mine is not None and mine.lease_token is not None
        release(job_id=mine.pk, token=mine.lease_token, status=JobStatus.COMPLETED, now=timezone.now())

        with pytest.raises(LeaseLost):
            release(job_id=mine.pk, token=mine.lease_token, status=JobStatus.FAILED, now=timezone.now())


@pytest.mark.usefixtures("here")
class TestTick:
    def later(self, seconds: float = 120) -> datetime:
        return timezone.now() + timedelta(seconds=seconds)

    def test_a_lost_lease_makes_the_job_pending_after_a_wait(self) -> None:
        created = job()
        take()

        tick(worker="other", now=self.later())

        created.refresh_from_db()
        assert (created.status, created.lost_count, created.lease_token) == ("pending", 1, None)
        assert created.not_before > self.later(100)
        assert created.events.filter(level="warning").count() == 1

    def test_a_kept_lease_is_left_alone(self) -> None:
        created = job()
        take()

        tick(worker="other", now=timezone.now())

        created.refresh_from_db()
        assert created.status == "running"

    def test_a_dead_process_of_this_worker_is_noticed_before_the_lease_ends(self) -> None:
        created = job()
        take(pid=2**22 - 3, worker="me")

        tick(worker="me", now=timezone.now())

        created.refresh_from_db()
        assert created.status == "pending"

    def test_a_job_that_keeps_losing_its_worker_fails_with_the_reason(self, settings: Any) -> None:
        settings.BACKUPMGR_MAX_ATTEMPTS = 3
        created = job()
        now = timezone.now()
        for _ in range(3):
            now += timedelta(hours=1)
            assert take(now=now) is not None
            tick(worker="other", now=now + timedelta(minutes=30))

        created.refresh_from_db()
        assert created.status == "failed"
        assert created.attempt == 3
        assert "vanished 3 times" in created.error

    def test_a_cancelled_job_of_a_dead_worker_ends_cancelled_and_is_cleaned_up_later(self) -> None:
        created = job()
        take()
        traces = Traces([FolderTrace(storage_id=str(created.storage_id), path="a/b/c")])
        Job.objects.filter(pk=created.pk).update(checkpoint=traces.to_json())
        cancel_job(job_id=created.pk, now=timezone.now())

        tick(worker="other", now=self.later())

        created.refresh_from_db()
        assert created.status == "cancelled"
        assert Leftover.objects.get().subject["path"] == "a/b/c"

    def test_a_job_whose_delivery_was_lost_is_delivered_again_but_not_at_every_tick(self) -> None:
        job()
        OrmQ.objects.all().delete()

        tick(worker="w", now=timezone.now())
        assert OrmQ.objects.count() == 0
        tick(worker="w", now=self.later(15))
        tick(worker="w", now=self.later(16))

        assert OrmQ.objects.count() == 1

    def test_deliveries_on_the_queue_are_not_doubled(self) -> None:
        job("a")
        job("b")

        tick(worker="w", now=self.later(60))

        assert OrmQ.objects.count() == 2


@pytest.mark.usefixtures("here")
class TestCancelAndRetry:
    def test_a_pending_job_is_cancelled_at_once(self) -> None:
        created = job()

        cancelled = cancel_job(job_id=created.pk, now=timezone.now())

        assert cancelled.status == "cancelled"
        assert cancelled.completed_at is not None
        assert take() is None

    def test_a_running_job_is_told_to_stop(self) -> None:
        created = job()
        take()

        told = cancel_job(job_id=created.pk, now=timezone.now())

        assert told.status == "running"
        assert told.cancel_requested_at is not None

    def test_an_ended_job_cannot_be_cancelled(self) -> None:
        created = job()
        Job.objects.filter(pk=created.pk).update(status="completed")

        with pytest.raises(JobHasEnded, match="already ended"):
            cancel_job(job_id=created.pk, now=timezone.now())

    def test_an_unknown_job_is_not_found(self) -> None:
        with pytest.raises(JobNotFound):
            cancel_job(job_id=uuid.uuid4(), now=timezone.now())
        with pytest.raises(JobNotFound):
            retry_job(job_id=uuid.uuid4(), now=timezone.now())

    @pytest.mark.parametrize("status", ["failed", "cancelled"])
    def test_a_retry_makes_it_pending_and_keeps_the_story(self, status: str) -> None:
        created = job()
        take()
        Job.objects.filter(pk=created.pk).update(status=status, error="the disk was full", completed_at=NOW)

        again = retry_job(job_id=created.pk, now=timezone.now())

        assert (again.status, again.error, again.completed_at) == ("pending", "", None)
        assert again.events.filter(message__contains="the disk was full").exists()
        taken = take()
        assert taken is not None and taken.attempt == 2

    @pytest.mark.parametrize("status", ["pending", "running", "completed"])
    def test_anything_else_cannot_be_retried(self, status: str) -> None:
        created = job()
        Job.objects.filter(pk=created.pk).update(status=status)

        with pytest.raises(JobNotRetryable, match=status):
            retry_job(job_id=created.pk, now=timezone.now())

    def test_a_job_and_its_delivery_are_written_together(self) -> None:
        job()

        assert OrmQ.objects.count() == 1
