"""The nodes of a cluster for the time of a job: one open connection each, and which peer is which."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

from apps.backups.manifest import PeerFacts
from apps.backups.plan import PlanBlocked, PlanBlockedForNow
from apps.clusters.judge import judge
from apps.clusters.models import Cluster, Purpose
from apps.clusters.nodes import facts_of, resolve_nodes
from apps.clusters.qdrant import Endpoint, NodeInfo, Placement, QdrantError, QdrantNode
from apps.clusters.registry import AddressAnswers, Problem, ProblemKind
from apps.core.abort import Abort


@dataclass(frozen=True)
class Fleet:
    """The nodes that can be reached. A connection is used by one thread at a time."""

    #: Any of them; the one that is asked what all know alike.
    first: QdrantNode
    info: NodeInfo
    #: Peer id → its connection; empty for a node that is alone.
    nodes: Mapping[int, QdrantNode]
    #: All peers of the cluster, reachable or not; empty for a node that is alone.
    peers: tuple[int, ...]
    #: How many addresses the cluster is registered with.
    addresses: int
    #: What the registry found wrong or odd; with one address, what that node alone gives away.
    problems: tuple[Problem, ...] = ()
    #: Peer → version, of those that were asked; empty for a node that is alone.
    versions: Mapping[int, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """How many nodes the cluster has."""
        return max(1, len(self.peers))

    @property
    def unreachable(self) -> tuple[int, ...]:
        """The peers without a connection."""
        return tuple(peer for peer in self.peers if peer not in self.nodes)

    def cautions(self) -> list[str]:
        """What is odd or wrong with the cluster and does not stop a backup, in sentences."""
        found = [problem.message for problem in self.problems]
        found += [
            f"The node of peer {peer} cannot be reached; its shards are taken from other replicas."
            for peer in self.unreachable
        ]
        return list(dict.fromkeys(found))

    def describe(self) -> tuple[PeerFacts, ...]:
        """Return every node of the cluster with its address and version, for a manifest."""
        if not self.peers:
            return (PeerFacts(None, self.first.endpoint.url, self.info.version),)
        return tuple(
            PeerFacts(
                peer,
                self.nodes[peer].endpoint.url if peer in self.nodes else "",
                self.versions.get(peer, ""),
            )
            for peer in self.peers
        )

    def node(self, peer_id: int) -> QdrantNode:
        """Return the connection to a peer; a node that is alone stands for whatever id it gives itself."""
        return self.nodes[peer_id] if self.peers else self.first

    def placements(self, collection: str, *, lenient: bool = False) -> list[Placement]:
        """Ask every node where the shards are; with `lenient` one that has gone meanwhile is left out.

        Raises: QdrantError; PlanBlocked when another peer answers than was there before.
        """
        found = []
        for peer_id, node in self.nodes.items() if self.peers else [(None, self.first)]:
            try:
                placement = node.placement(collection)
            except QdrantError:
                if lenient:
                    continue
                raise
            if peer_id is not None and placement.peer_id != peer_id:
                raise PlanBlocked(
                    f"{node.endpoint.url} answers as peer {placement.peer_id}, and was peer {peer_id} a moment ago: is "
                    f"there a load balancer in between? Register the address of each node."
                )
            found.append(placement)
        return found


@contextmanager
def open_fleet(
    cluster: Cluster, purpose: Purpose, abort: Abort | None = None, *, timeout_seconds: float | None = None
) -> Iterator[Fleet]:
    """Connect to every node of the cluster that can be reached; every call ends when `abort` trips.

    With `timeout_seconds` somebody waits: no call takes longer, and addresses are asked once who they are.
    Raises: QdrantError when none can; ClusterMisregistered; crypto.UndecryptableSecret; outbound.AddressRefused.
    """
    with ExitStack() as stack:
        if len(cluster.addresses) == 1:
            first = stack.enter_context(QdrantNode(_hurried(cluster.endpoint_for(purpose), timeout_seconds), abort))
            info = first.info()
            nodes = {} if info.peer_id is None else {int(info.peer_id): first}
            peers = tuple(sorted(int(peer) for peer in info.cluster.get("peers") or {}))
            versions = dict.fromkeys(nodes, info.version)
            yield Fleet(first, info, nodes, peers if nodes else (), 1, _judged(cluster, info), versions)
            return
        if timeout_seconds is None:
            resolved = resolve_nodes(cluster, purpose=purpose)
        else:
            resolved = resolve_nodes(cluster, purpose=purpose, asks=1, timeout_seconds=timeout_seconds)
        resolved.demand_one_cluster()
        first = stack.enter_context(QdrantNode(_hurried(resolved.first, timeout_seconds), abort))
        nodes = {
            peer: stack.enter_context(QdrantNode(_hurried(endpoint, timeout_seconds), abort))
            for peer, endpoint in sorted(resolved.endpoints.items())
        }
        peers = tuple(sorted(resolved.peer_ids))
        versions = {row.peer_id: row.version for row in resolved.report.nodes if row.peer_id in peers and row.version}
        yield Fleet(first, first.info(), nodes, peers, len(cluster.addresses), resolved.problems, versions)


def _judged(cluster: Cluster, info: NodeInfo) -> tuple[Problem, ...]:
    """What the answer of the only address says of the cluster: peers without address, trouble of consensus."""
    ((url, registered_as),) = cluster.addresses.items()
    return judge([AddressAnswers(url, (facts_of(info),), registered_as=registered_as)]).problems


def _hurried(endpoint: Endpoint, timeout_seconds: float | None) -> Endpoint:
    if timeout_seconds is None:
        return endpoint
    return replace(endpoint, timeout_seconds=timeout_seconds, is_quick=True)


#: With these nothing is begun: what the nodes say of the shards may be wrong, or about to be.
_BLOCKING = (ProblemKind.VERSION, ProblemKind.RAFT)


def demand_health(fleet: Fleet) -> None:
    """Make sure that the cluster is one that can be backed up: consensus works, and all nodes run the same version.

    Raises: PlanBlockedForNow.
    """
    for problem in fleet.problems:
        if problem.is_error and problem.kind in _BLOCKING:
            raise PlanBlockedForNow(problem.message)
