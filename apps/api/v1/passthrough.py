"""What the Qdrant-facing operations share: which node to ask, names in paths, and faults told in our words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from rest_framework import serializers

from apps.api.v1.lookup import find_cluster
from apps.api.views import ApiView
from apps.clusters.models import Cluster, Purpose
from apps.clusters.nodes import ResolvedCluster, resolve_nodes
from apps.clusters.qdrant import ACTIVE, Endpoint, QdrantNode, QdrantRejected, check_collection_name
from apps.core.errors import BackupmgrError, InvalidRequest, NotFound, Unprocessable

_MAX_SHARD_ID = 2**32 - 1
#: Refusals that the caller provoked and can put right; every other one is a fault between us and Qdrant (502).
_CALLERS_FAULT = frozenset({400, 404, 409, 422})


class ClusterQuery(serializers.Serializer[Any]):
    """Which cluster is meant."""

    cluster = serializers.CharField(
        required=False, trim_whitespace=False, help_text="Name or id; the default cluster when left out"
    )


class NodeQuery(ClusterQuery):
    """Which node of the cluster is meant: snapshots lie on one node each."""

    node = serializers.CharField(
        required=False,
        help_text="Peer id. Left out, snapshots are listed and found on all nodes; one is made and recovered on a "
        "shard's first Active replica, else on the first node",
    )


class WaitQuery(NodeQuery):
    """Whether to wait for the end of the work."""

    wait = serializers.BooleanField(
        required=False,
        default=True,
        help_text="false: 202 at once; GET /operations/{operation_id} tells the outcome",
    )


class NodeNotRegistered(NotFound):
    """The cluster has no such peer."""


class RefusedByQdrant(InvalidRequest):
    """Qdrant refuses what the caller asked; the answer carries Qdrant's status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.http_status = status


class QdrantView(ApiView):
    """Base of the operations that ask a node."""

    reaches_qdrant = True

    def cluster(self) -> Cluster:
        """Return the cluster that `?cluster=` names, or the default one. Raises: ClusterNotFound."""
        return find_cluster(self.query(ClusterQuery).get("cluster"))

    @contextmanager
    def node(self) -> Iterator[QdrantNode]:
        """Hold a client of a node of the cluster: the first that answers. Raises: BackupmgrErrors."""
        with passed_on(), QdrantNode(endpoint_of(self.cluster())) as node:
            yield node

    @contextmanager
    def first_of_all(self) -> Iterator[tuple[QdrantNode, ResolvedCluster | None]]:
        """Hold a client of a node as `node` does, and who answers at every address; None with a single address."""
        cluster = self.cluster()
        with passed_on():
            nodes = ask_nodes(cluster) if len(cluster.addresses) > 1 else None
            with QdrantNode(nodes.first if nodes else endpoint_of(cluster)) as node:
                yield node, nodes

    @property
    def named_node(self) -> str | None:
        """The peer that `?node=` names."""
        return self.query(NodeQuery).get("node")

    def chosen_node(self, purpose: Purpose = Purpose.BACKUP) -> ChosenNode:
        """Return the node on which a snapshot is made or recovered (`NodeQuery`). Raises: BackupmgrErrors."""
        return choose_node(self.cluster(), self.collection, self.shard_id, self.named_node, purpose)

    @staticmethod
    def quoted(name: str) -> str:
        """Return a name as one segment of a path."""
        return quote(name, safe="")

    @staticmethod
    def collection_path(collection: str, below: str) -> str:
        """Return Qdrant's path of something below a collection."""
        return f"/collections/{quote(collection, safe='')}/{below}"

    @property
    def collection(self) -> str:
        """The collection in the path. Raises: Unprocessable."""
        return checked_name(self.kwargs["name"])

    @property
    def shard_id(self) -> int | None:
        """The shard in the path, None on addresses of whole collections. Raises: InvalidRequest."""
        text = self.kwargs.get("shardId")
        if text is None:
            return None
        if not (text.isascii() and text.isdigit()) or len(text) > 10 or int(text) > _MAX_SHARD_ID:
            raise InvalidRequest("shardId must be a whole number from 0.")
        return int(text)

    @property
    def snapshot_name(self) -> str:
        """The snapshot in the path. Raises: Unprocessable.

        '..' above all: HTTP clients shorten it away, and DELETE …/snapshots/.. would delete the collection.
        """
        name: str = self.kwargs["snapshotName"]
        if name in (".", "..") or any(c in '/\\"' or ord(c) < 32 or ord(c) == 127 for c in name):
            raise Unprocessable("A snapshot name is a plain file name: no '..', slashes, quotes or control characters.")
        return name


def checked_name(name: str) -> str:
    """Return the collection name when Qdrant would accept it. Raises: Unprocessable."""
    try:
        check_collection_name(name)
    except ValueError as error:
        raise Unprocessable(str(error)) from error
    return name


@dataclass(frozen=True)
class ChosenNode:
    """A node and how to reach it. `peer_id` is None when nobody had to ask which one it is."""

    peer_id: int | None
    endpoint: Endpoint


def ask_nodes(cluster: Cluster, purpose: Purpose = Purpose.BACKUP) -> ResolvedCluster:
    """Ask every address of the cluster which node it is. Raises: Unprocessable when its settings cannot work."""
    _check_tls(cluster.endpoint_for(purpose), cluster)
    return resolve_nodes(cluster, purpose=purpose, asks=1)


def endpoint_of(cluster: Cluster, purpose: Purpose = Purpose.BACKUP) -> Endpoint:
    """Return how to reach a node of the cluster: the only address, or the first that answers.

    Raises: Unprocessable when its settings cannot work; BackupmgrErrors when no node answers.
    """
    endpoint = cluster.endpoint_for(purpose)
    _check_tls(endpoint, cluster)
    return endpoint if len(cluster.addresses) == 1 else ask_nodes(cluster, purpose).first


def _check_tls(endpoint: Endpoint, cluster: Cluster) -> None:
    try:
        if endpoint.url.startswith("https://"):
            endpoint.ssl_context()
    except (TypeError, ValueError) as error:  # TypeError: a CA that is not ASCII
        raise Unprocessable(f"The cluster {cluster.name!r} cannot be reached: {error}") from error


def choose_node(
    cluster: Cluster, collection: str, shard_id: int | None, peer: str | None, purpose: Purpose = Purpose.BACKUP
) -> ChosenNode:
    """Return the node that is meant: the named peer, the first with an Active replica of the shard, or the first.

    Raises: BackupmgrErrors.
    """
    if peer is None and len(cluster.addresses) == 1:
        return ChosenNode(None, endpoint_of(cluster, purpose))
    nodes = ask_nodes(cluster, purpose)
    if peer is not None:
        return node_at(nodes, peer)
    first = _first_of(nodes)
    if shard_id is None or first.peer_id is None:
        return first
    with QdrantNode(first.endpoint) as node:
        placement = node.placement(collection)
    replicas = [(placement.peer_id, shard.shard_id, shard.state) for shard in placement.local_shards]
    replicas += [(shard.peer_id, shard.shard_id, shard.state) for shard in placement.remote_shards]
    for peer_id, of_shard, state in replicas:
        if of_shard == shard_id and state == ACTIVE and peer_id in nodes.endpoints:
            return ChosenNode(peer_id, nodes.endpoints[peer_id])
    return first  # which explains what is wrong with the shard


def unregistered_peers(node: QdrantNode) -> tuple[int | None, list[int]]:
    """Return the peer that this node is, and the others of its cluster, for a cluster with a single address.

    None and nothing for a standalone node, and for one that does not tell this key.
    """
    try:
        answer = node.call("GET", "/cluster")
    except BackupmgrError:
        return None, []
    own = answer.get("peer_id") if isinstance(answer, dict) and answer.get("status") == "enabled" else None
    if own is None:
        return None, []
    return int(own), sorted(int(peer) for peer in answer.get("peers") or {} if int(peer) != own)


def node_at(nodes: ResolvedCluster, peer: str) -> ChosenNode:
    """Return the node with that peer id. Raises: NodeNotRegistered; NodeNotReachable when it does not answer."""
    peer_id = int(peer) if peer.isascii() and peer.isdecimal() and len(peer) <= 20 else None
    if peer_id is not None and peer_id in nodes.peer_ids:
        return ChosenNode(peer_id, nodes.endpoint_of(peer_id))
    raise NodeNotRegistered(f"The cluster {nodes.name!r} has no peer {peer}: GET /cluster/nodes lists those it has.")


def _first_of(nodes: ResolvedCluster) -> ChosenNode:
    endpoint = nodes.first
    return ChosenNode(next((peer for peer, one in nodes.endpoints.items() if one == endpoint), None), endpoint)


@contextmanager
def passed_on() -> Iterator[None]:
    """Turn refusals that the caller can put right into the same status from us. Raises: BackupmgrErrors."""
    try:
        yield
    except QdrantRejected as error:
        if error.status in _CALLERS_FAULT:
            raise RefusedByQdrant(str(error), error.status) from error
        raise
    except BackupmgrError:
        raise
    except ValueError as error:  # a host name that cannot be one, a key that no header can carry
        raise Unprocessable("The cluster's address or API key cannot be sent over HTTP: correct it.") from error
