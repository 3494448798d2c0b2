"""The contract's operations on a cluster of many nodes: every node is asked, and the right one is found."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import requests
from rest_framework.test import APIClient

from apps.api.operations import run_operation
from apps.clusters.models import Cluster
from apps.sandbox import SandboxCluster
from tests.api.conftest import V1, error_of, result_of
from tests.support import Collections

COLLECTION = f"{V1}/collections/films"


@pytest.fixture
def three(db: None, sandbox_cluster: SandboxCluster) -> SandboxCluster:
    """A registered cluster of three nodes with a collection of three shards, two replicas each."""
    Cluster.objects.create(name="three", url=sandbox_cluster.urls[0], other_urls=sandbox_cluster.urls[1:])
    collections = Collections(sandbox_cluster.urls[0])
    body = {"vectors": {"size": 4, "distance": "Dot"}, "shard_number": 3, "replication_factor": 2}
    collections.put("/collections/films", body)
    points = [{"id": i, "vector": [i, 1, 2, 3], "payload": {"n": i}} for i in range(60)]
    collections.put("/collections/films/points?wait=true", {"points": points})
    return sandbox_cluster


def peers(cluster: SandboxCluster) -> list[int]:
    return sorted(cluster.peer_id(number) for number in range(3))


def holders(cluster: SandboxCluster, shard_id: int) -> list[int]:
    """The peers with a replica of the shard, as the first node tells it."""
    placement = Collections(cluster.urls[0]).call("GET", "/collections/films/cluster")["result"]
    local = [placement["peer_id"] for shard in placement["local_shards"] if shard["shard_id"] == shard_id]
    return local + [shard["peer_id"] for shard in placement["remote_shards"] if shard["shard_id"] == shard_id]


def body_of(response: Any) -> bytes:
    return b"".join(response.streaming_content)


def quoted(name: str) -> str:
    return requests.utils.quote(name, safe="")


def test_nodes_have_addresses_versions_and_figures(api: APIClient, three: SandboxCluster) -> None:
    nodes = result_of(api.get(f"{V1}/cluster/nodes"))

    assert [node["peer_id"] for node in nodes] == peers(three)
    assert {node["url"] for node in nodes} == set(three.urls)
    assert {node["version"] for node in nodes} == {"1.18.3"}
    assert all(node["is_voter"] for node in nodes)
    assert sum(node["is_leader"] for node in nodes) == 1
    assert sum(node["shards_count"] for node in nodes) == 6


def test_cluster_is_still_told_when_its_first_node_is_down(api: APIClient, three: SandboxCluster) -> None:
    result_of(api.get(f"{V1}/cluster/nodes"))
    three.stop(0, grace_seconds=0)

    status = result_of(api.get(f"{V1}/cluster"))
    nodes = {node["peer_id"]: node for node in result_of(api.get(f"{V1}/cluster/nodes"))}

    assert status["status"] in ("yellow", "red")
    assert any(f"Peer {three.peer_id(0)}: " in problem for problem in status["problems"])
    gone = nodes[three.peer_id(0)]
    assert (gone["is_voter"], gone["version"], gone["url"]) == (None, None, three.urls[0])
    assert nodes[three.peer_id(1)]["version"] == "1.18.3"
    assert result_of(api.get(f"{V1}/collections")) == {"collections": [{"name": "films"}]}
    assert result_of(api.get(f"{COLLECTION}/cluster"))["shard_count"] == 3


def test_snapshots_of_all_nodes_are_listed_with_their_node(api: APIClient, three: SandboxCluster) -> None:
    made = [result_of(api.post(f"{COLLECTION}/snapshots?node={peer}")) for peer in peers(three)]

    response = api.get(f"{COLLECTION}/snapshots")

    assert [snapshot["peer_id"] for snapshot in made] == peers(three)
    assert sorted(result_of(response), key=lambda each: each["peer_id"]) == made
    assert "warnings" not in response.json()
    for peer, snapshot in zip(peers(three), made, strict=True):
        assert result_of(api.get(f"{COLLECTION}/snapshots?node={peer}")) == [snapshot]


def test_snapshot_of_a_collection_on_one_node_says_that_it_is_a_part(api: APIClient, three: SandboxCluster) -> None:
    answer = api.post(f"{COLLECTION}/snapshots").json()

    assert answer["result"]["peer_id"] == three.peer_id(0)
    assert answer["warnings"] == [
        f"This snapshot holds only the shards that peer {three.peer_id(0)} has a replica of; a backup job takes all."
    ]


def test_snapshot_of_a_replica_that_is_not_active_says_so(api: APIClient, three: SandboxCluster) -> None:
    three.hold()
    sick, well = three.holders("films", 0)
    three.set_replica_state("films", 0, sick, "Partial")
    where = f"{COLLECTION}/shards/0/snapshots"

    chosen = api.post(where).json()
    named = api.post(f"{where}?node={three.peer_id(sick)}").json()
    whole = api.post(f"{COLLECTION}/snapshots?node={three.peer_id(sick)}").json()

    assert chosen["result"]["peer_id"] == three.peer_id(well)
    assert "warnings" not in chosen
    words = f"The replica of shard 0 on peer {three.peer_id(sick)} is Partial: this snapshot may lack points of it."
    assert named["warnings"] == whole["warnings"] == [words]


def test_download_and_delete_find_the_node(api: APIClient, three: SandboxCluster) -> None:
    for peer in peers(three):
        made = result_of(api.post(f"{COLLECTION}/snapshots?node={peer}"))
        path = f"{COLLECTION}/snapshots/{quoted(made['name'])}"

        response = api.get(path)
        assert response.status_code == 200
        assert hashlib.sha256(body_of(response)).hexdigest() == made["checksum"]
        assert result_of(api.delete(path)) is True
        assert api.get(path).status_code == api.delete(path).status_code == 404
    assert result_of(api.get(f"{COLLECTION}/snapshots")) == []


@pytest.mark.parametrize("shard_id", [0, 1, 2])
def test_shard_snapshots_are_made_listed_downloaded_and_deleted(
    api: APIClient, three: SandboxCluster, shard_id: int
) -> None:
    where = f"{COLLECTION}/shards/{shard_id}/snapshots"

    made = result_of(api.post(where))

    assert made["peer_id"] in holders(three, shard_id)
    assert result_of(api.get(where)) == [made]
    assert len(body_of(api.get(f"{where}/{quoted(made['name'])}"))) == made["size"]
    assert result_of(api.delete(f"{where}/{quoted(made['name'])}")) is True
    assert result_of(api.get(where)) == []


def test_shard_that_no_node_has_is_refused(api: APIClient, three: SandboxCluster) -> None:
    response = api.get(f"{COLLECTION}/shards/9/snapshots")

    assert response.status_code in (400, 404)
    assert error_of(response)
    assert api.get(f"{V1}/collections/nope/snapshots").status_code == 404


def test_names_that_collide_on_two_nodes_ask_which_is_meant(
    api: APIClient, three: SandboxCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = f"{COLLECTION}/shards/0/snapshots"
    # Shard snapshots are named by the second alone: replicas that are captured in the same one collide.
    monkeypatch.setattr("apps.sandbox.names._stamp", lambda now: "2026-08-01-02-00-00")
    made = {peer: result_of(api.post(f"{where}?node={peer}")) for peer in holders(three, 0)}
    (name,) = {snapshot["name"] for snapshot in made.values()}
    assert len(made) == 2

    for response in (api.get(f"{where}/{quoted(name)}"), api.delete(f"{where}/{quoted(name)}")):
        assert response.status_code == 409, response.content
        assert "?node=" in error_of(response)
    for peer in made:
        assert api.get(f"{where}/{quoted(name)}?node={peer}").status_code == 200
        assert result_of(api.delete(f"{where}/{quoted(name)}?node={peer}")) is True
    assert result_of(api.get(where)) == []


def test_node_that_is_down_is_named_and_nothing_looks_complete(api: APIClient, three: SandboxCluster) -> None:
    made = {peer: result_of(api.post(f"{COLLECTION}/snapshots?node={peer}")) for peer in peers(three)}
    gone = three.peer_id(2)
    three.stop(2, grace_seconds=0)

    answer = api.get(f"{COLLECTION}/snapshots").json()

    assert sorted(each["peer_id"] for each in answer["result"]) == [peer for peer in peers(three) if peer != gone]
    (warning,) = answer["warnings"]
    assert warning.startswith(f"Peer {gone}: ")
    assert warning.endswith("Its snapshots are not listed.")
    # What lies on the others is found; what may lie on the one that is away is not said to be missing.
    kept = made[three.peer_id(1)]
    assert api.get(f"{COLLECTION}/snapshots/{quoted(kept['name'])}").status_code == 200
    for response in (
        api.get(f"{COLLECTION}/snapshots/{quoted(made[gone]['name'])}"),
        api.delete(f"{COLLECTION}/snapshots/{quoted(made[gone]['name'])}"),
        api.get(f"{COLLECTION}/snapshots?node={gone}"),
    ):
        assert response.status_code == 503, response.content
        assert f"Peer {gone}" in error_of(response)


def test_single_address_of_a_cluster_names_the_peers_it_cannot_ask(api: APIClient, three: SandboxCluster) -> None:
    elsewhere = result_of(api.post(f"{COLLECTION}/snapshots?node={three.peer_id(1)}"))
    Cluster.objects.update(other_urls=[], seen_peers={})

    answer = api.get(f"{COLLECTION}/snapshots").json()
    asked = api.get(f"{COLLECTION}/snapshots/{quoted(elsewhere['name'])}")

    assert answer["result"] == []
    assert len(answer["warnings"]) == 2
    assert all("has no address here" in warning for warning in answer["warnings"])
    assert asked.status_code == 503
    assert "It may have it." in error_of(asked)


@pytest.mark.parametrize(("node", "status"), [("1", 404), ("x", 404), ("9" * 30, 404)])
def test_unknown_peer_is_404(api: APIClient, three: SandboxCluster, node: str, status: int) -> None:
    for response in (
        api.get(f"{COLLECTION}/snapshots?node={node}"),
        api.post(f"{COLLECTION}/snapshots?node={node}"),
        api.get(f"{COLLECTION}/snapshots/x.snapshot?node={node}"),
        api.delete(f"{COLLECTION}/snapshots/x.snapshot?node={node}"),
    ):
        assert response.status_code == status
        assert "has no peer" in error_of(response)


def test_what_wait_false_asks_for_goes_to_the_node_that_has_it(api: APIClient, three: SandboxCluster) -> None:
    peer = three.peer_id(1)
    made = result_of(api.post(f"{COLLECTION}/snapshots?node={peer}"))

    accepted = result_of(api.delete(f"{COLLECTION}/snapshots/{quoted(made['name'])}?wait=false"), 202)
    run_operation(accepted["operation_id"])

    done = result_of(api.get(f"{V1}/operations/{accepted['operation_id']}"))
    assert (done["status"], done["node"]) == ("completed", str(peer))
    assert result_of(api.get(f"{COLLECTION}/snapshots")) == []


def test_recover_uses_the_key_for_restores(api: APIClient, tmp_path: Any) -> None:
    from apps.sandbox import SandboxNode

    with SandboxNode(tmp_path / "locked", api_key="full", read_only_api_key="look") as locked:
        Cluster.objects.create(name="main", url=locked.url, api_key="look", restore_api_key="full")
        body = {"location": "http://127.0.0.1:9/none.snapshot"}
        response = api.post(f"{V1}/collections/films/snapshots/recover", body, format="json")
        denied = api.post(f"{V1}/collections/films/snapshots")

    assert "cannot be reached" in error_of(response) or "Http request" in error_of(response)
    assert "forbids" not in error_of(response)
    assert "forbids" in error_of(denied)
