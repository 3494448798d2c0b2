"""What can be wrong with the registration of a cluster, in words. Pure; judge.py says when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from apps.clusters.registry import AddressAnswers, NodeFacts, Problem, ProblemKind
from apps.core.text import plural


def silence(answer: AddressAnswers) -> Problem:
    """An address that gave no answer."""
    failure = answer.failures[0]
    who = f"Peer {answer.registered_as}: " if answer.registered_as is not None else ""
    return Problem(failure.kind, f"{who}{failure.message}", url=answer.url, peer_id=answer.registered_as)


def unsteady(answer: AddressAnswers) -> list[Problem]:
    """An address that did not answer each time."""
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


def foreign(answer: AddressAnswers, message: str) -> Problem:
    """An address that belongs to something else: `message` says to what."""
    return Problem(ProblemKind.FOREIGN, message, blocks=True, url=answer.url, peer_id=answer.peer_ids[0])


def not_ours(answer: AddressAnswers, first: AddressAnswers) -> Problem:
    """An address of another cluster, or a standalone node, than the first one that answers."""
    if answer.peer_ids == (None,):
        return foreign(
            answer,
            f"{answer.url} answers as a standalone node, {first.url} as a peer of a cluster: they do not belong "
            f"together; remove one of the addresses.",
        )
    theirs = sorted({peer for facts in answer.facts for peer in facts.peers})
    ours = sorted({peer for facts in first.facts for peer in facts.peers})
    return foreign(
        answer,
        f"{answer.url} belongs to another cluster (peers {listed(theirs)}) than {first.url} (peers {listed(ours)}): "
        f"remove one of the addresses.",
    )


def misplaced(found: Mapping[int, list[AddressAnswers]], peers: Mapping[int, str]) -> list[Problem]:
    """Peers with two addresses, and addresses with another peer than was known."""
    problems = []
    for peer, answers in found.items():
        if len(answers) > 1:
            problems.append(
                Problem(
                    ProblemKind.DUPLICATE,
                    f"{listed([answer.url for answer in answers])} are one and the same node (peer {peer}): keep one "
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


def balancer(answer: AddressAnswers, *, complete: bool) -> Problem:
    """An address that answers as several nodes. `complete`: every peer has an address beside it."""
    # Some answers may come from a node that is no member of anything.
    who = listed([f"peer {peer}" if peer is not None else "a standalone node" for peer in answer.peer_ids])
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


def missing(
    peers: Mapping[int, str],
    chosen: Mapping[int, AddressAnswers],
    silent: list[AddressAnswers],
    suggested: Mapping[int, str],
) -> list[Problem]:
    """Peers without an address that is theirs."""
    named = {answer.registered_as for answer in silent}
    nameless = [answer.url for answer in silent if answer.registered_as not in peers]
    problems = []
    for peer, uri in peers.items():
        if peer in chosen or peer in named:
            continue
        hint = f" It may be the node at {listed(nameless)}, which does not answer." if nameless else ""
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


def different_versions(members: list[AddressAnswers]) -> list[Problem]:
    """Nodes of different versions."""
    where: dict[str, list[str]] = {}
    for answer in members:
        for version in dict.fromkeys(facts.version for facts in answer.facts):
            where.setdefault(version, []).append(answer.url)
    if len(where) < 2:
        return []
    told = "; ".join(f"{version} at {listed(urls)}" for version, urls in sorted(where.items()))
    return [Problem(ProblemKind.VERSION, f"The nodes run different versions of Qdrant ({told}): finish the upgrade.")]


def trouble_of_raft(newest: NodeFacts, members: list[AddressAnswers]) -> list[Problem]:
    """What the nodes say of their agreement."""
    problems = []

    def add(message: str, answer: AddressAnswers | None = None, *, is_error: bool = True) -> None:
        problems.append(Problem(ProblemKind.RAFT, message, is_error=is_error, url=answer.url if answer else None))

    lasts = [answer.last for answer in members if answer.last is not None and answer.last.peer_id is not None]
    if not any(facts.leader for facts in lasts):
        add("The peers have no leader: more than half of them must be running and reach each other.")
    leaders = sorted({facts.leader for facts in lasts if facts.leader})
    if len(leaders) > 1:
        add(f"The nodes name different leaders (peers {listed(leaders)}): an election is under way.", is_error=False)
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
    return f"peer{'s' if len(peers) > 1 else ''} {listed(peers)}"


def listed(items: Sequence[object]) -> str:
    """Return 'a', 'a and b' or 'a, b and c'."""
    texts = [str(item) for item in items]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}" if texts else "none"
