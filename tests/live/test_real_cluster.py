"""Clusters of many nodes: backed up once, restored into any topology, and every replica looked at.

Each test runs against a sandbox cluster, and against a real one when QDRANT_URLS names its nodes (comma separated)
and QDRANT_URL a node that is alone: docs/clusters.md has the table of what was proved. A node dies in them when
QDRANT_CONTROL names a program that takes `kill N` and `up N`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from apps.backups.models import Backup, KeptCollection, Leftover, Verification
from apps.clusters.models import Cluster
from apps.jobs.kept import remove_kept, switch_back
from apps.storage.models import StorageConfig
from tests.live.places import KEY, URL, URLS, Nodes, Place, real_place, sandbox_place
from tests.support import RunJob, files, story, wait_until

REAL = pytest.param(
    "real",
    marks=[
        pytest.mark.live,
        pytest.mark.skipif(len(URLS) < 3 or not URL, reason="QDRANT_URLS and QDRANT_URL name no real Qdrant"),
    ],
)
AUTO, CUSTOM = "auto sharding", "custom sharding"
SAME, NEW = "same name", "new name"
POINTS = 80


@pytest.fixture(params=["sandbox", REAL])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with sandbox_place(tmp_path) if request.param == "sandbox" else real_place() as found:
        yield found


@pytest.fixture
def three(transactional_db: None, place: Place) -> Cluster:
    first, *others = place.three.urls
    return Cluster.objects.create(name="three", url=first, other_urls=others, api_key=KEY, is_default=True)


@pytest.fixture
def one(transactional_db: None, place: Place) -> Cluster:
    return Cluster.objects.create(name="one", url=place.one.urls[0], api_key=KEY)


def point(number: int, key: Any) -> dict[str, Any]:
    return {
        "id": number if number % 3 else f"00000000-0000-4000-8000-{number:012d}",
        "vector": {
            "text": [((number * 31 + k * 17 + len(str(key))) % 97) / 97 + 0.01 for k in range(8)],
            "words": {"indices": [number % 50, 50 + number % 7], "values": [0.5, 1.0 + number % 5]},
        },
        "payload": {"n": number, "city": ("Kyiv", "Łódź", "東京")[number % 3], "tenant": str(key)},
    }


def create(nodes: Nodes, sharding: str, replicas: int) -> str:
    """Make a collection; with custom sharding of a key with one shard, a gap of two ids, a key with two, one with one.

    The same ids live under all keys.
    """
    name = nodes.name()
    body: dict[str, Any] = {
        "vectors": {"text": {"size": 8, "distance": "Cosine", "on_disk": True}},
        "sparse_vectors": {"words": {"index": {"on_disk": True}}},
        "replication_factor": replicas,
        "write_consistency_factor": replicas,
        "hnsw_config": {"m": 8},
    }
    body |= {"shard_number": 4} if sharding == AUTO else {"sharding_method": "custom", "shard_number": 1}
    nodes.call("PUT", f"/collections/{name}", body)
    keys: list[Any] = [None]
    if sharding == CUSTOM:
        keys = ["acme", "globex", 42]
        for key, shards in (("acme", 1), ("filler", 2), ("globex", 2), (42, 1)):
            nodes.call("PUT", f"/collections/{name}/shards", {"shard_key": key, "shards_number": shards})
        nodes.call("POST", f"/collections/{name}/shards/delete", {"shard_key": "filler"})
    for field, schema in (("city", "keyword"), ("n", {"type": "integer", "lookup": True, "range": True})):
        nodes.call("PUT", f"/collections/{name}/index?wait=true", {"field_name": field, "field_schema": schema})
    for key in keys:
        batch: dict[str, Any] = {"points": [point(number, key) for number in range(POINTS)]}
        nodes.call(
            "PUT", f"/collections/{name}/points?wait=true", batch if key is None else {**batch, "shard_key": key}
        )
    wait_until(lambda: nodes.is_settled(name), what="all replicas to be Active")
    return name


def backed_up(run: RunJob, nodes: Nodes, name: str, cluster: Cluster) -> Any:
    """Back up a collection; nothing of it is left on any node."""
    job = run("backup", name, cluster=cluster)
    assert job.status == "completed", story(job)
    assert nodes.snapshots(name) == []
    assert not Leftover.objects.exists()
    return job


def delete_half(nodes: Nodes, name: str, facts: dict[str, Any]) -> None:
    """Delete half of the points under every key."""
    for key in facts["points"]:
        body: dict[str, Any] = {"filter": {"must": [{"key": "n", "range": {"gte": POINTS // 2}}]}}
        path = f"/collections/{name}/points/delete?wait=true"
        nodes.call("POST", path, body if key is None else {**body, "shard_key": key})


def assert_restored(nodes: Nodes, name: str, before: dict[str, Any], job: Any, replicas: int) -> None:
    """Everything is there again, in every replica, and every node answers for all of it."""
    assert job.status == "completed", story(job)
    assert nodes.is_settled(name), nodes.replicas(name)
    after = nodes.facts(name)
    assert after["config"] == before["config"]
    assert after["schema"] == before["schema"]
    assert after["keys"] == before["keys"]
    assert after["counts"] == before["counts"]
    assert after["points"] == before["points"]
    assert {len(some) for some in nodes.replicas(name).values()} == {min(replicas, len(nodes.urls))}
    for number in nodes.numbers:
        for key, points in before["points"].items():
            assert nodes.points(name, key, node=number) == points, f"node {number}, key {key}"


@pytest.mark.parametrize("naming", [SAME, NEW])
@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("sharding", [AUTO, CUSTOM])
def test_three_nodes_into_three_nodes(
    sharding: str, replicas: int, naming: str, place: Place, three: Cluster, run: RunJob, storage: StorageConfig
) -> None:
    films = create(place.three, sharding, replicas)
    before = place.three.facts(films)
    backup = backed_up(run, place.three, films, three)
    target = place.three.name() if naming == NEW else films
    if naming == SAME:
        place.three.delete(films)

    job = run("restore", films, snapshot_name=backup.snapshot_name, target_collection=target)

    assert_restored(place.three, target, before, job, replicas)
    if naming == NEW:
        assert place.three.facts(films) == before


@pytest.mark.parametrize("naming", [SAME, NEW])
@pytest.mark.parametrize("replicas", [1, 2])
def test_three_nodes_into_one_node_and_back(
    replicas: int, naming: str, place: Place, three: Cluster, one: Cluster, run: RunJob, storage: StorageConfig
) -> None:
    films = create(place.three, AUTO, replicas)
    before = place.three.facts(films)
    backup = backed_up(run, place.three, films, three)
    target = place.one.name() if naming == NEW else films

    job = run("restore", films, snapshot_name=backup.snapshot_name, target_collection=target, target_cluster=one)

    assert_restored(place.one, target, before, job, replicas)
    place.three.delete(films)
    back = backed_up(run, place.one, target, one)
    job = run("restore", target, snapshot_name=back.snapshot_name, target_collection=films, target_cluster=three)
    assert_restored(place.three, films, before, job, replicas)
    place.one.delete(target)


@pytest.mark.parametrize("naming", [SAME, NEW])
@pytest.mark.parametrize("replicas", [1, 2])
def test_shard_keys_into_a_node_that_is_alone_are_refused_before_anything_is_touched(
    replicas: int, naming: str, place: Place, three: Cluster, one: Cluster, run: RunJob, storage: StorageConfig
) -> None:
    tenants = create(place.three, CUSTOM, replicas)
    backup = backed_up(run, place.three, tenants, three)
    target = place.one.name() if naming == NEW else tenants

    job = run("restore", tenants, snapshot_name=backup.snapshot_name, target_collection=target, target_cluster=one)

    assert job.status == "failed", story(job)
    assert "shard key" in job.error, job.error
    assert not place.one.exists(target)


@pytest.mark.parametrize("naming", [SAME, NEW])
@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("sharding", [AUTO, CUSTOM])
def test_three_nodes_into_a_cluster_of_one_node_and_back(
    sharding: str, replicas: int, naming: str, place: Place, three: Cluster, run: RunJob, storage: StorageConfig
) -> None:
    """One node in cluster mode has shard keys, other than a node that is alone."""
    if not place.lone.urls:
        pytest.skip("QDRANT_LONE_URL names no real Qdrant")
    if place.lone.sandbox is not None and sharding == AUTO:
        pytest.skip("in the sandbox that is no other way than into a node that is alone")
    lone = Cluster.objects.create(name="lone", url=place.lone.urls[0], api_key=KEY)
    films = create(place.three, sharding, replicas)
    before = place.three.facts(films)
    backup = backed_up(run, place.three, films, three)
    target = place.lone.name() if naming == NEW else films

    job = run("restore", films, snapshot_name=backup.snapshot_name, target_collection=target, target_cluster=lone)

    assert_restored(place.lone, target, before, job, replicas)
    place.three.delete(films)
    back = backed_up(run, place.lone, target, lone)
    job = run("restore", target, snapshot_name=back.snapshot_name, target_collection=films, target_cluster=three)
    assert_restored(place.three, films, before, job, replicas)
    place.lone.delete(target)


@pytest.mark.parametrize("sharding", [AUTO, CUSTOM])
def test_every_point_of_every_replica_is_compared_when_asked_for(
    sharding: str, place: Place, three: Cluster, run: RunJob, storage: StorageConfig
) -> None:
    films = create(place.three, sharding, 2)
    before = place.three.facts(films)
    backup = backed_up(run, place.three, films, three)
    target = place.three.name()

    job = run(
        "restore", films, snapshot_name=backup.snapshot_name, target_collection=target, verify_points="all"
    )  # fmt: skip

    assert_restored(place.three, target, before, job, 2)
    found = Verification.objects.get(kind="restored")
    assert found.points_compared == sum(before["counts"].values())
    assert found.details["compared_shards"] == sorted(before["counts"])
    checked = run("verify", films, snapshot_name=backup.snapshot_name)
    assert checked.status == "completed", story(checked)


@pytest.mark.parametrize("sharding", [AUTO, CUSTOM])
def test_clients_behind_an_alias_are_switched_to_what_was_restored_beside(
    sharding: str, place: Place, three: Cluster, run: RunJob, storage: StorageConfig
) -> None:
    films = create(place.three, sharding, 2)
    before = place.three.facts(films)
    backup = backed_up(run, place.three, films, three)
    alias = f"{films}-live"
    place.three.call("POST", "/collections/aliases", {
        "actions": [{"create_alias": {"collection_name": films, "alias_name": alias}}]
    })  # fmt: skip
    delete_half(place.three, films, before)
    old = place.three.facts(films)

    job = run("restore", films, snapshot_name=backup.snapshot_name, overwrite=True)

    assert job.status == "completed", story(job)
    kept = KeptCollection.objects.get()
    place.three.made.append(kept.replaced_by)
    assert_restored(place.three, kept.replaced_by, before, job, 2)
    assert place.three.facts(films) == old
    for number in place.three.numbers:
        found = place.three.call("GET", f"/collections/{kept.replaced_by}/aliases", node=number)["aliases"]
        assert [one["alias_name"] for one in found] == [alias]
    back = switch_back(kept_id=kept.pk, now=timezone.now())
    assert place.three.call("GET", f"/collections/{films}/aliases")["aliases"][0]["alias_name"] == alias
    remove_kept(kept_id=back.pk, now=timezone.now())
    assert not place.three.exists(kept.replaced_by)


@pytest.mark.parametrize("sharding", [AUTO, CUSTOM])
def test_a_live_collection_is_overwritten_in_every_replica(
    sharding: str, place: Place, three: Cluster, run: RunJob, storage: StorageConfig
) -> None:
    films = create(place.three, sharding, 2)
    before = place.three.facts(films)
    backup = backed_up(run, place.three, films, three)
    delete_half(place.three, films, before)
    assert place.three.facts(films)["points"] != before["points"]

    job = run("restore", films, snapshot_name=backup.snapshot_name, overwrite=True)

    assert_restored(place.three, films, before, job, 2)


def test_one_file_for_each_shard_whatever_the_replication_factor(
    place: Place, three: Cluster, run: RunJob, storage: StorageConfig, folder: Path
) -> None:
    films = create(place.three, CUSTOM, 2)
    backed_up(run, place.three, films, three)
    path = Backup.objects.get().path
    assert sorted(Path(file).name for file in files(folder) if file.startswith(path)) == [
        "manifest.json", "shard-1.snapshot", "shard-4.snapshot", "shard-5.snapshot", "shard-6.snapshot",
    ]  # fmt: skip


def die(nodes: Nodes) -> None:
    if nodes.kill is None or nodes.up is None:
        pytest.skip("QDRANT_CONTROL names no program that kills and starts a node")
    nodes.kill(2)


def test_a_dead_node_costs_nothing_while_there_are_other_replicas(
    place: Place, three: Cluster, run: RunJob, storage: StorageConfig
) -> None:
    films = create(place.three, AUTO, 2)
    before = place.three.facts(films)
    die(place.three)
    try:
        backup = run("backup", films)
        assert backup.status == "completed", story(backup)
    finally:
        assert place.three.up is not None
        place.three.up(2)
    wait_until(lambda: place.three.is_settled(films), what="the cluster to be whole again")
    target = place.three.name()
    job = run("restore", films, snapshot_name=backup.snapshot_name, target_collection=target)
    assert_restored(place.three, target, before, job, 2)


def test_a_dead_node_with_the_only_replica_fails_the_backup_with_the_shard_named(
    place: Place, three: Cluster, run: RunJob, storage: StorageConfig, folder: Path
) -> None:
    films = create(place.three, AUTO, 1)
    [lost, *_] = [shard_id for shard_id, nodes in place.three.replicas(films).items() if 2 in nodes]
    die(place.three)
    try:
        job = run("backup", films)
    finally:
        assert place.three.up is not None
        place.three.up(2)
    assert job.status == "failed", story(job)
    assert str(lost) in job.error, job.error
    assert not Backup.objects.exists()
    assert files(folder) == []


def test_a_node_that_dies_during_a_backup_is_replaced_by_other_replicas(
    place: Place, three: Cluster, run: RunJob, storage: StorageConfig
) -> None:
    if place.three.sandbox is None:
        pytest.skip("a real node cannot be stopped in the middle of a call")
    sandbox = place.three.sandbox
    films = create(place.three, AUTO, 2)
    before = place.three.facts(films)
    # Its first download hangs in the middle; then the node is gone.
    sandbox.node(2).faults.add("stall", method="GET", path=".*/shards/[0-9]+/snapshots/.+", bytes=1000)

    def kill_when_asked() -> None:
        wait_until(lambda: sandbox.node(2).faults.describe()[0]["fired"] or done.is_set(), what="the download")
        sandbox.stop(2, grace_seconds=0)

    done = threading.Event()
    killer = threading.Thread(target=kill_when_asked)
    killer.start()
    try:
        backup = run("backup", films)
    finally:
        done.set()
        killer.join()
    assert backup.status == "completed", story(backup)
    sandbox.node(2).faults.clear()
    sandbox.start(2)
    sandbox.settle()
    target = place.three.name()
    job = run("restore", films, snapshot_name=backup.snapshot_name, target_collection=target)
    assert_restored(place.three, target, before, job, 2)
