"""TLS with certificates of one's own: what is wrong is said in words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from apps.clusters.models import Cluster
from apps.clusters.nodes import resolve_nodes
from apps.clusters.qdrant import QdrantNode, QdrantTlsRefused, create_snapshot
from apps.clusters.registry import Problem, ProblemKind
from apps.core.abort import Abort
from apps.sandbox import SandboxNode
from tests.clusters.tls_front import Authority, TlsFront, self_signed
from tests.support import Collections


@pytest.fixture(scope="module")
def ours() -> Authority:
    return Authority()


def problem_of(url: str, **fields: object) -> Problem:
    (problem,) = resolve_nodes(Cluster(name="main", url=url, **fields), timeout_seconds=5).problems
    assert re.fullmatch(r"[A-Z][^\n]*\.", problem.message)
    return problem


def test_own_ca_is_trusted_once_it_is_entered(db: None, node: SandboxNode, tmp_path: Path, ours: Authority) -> None:
    with TlsFront(node.url, ours.issue(tmp_path)) as front:
        refused = problem_of(front.url)
        resolved = resolve_nodes(Cluster(name="main", url=front.url, ca=ours.pem))
        unchecked = resolve_nodes(Cluster(name="main", url=front.url, verify_tls=False))

    assert refused.kind == ProblemKind.TLS
    assert "CA that is not known here: enter that CA's certificate" in refused.message
    assert resolved.problems == unchecked.problems == ()


def test_certificate_of_another_ca(db: None, node: SandboxNode, tmp_path: Path, ours: Authority) -> None:
    with TlsFront(node.url, ours.issue(tmp_path)) as front:
        problem = problem_of(front.url, ca=Authority("another CA").pem)

    assert problem.kind == ProblemKind.TLS
    assert "not signed by the CA certificate that was entered" in problem.message


def test_certificate_signed_by_itself(db: None, node: SandboxNode, tmp_path: Path) -> None:
    with TlsFront(node.url, self_signed(tmp_path)) as front:
        problem = problem_of(front.url)

    assert "signed by itself: enter it as the CA certificate" in problem.message


def test_certificate_of_another_host(db: None, node: SandboxNode, tmp_path: Path, ours: Authority) -> None:
    with TlsFront(node.url, ours.issue(tmp_path, host="qdrant.example")) as front:
        problem = problem_of(front.url, ca=ours.pem)

    assert "not made out to this IP address" in problem.message


def test_certificate_that_has_expired(db: None, node: SandboxNode, tmp_path: Path, ours: Authority) -> None:
    with TlsFront(node.url, ours.issue(tmp_path, days=-1)) as front:
        problem = problem_of(front.url, ca=ours.pem)

    assert "it has expired: renew it" in problem.message


def test_node_without_tls_is_told_from_one_with_a_bad_certificate(db: None, node: SandboxNode) -> None:
    problem = problem_of(node.url.replace("http://", "https://"))

    assert problem.kind == ProblemKind.TLS
    assert "does not speak TLS: write http://" in problem.message


def test_node_with_tls_that_is_addressed_without(db: None, node: SandboxNode, tmp_path: Path, ours: Authority) -> None:
    with TlsFront(node.url, ours.issue(tmp_path)) as front:
        problem = problem_of(front.url.replace("https://", "http://"))

    assert problem.kind == ProblemKind.DOWN
    assert "write https://" in problem.message


def test_snapshots_travel_through_the_same_tls(
    db: None, node: SandboxNode, collections: Collections, tmp_path: Path, ours: Authority
) -> None:
    collections.create("films", points=20)
    with TlsFront(node.url, ours.issue(tmp_path)) as front:
        good = Cluster(name="main", url=front.url, ca=ours.pem).endpoint
        made = create_snapshot(good, "films", 0, Abort())
        with pytest.raises(QdrantTlsRefused, match="CA that is not known"):
            create_snapshot(Cluster(name="main", url=front.url).endpoint, "films", 0, Abort())
        with QdrantNode(good) as client:
            listed = client.snapshots("films", 0)

    assert [snapshot.name for snapshot in listed] == [made.name]
