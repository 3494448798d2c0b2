"""What is tried again by itself, when, how often; and what the attempts before leave to be read."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError
from django.utils import timezone

from apps.backups.models import Backup, Leftover
from apps.backups.plan import PlanBlocked, PlanBlockedForNow
from apps.backups.verify import BackupDamaged
from apps.clusters.qdrant import (
    CollectionNotFound,
    DownloadBroken,
    NotQdrant,
    QdrantDenied,
    QdrantFault,
    QdrantRejected,
    QdrantTimeout,
    QdrantUnreachable,
)
from apps.core.crypto import UndecryptableSecret
from apps.core.errors import BackupmgrError
from apps.jobs.lease import claim_next
from apps.jobs.models import Job, JobAttempt
from apps.jobs.retry import can_pass, category_of, next_try
from apps.jobs.runner import run_job
from apps.jobs.services import JobNotRetryable, JobRequest, cancel_job, create_job, retry_job
from apps.jobs.tick import tick
from apps.sandbox import SandboxNode
from apps.storage.errors import (
    BucketMissing,
    StorageDenied,
    StorageFault,
    StorageFull,
    StorageRefused,
    StorageUnreachable,
    StorageUntrusted,
)
from tests.support import Collections, RunJob, WorkerProcess, files, story, wait_until

CREATE = "/collections/[^/]+/shards/[0-9]+/snapshots"
UPLOAD = ".*/snapshots/upload"


@pytest.fixture
def retries(settings: Any) -> list[float]:
    """Two automatic retries, an hour apart: none comes by surprise."""
    settings.BACKUPMGR_RETRY_DELAYS_SECONDS = [3600.0, 7200.0]
    return [3600.0, 7200.0]


@pytest.fixture
def films(collections: Collections) -> Collections:
    collections.create("films", points=100)
    return collections


def again(job: Job) -> Job:
    """Let the waiting time be over, and run the next attempt."""
    assert Job.objects.filter(pk=job.pk, status="pending").update(not_before=timezone.now()) == 1
    run_job(str(job.pk))
    return Job.objects.get(pk=job.pk)


def attempts(job: Job) -> list[tuple[int, str]]:
    return list(job.attempts.order_by("number").values_list("number", "outcome"))


# --- which errors can pass ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "error",
    [
        QdrantUnreachable("x"),
        QdrantTimeout("x"),
        QdrantFault("x", status=503),
        DownloadBroken("x"),
        StorageUnreachable("x"),
        StorageFault("x"),
        PlanBlockedForNow("x"),
        OperationalError("database is locked"),
    ],
)
def test_what_may_pass_by_itself_is_tried_again(error: BaseException, retries: list[float]) -> None:
    now = timezone.now()

    first = next_try(error=error, retries=0, now=now)
    second = next_try(error=error, retries=1, now=now)

    assert can_pass(error)
    assert first is not None and second is not None
    assert [first.at - now, second.at - now] == [timedelta(hours=1), timedelta(hours=2)]
    assert (first.number, second.number, second.limit) == (1, 2, 2)
    assert next_try(error=error, retries=2, now=now) is None


@pytest.mark.parametrize(
    "error",
    [
        QdrantDenied("x", status=401),
        QdrantRejected("x", status=400),
        NotQdrant("x"),
        CollectionNotFound("x"),
        PlanBlocked("x"),
        BackupDamaged("x"),
        StorageDenied("x"),
        StorageFull("x"),
        StorageRefused("x"),
        StorageUntrusted("x"),
        BucketMissing("x"),
        UndecryptableSecret(),
        BackupmgrError("x"),
        KeyError("x"),
        MemoryError(),
    ],
)
def test_what_cannot_pass_by_itself_is_not(error: BaseException, retries: list[float]) -> None:
    assert next_try(error=error, retries=0, now=timezone.now()) is None


def test_a_server_may_ask_for_a_longer_wait_but_not_for_a_shorter_one(retries: list[float]) -> None:
    now = timezone.now()
    longer = QdrantFault("x", status=429, retry_after_seconds=5000)
    shorter = QdrantFault("x", status=429, retry_after_seconds=5)

    waits = [next_try(error=error, retries=0, now=now) for error in (longer, shorter)]

    assert [wait.at - now for wait in waits if wait] == [timedelta(seconds=5000), timedelta(hours=1)]


def test_no_retry_begins_when_the_next_run_of_the_schedule_does(retries: list[float]) -> None:
    now, error = timezone.now(), QdrantTimeout("x")

    def at(before: timedelta) -> bool:
        return next_try(error=error, retries=0, now=now, before=now + before) is not None

    assert at(timedelta(hours=1, seconds=1))
    assert not at(timedelta(hours=1))
    assert not at(timedelta(0))


def test_errors_have_a_name_for_programs() -> None:
    assert category_of(QdrantTimeout("x")) == "qdrant_timeout"
    assert category_of(OperationalError("x")) == "database_away"
    assert category_of(BackupmgrError("x")) == "refused"
    assert category_of(KeyError("x")) == "internal"


# --- the job ---------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("cluster", "storage")
class TestAutomatic:
    def test_a_job_whose_cause_may_pass_waits_visibly_and_then_succeeds(
        self, run: RunJob, films: Collections, node: SandboxNode, retries: list[float], folder: Path
    ) -> None:
        node.faults.add(action="status", method="POST", path=CREATE, status=500, body="disk", times=1)

        job = run("backup", "films")

        assert job.status == "pending", story(job)
        assert job.is_waiting and job.can_retry and job.can_cancel
        assert "fault (500)" in job.wait_reason
        assert job.next_attempt_at is not None
        assert timedelta(minutes=59) < job.next_attempt_at - timezone.now() < timedelta(minutes=61)
        assert (job.error, job.completed_at, job.lease_token, job.checkpoint) == ("", None, None, {})
        assert "Retry 1 of 2 starts at" in story(job)
        assert films.snapshots("films") == []
        assert files(folder) == []

        job = again(job)

        assert job.status == "completed", story(job)
        assert (job.wait_reason, job.next_attempt_at) == ("", None)
        assert attempts(job) == [(1, "failed"), (2, "completed")]
        first, second = job.attempts.order_by("number")
        assert "fault (500)" in first.error
        assert first.error_category == "qdrant_fault"
        assert first.next_attempt_at is not None and first.ended_at is not None
        assert (second.error, second.error_category, second.next_attempt_at) == ("", "", None)
        assert second.bytes_moved == Backup.objects.get().size_bytes
        assert second.pid == os.getpid()

    def test_it_is_not_taken_before_its_time(
        self, run: RunJob, films: Collections, node: SandboxNode, retries: list[float]
    ) -> None:
        node.faults.add(action="status", method="POST", path=CREATE, status=500, body="disk", times=1)
        job = run("backup", "films")

        assert claim_next(worker="w", pid=1, now=timezone.now() + timedelta(minutes=50)) is None
        taken = claim_next(worker="w", pid=1, now=timezone.now() + timedelta(minutes=70))
        assert taken is not None and taken.pk == job.pk

    def test_after_the_last_retry_it_has_failed(
        self, run: RunJob, films: Collections, node: SandboxNode, retries: list[float]
    ) -> None:
        node.faults.add(action="status", method="POST", path=CREATE, status=500, body="disk")

        job = again(again(run("backup", "films")))

        assert job.status == "failed", story(job)
        assert "fault (500)" in job.error
        assert job.completed_at is not None
        assert attempts(job) == [(1, "failed"), (2, "failed"), (3, "failed")]
        assert "Tried 3 times." in story(job)
        assert not Leftover.objects.exists()

    def test_another_job_on_the_collection_runs_meanwhile(
        self, run: RunJob, films: Collections, node: SandboxNode, retries: list[float]
    ) -> None:
        node.faults.add(action="status", method="POST", path=CREATE, status=500, body="disk", times=1)
        waiting = run("backup", "films")

        other = run("backup", "films")

        assert other.status == "completed", story(other)
        waiting.refresh_from_db()
        assert waiting.is_waiting

    @pytest.mark.parametrize(
        ("fault", "words"),
        [
            ({"status": 401, "body": "Must provide an API key"}, "does not accept the API key"),
            ({"status": 403, "body": "Forbidden"}, "forbids"),
            ({"status": 400, "body": {"status": {"error": "Wrong input"}, "time": 0}}, "refuses (400)"),
            ({"status": 302, "body": ""}, "redirect"),
        ],
    )
    def test_what_cannot_pass_fails_at_once(
        self,
        run: RunJob,
        films: Collections,
        node: SandboxNode,
        retries: list[float],
        fault: dict[str, Any],
        words: str,
    ) -> None:
        node.faults.add(action="status", method="GET", path="/collections/films", **fault)

        job = run("backup", "films")

        assert (job.status, job.retry_count) == ("failed", 0), story(job)
        assert words in job.error
        assert attempts(job) == [(1, "failed")]

    def test_an_unknown_collection_fails_at_once(self, run: RunJob, films: Collections, retries: list[float]) -> None:
        assert run("backup", "nothing").status == "failed"

    def test_a_bug_fails_at_once(
        self, run: RunJob, films: Collections, retries: list[float], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*args: Any, **kwargs: Any) -> None:
            raise KeyError("CANARY")

        monkeypatch.setattr("apps.backups.backup.plan_backup", broken)

        job = run("backup", "films")

        assert job.status == "failed"
        attempt = job.attempts.get()
        assert attempt.error_category == "internal"
        assert "CANARY" not in attempt.error + story(job)

    def test_a_shard_on_its_way_is_waited_for(
        self, run: RunJob, films: Collections, retries: list[float], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def moving(**kwargs: Any) -> None:
            raise PlanBlockedForNow("Shards are being moved.")

        with monkeypatch.context() as patched:
            patched.setattr("apps.backups.backup.plan_backup", moving)
            job = run("backup", "films")

        assert job.is_waiting
        assert again(job).status == "completed"

    def test_a_restore_that_broke_off_finds_no_half_collection_in_its_way(
        self, run: RunJob, films: Collections, node: SandboxNode, retries: list[float]
    ) -> None:
        before = films.points("films")
        name = run("backup", "films").snapshot_name
        node.faults.add(action="status", method="POST", path=UPLOAD, status=500, body="disk", after=1, times=1)
        # Nor can the half-made collection be removed when it is time to clean up.
        node.faults.add(action="status", method="DELETE", path="/collections/copy", status=500, body="disk", times=1)
        job = run("restore", "films", snapshot_name=name, target_collection="copy")
        assert job.is_waiting, story(job)
        assert Leftover.objects.count() == 1

        job = again(job)

        assert job.status == "completed", story(job)
        assert films.points("copy") == before
        assert not Leftover.objects.exists()

    def test_a_half_collection_that_cannot_be_removed_is_waited_for_and_not_taken_for_somebody_elses(
        self, run: RunJob, films: Collections, node: SandboxNode, retries: list[float]
    ) -> None:
        name = run("backup", "films").snapshot_name
        node.faults.add(action="status", method="POST", path=UPLOAD, status=500, body="disk", after=1, times=1)
        node.faults.add(action="status", method="DELETE", path="/collections/copy", status=500, body="disk", times=2)
        job = again(run("restore", "films", snapshot_name=name, target_collection="copy"))

        assert job.is_waiting, story(job)
        assert "cannot be removed yet" in job.wait_reason
        assert again(job).status == "completed"

    def test_cancelled_while_it_waits_it_ends_at_once(
        self, run: RunJob, films: Collections, node: SandboxNode, retries: list[float]
    ) -> None:
        node.faults.add(action="status", method="POST", path=CREATE, status=500, body="disk", times=1)
        job = run("backup", "films")

        cancelled = cancel_job(job_id=job.pk, now=timezone.now())

        assert (cancelled.status, cancelled.wait_reason) == ("cancelled", "")
        assert "while it waited for its next attempt" in story(job)
        assert claim_next(worker="w", pid=1, now=timezone.now() + timedelta(hours=3)) is None

    def test_retried_by_hand_while_it_waits_it_starts_at_once_and_counts_anew(
        self, run: RunJob, films: Collections, node: SandboxNode, retries: list[float]
    ) -> None:
        node.faults.add(action="status", method="POST", path=CREATE, status=500, body="disk", times=1)
        job = run("backup", "films")

        started = retry_job(job_id=job.pk, now=timezone.now())
        assert (started.status, started.is_waiting, started.retry_count) == ("pending", False, 0)
        run_job(str(job.pk))

        job.refresh_from_db()
        assert job.status == "completed", story(job)
        assert attempts(job) == [(1, "failed"), (2, "completed")]
        with pytest.raises(JobNotRetryable):
            retry_job(job_id=job.pk, now=timezone.now())


@pytest.mark.usefixtures("cluster", "storage")
def test_by_hand_the_errors_of_all_attempts_are_kept(run: RunJob, films: Collections, node: SandboxNode) -> None:
    node.faults.add(action="status", method="GET", path="/collections/films", status=401, body="no", times=1)
    node.faults.add(action="status", method="GET", path="/collections/films", status=403, body="no", after=1, times=1)
    job = run("backup", "films")
    for _ in range(2):
        retry_job(job_id=job.pk, now=timezone.now())
        run_job(str(job.pk))

    job.refresh_from_db()
    assert job.status == "completed", story(job)
    assert job.error == ""
    errors = job.attempts.order_by("number").values_list("error", flat=True)
    assert "does not accept the API key" in errors[0]
    assert "forbids" in errors[1]
    assert errors[2] == ""


@pytest.mark.usefixtures("cluster", "storage")
class TestLost:
    def claimed(self) -> Job:
        create_job(request=JobRequest(type="backup", collection_name="films"), now=timezone.now())
        job = claim_next(worker="w", pid=1, now=timezone.now())
        assert job is not None
        return job

    def test_an_attempt_whose_worker_vanished_ends_with_its_last_sign_of_life(self, db: None) -> None:
        job = self.claimed()
        last = timezone.now()
        Job.objects.filter(pk=job.pk).update(heartbeat_at=last, bytes_done=77)

        tick(worker="other", now=last + timedelta(minutes=5))

        attempt = JobAttempt.objects.get(job=job)
        assert (attempt.outcome, attempt.ended_at, attempt.bytes_moved) == ("lost", last, 77)
        assert attempt.error_category == "worker_vanished"
        job.refresh_from_db()
        assert job.is_waiting
        assert "worker vanished" in job.wait_reason

    def test_an_attempt_under_way_is_listed_as_running(self, db: None) -> None:
        attempt = JobAttempt.objects.get(job=self.claimed())

        assert (attempt.number, attempt.outcome, attempt.ended_at, attempt.worker) == (1, "running", None, "w")


@pytest.mark.usefixtures("cluster", "storage")
class TestDatabaseAway:
    """The database fails some calls and then answers again, as it does while it restarts."""

    def failing(self, monkeypatch: pytest.MonkeyPatch, name: str, times: int) -> list[int]:
        import importlib

        module_name, _, attribute = name.rpartition(".")
        module = importlib.import_module(module_name)
        real: Callable[..., Any] = getattr(module, attribute)
        left = [times]
        mine = threading.get_ident()

        def sometimes(*args: Any, **kwargs: Any) -> Any:
            if left[0] > 0 and threading.get_ident() == mine:
                left[0] -= 1
                raise OperationalError("database is locked")
            return real(*args, **kwargs)

        monkeypatch.setattr(name, sometimes)
        return left

    @pytest.mark.parametrize("call", ["apps.jobs.jobrun.record", "apps.jobs.jobrun.extend", "apps.jobs.runner.release"])
    def test_a_moment_without_it_ends_no_job(
        self, run: RunJob, films: Collections, monkeypatch: pytest.MonkeyPatch, call: str
    ) -> None:
        left = self.failing(monkeypatch, call, 2)

        job = run("backup", "films")

        assert left == [0]
        assert job.status == "completed", story(job)

    def test_a_failure_is_written_down_although_it_is_away_for_a_moment(
        self, run: RunJob, films: Collections, node: SandboxNode, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        node.faults.add(action="status", method="GET", path="/collections/films", status=401, body="no")
        left = self.failing(monkeypatch, "apps.jobs.ending.release", 2)

        job = run("backup", "films")

        assert left == [0]
        assert job.status == "failed"

    def test_longer_without_it_is_a_cause_that_may_pass(
        self, run: RunJob, films: Collections, retries: list[float], monkeypatch: pytest.MonkeyPatch, settings: Any
    ) -> None:
        settings.BACKUPMGR_LEASE_SECONDS = 3
        with monkeypatch.context() as patched:
            patched.setattr(
                "apps.backups.backup.plan_backup", lambda **kwargs: (_ for _ in ()).throw(OperationalError("gone"))
            )
            job = run("backup", "films")

        assert job.is_waiting
        assert "The database of backupmgr did not answer" in job.wait_reason
        assert again(job).status == "completed"


@pytest.mark.worker
@pytest.mark.usefixtures("cluster", "storage")
def test_a_real_worker_tries_again_by_itself(
    start_worker: Callable[..., WorkerProcess], films: Collections, node: SandboxNode, folder: Path
) -> None:
    node.faults.add(action="status", method="POST", path=CREATE, status=503, body="later", times=2)
    start_worker(BACKUPMGR_RETRY_DELAYS_SECONDS="0.2,0.4,0.6")
    job = create_job(request=JobRequest(type="backup", collection_name="films"), now=timezone.now())

    wait_until(lambda: Job.objects.filter(pk=job.pk, status="completed").exists(), seconds=60, what="completion")

    assert attempts(job) == [(1, "failed"), (2, "failed"), (3, "completed")]
    assert len(files(folder)) == 3
    assert films.snapshots("films") == []
