"""What the addresses of a cluster have answered, judged."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from apps.clusters.judge import judge
from apps.clusters.registry import AddressAnswers, ClusterReport, Failure, NodeFacts, ProblemKind

A, B, C = 6786473934346356, 5530569175947208, 7095971641261517
PEERS = {A: "http://10.0.0.1:6335/", B: "http://10.0.0.2:6335/", C: "http://10.0.0.3:6335/"}
URLS = {A: "http://10.0.0.1:6333", B: "http://10.0.0.2:6333", C: "http://10.0.0.3:6333"}
DOWN = Failure(ProblemKind.DOWN, "Qdrant at it cannot be reached.")


def facts(peer: int | None, **changes: Any) -> NodeFacts:
    said: dict[str, Any] = {"version": "1.18.3", "peer_id": peer}
    if peer is not None:
        said |= {"peers": PEERS, "leader": A, "is_voter": True, "term": 3, "commit": 51}
    return NodeFacts(**(said | changes))


def answers(url: str, *said: NodeFacts, **more: Any) -> AddressAnswers:
    return AddressAnswers(url, tuple(said), **more)


def node(peer: int, **changes: Any) -> AddressAnswers:
    """The answers of the node at its address in URLS, asked three times."""
    return answers(URLS[peer], *[facts(peer, **changes)] * 3)


def kinds(report: ClusterReport) -> list[ProblemKind]:
    return [problem.kind for problem in report.problems]


def only(report: ClusterReport, kind: ProblemKind) -> Any:
    (problem,) = report.problems
    assert problem.kind == kind
    return problem


def test_three_nodes_with_an_address_each_have_no_problem() -> None:
    report = judge([node(A), node(B), node(C)])

    assert report.problems == ()
    assert report.is_fine
    assert dict(report.addresses) == URLS
    assert dict(report.peers) == PEERS
    assert [(row.peer_id, row.url, row.is_leader, row.is_usable) for row in report.nodes] == [
        (peer, URLS[peer], peer == A, True) for peer in sorted(PEERS)
    ]
    assert report.versions == ("1.18.3",)


def test_standalone_node_has_no_problem() -> None:
    report = judge([answers("http://q:6333", facts(None), facts(None))])

    assert (report.distributed, report.standalone_url, report.problems) == (False, "http://q:6333", ())
    assert report.nodes[0].is_usable


def test_nobody_answers() -> None:
    report = judge([answers("http://q:6333", failures=(DOWN,)), answers("http://r:6333", failures=(DOWN,))])

    assert report.distributed is None
    assert kinds(report) == [ProblemKind.DOWN, ProblemKind.DOWN]
    assert not report.is_fine


def test_peer_without_address_is_named_and_an_address_suggested() -> None:
    report = judge([node(A), node(B)])

    problem = only(report, ProblemKind.MISSING)
    assert problem.is_error
    assert not problem.blocks
    assert problem.peer_id == C
    assert f"Peer {C} (http://10.0.0.3:6335/) has no REST address" in problem.message
    assert "http://10.0.0.3:6333 may be it" in problem.message
    assert dict(report.suggestions) == {C: "http://10.0.0.3:6333"}
    assert set(report.addresses) == {A, B}


def test_one_address_of_a_cluster_of_three_misses_the_other_two() -> None:
    report = judge([node(B)])

    assert kinds(report) == [ProblemKind.MISSING, ProblemKind.MISSING]
    assert dict(report.suggestions) == {A: URLS[A], C: URLS[C]}


def test_two_addresses_of_one_peer_are_said_and_the_first_is_used() -> None:
    again = answers("http://also-b:6333", facts(B), facts(B))

    report = judge([node(A), node(B), node(C), again])

    problem = only(report, ProblemKind.DUPLICATE)
    assert not problem.is_error
    assert "http://10.0.0.2:6333 and http://also-b:6333 are one and the same node" in problem.message
    assert report.addresses[B] == URLS[B]
    assert [(row.url, row.is_usable) for row in report.nodes if row.peer_id == B] == [
        (URLS[B], True), ("http://also-b:6333", False),
    ]  # fmt: skip


def test_address_of_another_cluster_blocks() -> None:
    other = answers("http://else:6333", *[facts(77, peers={77: "http://else:6335/", 78: "http://e2:6335/"}, leader=77)])

    report = judge([node(A), node(B), node(C), other])

    problem = only(report, ProblemKind.FOREIGN)
    assert problem.blocks
    assert problem.url == "http://else:6333"
    assert "belongs to another cluster (peers 77 and 78) than http://10.0.0.1:6333" in problem.message
    assert "http://else:6333" not in report.addresses.values()


def test_the_first_address_that_answers_says_which_cluster_is_meant() -> None:
    other = answers("http://else:6333", facts(77, peers={77: "http://else:6335/"}, leader=77))

    report = judge([answers("http://gone:6333", failures=(DOWN,)), other, node(A), node(B), node(C)])

    assert kinds(report) == [ProblemKind.DOWN, ProblemKind.FOREIGN, ProblemKind.FOREIGN, ProblemKind.FOREIGN]
    assert dict(report.addresses) == {77: "http://else:6333"}


@pytest.mark.parametrize("first_is_standalone", [True, False])
def test_standalone_node_among_peers_blocks(first_is_standalone: bool) -> None:
    alone = answers("http://alone:6333", facts(None))

    report = judge([alone, node(A)] if first_is_standalone else [node(A), node(B), node(C), alone])

    problem = only(report, ProblemKind.FOREIGN)
    assert problem.blocks
    assert "standalone" in problem.message


def test_two_standalone_nodes_are_two_clusters() -> None:
    report = judge([answers("http://a:6333", facts(None)), answers("http://b:6333", facts(None))])

    assert only(report, ProblemKind.FOREIGN).blocks
    assert report.standalone_url == "http://a:6333"


def test_node_that_was_removed_from_the_cluster_is_told_apart_from_a_foreign_one() -> None:
    two = {A: PEERS[A], B: PEERS[B]}
    removed = answers(URLS[C], facts(C, commit=40))  # its own view is the old one

    report = judge([node(A, peers=two, commit=60), node(B, peers=two, commit=60), removed])

    problem = only(report, ProblemKind.REMOVED)
    assert "no longer a member" in problem.message
    assert set(report.addresses) == {A, B}


def test_load_balancer_alone_leaves_no_usable_node() -> None:
    report = judge([answers("http://lb", facts(A), facts(B), facts(C))])

    assert kinds(report) == [ProblemKind.BALANCER] + [ProblemKind.MISSING] * 3
    assert report.problems[0].is_error
    assert "asked 3 times it answered as peer" in report.problems[0].message
    assert dict(report.addresses) == {}


def test_load_balancer_beside_all_nodes_is_only_a_remark() -> None:
    report = judge([answers("http://lb", facts(A), facts(B), facts(A)), node(A), node(B), node(C)])

    problem = only(report, ProblemKind.BALANCER)
    assert not problem.is_error
    assert "not used" in problem.message
    assert "http://lb" not in report.addresses.values()


def test_load_balancer_in_front_of_a_node_that_lost_its_cluster_is_found() -> None:
    report = judge([answers("http://lb", facts(A), facts(None)), node(A), node(B), node(C)])

    assert kinds(report) == [ProblemKind.BALANCER]
    assert "a standalone node" in report.problems[0].message


def test_silent_node_is_named_by_the_peer_it_is_registered_as() -> None:
    report = judge([node(A), node(B), answers(URLS[C], failures=(DOWN,), registered_as=C)])

    problem = only(report, ProblemKind.DOWN)
    assert problem.peer_id == C
    assert problem.message.startswith(f"Peer {C}: ")
    assert [(row.url, row.is_usable) for row in report.nodes if row.peer_id == C] == [(URLS[C], False)]
    assert dict(report.suggestions) == {}


def test_silent_node_that_nobody_has_seen_may_be_the_missing_peer() -> None:
    report = judge([node(A), node(B), answers("http://other:6333", failures=(DOWN,))])

    assert kinds(report) == [ProblemKind.DOWN, ProblemKind.MISSING]
    assert "It may be the node at http://other:6333, which does not answer." in report.problems[1].message


def test_node_that_answers_as_another_peer_than_registered() -> None:
    report = judge([node(A), node(B), replace(node(C), registered_as=4711)])

    problem = only(report, ProblemKind.MOVED)
    assert not problem.is_error
    assert "known here as peer 4711, which is no longer a member" in problem.message
    assert report.addresses[C] == URLS[C]


def test_node_that_answers_only_sometimes() -> None:
    flaky = AddressAnswers(URLS[C], (facts(C), facts(C)), (DOWN,))

    report = judge([node(A), node(B), flaky])

    problem = only(report, ProblemKind.UNSTEADY)
    assert not problem.is_error
    assert "answered 2 of 3 times" in problem.message
    assert report.addresses[C] == URLS[C]


def test_versions_that_differ_are_told_with_their_nodes() -> None:
    report = judge([node(A), node(B), node(C, version="1.17.1")])

    problem = only(report, ProblemKind.VERSION)
    assert problem.is_error
    assert "1.17.1 at http://10.0.0.3:6333; 1.18.3 at http://10.0.0.1:6333 and http://10.0.0.2:6333" in problem.message
    assert report.versions == ("1.17.1", "1.18.3")


@pytest.mark.parametrize(
    ("changes", "words", "is_error"),
    [
        ({"leader": None}, "no leader", True),
        ({"consensus": "stopped_with_err", "consensus_error": "disk full"}, "has stopped on peer", True),
        ({"pending_operations": 3}, "3 consensus operations are pending", False),
        ({"pending_operations": 1}, "1 consensus operation is pending", False),
        ({"send_failures": (B,)}, f"does not reach peer {B}", False),
    ],
)
def test_trouble_of_raft(changes: dict[str, Any], words: str, is_error: bool) -> None:
    everywhere = changes if "leader" in changes else {}

    report = judge([node(A, **changes), node(B, **everywhere), node(C, **everywhere)])

    problem = only(report, ProblemKind.RAFT)
    assert words in problem.message
    assert problem.is_error is is_error


def test_pending_operations_that_grow_are_an_error() -> None:
    said = [facts(A, pending_operations=count) for count in (2, 5, 9)]

    report = judge([answers(URLS[A], *said), node(B), node(C)])

    problem = only(report, ProblemKind.RAFT)
    assert problem.is_error
    assert "growing (2, then 9)" in problem.message


def test_different_leaders_are_an_election() -> None:
    report = judge([node(A), node(B, leader=B), node(C)])

    assert "different leaders" in only(report, ProblemKind.RAFT).message


def test_consensus_error_is_told_in_qdrants_words() -> None:
    report = judge([node(A), node(B, consensus="stopped_with_err", consensus_error="disk full"), node(C)])

    assert "(http://10.0.0.2:6333): disk full. Restart that node." in only(report, ProblemKind.RAFT).message


def test_suggestions_keep_the_distance_of_ports_on_a_shared_host() -> None:
    peers = {1: "http://127.0.0.1:7415/", 2: "http://127.0.0.1:7425/", 3: "http://127.0.0.1:7435/"}

    report = judge([answers("http://127.0.0.1:7410", facts(1, peers=peers, leader=1))])

    assert dict(report.suggestions) == {2: "http://127.0.0.1:7420", 3: "http://127.0.0.1:7430"}


def test_suggestions_keep_scheme_and_port_of_the_known_node() -> None:
    peers = {1: "", 2: "http://node-2:6335/", 3: "http://[fd00::3]:6335/", 4: "http://:x/"}

    report = judge([answers("https://node-1:16333", facts(1, peers=peers, leader=1))])

    assert dict(report.suggestions) == {2: "https://node-2:16333", 3: "https://[fd00::3]:16333"}
