"""What the addresses of a cluster have answered, and the report that is made of it (judge.py). Values, no more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType


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
