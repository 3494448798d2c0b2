"""Which peer is at which address, and what is wrong: made of what every address has answered. Pure.

One address may stand for one node, for a load balancer, for a node of another cluster, or for nothing. Nobody asks
Qdrant which of these it is; `judge` tells from what each address said about itself and its peers, asked several times
over fresh connections (nodes.py does the asking).
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from apps.clusters.problems import (
    balancer,
    different_versions,
    foreign,
    misplaced,
    missing,
    not_ours,
    silence,
    trouble_of_raft,
    unsteady,
)
from apps.clusters.registry import AddressAnswers, ClusterReport, NodeFacts, NodeReport, Problem, ProblemKind
from apps.clusters.suggestions import suggest_addresses


def judge(answers: Sequence[AddressAnswers]) -> ClusterReport:
    """Tell which peer is at which address, and what is wrong. The first address that answers says which cluster is
    meant.
    """
    first = next((answer for answer in answers if answer.facts), None)
    silent = [answer for answer in answers if not answer.facts]
    problems = [silence(answer) for answer in silent]
    if first is None:
        rows = tuple(NodeReport(answer.registered_as, answer.url) for answer in silent)
        return ClusterReport(distributed=None, nodes=rows, problems=tuple(problems))
    speaking = [answer for answer in answers if answer.facts]
    problems += [problem for answer in speaking for problem in unsteady(answer)]
    if all(peer is None for peer in first.peer_ids):
        return _standalone(first, speaking, silent, problems)
    return _distributed(first, speaking, silent, problems)


def _standalone(
    first: AddressAnswers, speaking: list[AddressAnswers], silent: list[AddressAnswers], problems: list[Problem]
) -> ClusterReport:
    assert first.last is not None
    for other in speaking:
        if other is not first:
            problems.append(
                foreign(
                    other,
                    f"{first.url} answers as a standalone node and knows no peers, so {other.url} belongs to another "
                    f"deployment: register it as a cluster of its own.",
                )
            )
    rows = [NodeReport(None, first.url, version=first.last.version, is_leader=True, is_voter=True, is_usable=True)]
    rows += [_stranger(answer) for answer in (*speaking, *silent) if answer is not first]
    return ClusterReport(
        distributed=False,
        nodes=tuple(rows),
        problems=tuple(problems),
        standalone_url=first.url,
        versions=(first.last.version,),
    )


def _distributed(
    first: AddressAnswers, speaking: list[AddressAnswers], silent: list[AddressAnswers], problems: list[Problem]
) -> ClusterReport:
    members = _members(first, speaking)
    problems += [not_ours(answer, first) for answer in speaking if answer not in members]
    known = [facts for answer in members for facts in answer.facts if facts.peer_id is not None]
    newest = max(known, key=lambda facts: (facts.term, facts.commit))
    peers = dict(sorted(newest.peers.items()))
    found: dict[int, list[AddressAnswers]] = {}
    for answer in members:
        peer = answer.peer_ids[0]
        if answer.alternates or peer is None:
            continue
        if peer in peers:
            found.setdefault(peer, []).append(answer)
        else:
            problems.append(
                Problem(
                    ProblemKind.REMOVED,
                    f"{answer.url} answers as peer {peer}, which is no longer a member of this cluster: remove the "
                    f"address, or have the node join again.",
                    url=answer.url,
                    peer_id=peer,
                )
            )
    problems += misplaced(found, peers)
    balancers = [answer for answer in members if answer.alternates]
    problems += [balancer(answer, complete=found.keys() == peers.keys()) for answer in balancers]
    chosen = {peer: found[peer][0] for peer in peers if peer in found}
    addresses = {peer: answer.url for peer, answer in chosen.items()}
    taken = {answer.url for answer in (*speaking, *silent)}
    suggested = {peer: url for peer, url in suggest_addresses(peers, addresses, first.url).items() if url not in taken}
    problems += missing(peers, chosen, silent, suggested)
    problems += different_versions(members)
    problems += trouble_of_raft(newest, members)
    waiting = {
        answer.registered_as: answer for answer in silent if answer.registered_as in peers.keys() - chosen.keys()
    }
    rows = [
        _row(peer, uri, chosen.get(peer), waiting.get(peer), newest, suggested.get(peer, ""))
        for peer, uri in peers.items()
    ]
    shown = {id(answer) for answer in chosen.values()} | {id(answer) for answer in waiting.values()}
    rows += [_stranger(answer) for answer in (*speaking, *silent) if id(answer) not in shown]
    return ClusterReport(
        distributed=True,
        nodes=tuple(rows),
        problems=tuple(problems),
        peers=MappingProxyType(peers),
        addresses=MappingProxyType(addresses),
        versions=tuple(sorted({facts.version for facts in known})),
    )


def _members(first: AddressAnswers, speaking: list[AddressAnswers]) -> list[AddressAnswers]:
    """Return the answers that come from the cluster of the first: those whose peers are, by and by, its peers."""
    ours = {peer for facts in first.facts for peer in facts.peers}
    members, rest = [first], [answer for answer in speaking if answer is not first]
    while True:
        near = [answer for answer in rest if any(ours & facts.peers.keys() for facts in answer.facts)]
        if not near:
            return [answer for answer in speaking if answer in members]
        members += near
        rest = [answer for answer in rest if answer not in near]
        ours |= {peer for answer in near for facts in answer.facts for peer in facts.peers}


def _row(
    peer: int,
    uri: str,
    chosen: AddressAnswers | None,
    waiting: AddressAnswers | None,
    newest: NodeFacts,
    suggested: str,
) -> NodeReport:
    last = chosen.last if chosen else None
    return NodeReport(
        peer_id=peer,
        url=chosen.url if chosen else waiting.url if waiting else "",
        uri=uri,
        version=last.version if last else None,
        is_leader=peer == newest.leader,
        is_voter=last.is_voter if last else None,
        is_usable=chosen is not None,
        suggested_url="" if chosen or waiting else suggested,
    )


def _stranger(answer: AddressAnswers) -> NodeReport:
    """A row for an address that nothing will be read from or written to."""
    peer = answer.peer_ids[0] if len(answer.peer_ids) == 1 else answer.registered_as
    return NodeReport(peer, answer.url, version=answer.last.version if answer.last else None)
