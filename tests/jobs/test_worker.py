"""Real worker processes on the test's database, and real signals."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from django.test import Client, override_settings
from django.utils import timezone

from apps.backups.models import Backup, Leftover
from apps.jobs.health import worker_state
from apps.jobs.models import Job, Worker
from apps.jobs.services import JobRequest, cancel_job, create_job, retry_job
from apps.jobs.states import ENDED
from apps.sandbox import SandboxNode
from apps.storage.models import StorageConfig
from apps.storage.services import open_store
from tests.support import Collections, WorkerProcess, files, open_uploads, story, wait_until

pytestmark = [pytest.mark.worker, pytest.mark.usefixtures("cluster", "storage")]

StartWorker = Callable[..., WorkerProcess]
DOWNLOAD = "/collections/[^/]+/shards/[0-9]+/snapshots/[^/]+[.]snapshot"
UPLOAD = ".*/snapshots/upload"


def request(type: str = "backup", collection_name: str = "films", **fields: object) -> Job:  # noqa: A002
    asked = JobRequest(type=type, collection_name=collection_name, **fields)  # type: ignore[arg-type]
    return create_job(request=asked, now=timezone.now())


def ended(job: Job) -> Job | None:
    fresh = Job.objects.get(pk=job.pk)
    return fresh if fresh.status in ENDED else None


def moving(job: Job) -> Job | None:
    """The job once bytes of it have moved."""
    fresh = Job.objects.get(pk=job.pk)
    return fresh if fresh.status == "running" and fresh.phase.startswith(("copying", "restoring")) else None


@pytest.fixture
def films(collections: Collections) -> Collections:
    """A collection of two shards, about 10 MB."""
    collections.create("films", points=600, payload_bytes=16_000)
    return collections


@pytest.fixture
def slow(node: SandboxNode) -> Callable[[], None]:
    """Slow down downloads and uploads so that a job can be caught in the middle; returns how to stop that."""
    node.faults.add(action="rate", method="GET", path=DOWNLOAD, rate=1_000_000)
    node.faults.add(action="rate", method="POST", path=UPLOAD, rate=1_000_000, on="request")
    return node.faults.clear


def test_a_worker_runs_backup_and_restore_and_stops_cleanly(start_worker: StartWorker, films: Collections) -> None:
    worker = start_worker()
    before = films.points("films")

    backup = request()
    done = wait_until(lambda: ended(backup), what="the backup's end")
    assert done.status == "completed", story(done)
    films.delete("films")
    restore = request("restore", snapshot_name=done.snapshot_name)
    restored = wait_until(lambda: ended(restore), what="the restore's end")

    assert restored.status == "completed", story(restored)
    assert films.points("films") == before
    assert worker_state(timezone.now()).alive == 1
    assert worker.stop() == 0
    assert worker.family() == []
    assert Worker.objects.get().stopped_at is not None


def test_a_job_starts_soon_after_it_was_created(start_worker: StartWorker, films: Collections) -> None:
    start_worker()
    wait_until(lambda: Worker.objects.exists())
    waits = []
    for _ in range(5):
        job = request()
        done = wait_until(lambda job=job: ended(job))
        waits.append((done.started_at - done.created_at).total_seconds())

    # Generous, for a loaded machine; at rest it is a fraction of a second.
    assert sorted(waits)[2] < 5


class TestKilled:
    def victim(self, job: Job) -> int:
        running = wait_until(lambda: moving(job), what="a transfer under way")
        assert running.pid
        return int(running.pid)

    def test_kill_9_of_the_process_in_mid_backup(
        self, start_worker: StartWorker, films: Collections, slow: Callable[[], None], folder: Path
    ) -> None:
        start_worker()
        job = request()

        os.kill(self.victim(job), signal.SIGKILL)
        slow()

        done = wait_until(lambda: ended(job), seconds=60, what="the job's end")
        assert done.status == "completed", story(done)
        assert done.attempt == 2
        assert films.snapshots("films") == []
        assert len(files(folder)) == 3
        assert not Leftover.objects.exists()

    @pytest.mark.s3
    @pytest.mark.xdist_group("s3")
    def test_kill_9_in_mid_upload_to_s3_leaves_no_upload_open(
        self, start_worker: StartWorker, collections: Collections, node: SandboxNode, s3_config: StorageConfig
    ) -> None:
        s3_config.is_default = True
        s3_config.save()
        collections.create("large", points=1500, payload_bytes=32_000, shards=1)
        node.faults.add(action="rate", method="GET", path=DOWNLOAD, rate=10_000_000)
        start_worker()
        job = request(collection_name="large")
        wait_until(lambda: open_uploads(s3_config), what="an upload under way")

        os.kill(self.victim(job), signal.SIGKILL)
        node.faults.clear()

        done = wait_until(lambda: ended(job), seconds=60, what="the job's end")
        assert done.status == "completed", story(done)
        assert open_uploads(s3_config) == []
        assert len(list(open_store(s3_config).list(""))) == 2
        assert collections.snapshots("large", shards=1) == []

    def test_kill_9_of_the_process_in_mid_restore(
        self, start_worker: StartWorker, films: Collections, slow: Callable[[], None]
    ) -> None:
        start_worker()
        before = films.points("films")
        slow_off = slow
        backup = request()
        name = wait_until(lambda: ended(backup), seconds=60).snapshot_name
        films.delete("films")
        job = request("restore", snapshot_name=name)

        os.kill(self.victim(job), signal.SIGKILL)
        slow_off()

        done = wait_until(lambda: ended(job), seconds=60, what="the job's end")
        assert done.status == "completed", story(done)
        assert films.points("films") == before

    def test_kill_9_of_the_supervisor_takes_everything_with_it_and_another_worker_goes_on(
        self, start_worker: StartWorker, films: Collections, slow: Callable[[], None], folder: Path
    ) -> None:
        first = start_worker()
        job = request()
        self.victim(job)

        first.kill()
        wait_until(lambda: first.family() == [], seconds=10, what="the end of all its processes")
        slow()
        start_worker()

        done = wait_until(lambda: ended(job), seconds=60, what="the job's end")
        assert done.status == "completed", story(done)
        assert films.snapshots("films") == []
        assert len(files(folder)) == 3

    def test_a_job_whose_worker_dies_again_and_again_fails_with_a_reason(
        self, start_worker: StartWorker, films: Collections, slow: Callable[[], None], folder: Path
    ) -> None:
        start_worker(BACKUPMGR_MAX_ATTEMPTS="2")
        job = request()

        first = self.victim(job)
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: moving(job) and Job.objects.get(pk=job.pk).pid != first, seconds=60, what="a second attempt")
        os.kill(self.victim(job), signal.SIGKILL)

        done = wait_until(lambda: ended(job), seconds=60, what="the job's end")
        assert done.status == "failed"
        assert "vanished 2 times" in done.error
        assert not Backup.objects.exists()


class TestStopped:
    def test_sigterm_to_the_group_gives_the_job_back_and_the_next_worker_completes_it(
        self, start_worker: StartWorker, films: Collections, slow: Callable[[], None], folder: Path
    ) -> None:
        worker = start_worker()
        job = request()
        wait_until(lambda: moving(job), what="a transfer under way")

        started = time.monotonic()
        assert worker.stop() == 0

        assert time.monotonic() - started < 20
        assert worker.family() == []
        back = Job.objects.get(pk=job.pk)
        assert (back.status, back.lease_token, back.checkpoint) == ("pending", None, {})
        assert films.snapshots("films") == []
        assert files(folder) == []
        slow()
        start_worker()
        done = wait_until(lambda: ended(job), seconds=60, what="the job's end")
        assert done.status == "completed", story(done)


class TestCancel:
    def test_a_backup_under_way_ends_within_five_seconds_and_leaves_nothing(
        self, start_worker: StartWorker, films: Collections, slow: Callable[[], None], folder: Path
    ) -> None:
        start_worker()
        job = request()
        wait_until(lambda: moving(job), what="a transfer under way")

        asked = time.monotonic()
        cancel_job(job_id=job.pk, now=timezone.now())
        done = wait_until(lambda: ended(job), what="the job's end")

        assert time.monotonic() - asked < 5
        assert done.status == "cancelled", story(done)
        assert films.snapshots("films") == []
        assert files(folder) == []
        assert not Leftover.objects.exists()
        slow()
        again = retry_job(job_id=job.pk, now=timezone.now())
        done = wait_until(lambda: ended(again), seconds=60)
        assert done.status == "completed", story(done)

    def test_a_stalled_download_does_not_hold_it_up(
        self, start_worker: StartWorker, films: Collections, node: SandboxNode, folder: Path
    ) -> None:
        node.faults.add(action="stall", method="GET", path=DOWNLOAD, bytes=10_000)
        start_worker()
        job = request()
        wait_until(lambda: moving(job), what="a transfer under way")

        asked = time.monotonic()
        cancel_job(job_id=job.pk, now=timezone.now())
        done = wait_until(lambda: ended(job), what="the job's end")

        assert time.monotonic() - asked < 5
        assert done.status == "cancelled"
        assert files(folder) == []
        assert films.snapshots("films") == []

    @pytest.mark.s3
    @pytest.mark.xdist_group("s3")
    @pytest.mark.parametrize("fault", ["rate", "stall"])
    def test_an_upload_to_s3_under_way_leaves_no_part_behind(
        self,
        start_worker: StartWorker,
        collections: Collections,
        node: SandboxNode,
        s3_config: StorageConfig,
        fault: str,
    ) -> None:
        s3_config.is_default = True
        s3_config.save()
        collections.create("large", points=1500, payload_bytes=32_000, shards=1)
        node.faults.add(action="rate", method="GET", path=DOWNLOAD, rate=20_000_000)
        if fault == "stall":
            node.faults.add(action="stall", method="GET", path=DOWNLOAD, bytes=20_000_000)
        start_worker()
        job = request(collection_name="large")
        wait_until(lambda: open_uploads(s3_config), what="an upload under way")
        time.sleep(1)

        asked = time.monotonic()
        cancel_job(job_id=job.pk, now=timezone.now())
        done = wait_until(lambda: ended(job), what="the job's end")

        assert time.monotonic() - asked < 5
        assert done.status == "cancelled", story(done)
        assert open_uploads(s3_config) == []
        assert list(open_store(s3_config).list("")) == []
        assert collections.snapshots("large", shards=1) == []
        assert not Leftover.objects.exists()

    def test_a_restore_under_way_removes_the_half_made_collection(
        self, start_worker: StartWorker, films: Collections, node: SandboxNode
    ) -> None:
        start_worker()
        backup = request()
        name = wait_until(lambda: ended(backup), seconds=60).snapshot_name
        node.faults.add(action="rate", method="POST", path=UPLOAD, rate=500_000, on="request")
        job = request("restore", snapshot_name=name, target_collection="copy")
        wait_until(lambda: moving(job), what="a transfer under way")

        asked = time.monotonic()
        cancel_job(job_id=job.pk, now=timezone.now())
        done = wait_until(lambda: ended(job), what="the job's end")

        assert time.monotonic() - asked < 5
        assert done.status == "cancelled", story(done)
        wait_until(lambda: films.names() == ["films"], seconds=10, what="the half-made collection's removal")


def test_jobs_of_one_collection_run_one_after_another(start_worker: StartWorker, films: Collections) -> None:
    films.create("other", points=10)
    start_worker(BACKUPMGR_WORKERS="3")
    jobs = [request() for _ in range(3)] + [request(collection_name="other")]

    done = [wait_until(lambda job=job: ended(job), seconds=60) for job in jobs]

    assert {job.status for job in done} == {"completed"}
    spans = sorted((job.started_at, job.completed_at) for job in done[:3])
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


class TestStuckQueue:
    """A process killed while it waits on the queue may hold its lock: every later job would wait for ever."""

    def readiness(self) -> tuple[int, str]:
        answer = Client().get("/readyz")
        return answer.status_code, answer.json()["checks"]["queue"]

    def kill_the_idle_ones(self, worker: WorkerProcess) -> None:
        idle = [pid for pid in worker.family() if _waits_on_the_queue(pid)]
        assert idle, "no process waits on the queue"
        for pid in idle:
            os.kill(pid, signal.SIGKILL)

    def test_it_is_healed_and_readyz_says_so_meanwhile(self, start_worker: StartWorker, films: Collections) -> None:
        worker = start_worker(BACKUPMGR_STUCK_SECONDS="8")
        wait_until(lambda: ended(request()) or True)
        wait_until(lambda: not Job.objects.exclude(status__in=ENDED).exists(), what="an idle worker")
        time.sleep(1)
        with override_settings(BACKUPMGR_STUCK_SECONDS=8):
            assert self.readiness() == (200, "ok")

            self.kill_the_idle_ones(worker)
            job = request()

            wait_until(lambda: self.readiness()[0] == 503 or ended(job), seconds=60, what="a red /readyz")
            status, reason = self.readiness()
            assert status == 503 and "the queue is stuck: 1 job could start" in reason
            done = wait_until(lambda: ended(job), seconds=90, what="the job's end")
            assert done.status == "completed", story(done)
            assert done.started_at - done.created_at < timedelta(minutes=3)
            assert self.readiness() == (200, "ok")
        assert "queue replaced" in Worker.objects.get().note

    def test_what_runs_meanwhile_is_not_lost(
        self, start_worker: StartWorker, films: Collections, node: SandboxNode
    ) -> None:
        films.create("other", points=10)
        node.faults.add(action="rate", method="GET", path=DOWNLOAD.replace("[^/]+", "films", 1), rate=250_000)
        worker = start_worker(BACKUPMGR_STUCK_SECONDS="4", BACKUPMGR_WORKERS="2")
        long = request()
        wait_until(lambda: moving(long), what="a transfer under way")
        time.sleep(1)

        self.kill_the_idle_ones(worker)
        short = request(collection_name="other")

        done = wait_until(lambda: ended(short), seconds=60, what="the other job's end")
        assert done.status == "completed", story(done)
        assert Job.objects.get(pk=long.pk).status == "running"
        node.faults.clear()
        done = wait_until(lambda: ended(long), seconds=60, what="the long job's end")
        assert (done.status, done.attempt) == ("completed", 1), story(done)
        assert worker.stop() == 0
        assert worker.family() == []


def _waits_on_the_queue(pid: int) -> bool:
    """Tell a job process from the pusher, the sentinel and the supervisor: it blocks in a read of a pipe."""
    try:
        return "pipe" in Path(f"/proc/{pid}/wchan").read_text()
    except OSError:
        return False
