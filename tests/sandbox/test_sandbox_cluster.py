"""Several sandbox nodes as one cluster: placement, replicas, shard keys, and nodes that come and go."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apps.sandbox import SandboxCluster

DENSE = {"vectors": {"size": 4, "distance": "Dot", "on_disk": True}, "shard_number": 6, "replication_factor": 2}
CUSTOM = {"vectors": {"size": 4, "distance": "Dot", "on_disk": True}, "sharding_method": "custom"}


def points(first: int, last: int, key: Any = None) -> dict[str, Any]:
    body: dict[str, Any] = {
        "points": [{"id": n, "vector": [n, 1, 2, 3], "payload": {"n": n}} for n in range(first, last + 1)]
    }
    return body if key is None else {**body, "shard_key": key}


@pytest.fixture
def apis(sandbox_cluster: SandboxCluster, client: Any) -> list[Any]:
    return [client(url) for url in sandbox_cluster.urls]


@pytest.fixture
def films(apis: list[Any]) -> str:
    """Six shards with two replicas each, and 100 points."""
    assert apis[0]("PUT", "/collections/films", DENSE).result is True
    assert apis[0]("PUT", "/collections/films/index?wait=true", {"field_name": "n", "field_schema": "integer"}).status
    assert apis[1]("PUT", "/collections/films/points?wait=true", points(1, 100)).status == 200
    return "films"


def placements(apis: list[Any], name: str) -> list[Any]:
    return [api("GET", f"/collections/{name}/cluster").result for api in apis]


def local_counts(apis: list[Any], name: str) -> dict[int, list[int]]:
    """Return for every shard the exact count of each of its replicas."""
    found: dict[int, list[int]] = {}
    for api in apis:
        for shard in api("GET", f"/collections/{name}/cluster").result["local_shards"]:
            path = f"/collections/{name}/shards/{shard['shard_id']}/points/count"
            found.setdefault(shard["shard_id"], []).append(api("POST", path, {"exact": True}).result["count"])
    return found


def test_three_nodes_start_within_a_second(tmp_path: Path, client: Any) -> None:
    started = time.perf_counter()
    with SandboxCluster(tmp_path / "nodes") as cluster:
        seconds = time.perf_counter() - started
        seen = [client(url)("GET", "/cluster").result for url in cluster.urls]
    assert seconds < 1
    assert len({one["peer_id"] for one in seen}) == 3
    assert [set(one["peers"]) for one in seen] == [{str(one["peer_id"]) for one in seen}] * 3
    assert [one["raft_info"]["role"] for one in seen] == ["Leader", "Follower", "Follower"]


def test_every_node_tells_the_same_placement_from_its_side(apis: list[Any], films: str) -> None:
    seen = placements(apis, films)
    replicas = [
        sorted((shard["shard_id"], one["peer_id"]) for shard in one["local_shards"])
        + sorted((shard["shard_id"], shard["peer_id"]) for shard in one["remote_shards"])
        for one in seen
    ]
    assert [one["shard_count"] for one in seen] == [6, 6, 6]
    assert [len(one["local_shards"]) for one in seen] == [4, 4, 4]
    assert sorted(replicas[0]) == sorted(replicas[1]) == sorted(replicas[2])
    assert all(len(counts) == 2 and counts[0] == counts[1] for counts in local_counts(apis, films).values())
    assert sum(counts[0] for counts in local_counts(apis, films).values()) == 100


def test_every_node_answers_for_all_points(apis: list[Any], films: str, same: Callable[..., bool]) -> None:
    whole = apis[0].scroll(films)
    assert [one["id"] for one in whole] == list(range(1, 101))
    assert all(same(api.scroll(films), whole) for api in apis)
    assert [api("GET", f"/collections/{films}").result["points_count"] for api in apis] == [100, 100, 100]
    asked = {"query": [1, 0, 0, 0], "limit": 3}
    nearest = [api("POST", f"/collections/{films}/points/query", asked).result["points"] for api in apis]
    assert [[one["id"] for one in hits] for hits in nearest] == [[100, 99, 98]] * 3


def test_snapshots_lie_on_the_node_that_made_them(apis: list[Any], films: str, sandbox_cluster: SandboxCluster) -> None:
    maker, other = sandbox_cluster.holders(films, 0)
    stranger = ({0, 1, 2} - {maker, other}).pop()
    name = apis[maker]("POST", f"/collections/{films}/shards/0/snapshots").result["name"]
    path = f"/collections/{films}/shards/0/snapshots"
    assert [one["name"] for one in apis[maker]("GET", path).result] == [name]
    assert apis[other]("GET", path).result == []
    assert apis[other]("GET", f"{path}/{name}").status == 404
    assert apis[stranger]("GET", path).error == "Wrong input: Shard 0 is not a local shard"
    refused = apis[stranger]("POST", path)
    assert (refused.status, refused.error) == (400, "Wrong input: Shard 0 is not a local or queue proxy shard")
    assert apis[stranger]("GET", f"/collections/{films}/shards/0/snapshot").status == 400
    assert apis[maker]("GET", f"/collections/{films}/shards/9/snapshots").error == "Not found: shard 9 not found"


def test_shard_keys_count_on_from_the_highest_id(apis: list[Any]) -> None:
    assert apis[0]("PUT", "/collections/tenants", {**CUSTOM, "replication_factor": 2}).result is True
    for key in ({"shard_key": "a"}, {"shard_key": "filler", "shards_number": 2}, {"shard_key": "b"}):
        assert apis[0]("PUT", "/collections/tenants/shards", key).result is True
    assert apis[1]("POST", "/collections/tenants/shards/delete", {"shard_key": "filler"}).result is True
    assert apis[2]("PUT", "/collections/tenants/shards", {"shard_key": 7, "shards_number": 2}).result is True
    keys = {}
    for one in placements(apis, "tenants"):
        keys |= {shard["shard_id"]: shard["shard_key"] for shard in one["local_shards"] + one["remote_shards"]}
    assert keys == {1: "a", 4: "b", 5: 7, 6: 7}
    assert apis[1]("GET", "/collections/tenants/shards").result == {"shard_keys": [{"key": k} for k in ("a", "b", 7)]}


def test_one_id_lives_under_several_keys(apis: list[Any]) -> None:
    assert apis[0]("PUT", "/collections/tenants", CUSTOM).result is True
    for key in ("a", 7):
        assert apis[0]("PUT", "/collections/tenants/shards", {"shard_key": key, "shards_number": 2}).result is True
        assert apis[1]("PUT", "/collections/tenants/points?wait=true", points(1, 10, key)).status == 200
    ask = "/collections/tenants/points"
    assert apis[2]("POST", f"{ask}/count", {"exact": True}).result["count"] == 20
    assert apis[2]("POST", f"{ask}/count", {"exact": True, "shard_key": 7}).result["count"] == 10
    assert len(apis[2].scroll("tenants")) == 10
    assert {one["shard_key"] for one in apis[2].scroll("tenants", shard_key=[7])} == {7}
    assert apis[0]("PUT", ask, points(1, 1)).error == "Wrong input: Shard key not specified"
    assert apis[0]("PUT", ask, points(1, 1, "no")).error == 'Wrong input: Shard key "no" not found'
    assert apis[0]("POST", f"{ask}/count", {"shard_key": "7"}).error == 'Bad request: Shard key "7" not found'
    assert apis[0]("POST", f"{ask}/delete?wait=true", {"points": [1], "shard_key": "a"}).status == 200
    assert apis[2]("POST", f"{ask}/count", {"exact": True}).result["count"] == 19


@pytest.mark.parametrize(
    ("collection", "body", "error"),
    [
        ("films", {"shard_key": "a"}, "Bad request: Shard Key cannot be created with Auto sharding method"),
        ("tenants", {"shard_key": "a"}, 'Bad request: Sharding key "a" already exists for collection tenants'),
        ("tenants", {"shard_key": "b", "placement": [5]}, "Bad request: Peer 5 does not exist"),
        ("nope", {"shard_key": "b"}, "Not found: Collection `nope` doesn't exist!"),
        ("tenants", {"shard_key": "b", "initial_state": "Dead"}, "Bad request: Initial state cannot be Dead, only"),
        ("tenants", {"shard_key": 1.5}, "Format error in JSON body: data did not match any variant of untagged enum"),
        ("tenants", {}, "Format error in JSON body: missing field `shard_key`"),
        ("tenants", {"shard_key": "b", "shards_number": 0}, "Format error in JSON body: invalid value: integer `0`"),
    ],
)
def test_keys_that_cannot_be_are_refused(
    apis: list[Any], films: str, collection: str, body: dict[str, Any], error: str
) -> None:
    apis[0]("PUT", "/collections/tenants", CUSTOM)
    apis[0]("PUT", "/collections/tenants/shards", {"shard_key": "a"})
    answer = apis[0]("PUT", f"/collections/{collection}/shards", body)
    assert answer.status in (400, 404)
    assert answer.error.startswith(error)


def test_a_write_past_a_dead_node_makes_its_replicas_dead_until_it_is_back(
    apis: list[Any], films: str, sandbox_cluster: SandboxCluster
) -> None:
    held = {shard_id for shard_id, nodes in sandbox_cluster.states(films).items() if 2 in nodes}
    sandbox_cluster.stop(2, grace_seconds=0)
    assert apis[0].count(films) == 100
    assert {state for nodes in sandbox_cluster.states(films).values() for state in nodes.values()} == {"Active"}
    assert apis[0]("PUT", f"/collections/{films}/points?wait=true", points(101, 160)).status == 200
    states = sandbox_cluster.states(films)
    assert {shard_id for shard_id in held if states[shard_id][2] == "Dead"} == held
    failures = apis[0]("GET", "/cluster").result["message_send_failures"]
    assert len(failures) == 1
    sandbox_cluster.start(2)
    sandbox_cluster.settle()
    assert {state for nodes in sandbox_cluster.states(films).values() for state in nodes.values()} == {"Active"}
    assert all(counts[0] == counts[1] for counts in local_counts(apis, films).values())
    assert [api.count(films) for api in apis] == [160, 160, 160]


def test_a_collection_made_meanwhile_is_there_when_a_node_comes_back(
    apis: list[Any], films: str, sandbox_cluster: SandboxCluster
) -> None:
    sandbox_cluster.stop(2, grace_seconds=0)
    assert apis[0]("DELETE", f"/collections/{films}").result is True
    assert apis[0]("PUT", "/collections/books", DENSE).result is True
    assert "Initializing" in {state for nodes in sandbox_cluster.states("books").values() for state in nodes.values()}
    sandbox_cluster.start(2)
    assert apis[2]("GET", "/collections").result == {"collections": [{"name": "books"}]}
    assert {state for nodes in sandbox_cluster.states("books").values() for state in nodes.values()} == {"Active"}


def test_without_a_majority_nothing_changes_until_there_is_one(
    apis: list[Any], films: str, sandbox_cluster: SandboxCluster
) -> None:
    sandbox_cluster.stop(1, grace_seconds=0)
    sandbox_cluster.stop(2, grace_seconds=0)
    refused = apis[0]("PUT", "/collections/late", DENSE)
    assert refused.status == 500
    assert "Waiting for consensus operation commit failed" in refused.error
    assert apis[0]("POST", f"/collections/{films}/points/count", {"exact": True}).status == 500
    # What is on this node can still be saved.
    mine = [shard for shard, nodes in sandbox_cluster.states(films).items() if 0 in nodes]
    assert apis[0]("POST", f"/collections/{films}/shards/{mine[0]}/snapshots").status == 200
    sandbox_cluster.start(1)
    assert apis[1]("GET", "/collections/late/exists").result == {"exists": True}


def test_replicas_are_copied_moved_and_dropped(apis: list[Any], films: str, sandbox_cluster: SandboxCluster) -> None:
    source, other = sandbox_cluster.holders(films, 0)
    target = ({0, 1, 2} - {source, other}).pop()
    peers = {"from_peer_id": sandbox_cluster.peer_id(source), "to_peer_id": sandbox_cluster.peer_id(target)}
    sandbox_cluster.hold()
    operate = f"/collections/{films}/cluster"
    assert apis[0]("POST", operate, {"replicate_shard": {"shard_id": 0, **peers}}).result is True
    [transfer] = apis[0]("GET", operate).result["shard_transfers"]
    assert (transfer["from"], transfer["to"]) == (peers["from_peer_id"], peers["to_peer_id"])
    assert (transfer["shard_id"], transfer["sync"], transfer["method"]) == (0, True, "snapshot")
    assert sandbox_cluster.states(films)[0][target] == "Recovery"
    again = apis[0]("POST", operate, {"move_shard": {"shard_id": 0, **peers}})
    assert again.error.startswith("Bad request: Shard 0 is already involved in transfer")
    sandbox_cluster.release()
    sandbox_cluster.settle()
    assert sorted(sandbox_cluster.states(films)[0]) == [0, 1, 2]
    assert len(set(local_counts(apis, films)[0])) == 1
    dropped = {"drop_replica": {"shard_id": 0, "peer_id": sandbox_cluster.peer_id(source)}}
    assert apis[0]("POST", operate, dropped).result is True
    assert sandbox_cluster.holders(films, 0) == sorted([other, target])
    sandbox_cluster.move_replica(films, 0, target, source)
    assert sandbox_cluster.holders(films, 0) == sorted([other, source])
    assert [api.count(films) for api in apis] == [100, 100, 100]


def test_the_last_active_replica_cannot_be_dropped(
    apis: list[Any], films: str, sandbox_cluster: SandboxCluster
) -> None:
    first, second = sandbox_cluster.holders(films, 0)
    sandbox_cluster.set_replica_state(films, 0, second, "Dead")
    dropped = {"drop_replica": {"shard_id": 0, "peer_id": sandbox_cluster.peer_id(first)}}
    assert "must have at least one active replica" in apis[0]("POST", f"/collections/{films}/cluster", dropped).error


def test_states_set_by_a_test_stay_and_count(apis: list[Any], films: str, sandbox_cluster: SandboxCluster) -> None:
    for number in sandbox_cluster.holders(films, 3):
        sandbox_cluster.set_replica_state(films, 3, number, "Dead")
    sandbox_cluster.settle()
    assert set(sandbox_cluster.states(films)[3].values()) == {"Dead"}
    refused = apis[0]("POST", f"/collections/{films}/points/count", {"exact": True})
    assert (refused.status, "does not have enough active replicas" in refused.error) == (500, True)
    metrics = apis[0]("GET", "/metrics").content.decode()
    assert "\ncollection_dead_replicas 2\n" in metrics
    assert "\ncollection_active_replicas_min 0\n" in metrics


def test_keys_and_versions_belong_to_one_node(apis: list[Any], client: Any, sandbox_cluster: SandboxCluster) -> None:
    sandbox_cluster.node(1).version = "1.17.0"
    sandbox_cluster.node(2).set_keys("secret", "reader")
    assert [api("GET", "/").json()["version"] for api in apis] == ["1.18.3", "1.17.0", "1.18.3"]
    assert [api("GET", "/collections").status for api in apis] == [200, 200, 401]
    assert client(sandbox_cluster.urls[2], {"api-key": "reader"})("GET", "/cluster").status == 200
    assert client(sandbox_cluster.urls[2], {"api-key": "reader"})("PUT", "/collections/x", DENSE).status == 403


def test_a_balancer_shows_another_peer_each_time(client: Any, sandbox_cluster: SandboxCluster) -> None:
    with sandbox_cluster.balancer() as url:
        api = client(url)
        seen = [api("GET", "/cluster").result["peer_id"] for _ in range(4)]
    assert len(set(seen)) == 3
    assert seen[3] == seen[0]


def test_raft_trouble_can_be_told(apis: list[Any], sandbox_cluster: SandboxCluster) -> None:
    sandbox_cluster.report(0, pending_operations=7, thread_status={"consensus_thread_status": "stopped"})
    told = apis[0]("GET", "/cluster").result
    assert told["raft_info"]["pending_operations"] == 7
    assert told["consensus_thread_status"] == {"consensus_thread_status": "stopped"}
    sandbox_cluster.report(0)
    assert apis[0]("GET", "/cluster").result["raft_info"]["pending_operations"] == 0


def test_a_cluster_started_again_has_it_all(tmp_path: Path, client: Any) -> None:
    with SandboxCluster(tmp_path / "nodes") as cluster:
        api = client(cluster.urls[0])
        api("PUT", "/collections/films", DENSE)
        api("PUT", "/collections/films/points?wait=true", points(1, 50))
        alias = {"create_alias": {"collection_name": "films", "alias_name": "f"}}
        api("POST", "/collections/aliases", {"actions": [alias]})
        before = cluster.states("films")
    with SandboxCluster(tmp_path / "nodes") as cluster:
        assert cluster.states("films") == before
        assert [client(url).count("f") for url in cluster.urls] == [50, 50, 50]


def test_a_cluster_runs_as_a_process(tmp_path: Path, client: Any) -> None:
    command = [sys.executable, "manage.py", "sandbox", "--data", str(tmp_path / "nodes"), "--nodes", "3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            assert len(ready["urls"]) == 3
            peers = [client(url)("GET", "/cluster").result["peer_id"] for url in ready["urls"]]
            assert peers == ready["peer_ids"]
        finally:
            process.terminate()
        assert process.wait(10) == 0
