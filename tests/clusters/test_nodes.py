"""Asking every address of a cluster who it is."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from apps.clusters.models import Cluster, Purpose
from apps.clusters.nodes import ClusterMisregistered, NodeNotReachable, resolve_nodes
from apps.clusters.qdrant import QdrantUnreachable
from apps.clusters.registry import ProblemKind
from apps.sandbox import SandboxNode
from tests.clusters.balancer import Balancer

DEAD = "http://127.0.0.1:9"


def test_standalone_node_stands_for_every_peer_id(cluster: Cluster) -> None:
    resolved = resolve_nodes(cluster)

    assert resolved.problems == ()
    assert (resolved.report.distributed, resolved.peer_ids, resolved.unreachable) == (False, (), ())
    assert resolved.first.url == cluster.url
    assert resolved.endpoint_of(4711).url == cluster.url
    resolved.demand_one_cluster()


def test_every_ask_uses_a_connection_of_its_own(db: None, node: SandboxNode) -> None:
    with Balancer(node.url) as balancer:
        resolve_nodes(Cluster(name="main", url=balancer.url), asks=4)

    assert balancer.connections == 4


def test_node_that_is_down(db: None) -> None:
    resolved = resolve_nodes(Cluster(name="main", url=DEAD))

    (problem,) = resolved.problems
    assert (problem.kind, problem.url) == (ProblemKind.DOWN, DEAD)
    with pytest.raises(QdrantUnreachable, match="cannot be reached"):
        resolved.first  # noqa: B018 - the access is what is tested
    with pytest.raises(NodeNotReachable, match="no address for peer 1"):
        resolved.endpoint_of(1)


def test_address_that_may_not_be_asked_is_not_asked(db: None, node: SandboxNode, settings: Any) -> None:
    settings.BACKUPMGR_OUTBOUND_DENY = ["127.0.0.1"]

    resolved = resolve_nodes(Cluster(name="main", url=node.url))

    assert [problem.kind for problem in resolved.problems] == [ProblemKind.REFUSED]
    assert node.log() == []


def test_two_standalone_nodes_are_no_cluster(cluster: Cluster, tmp_path: Path) -> None:
    with SandboxNode(tmp_path / "other") as other:
        cluster.other_urls = [other.url]
        resolved = resolve_nodes(cluster)

    with pytest.raises(ClusterMisregistered, match="standalone node"):
        resolved.demand_one_cluster()


@pytest.mark.parametrize(("key", "kind"), [("", ProblemKind.KEY_MISSING), ("wrong", ProblemKind.KEY_WRONG)])
def test_key_that_is_missing_or_wrong(db: None, tmp_path: Path, key: str, kind: ProblemKind) -> None:
    with SandboxNode(tmp_path / "locked", api_key="right") as locked:
        (problem,) = resolve_nodes(Cluster(name="main", url=locked.url, api_key=key)).problems

    assert problem.kind == kind
    assert ("none is set" in problem.message) is (key == "")
    assert "right" not in problem.message.replace("right one", "")


def test_each_purpose_has_its_key(db: None, tmp_path: Path) -> None:
    with SandboxNode(tmp_path / "locked", api_key="full", read_only_api_key="look") as locked:
        both = Cluster(name="main", url=locked.url, api_key="look", restore_api_key="full")
        one = Cluster(name="main", url=locked.url, api_key="full")

        keys = [resolve_nodes(cluster, purpose=purpose).first.api_key for cluster in (both, one) for purpose in Purpose]

    assert keys == ["look", "full", "full", "full"]


def test_what_answers_is_not_qdrant(db: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        resolved = resolve_nodes(
            Cluster(name="main", url=f"http://127.0.0.1:{server.getsockname()[1]}"), timeout_seconds=0.3
        )

    (problem,) = resolved.problems
    assert problem.kind == ProblemKind.DOWN
    assert "did not answer" in problem.message
