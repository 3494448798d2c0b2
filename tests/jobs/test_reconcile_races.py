"""The reconciler beside jobs at work, killed in the middle, started by workers, and against people who decide."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connections
from django.utils import timezone

from apps.backups.models import Backup, Leftover, MadeSnapshot, Orphan, Reconciliation
from apps.backups.reconcile.recording import OrphanInUse, bury_orphan
from apps.core.errors import BackupmgrError
from apps.jobs.cleaning import clean_leftovers
from apps.jobs.models import Job
from apps.jobs.orphans import adopt_orphan, delete_orphan
from apps.jobs.reconciler_process import ReconcilerProcess
from apps.jobs.reconciling import LEASE, Jobs, ReconciliationRunning, ask_for_run, claim_run, is_due, reconcile
from apps.jobs.services import JobRequest, create_job
from apps.jobs.states import ENDED
from apps.storage.models import StorageConfig
from tests.support import (
    REPOSITORY,
    Collections,
    RunJob,
    WorkerProcess,
    files,
    story,
    wait_until,
    worker_environment,
)

StartWorker = Callable[..., WorkerProcess]


def together(*actions: Callable[[], object]) -> list[object]:
    """Do the actions in threads that start at the same moment; what each returned or raised."""
    barrier, outcomes = threading.Barrier(len(actions)), [None] * len(actions)

    def work(number: int, action: Callable[[], object]) -> None:
        barrier.wait()
        try:
            outcomes[number] = action()  # type: ignore[call-overload]
        except BackupmgrError as error:
            outcomes[number] = error  # type: ignore[call-overload]
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work, args=pair) for pair in enumerate(actions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return outcomes


def failed_job(cluster: Any, storage: StorageConfig) -> Job:
    now = timezone.now() - timedelta(days=3)
    return Job.objects.create(
        type="backup", status="failed", cluster=cluster, storage=storage, collection_name="films", attempt=1,
        subject_cluster=cluster, subject_collection="films", not_before=now, created_at=now, completed_at=now,
    )  # fmt: skip


def leave_files(job: Job, folder: Path) -> Path:
    home = folder / "main" / "films" / f"20260101T000000Z-{job.pk}"
    home.mkdir(parents=True)
    for shard in range(3):
        (home / f"shard-{shard}.snapshot").write_bytes(b"x" * 1000)
    return home


@pytest.mark.worker
def test_jobs_at_work_never_lose_anything_to_it(
    cluster: Any, storage: StorageConfig, collections: Collections, start_worker: StartWorker, settings: Any
) -> None:
    """It looks again and again, and takes everything for old that no job at work owns."""
    settings.BACKUPMGR_RECONCILE_AGE_HOURS = 0
    names = ["films", "books"]
    for name in names:
        collections.create(name, points=200, payload_bytes=2_000)
    start_worker(BACKUPMGR_WORKERS="2")

    jobs = [
        create_job(request=JobRequest(type="backup", collection_name=name), now=timezone.now())
        for _ in range(4)
        for name in names
    ]
    looks = 0

    def all_ended() -> bool:
        nonlocal looks
        reconcile(trigger="command", now=timezone.now())
        looks += 1
        return not Job.objects.exclude(status__in=ENDED).exists()

    wait_until(all_ended, seconds=150, what="the end of all jobs")

    for job in jobs:
        job.refresh_from_db()
        assert job.status == "completed", story(job)
    assert reconcile(trigger="command", now=timezone.now()).found == 0
    assert Backup.objects.filter(status="completed").count() == 8
    assert not Orphan.objects.filter(state="cleaned").exists(), list(Orphan.objects.values("kind", "name", "reason"))
    assert looks >= 3
    assert not MadeSnapshot.objects.exists()
    for name in names:
        assert collections.snapshots(name) == []


class TestKilled:
    def test_kill_9_in_the_middle_loses_and_forgets_nothing(
        self, cluster: Any, transactional_db: None, storage: StorageConfig, folder: Path, settings: Any
    ) -> None:
        settings.BACKUPMGR_RECONCILE_AGE_HOURS = 0
        ours = [leave_files(failed_job(cluster, storage), folder) for _ in range(60)]
        stranger = folder / "main" / "films" / f"20260101T000000Z-{uuid.uuid4()}" / "shard-0.snapshot"
        stranger.parent.mkdir()
        stranger.write_bytes(b"x")

        def left() -> int:
            return sum(home.exists() for home in ours)

        kills = 0
        while left():
            before = left()
            process = subprocess.Popen(
                [sys.executable, str(REPOSITORY / "manage.py"), "reconcile", "--storage", storage.name],
                env={**worker_environment(), "BACKUPMGR_RECONCILE_AGE_HOURS": "0"},
                stdout=subprocess.DEVNULL,
            )
            wait_until(lambda b=before, p=process: left() < b or p.poll() is not None, seconds=90)  # type: ignore[misc]
            if kills < 3 and process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
            process.wait(90)
            # Its last sign of life is long ago; until then nobody else begins.
            Reconciliation.objects.filter(status="running").update(seen_at=timezone.now() - LEASE)
            # What was killed between its tombstone and its removal is the tick's from then on, not a finding again.
            clean_leftovers(now=timezone.now() + timedelta(hours=1))
        outcome = reconcile(trigger="command", now=timezone.now(), storages=[storage])

        assert kills >= 1
        assert files(folder) == [str(stranger.relative_to(folder))]
        assert not Leftover.objects.exists()
        assert (outcome.found, outcome.cleaned) == (1, 0)
        assert Orphan.objects.filter(state="cleaned").count() == 60
        assert Reconciliation.objects.filter(status="failed").count() == kills

    @pytest.fixture
    def deaf(self) -> Iterator[str]:
        """An endpoint that takes connections and never answers."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"

    @pytest.mark.worker
    def test_it_dies_with_its_worker(
        self, transactional_db: None, storage: StorageConfig, deaf: str, start_worker: StartWorker
    ) -> None:
        StorageConfig.objects.create(
            name="deaf", type="s3", s3_endpoint=deaf, s3_bucket="b", s3_access_key="a", s3_region="r"
        )
        worker = start_worker()
        ask_for_run(now=timezone.now())
        run = wait_until(lambda: Reconciliation.objects.filter(status="running").first(), what="a run under way")
        assert len(worker.family()) > 4

        worker.kill()

        wait_until(lambda: worker.family() == [], what="the end of all its processes")
        assert not is_due(now=timezone.now()), "nobody knows yet that it is dead"
        assert is_due(now=run.seen_at + LEASE + timedelta(hours=7))


class TestWorkers:
    @pytest.mark.worker
    def test_a_worker_does_what_was_asked_for_and_only_one(
        self, cluster: Any, storage: StorageConfig, folder: Path, start_worker: StartWorker
    ) -> None:
        home = leave_files(failed_job(cluster, storage), folder)
        for path in (*home.iterdir(), home):
            os.utime(path, (time.time() - 300_000,) * 2)
        for _ in range(2):
            start_worker()

        asked = ask_for_run(now=timezone.now())

        wait_until(lambda: Reconciliation.objects.filter(pk=asked.pk, status="completed").exists(), seconds=60)
        assert Reconciliation.objects.count() == 1
        assert files(folder) == []

    def test_a_run_is_due_by_the_clock(self, db: None, settings: Any) -> None:
        now = timezone.now()
        settings.BACKUPMGR_RECONCILE_HOURS = 6
        assert is_due(now=now)
        run = claim_run(trigger="schedule", now=now)
        Reconciliation.objects.update(status="completed")
        assert not is_due(now=now + timedelta(hours=5))
        assert is_due(now=now + timedelta(hours=7))
        settings.BACKUPMGR_RECONCILE_HOURS = 0
        assert not is_due(now=now + timedelta(days=7))
        assert Reconciliation.objects.get() == run

    def test_a_look_at_a_part_leaves_the_whole_one_to_be_done(self, storage: StorageConfig) -> None:
        asked = ask_for_run(now=timezone.now())

        reconcile(trigger="command", now=timezone.now(), storages=[storage])

        asked.refresh_from_db()
        assert asked.status == "pending"
        reconcile(trigger="command", now=timezone.now())
        asked.refresh_from_db()
        assert asked.status == "completed"

    def test_of_many_that_begin_at_once_one_does(self, transactional_db: None) -> None:
        now = timezone.now()

        outcomes = together(*[lambda: claim_run(trigger="schedule", now=now)] * 6)

        refused = [outcome for outcome in outcomes if isinstance(outcome, ReconciliationRunning)]
        assert len(refused) == 5, outcomes
        assert Reconciliation.objects.get().status == "running"

    def test_of_many_that_ask_at_once_all_get_the_same(self, transactional_db: None) -> None:
        now = timezone.now()

        outcomes = together(*[lambda: ask_for_run(now=now)] * 6)

        assert len({run.pk for run in outcomes if isinstance(run, Reconciliation)}) == 1, outcomes

    def test_the_supervisor_never_waits_for_it(
        self, transactional_db: None, storage: StorageConfig, monkeypatch: pytest.MonkeyPatch, settings: Any
    ) -> None:
        settings.BACKUPMGR_RECONCILE_HOURS = 6
        for name, value in worker_environment().items():
            monkeypatch.setenv(name, value)
        process = ReconcilerProcess()
        process.look(timezone.now())
        assert process._process is None, "not so soon after its start"
        process._not_before = 0.0

        process.look(timezone.now())
        first = process._process
        process.look(timezone.now())

        assert first is not None
        assert process._process is first
        wait_until(lambda: Reconciliation.objects.filter(status="completed", trigger="schedule").exists(), seconds=60)
        first.wait(30)
        process.look(timezone.now())
        assert process._process is None, "it is not due again"
        process.stop()


class TestPeople:
    @pytest.fixture
    def unknown(self, run: RunJob, cluster: Any, storage: StorageConfig, collections: Collections) -> Orphan:
        collections.create("films", points=5, shards=1)
        job = run("backup", "films")
        assert job.status == "completed", story(job)
        Backup.objects.all().delete()
        reconcile(trigger="command", now=timezone.now() + timedelta(hours=30))
        return Orphan.objects.get(kind="backup")

    def test_adoption_and_deletion_at_once_leave_a_whole_backup_or_none(
        self, unknown: Orphan, folder: Path, settings: Any
    ) -> None:
        settings.BACKUPMGR_RECONCILE_AGE_HOURS = 0
        kept = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for _ in range(6):
            outcomes = together(
                lambda: adopt_orphan(orphan_id=unknown.pk, now=timezone.now()),
                lambda: delete_orphan(orphan_id=unknown.pk, now=timezone.now()),
            )
            clean_leftovers(now=timezone.now() + timedelta(hours=1))

            rows = list(Backup.objects.all())
            found = files(folder)
            assert (len(rows), len(found)) in ((1, 2), (0, 0)), (rows, found, outcomes)
            Backup.objects.all().delete()
            Leftover.objects.all().delete()
            for name, data in kept.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(data)
            Orphan.objects.filter(pk=unknown.pk).update(state="open", ended_at=None)

    def test_two_that_remove_it_set_one_tombstone(self, unknown: Orphan) -> None:
        def bury() -> object:
            return bury_orphan(unknown, now=timezone.now(), book=Jobs(), reason="")

        outcomes = together(bury, bury, bury)

        assert Leftover.objects.count() == 1
        assert {left.pk for left in outcomes if isinstance(left, Leftover)} == {Leftover.objects.get().pk}

    def test_a_backup_that_was_entered_meanwhile_is_not_buried(self, unknown: Orphan) -> None:
        adopt_orphan(orphan_id=unknown.pk, now=timezone.now())
        Orphan.objects.filter(pk=unknown.pk).update(state="open")

        with pytest.raises(OrphanInUse, match="by now"):
            bury_orphan(unknown, now=timezone.now(), book=Jobs(), reason="")
