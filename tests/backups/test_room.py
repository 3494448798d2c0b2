"""Room for a backup: what it needs, what a storage and the nodes have, and what refuses it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from apps.backups import room
from apps.backups.models import Backup, Part
from apps.backups.plan import BackupPlan, ShardSource
from apps.backups.room import Needs, RoomState, demand_room, estimate, in_storage
from apps.backups.topology import Replica
from apps.clusters.models import Cluster
from apps.clusters.qdrant import CollectionInfo, QdrantFault, QdrantNode, disk_usage_percent
from apps.sandbox import SandboxNode
from apps.storage.errors import StorageFull
from apps.storage.models import StorageConfig
from tests.support import Collections, RunJob, assert_failed_cleanly, files, story

KIB = 1024


def info(points: int | None = 100, **vectors: Any) -> CollectionInfo:
    config = {"params": {"vectors": vectors or {"size": 8, "distance": "Dot"}}}
    return CollectionInfo("green", "ok", points, config, {}, {})


def plan(*shards: int, of: int | None = None) -> BackupPlan:
    replicas = tuple(Replica(shard, None, 1, "Active", True) for shard in range(of or len(shards)))
    return BackupPlan("films", tuple(ShardSource(shard, None, 1) for shard in shards), (), replicas)


@pytest.fixture
def made(db: None, cluster: Cluster, storage: StorageConfig) -> Callable[..., Backup]:
    def make(sizes: dict[int, int], points: int = 100, age_hours: int = 1, **fields: Any) -> Backup:
        at = timezone.now() - timedelta(hours=age_hours)
        values = {
            "storage": storage, "cluster": cluster, "cluster_name": "main", "collection_name": "films",
            "snapshot_name": f"n{age_hours}", "path": f"main/films/n{age_hours}", "size_bytes": sum(sizes.values()),
            "points_count": points, "shard_count": len(sizes), "manifest": {}, "manifest_sha256": "0" * 64,
            "started_at": at, "created_at": at,
        }  # fmt: skip
        backup = Backup.objects.create(**{**values, **fields})
        for shard, size in sizes.items():
            Part.objects.create(
                backup=backup, shard_id=shard, key=f"{backup.path}/shard-{shard}.snapshot", size_bytes=size,
                sha256="1" * 64, points_count=1,
            )  # fmt: skip
        return backup

    return make


class TestNeeds:
    def test_are_those_of_the_newest_good_backup(self, cluster: Cluster, made: Callable[..., Backup]) -> None:
        made({0: 5, 1: 5}, age_hours=9)
        made({0: 300, 1: 100}, age_hours=2)
        made({0: 1, 1: 1}, age_hours=1, status="damaged")

        needs = estimate(cluster=cluster, plan=plan(0, 1), info=info())

        assert (needs.shards, needs.expected, needs.at_least) == ({0: 300, 1: 100}, 400, 400)
        assert needs.source == "the newest backup (400 B for 100 points)"

    def test_grow_and_shrink_with_the_points_and_refuse_by_the_smaller_figure(
        self, cluster: Cluster, made: Callable[..., Backup]
    ) -> None:
        made({0: 300, 1: 100})

        grown = estimate(cluster=cluster, plan=plan(0, 1), info=info(points=300))
        shrunk = estimate(cluster=cluster, plan=plan(0, 1), info=info(points=50))
        untold = estimate(cluster=cluster, plan=plan(0, 1), info=info(points=None))

        assert (grown.expected, grown.at_least) == (1200, 400)
        assert (shrunk.expected, shrunk.at_least) == (400, 200)
        assert (untold.expected, untold.at_least) == (400, 400)

    def test_of_one_shard_are_those_of_its_part(self, cluster: Cluster, made: Callable[..., Backup]) -> None:
        made({0: 300, 1: 100})
        assert estimate(cluster=cluster, plan=plan(1, of=2), info=info()).expected == 100

    def test_of_a_shard_that_is_new_are_like_those_of_the_others(
        self, cluster: Cluster, made: Callable[..., Backup]
    ) -> None:
        made({0: 300, 1: 100})

        needs = estimate(cluster=cluster, plan=plan(0, 1, 2), info=info())

        assert (needs.shards[2], needs.expected, needs.at_least) == (200, 600, 400)

    @pytest.mark.parametrize(
        ("vectors", "bytes_each"),
        [
            ({"size": 100}, 400),
            ({"size": 100, "datatype": "float16"}, 200),
            ({"size": 100, "datatype": "uint8"}, 100),
            ({"size": 100, "datatype": "float8"}, 0),
            ({"text": {"size": 10}}, 40),
            ({"text": {"size": 10}, "image": {"size": 10}}, 0),
            ({"colbert": {"size": 10, "multivector_config": {"comparator": "max_sim"}}}, 0),
        ],
    )
    def test_of_a_first_backup_are_at_least_the_vectors(
        self, vectors: dict[str, Any], bytes_each: int, cluster: Cluster
    ) -> None:
        needs = estimate(cluster=cluster, plan=plan(0), info=info(7, **vectors))
        assert (needs.expected, needs.at_least) == (None, 7 * bytes_each)


class TestStorage:
    @pytest.mark.parametrize(
        ("needs", "free", "state", "words"),
        [
            (Needs({0: 10}, 10, 10, "x"), 10, RoomState.ENOUGH, "10 B of room; about 10 B are needed, by x"),
            (Needs({0: 10}, 10, 5, "x"), 9, RoomState.TIGHT, "it may not be enough"),
            (Needs({0: 10}, 10, 5, "x"), 4, RoomState.SHORT, "needs at least 5 B, by x: free some"),
            (Needs(), 4, RoomState.UNKNOWN, "what this first backup needs will be seen"),
            (Needs(), 0, RoomState.SHORT, "has 0 B of room: free some"),
            (Needs(at_least=5, source="its vectors alone"), 4, RoomState.SHORT, "at least 5 B, by its vectors alone"),
        ],
    )
    def test_a_folder(
        self,
        needs: Needs,
        free: int,
        state: RoomState,
        words: str,
        storage: StorageConfig,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(room, "free_bytes", lambda storage: free)

        found = in_storage(storage, needs)

        assert found.state == state
        assert words in found.sentence
        assert found.free_bytes == free
        if state == RoomState.SHORT:
            with pytest.raises(StorageFull, match="of room"):
                demand_room([found])
        else:
            demand_room([found])

    def test_s3_does_not_tell_and_is_never_called_enough(self) -> None:
        bucket = StorageConfig(name="bucket", type="s3", s3_bucket="b")

        found = in_storage(bucket, Needs({0: 2 * KIB}, 2 * KIB, 2 * KIB, "x"))

        assert (found.state, found.free_bytes) == (RoomState.UNKNOWN, None)
        assert found.sentence == (
            "How much room 'bucket' has is unknown: S3 does not tell; about 2.0 KiB are needed, by x."
        )

    def test_a_folder_that_is_gone_is_unknown(self, storage: StorageConfig) -> None:
        storage.path += "/gone"
        assert in_storage(storage, Needs()).state == RoomState.UNKNOWN


class TestNode:
    @pytest.mark.parametrize(
        ("body", "percent"),
        [
            ({"usage": {"disk_usage_percent": 93, "resident_memory_percent": 5}}, 93),
            ({"usage": {"disk_usage_percent": None}}, None),
            ({"usage": {"disk_usage_percent": "93"}}, None),
            ({"usage": {"disk_usage_percent": 1000}}, None),
            ({"usage": []}, None),
            ([], None),
        ],
    )
    def test_what_it_tells_is_read(self, body: Any, percent: int | None, node: SandboxNode, cluster: Cluster) -> None:
        answer = {"result": body, "status": "ok", "time": 0.0}
        node.faults.add("status", method="GET", path="/quotas", status=200, body=answer)
        with QdrantNode(cluster.endpoint_for("backup")) as client:
            assert disk_usage_percent(client) == percent

    def test_one_that_does_not_know_the_question_does_not_tell(self, node: SandboxNode, cluster: Cluster) -> None:
        with QdrantNode(cluster.endpoint_for("backup")) as client:
            assert disk_usage_percent(client) is None
            node.faults.add("status", method="GET", path="/quotas", status=500, body="broken")
            with pytest.raises(QdrantFault):
                disk_usage_percent(client)


@pytest.mark.django_db(transaction=True)
class TestJob:
    @pytest.mark.parametrize(
        ("percent", "words"), [(42, "is 42 % full"), (97, "is 97 % full: a snapshot may fail"), (None, "is unknown")]
    )
    def test_a_node_that_tells_is_believed_and_never_refused(
        self,
        percent: int | None,
        words: str,
        node: SandboxNode,
        cluster: Cluster,
        storage: StorageConfig,
        collections: Collections,
        run: RunJob,
    ) -> None:
        node.version = "1.19.1"
        if percent is not None:
            answer = {"result": {"usage": {"disk_usage_percent": percent}}, "status": "ok", "time": 0.0}
            node.faults.add("status", method="GET", path="/quotas", status=200, body=answer)
        collections.create("films", points=5)

        job = run("backup", "films")

        assert job.status == "completed", story(job)
        assert words in story(job)
        levels = {event.level for event in job.events.filter(message__contains="full")}
        assert levels == ({"warning"} if percent == 97 else {"info"} if percent else set())

    def test_a_folder_too_small_refuses_before_a_snapshot_is_made(
        self,
        node: SandboxNode,
        cluster: Cluster,
        storage: StorageConfig,
        collections: Collections,
        run: RunJob,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        collections.create("films", points=20)
        assert run("backup", "films").status == "completed"
        size, before = Backup.objects.get().size_bytes, files(folder)
        made = sum(call["method"] == "POST" and call["path"].endswith("/snapshots") for call in node.log())
        monkeypatch.setattr(room, "free_bytes", lambda storage: size - 1)

        job = run("backup", "films")

        assert_failed_cleanly(job, "of room, and the backup needs at least")
        assert "20 points" in job.error
        assert files(folder) == before
        assert made == 2
        assert sum(call["method"] == "POST" and call["path"].endswith("/snapshots") for call in node.log()) == made

    def test_a_real_file_system_that_is_too_small_refuses_a_first_backup_by_its_vectors(
        self, small_disk: Path, node: SandboxNode, cluster: Cluster, collections: Collections, run: RunJob
    ) -> None:
        StorageConfig.objects.create(name="small", type="local", path=str(small_disk), is_default=True)
        collections.put("/collections/wide", {"vectors": {"size": 2048, "distance": "Dot"}, "shard_number": 1})
        points = [{"id": number, "vector": [number / 7] * 2048} for number in range(200)]
        for start in range(0, 200, 50):
            collections.put("/collections/wide/points?wait=true", {"points": points[start : start + 50]})

        job = run("backup", "wide")

        assert_failed_cleanly(job, "needs at least 1.6 MiB, by its vectors alone", small_disk)
        assert "The folder of 'small' has 1.0 MiB of room" in job.error
        assert not any(call["method"] == "POST" and "/snapshots" in call["path"] for call in node.log())


@pytest.fixture
def small_disk(tmp_path: Path, settings: Any) -> Iterator[Path]:
    """A file system of one MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    settings.BACKUPMGR_LOCAL_ROOTS = [str(tmp_path)]
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False).returncode:
        pytest.skip("may not mount a file system here")
    yield folder
    subprocess.run(["umount", folder], check=True)
