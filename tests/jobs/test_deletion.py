"""A deleted backup is never half there: not after a kill, not while the storage is away, not for two at once."""

from __future__ import annotations

import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connections
from django.utils import timezone

from apps.backups.catalogue import rescan
from apps.backups.deletion import StillListed, erase
from apps.backups.models import Backup, DeletedBackup, Leftover
from apps.core.abort import Abort
from apps.core.errors import BackupmgrError, Conflict, NotFound
from apps.jobs.cleaning import clean_leftovers, retry_leftover
from apps.jobs.models import Job
from apps.jobs.services import JobNotRetryable, JobRequest, create_job, delete_backup, retry_job
from apps.storage.local import LocalStore
from apps.storage.models import StorageConfig
from apps.storage.services import open_store
from tests.support import (
    REPOSITORY,
    Collections,
    RunJob,
    WorkerProcess,
    files,
    open_uploads,
    story,
    wait_until,
    worker_environment,
)

pytestmark = pytest.mark.usefixtures("cluster", "storage")


@pytest.fixture
def backup(run: RunJob, collections: Collections) -> Backup:
    collections.create("films", points=20)
    job = run("backup", "films")
    assert job.status == "completed", story(job)
    return Backup.objects.get()


def restore(backup: Backup) -> Job:
    asked = JobRequest(type="restore", collection_name="films", backup=backup, target_collection="again")
    return create_job(request=asked, now=timezone.now())


def later(days: float = 0.1) -> Any:
    return timezone.now() + timedelta(days=days)


class TestAsked:
    def test_it_says_so_at_once_cannot_be_restored_and_the_tick_finishes_it(self, backup: Backup, folder: Path) -> None:
        ana = User.objects.create(username="ana")

        tombstone = delete_backup(backup_id=backup.pk, now=timezone.now(), user=ana, reason="It is too old.")

        assert tombstone is not None
        assert (tombstone.kind, tombstone.reason, tombstone.created_by) == ("backup", "It is too old.", ana)
        backup.refresh_from_db()
        assert backup.status == "deleting"
        assert len(files(folder)) == 3, "nothing is touched by asking"
        with pytest.raises(Conflict, match="being deleted"):
            restore(backup)
        assert "asked for by ana: It is too old." in story(Job.objects.get())
        assert clean_leftovers(now=timezone.now()) == 1
        assert files(folder) == []
        assert not Backup.objects.exists()
        assert not Leftover.objects.exists()

    def test_what_it_was_and_why_it_went_stays_on_record(
        self, backup: Backup, storage: StorageConfig, folder: Path
    ) -> None:
        began = timezone.now()
        ana = User.objects.create(username="ana")
        parts = backup.parts.count()

        delete_backup(backup_id=backup.pk, now=timezone.now(), user=ana, reason="It is too old.")
        assert not DeletedBackup.objects.exists(), "nothing is gone yet"
        clean_leftovers(now=timezone.now())

        record = DeletedBackup.objects.get()
        was = (
            "snapshot_name", "collection_name", "cluster_id", "cluster_name", "storage_id", "path", "size_bytes",
            "points_count", "manifest_sha256", "job_id",
        )  # fmt: skip
        assert {name: getattr(record, name) for name in was} == {name: getattr(backup, name) for name in was}
        assert (record.backup_id, record.taken_at, record.parts_count) == (backup.pk, backup.started_at, parts)
        assert (record.storage_name, record.reason, record.deleted_by) == (storage.name, "It is too old.", "ana")
        assert (record.let_go_at, record.retention_run_id, record.policy_name) == (None, None, "")
        assert record.asked_at is not None and began <= record.asked_at <= record.erased_at <= timezone.now()

    def test_asking_again_is_harmless(self, backup: Backup) -> None:
        first = delete_backup(backup_id=backup.pk, now=timezone.now())
        second = delete_backup(backup_id=backup.pk, now=timezone.now(), wait=True)

        assert first == second
        assert Leftover.objects.count() == 1
        clean_leftovers(now=timezone.now())
        with pytest.raises(NotFound):
            delete_backup(backup_id=backup.pk, now=timezone.now())

    def test_a_restore_under_way_keeps_it(self, backup: Backup, folder: Path) -> None:
        job = restore(backup)

        with pytest.raises(Conflict, match="1 job that reads this backup"):
            delete_backup(backup_id=backup.pk, now=timezone.now(), wait=True)

        assert Backup.objects.get().status == "completed"
        Job.objects.filter(pk=job.pk).update(status="failed")
        delete_backup(backup_id=backup.pk, now=timezone.now())
        with pytest.raises(Conflict, match="being deleted"):
            retry_job(job_id=job.pk, now=timezone.now())
        clean_leftovers(now=timezone.now())
        with pytest.raises(JobNotRetryable, match="deleted"):
            retry_job(job_id=job.pk, now=timezone.now())
        assert files(folder) == []

    def test_a_rescan_meanwhile_neither_revives_it_nor_calls_it_missing(
        self, backup: Backup, storage: StorageConfig, folder: Path
    ) -> None:
        delete_backup(backup_id=backup.pk, now=timezone.now())

        whole = rescan(storage, timezone.now())
        (folder / backup.path / "manifest.json").unlink()
        half = rescan(storage, timezone.now())

        for result in (whole, half):
            assert (result.found, result.added, result.missing, result.damaged) == (0, 0, 0, 0)
        assert Backup.objects.get().status == "deleting"

    def test_a_rescan_that_is_overtaken_enters_no_row_without_a_backup(
        self, backup: Backup, storage: StorageConfig, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Backup.objects.all().delete()
        get = LocalStore.get

        def overtaken(store: LocalStore, key: str, max_bytes: int) -> bytes:
            data = get(store, key, max_bytes)
            store.clear(backup.path)
            return data

        monkeypatch.setattr(LocalStore, "get", overtaken)

        assert rescan(storage, timezone.now()).found == 0
        assert not Backup.objects.exists()


class TestWhatGoes:
    def test_what_others_put_there_stays(self, backup: Backup, folder: Path) -> None:
        note = folder / backup.path / "why-we-keep-this.txt"
        note.write_text("ask ana")

        assert delete_backup(backup_id=backup.pk, now=timezone.now(), wait=True) is None

        assert files(folder) == [str(note.relative_to(folder))]

    def test_a_backup_that_was_copied_above_others_does_not_take_them_along(
        self, backup: Backup, storage: StorageConfig, folder: Path
    ) -> None:
        for file in (folder / backup.path).iterdir():
            (folder / "main" / file.name).write_bytes(file.read_bytes())
        rescan(storage, timezone.now())
        copy = Backup.objects.get(path="main")

        assert delete_backup(backup_id=copy.pk, now=timezone.now(), wait=True) is None

        assert len(files(folder)) == 3
        assert rescan(storage, timezone.now()).found == 1

    def test_unfinished_files_of_its_parts_go_too(self, backup: Backup, storage: StorageConfig, folder: Path) -> None:
        open_store(storage).sink(f"{backup.path}/shard-0.snapshot.x", 100, Abort())
        part = folder / backup.path / f"shard-0.snapshot.{'0' * 16}.part"
        part.write_bytes(b"x")

        delete_backup(backup_id=backup.pk, now=timezone.now(), wait=True)

        assert not part.exists()
        assert len(files(folder)) == 1, "whose that is nobody knows"

    def test_while_the_manifest_stays_no_part_goes(
        self, backup: Backup, storage: StorageConfig, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(LocalStore, "delete", lambda store, key: None)

        with pytest.raises(StillListed):
            erase(backup, open_store(storage))
        left = delete_backup(backup_id=backup.pk, now=timezone.now(), wait=True)

        assert left is not None
        assert "manifest.json is still there" in left.last_error
        assert len(files(folder)) == 3


class TestStorageAway:
    def test_it_is_finished_when_the_storage_is_back_after_days(self, backup: Backup, folder: Path) -> None:
        away = folder.with_name("unmounted")
        folder.rename(away)

        left = delete_backup(backup_id=backup.pk, now=timezone.now(), wait=True)

        assert left is not None
        assert "does not exist" in left.last_error
        pauses = []
        for _ in range(12):
            assert clean_leftovers(now=left.next_try_at) == 0
            before = left.next_try_at
            left.refresh_from_db()
            pauses.append((left.next_try_at - before).total_seconds())
        assert pauses == sorted(pauses)
        assert (pauses[0], pauses[-1]) == (40, 3600)
        assert Backup.objects.get().status == "deleting"
        away.rename(folder)
        assert clean_leftovers(now=later(days=3)) == 1
        assert files(folder) == []
        assert not Backup.objects.exists()

    def test_many_of_a_storage_that_is_away_hold_up_no_other(
        self, backup: Backup, storage: StorageConfig, folder: Path, tmp_path: Path, settings: Any
    ) -> None:
        gone = StorageConfig.objects.create(name="gone", type="local", path=str(folder / "gone"))
        for number in range(30):
            values = {"storage": gone, "path": f"a/b/{number}", "snapshot_name": str(number)}
            other = Backup.objects.create(**{**plain(backup), **values})
            delete_backup(backup_id=other.pk, now=timezone.now() - timedelta(hours=1))
        delete_backup(backup_id=backup.pk, now=timezone.now())

        assert clean_leftovers(now=timezone.now()) == 1

        assert not Backup.objects.filter(pk=backup.pk).exists()
        tried = Leftover.objects.filter(tries__gt=0)
        assert tried.count() == 1, "the first that failed speaks for the others of its storage"

    def test_a_fruitless_try_is_counted_in_the_transaction_that_writes_it_down(
        self, backup: Backup, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The figure's row is locked to be counted up, which PostgreSQL refuses outside of one."""
        from django.db import connection

        inside: list[bool] = []
        monkeypatch.setattr(
            "apps.backups.leftovers.add_up", lambda name, **unused: inside.append(connection.in_atomic_block)
        )
        folder.rename(folder.with_name("unmounted"))

        left = delete_backup(backup_id=backup.pk, now=timezone.now(), wait=True)

        assert left is not None and "does not exist" in left.last_error
        assert inside == [True]

    def test_somebody_can_have_it_tried_now(self, backup: Backup, folder: Path) -> None:
        away = folder.with_name("unmounted")
        folder.rename(away)
        left = delete_backup(backup_id=backup.pk, now=timezone.now(), wait=True)
        assert left is not None

        with pytest.raises(BackupmgrError, match="does not exist"):
            retry_leftover(leftover_id=left.pk, now=timezone.now())
        away.rename(folder)

        assert retry_leftover(leftover_id=left.pk, now=timezone.now())
        assert files(folder) == []


def plain(backup: Backup) -> dict[str, Any]:
    """The fields of a backup, for another one like it."""
    left_out = {"id", "storage", "path", "snapshot_name"}
    return {field.name: getattr(backup, field.name) for field in Backup._meta.fields if field.name not in left_out}


class TestAtOnce:
    def together(self, *actions: Callable[[], object]) -> list[object]:
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
            thread.join(60)
        return outcomes

    def test_many_deletions_are_one(self, backup: Backup, folder: Path) -> None:
        def ask() -> object:
            return delete_backup(backup_id=backup.pk, now=timezone.now(), wait=True)

        outcomes = self.together(ask, ask, ask, ask)
        clean_leftovers(now=later())

        assert not [
            error for error in outcomes if isinstance(error, BackupmgrError) and not isinstance(error, NotFound)
        ]
        assert files(folder) == []
        assert not Backup.objects.exists()
        assert not Leftover.objects.exists()
        assert DeletedBackup.objects.count() == 1

    def test_a_restore_and_a_deletion_never_both_get_it(self, run: RunJob, collections: Collections) -> None:
        collections.create("films", points=5, shards=1)
        winners = set()
        for _ in range(8):
            run("backup", "films")
            backup = Backup.objects.get(status="completed")

            created, deleted = self.together(
                lambda backup=backup: restore(backup),  # type: ignore[misc]
                lambda backup=backup: delete_backup(backup_id=backup.pk, now=timezone.now()),  # type: ignore[misc]
            )

            refused = [outcome for outcome in (created, deleted) if isinstance(outcome, Conflict)]
            assert len(refused) == 1, (created, deleted)
            winners.add(type(created))
            Job.objects.filter(type="restore").delete()
            Backup.objects.all().delete()
        print(winners)


KILLED_AT = """
import os, signal, sys, uuid
import django
django.setup()
from django.utils import timezone
from apps.backups import deletion, removing
from apps.jobs.services import delete_backup

left = int(sys.argv[2])

def step(name):
    global left
    if left == 0:
        print(name, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1

class Steps:
    def __init__(self, store):
        self.store = store
    def __getattr__(self, name):
        call = getattr(self.store, name)
        def counted(*args):
            step(f"before {name} {args}")
            answer = call(*args)
            step(f"after {name} {args}")
            return answer
        return counted

def around(module, name):
    call = getattr(module, name)
    def counted(*args, **options):
        step(f"before {name}")
        answer = call(*args, **options)
        step(f"after {name}")
        return answer
    setattr(module, name, counted)

open_store = removing.open_store
removing.open_store = lambda *args, **options: Steps(open_store(*args, **options))
around(removing, "forget")
around(deletion.DeletedBackup.objects, "create")
from apps.jobs import services
around(services, "mark_deleting")
around(services, "try_leftover")
delete_backup(backup_id=uuid.UUID(sys.argv[1]), now=timezone.now(), wait=True)
"""


class TestKilled:
    def kill_at(self, backup: Backup, step: int) -> str:
        """Delete the backup in a process that kills itself before the given step; its name, '' when there is none."""
        done = subprocess.run(
            [sys.executable, "-c", KILLED_AT, str(backup.pk), str(step)],
            env={**worker_environment(), "DJANGO_SETTINGS_MODULE": "backupmgr.settings"},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode in (0, -9), done.stderr
        assert (done.returncode == -9) == bool(done.stdout)
        return done.stdout.strip()

    def steps(self, make: Callable[[], Backup], storage: StorageConfig, look: Callable[[], list[str]]) -> list[str]:
        """Kill a deletion at every step; check that it is finished afterwards, and never looks whole on the way."""
        seen: list[str] = []
        while True:
            backup = make()
            killed = self.kill_at(backup, len(seen))
            found = Backup.objects.filter(pk=backup.pk).first()
            if not killed:
                assert found is None
                assert DeletedBackup.objects.filter(backup_id=backup.pk).count() == 1
                return seen
            seen.append(killed)
            assert DeletedBackup.objects.filter(backup_id=backup.pk).exists() == (found is None), killed
            if found is not None and found.status == "completed":
                assert "mark_deleting" in killed, killed
                assert len(look()) == 3, "rolled back as a whole"
                assert not Leftover.objects.exists()
                delete_backup(backup_id=backup.pk, now=timezone.now())
            elif found is not None:
                assert found.status == "deleting"
                assert Leftover.objects.get().backup_id == backup.pk
                rescan(storage, timezone.now())
                assert not Backup.objects.filter(status="completed").exists(), killed
            clean_leftovers(now=later())
            assert look() == [], killed
            assert not Backup.objects.exists(), killed
            assert not Leftover.objects.exists(), killed
            assert DeletedBackup.objects.filter(backup_id=backup.pk).count() == 1, killed

    @pytest.mark.timeout(1200)  # a process for each of some 30 points, on a busy machine
    def test_kill_9_at_every_step_in_a_folder(
        self, run: RunJob, collections: Collections, storage: StorageConfig, folder: Path
    ) -> None:
        collections.create("films", points=5)

        def make() -> Backup:
            run("backup", "films")
            return Backup.objects.get()

        seen = self.steps(make, storage, lambda: files(folder))

        print(f"killed before and after {len(seen) // 2} steps, {len(seen)} points, in a folder")
        assert len(seen) >= 20, seen
        assert {"before create", "after create", "before forget", "after forget"} <= set(seen)

    @pytest.mark.s3
    @pytest.mark.xdist_group("s3")
    @pytest.mark.timeout(1200)
    def test_kill_9_at_every_step_in_a_bucket(
        self, run: RunJob, collections: Collections, s3_config: StorageConfig
    ) -> None:
        s3_config.save()
        collections.create("films", points=5)

        def make() -> Backup:
            run("backup", "films", storage=s3_config)
            backup = Backup.objects.get()
            # An upload of a part that was begun and given up without an answer.
            open_store(s3_config).sink(f"{backup.path}/shard-9.snapshot", 20_000_000, Abort())
            stale = f"{backup.path}/shard-0.snapshot"
            client = open_store(s3_config)._bucket.client  # type: ignore[attr-defined]
            client.create_multipart_upload(Bucket=s3_config.s3_bucket, Key=f"{s3_config.s3_prefix}/{stale}")
            return backup

        def look() -> list[str]:
            return sorted(stored.key for stored in open_store(s3_config).list(""))

        seen = self.steps(make, s3_config, look)

        print(f"killed before and after {len(seen) // 2} steps, {len(seen)} points, in a bucket")
        assert len(seen) >= 20, seen
        assert any("discard" in name for name in seen)
        assert all(key.endswith("shard-9.snapshot") for key in open_uploads(s3_config))

    @pytest.mark.worker
    def test_a_worker_finishes_what_a_web_server_began(
        self, backup: Backup, folder: Path, start_worker: Callable[..., WorkerProcess]
    ) -> None:
        self.kill_at(backup, 7)
        assert Backup.objects.get().status == "deleting"
        Leftover.objects.update(next_try_at=timezone.now())

        start_worker()

        wait_until(lambda: not Backup.objects.exists(), what="the backup's end")
        assert files(folder) == []


def test_a_tombstone_of_a_backup_without_a_job_is_fine(backup: Backup) -> None:
    Backup.objects.update(job_id=None)

    assert delete_backup(backup_id=backup.pk, now=timezone.now(), wait=True) is None


def test_unknown_is_said(db: None) -> None:
    with pytest.raises(NotFound):
        delete_backup(backup_id=uuid.uuid4(), now=timezone.now())
    with pytest.raises(NotFound):
        retry_leftover(leftover_id=uuid.uuid4(), now=timezone.now())
