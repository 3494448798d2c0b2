"""Verification of a backup without restoring it: what it finds, what it keeps, and what it does not claim."""

from __future__ import annotations

import hashlib
import json
import random
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from apps.backups import opening
from apps.backups.engine import EngineUnavailable, PartUnreadable
from apps.backups.models import Backup, Verification
from apps.backups.verify import BackupDamaged, PartDamaged, check_part, load_manifest
from apps.jobs.jobrun import JobRun
from apps.jobs.models import Job
from apps.jobs.runner import run_job
from apps.jobs.services import JobRequest, create_job, delete_backup
from apps.storage.models import StorageConfig
from apps.storage.services import open_store
from tests.support import Collections, RunJob, story

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture
def scratch(tmp_path: Path, settings: Any) -> Path:
    settings.BACKUPMGR_SCRATCH_DIR = str(tmp_path / "scratch")
    return tmp_path / "scratch"


@pytest.fixture
def backup(run: RunJob, storage: StorageConfig, collections: Collections, scratch: Path) -> Backup:
    collections.create("films", points=301)
    assert run("backup", "films").status == "completed"
    return Backup.objects.get()


def verify(run: RunJob, backup: Backup, **fields: Any) -> Job:
    backup.refresh_from_db()
    return run("verify", backup.collection_name, backup=backup, **fields)


def rewrite_manifest(backup: Backup, folder: Path, change: Any) -> None:
    """Change the manifest in the storage, and let the catalogue take it for the one that was written."""
    path = folder / backup.path / "manifest.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    Backup.objects.filter(pk=backup.pk).update(manifest_sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def test_a_good_backup_is_opened_and_counted_and_that_is_kept(run: RunJob, backup: Backup, scratch: Path) -> None:
    user = User.objects.create_user("ana")
    request = JobRequest(type="verify", collection_name="films", backup=backup)
    job = create_job(request=request, now=timezone.now(), user=user)
    run_job(str(job.pk))
    job.refresh_from_db()

    assert job.status == "completed", story(job)
    assert job.progress == 100
    kept = Verification.objects.get()
    assert (kept.backup, kept.kind, kept.result, kept.by, kept.user) == (backup, "opened", "ok", "ana", user)
    assert kept.job_id == job.pk
    assert "301 points counted" in kept.method
    assert [part["points"] for part in kept.details["parts"]] == [
        shard["points_min"] for shard in backup.manifest["shards"]
    ]
    assert sum(part["points_read"] for part in kept.details["parts"]) == 200
    backup.refresh_from_db()
    assert backup.proof == "opened"
    assert backup.opened_at == backup.checked_at == kept.created_at
    assert backup.restored_at is None
    assert list(scratch.iterdir()) == []


def test_hashes_only_says_so(run: RunJob, backup: Backup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "open_part", lambda *a, **k: pytest.fail("opened"))

    job = verify(run, backup, hashes_only=True)

    assert job.status == "completed", story(job)
    kept = Verification.objects.get()
    assert (kept.kind, kept.result) == ("checked", "ok")
    backup.refresh_from_db()
    assert (backup.proof, backup.opened_at) == ("checked", None)


def flip(store: Any, key: str, at: int, size: int) -> None:
    """Flip one bit of a stored object."""
    data = bytearray(store.get(key, size))
    data[at] ^= 1 << (at % 8)
    store.delete(key)
    store.put(key, bytes(data))


def offsets(size: int, seed: int) -> list[int]:
    """The first and last byte, every kind of place within the archive, and some by chance."""
    chance = random.Random(seed)
    return sorted({0, 1, 100, 148, 156, 257, 511, 512, size // 2, size - 1025, size - 1, *(
        chance.randrange(size) for _ in range(9)
    )})  # fmt: skip


@pytest.mark.parametrize(
    "kind", ["folder", pytest.param("bucket", marks=[pytest.mark.s3, pytest.mark.xdist_group("s3")])]
)
def test_one_flipped_bit_anywhere_in_a_stored_part_is_found(
    kind: str, run: RunJob, backup: Backup, collections: Collections, request: pytest.FixtureRequest
) -> None:
    if kind == "bucket":
        config = request.getfixturevalue("s3_config")
        config.save()
        backup = Backup.objects.get(pk=run("backup", "films", storage=config).backup_id)
    store = open_store(backup.storage)
    for number, part in enumerate(backup.parts.order_by("shard_id")):
        for at in offsets(part.size_bytes, seed=number):
            flip(store, part.key, at, part.size_bytes)

            job = verify(run, backup, hashes_only=at % 2 == 0)

            assert job.status == "failed", (part.shard_id, at)
            assert f"shard-{part.shard_id}.snapshot was altered" in job.error
            flip(store, part.key, at, part.size_bytes)
    found = list(Verification.objects.values_list("kind", "result").distinct())
    backup.refresh_from_db()
    assert found == [("checked", "failed")]
    assert (backup.status, backup.proof) == ("damaged", None)

    assert verify(run, backup).status == "completed"

    backup.refresh_from_db()
    assert (backup.status, backup.status_reason, backup.proof) == ("completed", "", "opened")


@pytest.mark.parametrize(
    "kind", ["folder", pytest.param("bucket", marks=[pytest.mark.s3, pytest.mark.xdist_group("s3")])]
)
def test_a_byte_flipped_at_any_of_many_places_is_found_in_every_file(
    kind: str, run: RunJob, backup: Backup, request: pytest.FixtureRequest
) -> None:
    """All over the parts and the manifest; by the function that verifications and restores read them with."""
    if kind == "bucket":
        config = request.getfixturevalue("s3_config")
        config.save()
        backup = Backup.objects.get(pk=run("backup", "films", storage=config).backup_id)
    store, chance = open_store(backup.storage), random.Random(11)
    manifest = load_manifest(backup, store)
    job = Job.objects.create(**working_on(backup))
    with JobRun(job) as held:
        for part in manifest.parts:
            key = f"{backup.path}/{part.file}"
            whole = store.get(key, part.size_bytes)
            check_part(backup, part, store, held)
            for at in [0, part.size_bytes - 1, *(chance.randrange(part.size_bytes) for _ in range(60))]:
                data = bytearray(whole)
                data[at] ^= chance.randrange(1, 256)
                store.delete(key)
                store.put(key, bytes(data))
                with pytest.raises(PartDamaged, match="was altered in the storage"):
                    check_part(backup, part, store, held)
            store.delete(key)
            store.put(key, whole)
            check_part(backup, part, store, held)
    key = f"{backup.path}/manifest.json"
    whole = store.get(key, 10**6)
    for _ in range(60):
        data = bytearray(whole)
        data[chance.randrange(len(whole))] ^= chance.randrange(1, 256)
        store.delete(key)
        store.put(key, bytes(data))
        with pytest.raises(BackupDamaged, match="not the one that was written"):
            load_manifest(backup, store)


def working_on(backup: Backup) -> dict[str, Any]:
    """The fields of a job that is verifying the backup."""
    now = timezone.now()
    return {
        "type": "verify", "status": "running", "cluster": backup.cluster, "collection_name": "films",
        "storage": backup.storage, "backup": backup, "subject_cluster": backup.cluster, "subject_collection": "x",
        "not_before": now, "created_at": now, "started_at": now, "lease_token": uuid.uuid4(),
        "lease_until": now + timedelta(hours=1),
    }  # fmt: skip


def test_all_bad_parts_are_named(run: RunJob, backup: Backup, folder: Path) -> None:
    first, second = backup.parts.order_by("shard_id")
    (folder / first.key).unlink()
    with (folder / second.key).open("ab") as file:
        file.write(b"x")

    job = verify(run, backup)

    assert job.status == "failed"
    assert "shard-0.snapshot is not in the storage any more" in job.error
    assert f"shard-1.snapshot has {second.size_bytes + 1:,} bytes" in job.error
    kept = Verification.objects.get()
    assert [bool(part.get("problem")) for part in kept.details["parts"]] == [True, True]
    assert kept.reason in job.error


def test_a_part_with_the_right_hash_and_other_points_is_found_by_the_engine(
    run: RunJob, backup: Backup, folder: Path
) -> None:
    """Somebody swapped the contents of two parts, and made the manifest agree."""

    def swap(document: dict[str, Any]) -> None:
        one, two = document["shards"]
        one["points_min"], one["points_max"], two["points_min"], two["points_max"] = (
            two["points_min"], two["points_max"], one["points_min"], one["points_max"],
        )  # fmt: skip
        assert one["points_min"] != two["points_min"]

    rewrite_manifest(backup, folder, swap)

    assert verify(run, backup, hashes_only=True).status == "completed"
    job = verify(run, backup)

    assert job.status == "failed"
    assert "Qdrant's engine opens it, but shard 0 holds" in job.error
    failed = Verification.objects.get(result="failed")
    assert failed.kind == "opened"
    backup.refresh_from_db()
    assert backup.status == "damaged"


def test_a_part_with_the_right_hash_that_is_no_snapshot_is_found_by_the_engine(
    run: RunJob, backup: Backup, folder: Path
) -> None:
    part = backup.parts.get(shard_id=1)
    data = (folder / part.key).read_bytes()
    broken = data[: len(data) // 3] + bytes(len(data) - len(data) // 3)
    (folder / part.key).write_bytes(broken)

    def accept(document: dict[str, Any]) -> None:
        document["parts"][1]["sha256"] = hashlib.sha256(broken).hexdigest()

    rewrite_manifest(backup, folder, accept)

    job = verify(run, backup)

    assert job.status == "failed"
    assert "shard-1.snapshot: It " in job.error
    assert Verification.objects.get().kind == "opened"


def test_vectors_of_another_size_than_the_manifest_says_are_found(run: RunJob, backup: Backup, folder: Path) -> None:
    def resize(document: dict[str, Any]) -> None:
        document["collection"]["config"]["params"]["vectors"]["text"]["size"] = 9

    rewrite_manifest(backup, folder, resize)

    job = verify(run, backup)

    assert job.status == "failed"
    assert "8 dimensions, not 9" in job.error


def test_a_host_that_cannot_open_parts_keeps_what_it_could_tell(
    run: RunJob, backup: Backup, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(folder: Path, size_bytes: int) -> None:
        raise EngineUnavailable("There is no room.")

    monkeypatch.setattr(opening, "check_room", no_room)

    job = verify(run, backup)

    assert job.status == "failed"
    assert "the parts were not opened: There is no room." in job.error
    assert Verification.objects.values_list("kind", "result").get() == ("checked", "ok")
    backup.refresh_from_db()
    assert (backup.status, backup.proof) == ("completed", "checked")


def test_files_of_an_old_qdrant_that_the_engine_refuses_are_not_called_damaged(
    run: RunJob, backup: Backup, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **options: Any) -> Any:
        raise PartUnreadable("It cannot be opened by Qdrant's engine: RocksDB not supported.")

    monkeypatch.setattr(opening, "open_part", refuse)
    rewrite_manifest(backup, folder, lambda document: document["node"].update(version="1.15.5"))

    job = verify(run, backup)

    assert job.status == "failed"
    assert "what Qdrant 1.15.5 wrote" in job.error
    backup.refresh_from_db()
    assert (backup.status, backup.proof) == ("completed", "checked")


def test_a_storage_that_is_away_is_no_verdict(run: RunJob, backup: Backup, folder: Path) -> None:
    folder.rename(folder.with_name("away"))

    job = verify(run, backup)

    assert job.status == "failed"
    assert not Verification.objects.exists()
    backup.refresh_from_db()
    assert backup.status == "completed"


def test_a_manifest_of_a_newer_version_is_refused_and_not_called_damaged(
    run: RunJob, backup: Backup, folder: Path
) -> None:
    rewrite_manifest(backup, folder, lambda document: document.update(format=99))

    for job in (verify(run, backup), run("restore", "films", backup=backup, target_collection="again")):
        assert job.status == "failed"
        assert "update backupmgr" in job.error
    backup.refresh_from_db()
    assert backup.status == "completed"
    assert not Verification.objects.exists()


def test_a_restore_is_a_proof_and_a_restore_that_finds_damage_keeps_it(
    run: RunJob, backup: Backup, folder: Path
) -> None:
    assert run("restore", "films", backup=backup, target_collection="again").status == "completed"
    part = backup.parts.get(shard_id=0)
    with (folder / part.key).open("r+b") as file:
        file.write(b"x")
    assert run("restore", "films", backup=backup, target_collection="once more").status == "failed"

    newest, first = Verification.objects.order_by("-created_at")
    assert (first.kind, first.result) == ("restored", "ok")
    assert (newest.kind, newest.result) == ("checked", "failed")
    backup.refresh_from_db()
    assert backup.status == "damaged"


def test_verification_does_not_wait_for_the_collection(backup: Backup) -> None:
    now = timezone.now()
    other = create_job(request=JobRequest(type="backup", collection_name="films"), now=now)
    job = create_job(request=JobRequest(type="verify", collection_name="films", backup=backup), now=now)

    assert job.subject_collection != other.subject_collection
    with pytest.raises(Exception, match="reads this backup"):
        delete_backup(backup_id=backup.pk, now=now)


def test_abort_in_the_middle_leaves_no_verdict_and_no_scratch(
    run: RunJob, backup: Backup, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = opening.check_part

    def cancelled(*args: Any, **options: Any) -> None:
        genuine(*args, **options)
        Job.objects.filter(type="verify").update(cancel_requested_at=timezone.now())
        args[3].abort.sleep(10)

    monkeypatch.setattr(opening, "check_part", cancelled)

    job = verify(run, backup)

    assert job.status == "cancelled"
    assert not Verification.objects.exists()
    assert list(scratch.iterdir()) == []
