"""What the addresses of a cluster have answered, judged: which peer is where, and what is wrong. Pure.

One address may stand for one node, for a load balancer, for a node of another cluster, or for nothing. Nobody asks
Qdrant which of these it is; `judge` tells from what each address said about itself and its peers, asked several times
over fresh connections (apps/clusters/nodes.py does the asking).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from apps.clusters.suggestions import suggest_addresses
from apps.core.text import plural


class ProblemKind(StrEnum):
    """What is wrong, for programs; a Problem's message says it to people."""

    DOWN = "down"
    TLS = "tls"
    NOT_QDRANT = "not_qdrant"
    REFUSED = "address_refused"
    KEY_MISSING = "key_missing"
    KEY_WRONG = "key_wrong"
    KEY_READ_ONLY = "key_read_only"
    KEY_LIMITED = "key_limited"
    MISSING = "peer_without_address"
    DUPLICATE = "two_addresses_of_one_peer"
    FOREIGN = "other_cluster"
    REMOVED = "no_longer_a_member"
    MOVED = "other_peer_than_registered"
    BALANCER = "load_balancer"
    UNSTEADY = "answers_sometimes"
    VERSION = "versions_differ"
    RAFT = "raft"


@dataclass(frozen=True)
class Problem:
    """Something that is wrong or odd with the registration or the cluster.

    `is_error` tells what has to be put right from what deserves a look. `blocks` means: with this nobody can say which
    cluster is meant, so that nothing may be backed up from it or restored into it.
    """

    kind: ProblemKind
    message: str
    is_error: bool = True
    blocks: bool = False
    url: str | None = None
    peer_id: int | None = None


@dataclass(frozen=True)
class NodeFacts:
    """What one address said once (`GET /` and `GET /cluster`)."""

    version: str
    #: None for a standalone node.
    peer_id: int | None = None
    #: Every peer of the cluster → its address between peers (not a REST address).
    peers: Mapping[int, str] = field(default_factory=dict)
    leader: int | None = None
    is_voter: bool | None = None
    term: int = 0
    commit: int = 0
    pending_operations: int = 0
    #: "working", or what Qdrant says instead.
    consensus: str = "working"
    consensus_error: str = ""
    #: Peers that this one cannot send to.
    send_failures: tuple[int, ...] = ()


@dataclass(frozen=True)
class Failure:
    """Why an address gave no answer."""

    kind: ProblemKind
    message: str


@dataclass(frozen=True)
class AddressAnswers:
    """All that one address said, in order, and why it did not each time."""

    url: str
    facts: tuple[NodeFacts, ...] = ()
    failures: tuple[Failure, ...] = ()
    #: The peer that was at this address when somebody last looked; None when nobody has.
    registered_as: int | None = None

    @property
    def last(self) -> NodeFacts | None:
        return self.facts[-1] if self.facts else None

    @property
    def peer_ids(self) -> tuple[int | None, ...]:
        """The peers that have answered at this address, each once, in order."""
        return tuple(dict.fromkeys(facts.peer_id for facts in self.facts))

    @property
    def alternates(self) -> bool:
        return len(self.peer_ids) > 1


@dataclass(frozen=True)
class NodeReport:
    """A peer and its address, or an address that belongs to no peer: one row of a report.

    `url` is empty for a peer without address, `peer_id` None for a standalone node and for an address of no peer.
    """

    peer_id: int | None
    url: str
    uri: str = ""
    version: str | None = None
    is_leader: bool = False
    is_voter: bool | None = None
    #: Whether backups and restores will use it.
    is_usable: bool = False
    #: A REST address that the peer may have, guessed from where the others are; to be tried, not trusted.
    suggested_url: str = ""


@dataclass(frozen=True)
class ClusterReport:
    """What became of asking every address of a cluster."""

    #: None when nobody answered.
    distributed: bool | None
    nodes: tuple[NodeReport, ...]
    problems: tuple[Problem, ...]
    #: All peers of the cluster, with and without address → address between peers. Empty for a standalone node.
    peers: Mapping[int, str] = field(default_factory=dict)
    #: Peer → the REST address that is that peer and no other.
    addresses: Mapping[int, str] = field(default_factory=dict)
    #: The address of a standalone node.
    standalone_url: str | None = None
    versions: tuple[str, ...] = ()

    @property
    def is_fine(self) -> bool:
        return not any(problem.is_error for problem in self.problems)

    @property
    def suggestions(self) -> Mapping[int, str]:
        """Peers without address → a REST address worth trying."""
        return MappingProxyType(
            {node.peer_id: node.suggested_url for node in self.nodes if node.peer_id and node.suggested_url}
        )


def judge(answers: Sequence[AddressAnswers]) -> ClusterReport:
    """Tell which peer is at which address, and what is wrong. The first address that answers says which cluster is
    meant.
    """
    first = next((answer for answer in answers if answer.facts), None)
    silent = [answer for answer in answers if not answer.facts]
    problems = [_silence(answer) for answer in silent]
    if first is None:
        rows = tuple(NodeReport(answer.registered_as, answer.url) for answer in silent)
        return ClusterReport(distributed=None, nodes=rows, problems=tuple(problems))
    speaking = [answer for answer in answers if answer.facts]
    problems += [problem for answer in speaking for problem in _unsteady(answer)]
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
                _foreign(
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
    problems += [_not_ours(answer, first) for answer in speaking if answer not in members]
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
    problems += _misplaced(found, peers)
    balancers = [answer for answer in members if answer.alternates]
    problems += [_balancer(answer, complete=found.keys() == peers.keys()) for answer in balancers]
    chosen = {peer: found[peer][0] for peer in peers if peer in found}
    addresses = {peer: answer.url for peer, answer in chosen.items()}
    taken = {answer.url for answer in (*speaking, *silent)}
    suggested = {peer: url for peer, url in suggest_addresses(peers, addresses, first.url).items() if url not in taken}
    problems += _missing(peers, chosen, silent, suggested)
    problems += _versions(members)
    problems += _raft(newest, members)
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


# --- problems, in words ------------------------------------------------------------------------------------------
def _silence(answer: AddressAnswers) -> Problem:
    failure = answer.failures[0]
    who = f"Peer {answer.registered_as}: " if answer.registered_as is not None else ""
    return Problem(failure.kind, f"{who}{failure.message}", url=answer.url, peer_id=answer.registered_as)


def _unsteady(answer: AddressAnswers) -> list[Problem]:
    if not answer.failures:
        return []
    asked = len(answer.facts) + len(answer.failures)
    return [
        Problem(
            ProblemKind.UNSTEADY,
            f"{answer.url} answered {len(answer.facts)} of {asked} times: {answer.failures[0].message}",
            is_error=False,
            url=answer.url,
        )
    ]


def _foreign(answer: AddressAnswers, message: str) -> Problem:
    return Problem(ProblemKind.FOREIGN, message, blocks=True, url=answer.url, peer_id=answer.peer_ids[0])


def _not_ours(answer: AddressAnswers, first: AddressAnswers) -> Problem:
    if answer.peer_ids == (None,):
        return _foreign(
            answer,
            f"{answer.url} answers as a standalone node, {first.url} as a peer of a cluster: they do not belong "
            f"together; remove one of the addresses.",
        )
    theirs = sorted({peer for facts in answer.facts for peer in facts.peers})
    ours = sorted({peer for facts in first.facts for peer in facts.peers})
    return _foreign(
        answer,
        f"{answer.url} belongs to another cluster (peers {_list(theirs)}) than {first.url} (peers {_list(ours)}): "
        f"remove one of the addresses.",
    )


def _misplaced(found: Mapping[int, list[AddressAnswers]], peers: Mapping[int, str]) -> list[Problem]:
    problems = []
    for peer, answers in found.items():
        if len(answers) > 1:
            problems.append(
                Problem(
                    ProblemKind.DUPLICATE,
                    f"{_list([answer.url for answer in answers])} are one and the same node (peer {peer}): keep one "
                    f"of the addresses; the first is used.",
                    is_error=False,
                    url=answers[1].url,
                    peer_id=peer,
                )
            )
        for answer in answers:
            if answer.registered_as not in (None, peer):
                gone = "" if answer.registered_as in peers else ", which is no longer a member of the cluster"
                problems.append(
                    Problem(
                        ProblemKind.MOVED,
                        f"{answer.url} answers as peer {peer}; it is known here as peer {answer.registered_as}{gone}. "
                        f"What it answers counts.",
                        is_error=False,
                        url=answer.url,
                        peer_id=peer,
                    )
                )
    return problems


def _balancer(answer: AddressAnswers, *, complete: bool) -> Problem:
    # Some answers may come from a node that is no member of anything.
    who = _list([f"peer {peer}" if peer is not None else "a standalone node" for peer in answer.peer_ids])
    rest = (
        "every peer has an address of its own, so this one is not used."
        if complete
        else "snapshots lie on single nodes, so each needs an address of its own."
    )
    return Problem(
        ProblemKind.BALANCER,
        f"{answer.url} is not one node: asked {len(answer.facts)} times it answered as {who}. It looks like a load "
        f"balancer: {rest}",
        is_error=not complete,
        url=answer.url,
    )


def _missing(
    peers: Mapping[int, str],
    chosen: Mapping[int, AddressAnswers],
    silent: list[AddressAnswers],
    suggested: Mapping[int, str],
) -> list[Problem]:
    named = {answer.registered_as for answer in silent}
    nameless = [answer.url for answer in silent if answer.registered_as not in peers]
    problems = []
    for peer, uri in peers.items():
        if peer in chosen or peer in named:
            continue
        hint = f" It may be the node at {_list(nameless)}, which does not answer." if nameless else ""
        if not hint and peer in suggested:
            hint = f" {suggested[peer]} may be it."
        problems.append(
            Problem(
                ProblemKind.MISSING,
                f"Peer {peer} ({uri or 'address unknown'}) has no REST address here, so shards that only it holds "
                f"cannot be reached: add its address.{hint}",
                peer_id=peer,
            )
        )
    return problems


def _versions(members: list[AddressAnswers]) -> list[Problem]:
    where: dict[str, list[str]] = {}
    for answer in members:
        for version in dict.fromkeys(facts.version for facts in answer.facts):
            where.setdefault(version, []).append(answer.url)
    if len(where) < 2:
        return []
    told = "; ".join(f"{version} at {_list(urls)}" for version, urls in sorted(where.items()))
    return [Problem(ProblemKind.VERSION, f"The nodes run different versions of Qdrant ({told}): finish the upgrade.")]


def _raft(newest: NodeFacts, members: list[AddressAnswers]) -> list[Problem]:
    problems = []

    def add(message: str, answer: AddressAnswers | None = None, *, is_error: bool = True) -> None:
        problems.append(Problem(ProblemKind.RAFT, message, is_error=is_error, url=answer.url if answer else None))

    lasts = [answer.last for answer in members if answer.last is not None and answer.last.peer_id is not None]
    if not any(facts.leader for facts in lasts):
        add("The peers have no leader: more than half of them must be running and reach each other.")
    leaders = sorted({facts.leader for facts in lasts if facts.leader})
    if len(leaders) > 1:
        add(f"The nodes name different leaders (peers {_list(leaders)}): an election is under way.", is_error=False)
    for answer in members:
        last = answer.last
        if last is None or answer.alternates or last.peer_id is None:
            continue
        if last.consensus != "working":
            add(
                f"Consensus has stopped on peer {last.peer_id} ({answer.url}): "
                f"{last.consensus_error or 'it gives no reason'}. Restart that node.",
                answer,
            )
        before = answer.facts[0].pending_operations
        if last.pending_operations > before:
            add(
                f"On peer {last.peer_id} ({answer.url}) pending consensus operations are growing ({before}, then "
                f"{last.pending_operations}): it cannot keep up or does not reach the others.",
                answer,
            )
        elif last.pending_operations:
            are = "is" if last.pending_operations == 1 else "are"
            add(
                f"{plural(last.pending_operations, 'consensus operation')} {are} pending on peer {last.peer_id}.",
                answer,
                is_error=False,
            )
        failing = [peer for peer in last.send_failures if peer in newest.peers]
        if failing:
            add(f"Peer {last.peer_id} ({answer.url}) does not reach {_peers(failing)}.", answer, is_error=False)
    return problems


def _peers(peers: Sequence[int]) -> str:
    return f"peer{'s' if len(peers) > 1 else ''} {_list(peers)}"


def _list(items: Sequence[object]) -> str:
    """Return 'a', 'a and b' or 'a, b and c'."""
    texts = [str(item) for item in items]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}" if texts else "none"
