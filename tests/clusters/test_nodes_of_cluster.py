"""Asking the nodes of a real (sandbox) cluster: each mistake of a registration is found and named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from rest_framework.test import APIClient

from apps.clusters.models import Cluster
from apps.clusters.nodes import ClusterMisregistered, NodeNotReachable, resolve_nodes
from apps.clusters.probe import probe_cluster
from apps.clusters.registry import ProblemKind
from apps.clusters.services import adopt_suggestions
from apps.sandbox import SandboxCluster, SandboxNode
from tests.clusters.balancer import Balancer

Register = Callable[..., Cluster]


@pytest.fixture
def register(db: None) -> Register:
    """Register a cluster by its addresses."""

    def create(*urls: str, **fields: Any) -> Cluster:
        return Cluster.objects.create(name="three", url=urls[0], other_urls=list(urls[1:]), **fields)

    return create


def kinds(cluster: Cluster) -> list[ProblemKind]:
    return [problem.kind for problem in resolve_nodes(cluster).problems]


def test_every_peer_is_found_whatever_the_order(sandbox_cluster: SandboxCluster, register: Register) -> None:
    urls = sandbox_cluster.urls

    resolved = resolve_nodes(register(urls[2], urls[0], urls[1]))

    assert resolved.problems == ()
    assert {peer: endpoint.url for peer, endpoint in resolved.endpoints.items()} == {
        sandbox_cluster.peer_id(number): url for number, url in enumerate(urls)
    }
    assert resolved.unreachable == ()
    assert sum(node.is_leader for node in resolved.report.nodes) == 1


def test_test_of_a_whole_cluster_greets_it(sandbox_cluster: SandboxCluster, register: Register) -> None:
    probe = probe_cluster(register(*sandbox_cluster.urls))

    assert probe.success, probe.message
    assert probe.message == "Qdrant 1.18.3 answers: a cluster of 3 nodes, 0 collections."
    assert probe.peer_id == sandbox_cluster.peer_id(0)


def test_peer_without_address(sandbox_cluster: SandboxCluster, register: Register) -> None:
    cluster = register(*sandbox_cluster.urls[:2])

    resolved = resolve_nodes(cluster)

    missing = sandbox_cluster.peer_id(2)
    (problem,) = resolved.problems
    assert (problem.kind, problem.peer_id) == (ProblemKind.MISSING, missing)
    assert resolved.unreachable == (missing,)
    with pytest.raises(NodeNotReachable, match=f"Peer {missing} .* has no REST address here"):
        resolved.endpoint_of(missing)
    assert not probe_cluster(cluster).success


def test_address_of_another_cluster(sandbox_cluster: SandboxCluster, register: Register, tmp_path: Path) -> None:
    with SandboxCluster(tmp_path / "others", nodes=2, seed=1) as others:
        resolved = resolve_nodes(register(*sandbox_cluster.urls, others.urls[1]))

    (problem,) = resolved.problems
    assert (problem.kind, problem.url) == (ProblemKind.FOREIGN, others.nodes[1].url)
    with pytest.raises(ClusterMisregistered, match="belongs to another cluster"):
        resolved.demand_one_cluster()
    assert len(resolved.endpoints) == 3


def test_standalone_node_among_the_addresses(
    sandbox_cluster: SandboxCluster, node: SandboxNode, register: Register
) -> None:
    with pytest.raises(ClusterMisregistered, match="standalone node"):
        resolve_nodes(register(*sandbox_cluster.urls, node.url)).demand_one_cluster()


def test_two_addresses_of_one_peer(sandbox_cluster: SandboxCluster, register: Register) -> None:
    urls = sandbox_cluster.urls
    again = urls[1].replace("127.0.0.1", "localhost")

    resolved = resolve_nodes(register(*urls, again))

    (problem,) = resolved.problems
    assert (problem.kind, problem.peer_id) == (ProblemKind.DUPLICATE, sandbox_cluster.peer_id(1))
    assert resolved.endpoints[sandbox_cluster.peer_id(1)].url == urls[1]


def test_load_balancer_in_front(sandbox_cluster: SandboxCluster, register: Register) -> None:
    with Balancer(*sandbox_cluster.urls) as balancer:
        alone = resolve_nodes(register(balancer.url))
        Cluster.objects.all().delete()
        beside = resolve_nodes(register(balancer.url, *sandbox_cluster.urls))

    assert [problem.kind for problem in alone.problems] == [ProblemKind.BALANCER, *[ProblemKind.MISSING] * 3]
    with pytest.raises(NodeNotReachable, match="looks like a load balancer"):
        alone.first  # noqa: B018 - the access is what is tested
    (remark,) = beside.problems
    assert (remark.kind, remark.is_error) == (ProblemKind.BALANCER, False)
    assert balancer.url not in {endpoint.url for endpoint in beside.endpoints.values()}


def test_node_that_dies_keeps_its_name(sandbox_cluster: SandboxCluster, register: Register) -> None:
    cluster = register(*sandbox_cluster.urls)
    resolve_nodes(cluster)
    sandbox_cluster.stop(1, grace_seconds=0)

    resolved = resolve_nodes(Cluster.objects.get())

    gone = sandbox_cluster.peer_id(1)
    down = [problem for problem in resolved.problems if problem.kind == ProblemKind.DOWN]
    assert [(problem.peer_id, problem.url) for problem in down] == [(gone, sandbox_cluster.urls[1])]
    assert down[0].message.startswith(f"Peer {gone}: Qdrant at ")
    assert resolved.unreachable == (gone,)
    assert ProblemKind.MISSING not in [problem.kind for problem in resolved.problems]


def test_asking_is_no_change_of_the_cluster(sandbox_cluster: SandboxCluster, register: Register) -> None:
    cluster = register(*sandbox_cluster.urls)

    resolve_nodes(cluster)

    assert Cluster.objects.get().updated_at == cluster.updated_at
    assert Cluster.objects.get().seen_peers == {
        url: sandbox_cluster.peer_id(number) for number, url in enumerate(sandbox_cluster.urls)
    }


def test_versions_that_differ(sandbox_cluster: SandboxCluster, register: Register) -> None:
    sandbox_cluster.node(1).version = "1.17.1"

    assert kinds(register(*sandbox_cluster.urls)) == [ProblemKind.VERSION]
    probe = probe_cluster(Cluster.objects.get())
    assert not probe.success
    assert f"1.17.1 at {sandbox_cluster.urls[1]}" in probe.message


def test_key_that_one_node_refuses(tmp_path: Path, register: Register) -> None:
    with SandboxCluster(tmp_path / "locked", nodes=2, api_key="full", read_only_api_key="look") as locked:
        locked.node(1).set_keys("other")
        resolved = resolve_nodes(register(*locked.urls, api_key="full"))

    assert [problem.kind for problem in resolved.problems] == [ProblemKind.KEY_WRONG, ProblemKind.MISSING]
    assert set(resolved.endpoints) == {locked.peer_id(0)}


def test_addresses_that_peers_have_are_adopted_once_they_answer(
    sandbox_cluster: SandboxCluster, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = register(sandbox_cluster.urls[0])
    wrong = "http://127.0.0.1:9"
    guesses = {sandbox_cluster.peer_id(1): sandbox_cluster.urls[1], sandbox_cluster.peer_id(2): wrong}
    # The nodes of the sandbox say nothing of their REST ports in their addresses between peers.
    monkeypatch.setattr("apps.clusters.judge.suggest_addresses", lambda *_: guesses)

    added, refused = adopt_suggestions(cluster=cluster)

    assert added == {sandbox_cluster.peer_id(1): sandbox_cluster.urls[1]}
    assert list(refused) == [sandbox_cluster.peer_id(2)]
    assert "cannot be reached" in refused[sandbox_cluster.peer_id(2)]
    assert Cluster.objects.get().other_urls == [sandbox_cluster.urls[1]]


def test_address_that_answers_as_another_peer_is_not_adopted(
    sandbox_cluster: SandboxCluster, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    swapped = {sandbox_cluster.peer_id(1): sandbox_cluster.urls[2]}
    monkeypatch.setattr("apps.clusters.judge.suggest_addresses", lambda *_: swapped)

    added, refused = adopt_suggestions(cluster=register(sandbox_cluster.urls[0]))

    assert added == {}
    assert "does not answer as peer" in refused[sandbox_cluster.peer_id(1)]


def test_admin_adds_the_suggested_addresses(
    sandbox_cluster: SandboxCluster, register: Register, admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = register(*sandbox_cluster.urls[:2])
    guess = {sandbox_cluster.peer_id(2): sandbox_cluster.urls[2]}
    monkeypatch.setattr("apps.clusters.judge.suggest_addresses", lambda *_: guess)
    address = reverse("admin:clusters_cluster_nodes", args=[cluster.pk])

    before = admin_client.get(address).content.decode()
    admin_client.post(reverse("admin:clusters_cluster_adopt", args=[cluster.pk]))
    after = admin_client.get(address).content.decode()

    assert f"perhaps {sandbox_cluster.urls[2]}" in before
    assert "Add the suggested addresses" in before
    assert "Add the suggested addresses" not in after
    assert after.count("Usable") == 3
    assert list(Cluster.objects.get().addresses) == sandbox_cluster.urls


def test_api_tells_nodes_and_problems(sandbox_cluster: SandboxCluster, admin_user: Any) -> None:
    api = APIClient()
    api.force_authenticate(admin_user)

    answer = api.post("/api/v1/clusters/test", {"urls": sandbox_cluster.urls[:2]}, format="json")

    found = answer.json()["result"]
    assert (found["success"], found["distributed"]) == (False, True)
    assert [problem["kind"] for problem in found["problems"]] == ["peer_without_address"]
    assert sorted(node["peer_id"] for node in found["nodes"]) == sorted(sandbox_cluster.peer_id(n) for n in range(3))
    assert [node["url"] for node in found["nodes"] if not node["is_usable"]] == [""]
