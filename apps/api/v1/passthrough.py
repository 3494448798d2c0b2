"""What the Qdrant-facing operations share: which node to ask, names in paths, and faults told in our words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from rest_framework import serializers

from apps.api.v1.lookup import find_cluster
from apps.api.views import ApiView
from apps.clusters.models import Cluster
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
        help_text="Peer id. Left out: a shard's first Active replica, else the cluster's own address",
    )


class WaitQuery(NodeQuery):
    """Whether to wait for the end of the work."""

    wait = serializers.BooleanField(
        required=False,
        default=True,
        help_text="false: 202 at once; GET /operations/{operation_id} tells the outcome",
    )


class NodeNotRegistered(NotFound):
    """The cluster has no REST address for that peer."""


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
        """Hold a client of the cluster's node. Raises: BackupmgrErrors."""
        with passed_on(), QdrantNode(endpoint_of(self.cluster())) as node:
            yield node

    @contextmanager
    def snapshot_node(self) -> Iterator[QdrantNode]:
        """Hold a client of the node whose snapshots are meant. Raises: BackupmgrErrors."""
        with passed_on(), QdrantNode(self.snapshot_endpoint()) as node:
            yield node

    def snapshot_endpoint(self) -> Endpoint:
        """Return how to reach the node whose snapshots are meant (`NodeQuery`). Raises: BackupmgrErrors."""
        return choose_endpoint(self.cluster(), self.collection, self.shard_id, self.query(NodeQuery).get("node"))

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


def endpoint_of(cluster: Cluster) -> Endpoint:
    """Return how to reach the cluster's node. Raises: Unprocessable when its settings cannot work."""
    endpoint = cluster.endpoint
    try:
        if endpoint.url.startswith("https://"):
            endpoint.ssl_context()
    except (TypeError, ValueError) as error:  # TypeError: a CA that is not ASCII
        raise Unprocessable(f"The cluster {cluster.name!r} cannot be reached: {error}") from error
    return endpoint


def choose_endpoint(cluster: Cluster, collection: str, shard_id: int | None, peer: str | None) -> Endpoint:
    """Return how to reach the node whose snapshots are meant: the named peer, or the first with an Active replica.

    Raises: BackupmgrErrors.
    """
    if peer is not None:
        return endpoint_at(cluster, peer)
    first = endpoint_of(cluster)
    if shard_id is None or not cluster.nodes:
        return first
    with QdrantNode(first) as node:
        placement = node.placement(collection)
    if any(shard.shard_id == shard_id and shard.state == ACTIVE for shard in placement.local_shards):
        return first
    for shard in placement.remote_shards:
        if shard.shard_id == shard_id and shard.state == ACTIVE and str(shard.peer_id) in cluster.nodes:
            return endpoint_at(cluster, str(shard.peer_id))
    return first  # which explains what is wrong with the shard


def endpoint_at(cluster: Cluster, peer: str) -> Endpoint:
    """Return how to reach one node of the cluster: same key, same TLS settings. Raises: NodeNotRegistered."""
    url = cluster.nodes.get(peer)
    if url is None:
        raise NodeNotRegistered(
            f"The cluster {cluster.name!r} has no REST address for peer {peer}: add it to the cluster's nodes."
        )
    return replace(endpoint_of(cluster), url=url.rstrip("/"))


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
