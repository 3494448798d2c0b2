"""What the manifest of a backup says of nodes, keys and replicas; and backups whose manifests others have written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import requests
from django.utils import timezone

from apps.backups.catalogue import rescan
from apps.backups.models import Backup
from apps.backups.origin import Origin, origin_of
from apps.clusters.models import Cluster
from apps.sandbox import SandboxCluster
from apps.storage.models import StorageConfig
from tests.support import REPOSITORY, RunJob, files, story

pytestmark = pytest.mark.django_db(transaction=True)

GENUINE = REPOSITORY / "tests" / "recordings" / "cluster"
FIRST = REPOSITORY / "tests" / "backups" / "manifests" / "format-1.json"
BODY = {
    "vectors": {"size": 2, "distance": "Dot"},
    "sharding_method": "custom",
    "shard_number": 1,
    "replication_factor": 2,
}


def call(cluster: SandboxCluster, method: str, path: str, body: Any = None, node: int = 0) -> Any:
    answer = requests.request(method, cluster.urls[node] + path, json=body, timeout=30)
    assert answer.ok, answer.text
    return answer.json()["result"]


@pytest.fixture
def three(db: None, sandbox_cluster: SandboxCluster) -> Cluster:
    first, *others = sandbox_cluster.urls
    return Cluster.objects.create(name="three", url=first, other_urls=others, is_default=True)


def test_a_backup_keeps_nodes_keys_with_their_counts_and_every_replica(
    sandbox_cluster: SandboxCluster, three: Cluster, run: RunJob, storage: StorageConfig, folder: Path
) -> None:
    call(sandbox_cluster, "PUT", "/collections/tenants", BODY)
    for key, shards, points in (("acme", 1, 10), ("globex", 2, 30), (42, 1, 5)):
        call(sandbox_cluster, "PUT", "/collections/tenants/shards", {"shard_key": key, "shards_number": shards})
        body = {"points": [{"id": n, "vector": [n, 1]} for n in range(points)], "shard_key": key}
        call(sandbox_cluster, "PUT", "/collections/tenants/points?wait=true", body)
    gone = sandbox_cluster.holders("tenants", 1)[0]
    sandbox_cluster.set_replica_state("tenants", 1, gone, "Dead")
    sandbox_cluster.hold()

    job = run("backup", "tenants")

    assert job.status == "completed", story(job)
    backup = Backup.objects.get()
    stored = json.loads((folder / backup.path / "manifest.json").read_text())
    assert stored == backup.manifest
    assert stored["format"] == 2
    peers = [sandbox_cluster.peer_id(number) for number in range(3)]
    assert stored["nodes"] == [
        {"peer_id": peer, "url": sandbox_cluster.urls[peers.index(peer)], "version": backup.qdrant_version}
        for peer in sorted(peers)
    ]
    assert [(one["shard_key"], one["shard_ids"], one["points_min"], one["points_max"]) for one in stored["keys"]] == [
        ("acme", [1], 10, 10), ("globex", [2, 3], 30, 30), (42, [4], 5, 5),
    ]  # fmt: skip
    there = {
        (shard, peers[number]): state
        for shard, nodes in sandbox_cluster.states("tenants").items()
        for number, state in nodes.items()
    }
    assert {(one["shard_id"], one["peer_id"]): one["state"] for one in stored["placement"]} == there
    assert there[1, peers[gone]] == "Dead"
    taken = {part["shard_id"]: (part["peer_id"], part["why"]) for part in stored["parts"]}
    assert taken[1] == (peers[sandbox_cluster.holders("tenants", 1)[1]], "it has the only Active replica that can be "
                        "reached")  # fmt: skip
    assert all(there[shard, peer] == "Active" for shard, (peer, _) in taken.items())
    assert {why for shard, (_, why) in taken.items() if shard != 1} == {
        "of 2 Active replicas, the one on the node with the least to do"
    }


def test_the_replica_that_gave_the_shard_in_the_end_is_named_with_the_reason(
    sandbox_cluster: SandboxCluster, three: Cluster, run: RunJob, storage: StorageConfig
) -> None:
    sandbox_cluster.plan_placement("films", [[0, 1]])
    body = {"vectors": {"size": 2, "distance": "Dot"}, "shard_number": 1, "replication_factor": 2}
    call(sandbox_cluster, "PUT", "/collections/films", body)
    call(sandbox_cluster, "PUT", "/collections/films/points?wait=true", {"points": [{"id": 1, "vector": [1, 1]}]})
    first, other = sorted(sandbox_cluster.peer_id(number) for number in (0, 1))
    number = next(number for number in (0, 1) if sandbox_cluster.peer_id(number) == first)
    sandbox_cluster.node(number).faults.add("status", method="POST", path=".*/snapshots", status=500, body="disk full")

    job = run("backup", "films")

    assert job.status == "completed", story(job)
    replicas = origin_of(Backup.objects.get()).replicas
    assert [(one.peer_id, one.taken) for one in replicas] == [(first, False), (other, True)]
    assert replicas[1].why == f"peer {first} could not give it, and this one has an Active replica, too"


def test_a_backup_of_the_first_format_is_found_verified_and_restored(
    sandbox_cluster: SandboxCluster, three: Cluster, run: RunJob, storage: StorageConfig, folder: Path
) -> None:
    """The parts are genuine; the manifest is one that an earlier version wrote."""
    name = json.loads(FIRST.read_text())["backup"]["name"]
    place = folder / "three" / "tenants" / name
    place.mkdir(parents=True)
    shutil.copy(FIRST, place / "manifest.json")
    for shard in (1, 2, 3, 4):
        shutil.copy(GENUINE / f"tenants.shard-{shard}.snapshot", place / f"shard-{shard}.snapshot")

    found = rescan(storage, timezone.now())
    verified = run("verify", "tenants", snapshot_name=name, hashes_only=True)
    restored = run("restore", "tenants", snapshot_name=name, verify_points="all")

    assert (found.added, found.problems) == (1, [])
    assert verified.status == "completed", story(verified)
    assert restored.status == "completed", story(restored)
    backup = Backup.objects.get()
    assert backup.manifest == json.loads(FIRST.read_text())
    assert [key.points_max for key in origin_of(backup).keys] == [100, 200, 300]
    assert origin_of(backup).replicas == ()
    wanted = [json.loads(line) for line in (GENUINE / "tenants.points.jsonl").read_text().splitlines()]
    for number in range(3):
        for key in ("acme", "globex", 42):
            body = {"exact": True, "shard_key": key}
            count = call(sandbox_cluster, "POST", "/collections/tenants/points/count", body, node=number)["count"]
            assert count == sum(one["shard_key"] == key for one in wanted) > 0


def test_a_manifest_of_a_later_version_is_told_in_words_and_left_alone(storage: StorageConfig, folder: Path) -> None:
    name = json.loads(FIRST.read_text())["backup"]["name"]
    place = folder / "three" / "tenants" / name
    place.mkdir(parents=True)
    document = json.loads(FIRST.read_text()) | {"format": 9, "parts": {"in": "another shape"}}
    (place / "manifest.json").write_text(json.dumps(document))
    before = files(folder)

    found = rescan(storage, timezone.now())

    assert (found.added, Backup.objects.count()) == (0, 0)
    assert "format 9, this version of backupmgr reads up to 2: update backupmgr" in " ".join(found.problems)
    assert files(folder) == before


def test_a_manifest_that_cannot_be_read_tells_nothing(storage: StorageConfig) -> None:
    assert origin_of(Backup(storage=storage, manifest={"format": 1})) == Origin()
