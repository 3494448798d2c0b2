"""Recoveries in a cluster: what the answer says, what the replicas become, and the traps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from apps.sandbox import SandboxCluster

DENSE = {"vectors": {"size": 4, "distance": "Dot", "on_disk": True}, "shard_number": 2, "replication_factor": 2}
CUSTOM = {"vectors": {"size": 4, "distance": "Dot", "on_disk": True}, "sharding_method": "custom"}


def points(first: int, last: int) -> dict[str, Any]:
    return {"points": [{"id": n, "vector": [n, 1, 2, 3], "payload": {"n": n}} for n in range(first, last + 1)]}


@pytest.fixture
def apis(sandbox_cluster: SandboxCluster, client: Any) -> list[Any]:
    return [client(url) for url in sandbox_cluster.urls]


@pytest.fixture
def films(apis: list[Any], sandbox_cluster: SandboxCluster) -> str:
    """Two shards, on the nodes 0 and 1, and on 1 and 2; 60 points."""
    sandbox_cluster.plan_placement("films", [[0, 1], [1, 2]])
    assert apis[0]("PUT", "/collections/films", DENSE).result is True
    assert apis[0]("PUT", "/collections/films/points?wait=true", points(1, 60)).status == 200
    return "films"


@pytest.fixture
def shard(apis: list[Any], films: str) -> bytes:
    """A snapshot of shard 0."""
    name = apis[0]("POST", f"/collections/{films}/shards/0/snapshots").result["name"]
    return apis[0]("GET", f"/collections/{films}/shards/0/snapshots/{name}").content


def upload(api: Any, content: bytes, shard_id: int, priority: str, collection: str = "films") -> Any:
    path = f"/collections/{collection}/shards/{shard_id}/snapshots/upload?priority={priority}"
    return api.upload(path, content)


def count(api: Any, collection: str, shard_id: int) -> int:
    return api("POST", f"/collections/{collection}/shards/{shard_id}/points/count", {}).result["count"]


def test_no_sync_leaves_the_other_replica_alone(apis: list[Any], shard: bytes, sandbox_cluster: SandboxCluster) -> None:
    kept = count(apis[1], "films", 0)
    apis[0]("POST", "/collections/films/points/delete?wait=true", {"filter": {"must": []}, "points": [1, 2, 3, 4]})
    changed = count(apis[1], "films", 0)
    assert changed < kept

    answer = upload(apis[0], shard, 0, "no_sync")

    assert (answer.status, answer.result) == (200, None)
    sandbox_cluster.settle()
    assert sandbox_cluster.states("films")[0] == {0: "Active", 1: "Active"}
    # So the replicas differ, until the same file is in each of them.
    assert [count(apis[0], "films", 0), count(apis[1], "films", 0)] == [kept, changed]
    upload(apis[1], shard, 0, "no_sync")
    assert [count(apis[0], "films", 0), count(apis[1], "films", 0)] == [kept, kept]


def test_snapshot_makes_the_others_dead_and_then_like_it(
    apis: list[Any], shard: bytes, sandbox_cluster: SandboxCluster
) -> None:
    kept = count(apis[0], "films", 0)
    apis[0]("POST", "/collections/films/points/delete?wait=true", {"points": list(range(1, 61))})
    sandbox_cluster.hold()
    with sandbox_cluster.watch("films", 0) as seen:
        assert upload(apis[0], shard, 0, "snapshot").status == 200
        assert sandbox_cluster.states("films")[0] == {0: "Active", 1: "Active"}  # the answer came before
        sandbox_cluster.release()
        sandbox_cluster.settle()
    second = [states[1] for states in seen]
    assert [state for at, state in enumerate(second) if state != second[at - 1] or not at] == [
        "Active", "Dead", "Recovery", "Partial", "Active",
    ]  # fmt: skip
    assert [count(apis[0], "films", 0), count(apis[1], "films", 0)] == [kept, kept]


def test_replica_throws_away_what_was_recovered(apis: list[Any], shard: bytes, sandbox_cluster: SandboxCluster) -> None:
    apis[0]("POST", "/collections/films/points/delete?wait=true", {"points": list(range(1, 61))})
    assert upload(apis[0], shard, 0, "replica").status == 200
    sandbox_cluster.settle()
    assert sandbox_cluster.states("films")[0] == {0: "Active", 1: "Active"}
    assert [count(apis[0], "films", 0), count(apis[1], "films", 0)] == [0, 0]


def test_a_node_without_the_replica_gets_one(apis: list[Any], shard: bytes, sandbox_cluster: SandboxCluster) -> None:
    sandbox_cluster.hold()
    assert upload(apis[2], shard, 0, "no_sync").status == 200
    assert sandbox_cluster.states("films")[0] == {0: "Active", 1: "Active", 2: "Dead"}
    sandbox_cluster.release()
    sandbox_cluster.settle()
    assert sandbox_cluster.states("films")[0] == {0: "Active", 1: "Active", 2: "Active"}
    assert len({count(api, "films", 0) for api in apis}) == 1


def test_a_shard_that_is_not_there_cannot_be_recovered(apis: list[Any], shard: bytes) -> None:
    answer = upload(apis[0], shard, 9, "no_sync")
    assert (answer.status, answer.error) == (404, "Not found: shard 9 not found")


def test_a_broken_file_changes_nothing(apis: list[Any], shard: bytes, sandbox_cluster: SandboxCluster) -> None:
    before = count(apis[0], "films", 0)
    assert upload(apis[0], shard[: len(shard) // 2], 0, "no_sync").status == 500
    sandbox_cluster.settle()
    assert sandbox_cluster.states("films")[0] == {0: "Active", 1: "Active"}
    assert count(apis[0], "films", 0) == before


def test_a_custom_sharded_collection_recovers_to_nothing_and_says_yes(
    apis: list[Any], sandbox_cluster: SandboxCluster
) -> None:
    apis[0]("PUT", "/collections/tenants", CUSTOM)
    apis[0]("PUT", "/collections/tenants/shards", {"shard_key": "a"})
    apis[0]("PUT", "/collections/tenants/points?wait=true", {**points(1, 20), "shard_key": "a"})
    name = apis[0]("POST", "/collections/tenants/snapshots").result["name"]
    location = f"file://{sandbox_cluster.node(0).snapshots_path}/tenants/{name}"

    answer = apis[0]("PUT", "/collections/copy/snapshots/recover", {"location": location})

    assert (answer.status, answer.result) == (200, True)
    sandbox_cluster.settle()
    assert apis[0].count("copy") == 0
    assert apis[0]("GET", "/collections/copy/shards").result == {"shard_keys": []}


def test_one_nodes_collection_snapshot_brings_back_its_shards_only(
    apis: list[Any], films: str, sandbox_cluster: SandboxCluster
) -> None:
    mine = count(apis[0], films, 0)
    name = apis[0]("POST", f"/collections/{films}/snapshots").result["name"]
    location = f"file://{sandbox_cluster.node(0).snapshots_path}/{films}/{name}"
    sandbox_cluster.plan_placement("copy", [[0, 1], [0, 2]])
    sandbox_cluster.hold()

    answer = apis[0]("PUT", "/collections/copy/snapshots/recover", {"location": location, "priority": "snapshot"})

    assert (answer.status, answer.result) == (200, True)
    with sandbox_cluster.watch("copy", 0) as seen:
        sandbox_cluster.release()
        sandbox_cluster.settle()
    assert "ManualRecovery" in {one[0] for one in seen}
    assert sandbox_cluster.states("copy") == {0: {0: "Active", 1: "Active"}, 1: {0: "Active", 2: "Active"}}
    assert apis[0].count("copy") == mine < 60


def test_no_sync_at_the_whole_collection_leaves_empty_replicas_that_serve(
    apis: list[Any], films: str, sandbox_cluster: SandboxCluster
) -> None:
    mine = count(apis[0], films, 0)
    name = apis[0]("POST", f"/collections/{films}/snapshots").result["name"]
    location = f"file://{sandbox_cluster.node(0).snapshots_path}/{films}/{name}"
    sandbox_cluster.plan_placement("copy", [[0, 1], [1, 2]])
    apis[0]("PUT", "/collections/copy/snapshots/recover", {"location": location, "priority": "no_sync"})
    sandbox_cluster.settle()
    assert sandbox_cluster.states("copy")[0] == {0: "Active", 1: "Active"}
    assert [api.count("copy") for api in apis] == [mine, 0, mine]


def test_a_recovery_during_which_another_config_is_found_is_refused(
    apis: list[Any], films: str, sandbox_cluster: SandboxCluster
) -> None:
    name = apis[0]("POST", f"/collections/{films}/snapshots").result["name"]
    location = f"file://{sandbox_cluster.node(0).snapshots_path}/{films}/{name}"
    apis[0]("PUT", "/collections/other", {**DENSE, "shard_number": 3})
    answer = apis[0]("PUT", "/collections/other/snapshots/recover", {"location": location})
    assert answer.status == 400
    assert "Collection shard number: 3 Snapshot shard number: 2" in answer.error


def test_points_written_while_a_replica_is_healed_are_in_both(
    apis: list[Any], shard: bytes, sandbox_cluster: SandboxCluster, same: Callable[..., bool]
) -> None:
    assert upload(apis[0], shard, 0, "snapshot").status == 200
    last = 60
    while not sandbox_cluster.caretaker.is_idle():
        assert apis[1]("PUT", "/collections/films/points?wait=true", points(last + 1, last + 5)).status == 200
        last += 5
    sandbox_cluster.settle()
    assert sandbox_cluster.states("films")[0] == {0: "Active", 1: "Active"}
    assert count(apis[0], "films", 0) == count(apis[1], "films", 0)
    assert [api.count("films") for api in apis] == [last, last, last]
    assert same(apis[0].scroll("films"), apis[2].scroll("films"))
