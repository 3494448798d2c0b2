"""The main job in one process: what goes right."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from apps.backups.catalogue import rescan
from apps.backups.models import Backup, Leftover
from apps.jobs.services import delete_backup
from apps.sandbox import SandboxNode
from apps.storage.models import StorageConfig
from tests.support import Collections, RunJob, files, story

pytestmark = pytest.mark.usefixtures("cluster", "storage")


def test_a_backup_is_the_bytes_that_qdrant_made_and_a_manifest(
    run: RunJob, collections: Collections, folder: Path
) -> None:
    collections.create("films", points=600)

    job = run("backup", "films")

    assert job.status == "completed", story(job)
    assert job.progress == 100
    backup = Backup.objects.get()
    assert (backup.job_id, backup.snapshot_name, job.backup_id) == (job.pk, job.snapshot_name, backup.pk)
    assert backup.points_count == 600
    assert files(folder) == sorted(
        f"{backup.path}/{name}" for name in ("shard-0.snapshot", "shard-1.snapshot", "manifest.json")
    )
    for part in backup.parts.all():
        assert hashlib.sha256((folder / part.key).read_bytes()).hexdigest() == part.sha256
    manifest = (folder / backup.path / "manifest.json").read_bytes()
    assert hashlib.sha256(manifest).hexdigest() == backup.manifest_sha256
    assert sum(shard["points_min"] for shard in json.loads(manifest)["shards"]) == 600
    assert collections.snapshots("films") == []


def test_a_deleted_collection_comes_back_point_for_point(run: RunJob, collections: Collections) -> None:
    collections.create("films", points=600)
    before = collections.points("films"), collections.call("GET", "/collections/films")["result"]["config"]
    backup = run("backup", "films")
    collections.delete("films")

    job = run("restore", "films", snapshot_name=backup.snapshot_name)

    assert job.status == "completed", story(job)
    assert (collections.points("films"), collections.call("GET", "/collections/films")["result"]["config"]) == before
    restored = Backup.objects.get()
    assert restored.restored_at is not None
    assert restored.checked_at is not None


def test_the_source_stays_as_it_is_when_restoring_into_another_name(run: RunJob, collections: Collections) -> None:
    collections.create("films", points=300)
    backup = run("backup", "films")
    collections.fill("films", range(300, 400))

    job = run("restore", "films", snapshot_name=backup.snapshot_name, target_collection="films copy")

    assert job.status == "completed", story(job)
    assert collections.count("films copy") == 300
    assert collections.count("films") == 400


def test_overwrite_brings_back_the_old_points(run: RunJob, collections: Collections) -> None:
    collections.create("films", points=300)
    before = collections.points("films")
    backup = run("backup", "films")
    collections.fill("films", range(200, 500))
    collections.call("POST", "/collections/films/points/delete?wait=true", {"points": list(range(50))})
    collections.call("DELETE", "/collections/films/index/city?wait=true")
    collections.put("/collections/films/index?wait=true", {"field_name": "extra", "field_schema": "bool"})

    job = run("restore", "films", snapshot_name=backup.snapshot_name, overwrite=True)

    assert job.status == "completed", story(job)
    assert collections.points("films") == before
    schema = collections.call("GET", "/collections/films")["result"]["payload_schema"]
    assert sorted(schema) == ["city", "n"]


def test_aliases_come_back_when_asked_for(run: RunJob, collections: Collections) -> None:
    collections.create("films", points=50)
    alias = {"actions": [{"create_alias": {"collection_name": "films", "alias_name": "live"}}]}
    collections.call("POST", "/collections/aliases", alias)
    backup = run("backup", "films")
    collections.delete("films")

    job = run("restore", "films", snapshot_name=backup.snapshot_name, restore_aliases=True)

    assert job.status == "completed", story(job)
    assert collections.call("GET", "/aliases")["result"]["aliases"] == [
        {"alias_name": "live", "collection_name": "films"}
    ]


def test_an_alias_of_somebody_else_is_not_taken(run: RunJob, collections: Collections) -> None:
    collections.create("films", points=50)
    collections.create("other", points=5)
    alias = {"actions": [{"create_alias": {"collection_name": "films", "alias_name": "live"}}]}
    collections.call("POST", "/collections/aliases", alias)
    backup = run("backup", "films")

    job = run("restore", "films", snapshot_name=backup.snapshot_name, target_collection="copy", restore_aliases=True)

    assert job.status == "failed"
    assert "'live'" in job.error
    assert collections.names() == ["films", "other"]


@pytest.mark.parametrize("name", ["my shop.v2", "łódź", ".hidden", "~tilde~2F", "%2e%2e", "x" * 150, "日本" * 30])
def test_any_name_that_qdrant_can_snapshot_goes_and_comes_back(
    run: RunJob, collections: Collections, folder: Path, name: str
) -> None:
    collections.create(name, points=20)
    before = collections.points(name)
    backup = run("backup", name)
    assert backup.status == "completed", story(backup)
    assert all(len(piece.encode()) < 255 for path in files(folder) for piece in path.split("/"))
    collections.delete(name)

    job = run("restore", name, snapshot_name=backup.snapshot_name)

    assert job.status == "completed", story(job)
    assert collections.points(name) == before


def test_one_shard_goes_and_comes_back_alone(run: RunJob, collections: Collections) -> None:
    collections.create("films", points=600)
    before = collections.points("films")
    backup = run("shard_backup", "films", shard_id=1)
    assert backup.status == "completed", story(backup)
    assert Backup.objects.get().shard_id == 1
    gone = [point["id"] for point in before][:400]
    collections.call("POST", "/collections/films/points/delete?wait=true", {"points": gone})

    refused = run("shard_restore", "films", shard_id=1, snapshot_name=backup.snapshot_name)
    job = run("shard_restore", "films", shard_id=1, snapshot_name=backup.snapshot_name, overwrite=True)

    assert refused.status == "failed"
    assert "set overwrite" in refused.error
    assert job.status == "completed", story(job)
    after = {point["id"] for point in collections.points("films")}
    of_shard_0 = {point["id"] for point in before} - after
    assert of_shard_0 <= set(gone)
    path = "/collections/films/shards/1/points/count"
    assert (
        collections.call("POST", path, {"exact": True})["result"]["count"]
        == Backup.objects.get(snapshot_name=backup.snapshot_name).points_count
    )


def test_a_shard_of_a_whole_backup_can_be_restored(run: RunJob, collections: Collections) -> None:
    collections.create("films", points=200)
    before = collections.points("films")
    backup = run("backup", "films")

    job = run("shard_restore", "films", shard_id=0, snapshot_name=backup.snapshot_name, overwrite=True)

    assert job.status == "completed", story(job)
    assert collections.points("films") == before


def test_the_newest_of_two_backups_does_not_hide_the_older(run: RunJob, collections: Collections) -> None:
    collections.create("films", points=100)
    older = run("backup", "films")
    collections.fill("films", range(100, 150))
    newer = run("backup", "films")
    collections.delete("films")

    run("restore", "films", snapshot_name=older.snapshot_name)
    run("restore", "films", snapshot_name=newer.snapshot_name, target_collection="films2")

    assert (collections.count("films"), collections.count("films2")) == (100, 150)


def test_snapshots_of_others_are_left_alone(run: RunJob, collections: Collections) -> None:
    collections.create("films", points=100)
    theirs = collections.call("POST", "/collections/films/shards/0/snapshots")["result"]["name"]

    assert run("backup", "films").status == "completed"

    assert collections.snapshots("films") == [theirs]


class TestRescan:
    def test_the_catalogue_is_rebuilt_from_the_storage_alone(
        self, run: RunJob, collections: Collections, storage: StorageConfig
    ) -> None:
        collections.create("films", points=100)
        collections.create("łódź", points=30)
        names = [run("backup", "films").snapshot_name, run("backup", "łódź").snapshot_name]
        rows = {
            backup.snapshot_name: (backup.manifest, backup.manifest_sha256, backup.path, backup.points_count)
            for backup in Backup.objects.all()
        }
        Backup.objects.all().delete()

        result = rescan(storage, timezone.now())

        assert (result.found, result.added, result.missing, result.damaged) == (2, 2, 0, 0)
        assert rows == {
            backup.snapshot_name: (backup.manifest, backup.manifest_sha256, backup.path, backup.points_count)
            for backup in Backup.objects.all()
        }
        collections.delete("films")
        assert run("restore", "films", snapshot_name=names[0]).status == "completed"

    def test_a_second_rescan_changes_nothing(self, run: RunJob, collections: Collections, storage: Any) -> None:
        collections.create("films", points=20)
        run("backup", "films")
        before = Backup.objects.get().pk

        result = rescan(storage, timezone.now())

        assert (result.found, result.added) == (1, 0)
        assert Backup.objects.get().pk == before

    def test_what_is_gone_or_short_or_garbled_is_marked_and_named(
        self, run: RunJob, collections: Collections, storage: StorageConfig, folder: Path
    ) -> None:
        collections.create("films", points=20)
        gone, short, garbled = (run("backup", "films").snapshot_name for _ in range(3))
        path = {backup.snapshot_name: folder / backup.path for backup in Backup.objects.all()}
        (path[gone] / "manifest.json").unlink()
        part = path[short] / "shard-0.snapshot"
        part.write_bytes(part.read_bytes()[:-1])
        (path[garbled] / "manifest.json").write_text("{")

        result = rescan(storage, timezone.now())

        assert (result.found, result.added, result.missing, result.damaged) == (1, 0, 1, 2)
        assert len(result.problems) == 3
        status = dict(Backup.objects.values_list("snapshot_name", "status"))
        assert status == {gone: "missing", short: "damaged", garbled: "damaged"}


class TestDelete:
    def test_it_goes_from_the_storage_and_from_the_list(
        self, run: RunJob, collections: Collections, folder: Path
    ) -> None:
        collections.create("films", points=20)
        run("backup", "films")

        delete_backup(backup_id=Backup.objects.get().pk, now=timezone.now(), wait=True)

        assert files(folder) == []
        assert not Backup.objects.exists()
        assert not Leftover.objects.exists()


@pytest.mark.parametrize("count", [0, 1])
def test_tiny_collections_are_backed_up_too(run: RunJob, collections: Collections, count: int) -> None:
    collections.create("tiny", points=count)
    backup = run("backup", "tiny")
    collections.delete("tiny")

    job = run("restore", "tiny", snapshot_name=backup.snapshot_name)

    assert job.status == "completed", story(job)
    assert collections.count("tiny") == count


def test_a_collection_that_is_written_to_meanwhile_is_backed_up_with_bounds(
    run: RunJob, collections: Collections, node: SandboxNode
) -> None:
    import threading

    collections.create("films", points=200, shards=1)
    node.faults.add(action="delay", method="POST", path="/collections/films/shards/0/snapshots", seconds=1.5)
    writer = threading.Timer(0.7, lambda: collections.fill("films", range(200, 230)))
    writer.start()

    backup = run("backup", "films")
    writer.join()

    assert backup.status == "completed", story(backup)
    assert "between 200 and 230 points" in story(backup)
    collections.delete("films")
    assert run("restore", "films", snapshot_name=backup.snapshot_name).status == "completed"
