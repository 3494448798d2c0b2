"""Snapshots on the node, of collections and of shards: a thin, faithful pass-through."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from django.http import HttpResponseBase
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.envelope import AnyAccept, warned
from apps.api.exceptions import API_PREFIX
from apps.api.fields import EnumField, PeerIdField, TextField
from apps.api.permissions import caller
from apps.api.schema import TRUE, operation
from apps.api.v1.download import download
from apps.api.v1.everywhere import SnapshotNotSeen, find_everywhere, inactive_replicas, list_everywhere
from apps.api.v1.locations import resolve
from apps.api.v1.passthrough import (
    ChosenNode,
    NodeQuery,
    QdrantView,
    WaitQuery,
    ask_nodes,
    endpoint_of,
    node_at,
    passed_on,
    unregistered_peers,
)
from apps.api.v1.recovery import recover
from apps.clusters.models import Purpose
from apps.clusters.qdrant import (
    QdrantNode,
    SnapshotDescription,
    SnapshotNotFound,
    check_snapshot_possible,
    create_snapshot,
)
from apps.core.abort import Abort
from apps.core.errors import Unprocessable
from apps.core.permissions import Scope
from apps.jobs.operations import NodeOperation, OperationKind, start_operation

TAG = "snapshots"
SHARD_TAG = "shard snapshots"
_SHARD_ID: dict[str, Any] = {"type": "integer", "minimum": 0}
_DELETE_SECONDS = 120


class SnapshotDescriptionSerializer(serializers.Serializer[Any]):
    """A snapshot file on a node."""

    name = serializers.CharField()
    creation_time = serializers.DateTimeField(allow_null=True)
    size = serializers.IntegerField(help_text="bytes")
    checksum = serializers.CharField(allow_null=True, help_text="SHA-256, lower-case hex")
    peer_id = PeerIdField(
        allow_null=True, default=None, help_text="The node it lies on, for ?node=; null on a standalone node"
    )


class SnapshotRecoverSerializer(serializers.Serializer[Any]):
    """Where to recover from, and which side wins when replicas differ."""

    location = TextField(
        max_length=4000,
        help_text="http://, https://, file:// (on the node), or s3://storage/key of a configured storage",
    )
    priority = EnumField("RecoverPriority", ["replica", "snapshot", "no_sync"], required=False, default="snapshot")
    api_key = TextField(required=False, write_only=True, max_length=2000, help_text="Sent to the source, nowhere else")
    checksum = TextField(required=False, help_text="SHA-256 of the file in hex; the node compares it first")

    def validate_checksum(self, checksum: str) -> str:
        if not re.fullmatch(r"[0-9a-fA-F]{64}", checksum):
            raise Unprocessable("checksum: a SHA-256 has 64 hex digits.")
        return checksum.lower()


class AcceptedSerializer(serializers.Serializer[Any]):
    """Where to look for the outcome: GET /operations/{operation_id}, which the header Location names too."""

    operation_id = serializers.CharField()


class _TrackingView(QdrantView):
    """Base of what `wait=false` leaves to a worker."""

    def accept(
        self, kind: OperationKind, *, snapshot_name: str = "", body: str = "", peer_id: int | None = None
    ) -> Response:
        """Leave the work to a worker, and answer where to look for its outcome; `peer_id` is the node it is for."""
        asked = NodeOperation(
            kind=kind,
            cluster=self.cluster(),
            node=(self.named_node or "") if peer_id is None else str(peer_id),
            collection_name=self.collection,
            shard_id=self.shard_id,
            snapshot_name=snapshot_name,
            body=body,
        )
        started = start_operation(operation=asked, now=timezone.now(), user=caller(self.request))
        where = f"{API_PREFIX}/operations/{started.pk}"
        return Response({"operation_id": str(started.pk)}, status=202, headers={"Location": where})


class _SnapshotsView(_TrackingView):
    """List and create; with and without a shard."""

    scopes = {"GET": Scope.READ, "POST": Scope.OPERATE}

    def list(self) -> Response:
        cluster = self.cluster()
        with passed_on():
            if self.named_node is not None:
                chosen = node_at(ask_nodes(cluster), self.named_node)
                with QdrantNode(chosen.endpoint) as node:
                    found = node.snapshots(self.collection, self.shard_id)
                return Response([shown_snapshot(each, chosen.peer_id) for each in found])
            if len(cluster.addresses) > 1:
                listing = list_everywhere(ask_nodes(cluster), self.collection, self.shard_id)
                shown = [shown_snapshot(one.snapshot, one.peer_id) for one in listing.found]
                return warned(Response(shown), listing.warnings)
            with QdrantNode(endpoint_of(cluster)) as node:
                found = node.snapshots(self.collection, self.shard_id)
                own, others = unregistered_peers(node)
        shown = [shown_snapshot(each, own) for each in found]
        return warned(Response(shown), [f"{unregistered(peer)} Its snapshots are not listed." for peer in others])

    def create(self) -> Response:
        wait = self.query(WaitQuery)["wait"]
        try:
            check_snapshot_possible(self.collection)
        except ValueError as error:
            raise Unprocessable(str(error)) from error
        with passed_on():
            chosen = self.chosen_node()
            if wait:
                doubts = inactive_replicas(chosen.endpoint, self.collection, self.shard_id)
                made = create_snapshot(chosen.endpoint, self.collection, self.shard_id, Abort())
                return warned(Response(shown_snapshot(made, chosen.peer_id)), [*self._part_only(chosen), *doubts])
            with QdrantNode(chosen.endpoint) as node:
                node.snapshots(self.collection, self.shard_id)  # what does not exist is said at once
        return self.accept(OperationKind.CREATE, peer_id=chosen.peer_id)

    def _part_only(self, chosen: ChosenNode) -> tuple[str, ...]:
        """Say that a snapshot of a collection is one of a single node's part of it, where that is so."""
        if chosen.peer_id is None or self.shard_id is not None or self.named_node is not None:
            return ()
        return (
            f"This snapshot holds only the shards that peer {chosen.peer_id} has a replica of; a backup job takes all.",
        )


class _SnapshotView(_TrackingView):
    """Download and delete; with and without a shard."""

    scopes = {"GET": Scope.READ, "DELETE": Scope.OPERATE}
    # What lies in a snapshot is the data itself.
    allow_anonymous: ClassVar[bool] = False
    content_negotiation_class = AnyAccept

    def stream(self, request: Request) -> HttpResponseBase:
        path = f"{_path(self)}/{QdrantView.quoted(self.snapshot_name)}"
        with passed_on(), self._honestly():
            return download(self._holder().endpoint, path, self.snapshot_name, request)

    def remove(self) -> Response:
        wait = self.query(WaitQuery)["wait"]
        name = self.snapshot_name
        with passed_on(), self._honestly():
            holder = self._holder()
            with QdrantNode(holder.endpoint) as node:
                # For what is not there, the node's own refusal is the answer, whatever `wait` says.
                if not wait and any(each.name == name for each in node.snapshots(self.collection, self.shard_id)):
                    return self.accept(OperationKind.DELETE, snapshot_name=name, peer_id=holder.peer_id)
                path = f"{_path(self)}/{QdrantView.quoted(name)}"
                node.call("DELETE", path, params={"wait": "true"}, timeout_seconds=_DELETE_SECONDS)
        return Response(True)

    @contextmanager
    def _honestly(self) -> Iterator[None]:
        """Where nodes exist that have no address here, "not found" is more than anybody knows."""
        try:
            yield
        except SnapshotNotFound as error:
            cluster = self.cluster()
            if self.named_node is None and len(cluster.addresses) == 1:
                with QdrantNode(endpoint_of(cluster)) as node:
                    others = unregistered_peers(node)[1]
                if others:
                    raise SnapshotNotSeen(
                        f"The node at {cluster.url} has no such snapshot. {unregistered(others[0])} It may have it."
                    ) from error
            raise

    def _holder(self) -> ChosenNode:
        """Return the node that has the snapshot; the first node when none has, for it says so. Raises: as below."""
        cluster = self.cluster()
        if self.named_node is None and len(cluster.addresses) > 1:
            nodes = ask_nodes(cluster)
            found = find_everywhere(nodes, self.collection, self.shard_id, self.snapshot_name)
            if found is not None:
                return ChosenNode(found.peer_id, found.endpoint)
        return self.chosen_node()


class _RecoverView(_TrackingView):
    """Recover; with and without a shard."""

    scopes = {"POST": Scope.RESTORE}

    def recover(self) -> Response:
        wait = self.query(WaitQuery)["wait"]
        data = self.body(SnapshotRecoverSerializer)
        source = resolve(data["location"])
        with passed_on():
            chosen = self.chosen_node(Purpose.RESTORE)
        if not wait:
            return self.accept(OperationKind.RECOVER, body=json.dumps(data), peer_id=chosen.peer_id)
        recover(chosen.endpoint, self.collection, self.shard_id, source, data)
        return Response(True)


_ACCEPTED: dict[Any, Any] = {
    202: OpenApiResponse(AcceptedSerializer, description="A worker does it; Location names where its outcome stands")
}
_FILE = OpenApiResponse(OpenApiTypes.BINARY, description="The snapshot file, with Content-Length and ETag")
_PART_OF_FILE = OpenApiResponse(OpenApiTypes.BINARY, description="The range that was asked for")
_UNCHANGED = OpenApiResponse(description="The file is the one that If-None-Match names")
_DOWNLOAD: dict[Any, Any] = {
    (200, "application/octet-stream"): _FILE,
    (206, "application/octet-stream"): _PART_OF_FILE,
    304: _UNCHANGED,
}
_SHARD: dict[str, Any] = {"tag": SHARD_TAG, "path": {"shardId": _SHARD_ID}}


class SnapshotsView(_SnapshotsView):
    @operation(
        "listSnapshots",
        "Snapshots of a collection on all nodes; `warnings` names those that could not be asked",
        tag=TAG,
        query=[NodeQuery],
        answer=SnapshotDescriptionSerializer(many=True),
    )
    def get(self, request: Request, name: str) -> Response:
        return self.list()

    @operation(
        "createSnapshot",
        "Make a snapshot of a collection on the node",
        tag=TAG,
        query=[WaitQuery],
        answer=SnapshotDescriptionSerializer,
        also=_ACCEPTED,
    )
    def post(self, request: Request, name: str) -> Response:
        return self.create()


class SnapshotView(_SnapshotView):
    @operation("downloadSnapshot", "Download a snapshot", tag=TAG, query=[NodeQuery], also=_DOWNLOAD)
    def get(self, request: Request, name: str, snapshotName: str) -> HttpResponseBase:
        return self.stream(request)

    @operation("deleteSnapshot", "Delete a snapshot", tag=TAG, query=[WaitQuery], answer=TRUE, also=_ACCEPTED)
    def delete(self, request: Request, name: str, snapshotName: str) -> Response:
        return self.remove()


class RecoverView(_RecoverView):
    @operation(
        "recoverSnapshot",
        "Recover a collection from a snapshot",
        tag=TAG,
        query=[WaitQuery],
        body=SnapshotRecoverSerializer,
        answer=TRUE,
        also=_ACCEPTED,
    )
    def post(self, request: Request, name: str) -> Response:
        return self.recover()


class ShardSnapshotsView(_SnapshotsView):
    @operation(
        "listShardSnapshots",
        "Snapshots of a shard on all nodes; `warnings` names those that could not be asked",
        query=[NodeQuery],
        answer=SnapshotDescriptionSerializer(many=True),
        **_SHARD,
    )
    def get(self, request: Request, name: str, shardId: str) -> Response:
        return self.list()

    @operation(
        "createShardSnapshot",
        "Make a snapshot of a shard on the node",
        query=[WaitQuery],
        answer=SnapshotDescriptionSerializer,
        also=_ACCEPTED,
        **_SHARD,
    )
    def post(self, request: Request, name: str, shardId: str) -> Response:
        return self.create()


class ShardSnapshotView(_SnapshotView):
    @operation("downloadShardSnapshot", "Download a snapshot", query=[NodeQuery], also=_DOWNLOAD, **_SHARD)
    def get(self, request: Request, name: str, shardId: str, snapshotName: str) -> HttpResponseBase:
        return self.stream(request)

    @operation("deleteShardSnapshot", "Delete a snapshot", query=[WaitQuery], answer=TRUE, also=_ACCEPTED, **_SHARD)
    def delete(self, request: Request, name: str, shardId: str, snapshotName: str) -> Response:
        return self.remove()


class ShardRecoverView(_RecoverView):
    @operation(
        "recoverShardSnapshot",
        "Recover a shard from a snapshot",
        query=[WaitQuery],
        body=SnapshotRecoverSerializer,
        answer=TRUE,
        also=_ACCEPTED,
        **_SHARD,
    )
    def post(self, request: Request, name: str, shardId: str) -> Response:
        return self.recover()


def _path(view: QdrantView) -> str:
    """Return Qdrant's path of the list of snapshots that the view is about."""
    shard = "" if view.shard_id is None else f"shards/{view.shard_id}/"
    return view.collection_path(view.collection, f"{shard}snapshots")


def unregistered(peer: int) -> str:
    return f"Peer {peer} of the cluster has no address here: add it to the cluster."


def shown_snapshot(snapshot: SnapshotDescription, peer_id: int | None) -> dict[str, Any]:
    """Return a snapshot as the contract describes it."""
    created = snapshot.creation_time
    # Qdrant writes UTC without saying so.
    if created is not None and not re.search(r"(Z|[+-]\d\d:?\d\d)$", created):
        created = f"{created}Z"
    return {
        "name": snapshot.name,
        "creation_time": created,
        "size": snapshot.size_bytes,
        "checksum": snapshot.checksum,
        "peer_id": peer_id,
    }
