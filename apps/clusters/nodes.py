"""Which node is at which address: asks every address of a cluster who it is, and has judge.py make a report of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from apps.clusters.judge import judge
from apps.clusters.models import Cluster, Purpose
from apps.clusters.qdrant import Endpoint, NodeInfo, QdrantDenied, QdrantFault, QdrantNode, QdrantTlsRefused
from apps.clusters.registry import AddressAnswers, ClusterReport, Failure, NodeFacts, Problem, ProblemKind
from apps.core.errors import BackupmgrError, Unavailable
from apps.core.outbound import AddressRefused

#: How often an address is asked before it counts as one node: a load balancer would answer as different ones.
ASKS = 3
#: At most so many addresses at the same time.
THREADS = 8


class NodeNotReachable(Unavailable):
    """A peer of the cluster has no address here, or none that answers."""


class ClusterMisregistered(Unavailable):
    """The addresses do not belong to one cluster: nobody can say which one is meant."""

    transient = False


@dataclass(frozen=True)
class ResolvedCluster:
    """The nodes of a cluster that can be reached now, and what is wrong with the others."""

    name: str
    report: ClusterReport
    #: Peer id → how to reach that node, in the order of the addresses. Empty for a standalone node.
    endpoints: Mapping[int, Endpoint]
    #: How to reach a standalone node; None for a cluster of peers, and when nobody answers.
    standalone: Endpoint | None
    #: Address → why it could not be asked.
    errors: Mapping[str, BackupmgrError]

    @property
    def problems(self) -> tuple[Problem, ...]:
        return self.report.problems

    @property
    def peer_ids(self) -> tuple[int, ...]:
        """All peers that the cluster has, reachable or not."""
        return tuple(self.report.peers)

    @property
    def unreachable(self) -> tuple[int, ...]:
        """The peers that cannot be asked."""
        return tuple(peer for peer in self.report.peers if peer not in self.endpoints)

    @property
    def first(self) -> Endpoint:
        """How to reach a node, whichever. Raises: BackupmgrError when no node of this cluster can be reached."""
        if self.standalone is not None:
            return self.standalone
        for endpoint in self.endpoints.values():
            return endpoint
        for error in self.errors.values():
            raise error
        reasons = " ".join(problem.message for problem in self.problems if problem.is_error)
        raise NodeNotReachable(f"No node of the cluster {self.name!r} can be reached. {reasons}".strip())

    def endpoint_of(self, peer_id: int) -> Endpoint:
        """How to reach the peer; a standalone node stands for whatever id it gives itself. Raises: NodeNotReachable."""
        if self.standalone is not None:
            return self.standalone
        if peer_id in self.endpoints:
            return self.endpoints[peer_id]
        own = [problem.message for problem in self.problems if problem.peer_id == peer_id and problem.is_error]
        raise NodeNotReachable(
            own[0] if own else f"The cluster {self.name!r} has no address for peer {peer_id}: add it to the cluster."
        )

    def demand_one_cluster(self) -> None:
        """Make sure that all addresses that answer belong to one cluster. Raises: ClusterMisregistered."""
        blocking = [problem.message for problem in self.problems if problem.blocks]
        if blocking:
            raise ClusterMisregistered(f"The cluster {self.name!r} is registered wrongly. {' '.join(blocking)}")


def resolve_nodes(
    cluster: Cluster,
    *,
    purpose: Purpose = Purpose.BACKUP,
    asks: int = ASKS,
    timeout_seconds: float | None = None,
    pause_seconds: float = 0.0,
) -> ResolvedCluster:
    """Ask every address of the cluster, saved or not, which peer it is.

    Nothing is changed, but for a note of who was seen where, so that a node that is down later has a name.

    The endpoints carry the key for `purpose`, and the time-outs of the settings. Each address is asked `asks` times
    over a fresh connection, with `pause_seconds` in between, all addresses at once; `timeout_seconds` is for each small
    request (None: that of the settings). A node that does not answer is a problem in the result, not an error.

    Raises: crypto.UndecryptableSecret.
    """
    endpoints: dict[str, Endpoint] = {}
    errors: dict[str, BackupmgrError] = {}
    for url in cluster.addresses:
        try:
            endpoints[url] = cluster.endpoint_for(purpose, url)
        except AddressRefused as error:
            errors[url] = error
    asked = {url: _Ask(endpoint, asks, timeout_seconds, pause_seconds) for url, endpoint in endpoints.items()}
    with ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="ask") as pool:
        for ask in asked.values():
            pool.submit(ask.run)
    answers = []
    for url, registered_as in cluster.addresses.items():
        if url in errors:
            failures: tuple[Failure, ...] = (Failure(ProblemKind.REFUSED, str(errors[url])),)
            answers.append(AddressAnswers(url, failures=failures, registered_as=registered_as))
            continue
        ask = asked[url]
        if ask.error is not None and not ask.facts:
            errors[url] = ask.error
        answers.append(AddressAnswers(url, tuple(ask.facts), tuple(ask.failures), registered_as))
    report = judge(answers)
    _remember(cluster, answers)
    peers = {url: peer for peer, url in report.addresses.items()}
    return ResolvedCluster(
        name=cluster.name,
        report=report,
        # In the order of the addresses, so that the first one is that of the first.
        endpoints=MappingProxyType({peers[url]: endpoints[url] for url in cluster.addresses if url in peers}),
        standalone=endpoints[report.standalone_url] if report.standalone_url else None,
        errors=MappingProxyType(errors),
    )


def _remember(cluster: Cluster, answers: list[AddressAnswers]) -> None:
    """Note which peer was seen at which address; the addresses that are gone are forgotten."""
    seen = {answer.url: cluster.seen_peers.get(answer.url) for answer in answers}
    seen |= {answer.url: answer.peer_ids[0] for answer in answers if answer.facts and not answer.alternates}
    noted = {url: peer for url, peer in seen.items() if peer is not None}
    if noted != cluster.seen_peers and not cluster._state.adding:
        # Not `save`: others may have changed the row meanwhile, and this is no change of the cluster.
        Cluster.objects.filter(pk=cluster.pk).update(seen_peers=noted)
    cluster.seen_peers = noted


class _Ask:
    """Asks one address some times, each time over a connection of its own."""

    def __init__(self, endpoint: Endpoint, asks: int, timeout_seconds: float | None, pause_seconds: float) -> None:
        self._endpoint = endpoint if timeout_seconds is None else replace(endpoint, timeout_seconds=timeout_seconds)
        self._asks = asks
        self._pause = pause_seconds
        self.facts: list[NodeFacts] = []
        self.failures: list[Failure] = []
        self.error: BackupmgrError | None = None

    def run(self) -> None:
        for number in range(self._asks):
            if number and self._pause:
                time.sleep(self._pause)
            try:
                with QdrantNode(self._endpoint) as node:
                    self.facts.append(facts_of(node.info()))
            except BackupmgrError as error:
                self._fail(error)
            except ValueError:  # a host name that cannot be one, a key that no header can carry
                self._fail(Unavailable(f"{self._endpoint.url} or the API key cannot be sent over HTTP: correct it."))
            if self.failures and not self.facts:
                return  # who does not answer the first time is not waited for again

    def _fail(self, error: BackupmgrError) -> None:
        self.error = error
        self.failures.append(Failure(_kind_of(error, self._endpoint), _words_of(error, self._endpoint)))


def _kind_of(error: BackupmgrError, endpoint: Endpoint) -> ProblemKind:
    if isinstance(error, QdrantDenied):
        if error.status == 403:
            return ProblemKind.KEY_LIMITED
        return ProblemKind.KEY_WRONG if endpoint.api_key else ProblemKind.KEY_MISSING
    if isinstance(error, QdrantTlsRefused):
        return ProblemKind.TLS
    if isinstance(error, AddressRefused):
        return ProblemKind.REFUSED
    if isinstance(error, QdrantFault) and (error.status is None or error.status < 500):
        return ProblemKind.NOT_QDRANT
    return ProblemKind.DOWN


def _words_of(error: BackupmgrError, endpoint: Endpoint) -> str:
    if isinstance(error, QdrantDenied) and error.status == 401 and not endpoint.api_key:
        return f"Qdrant at {endpoint.url} asks for an API key, and none is set: enter one."
    if isinstance(error, QdrantDenied) and error.status == 403:
        return (
            f"{error}. Which node is which is asked with GET /cluster, and that needs a key or token with read access "
            f"to everything."
        )
    return str(error)


def facts_of(info: NodeInfo) -> NodeFacts:
    """Return what a node said about itself, in the words of the registry."""
    answer: dict[str, Any] = info.cluster
    if info.peer_id is None:
        return NodeFacts(info.version)
    raft = answer.get("raft_info") or {}
    thread = answer.get("consensus_thread_status") or {}
    return NodeFacts(
        version=info.version,
        peer_id=int(info.peer_id),
        peers={int(peer): str(entry.get("uri", "")) for peer, entry in (answer.get("peers") or {}).items()},
        leader=int(raft["leader"]) if raft.get("leader") else None,
        is_voter=raft.get("is_voter"),
        term=int(raft.get("term") or 0),
        commit=int(raft.get("commit") or 0),
        pending_operations=int(raft.get("pending_operations") or 0),
        consensus=str(thread.get("consensus_thread_status", "working")),
        consensus_error=str(thread.get("err") or ""),
        send_failures=tuple(_failing(answer)),
    )


def _failing(answer: dict[str, Any]) -> list[int]:
    """Return the peers that this one cannot send to; Qdrant names them by their address."""
    peers = {str(entry.get("uri", "")).rstrip("/"): int(peer) for peer, entry in (answer.get("peers") or {}).items()}
    failing = (answer.get("message_send_failures") or {}).keys()
    return sorted({peers[uri.rstrip("/")] for uri in failing if uri.rstrip("/") in peers})
