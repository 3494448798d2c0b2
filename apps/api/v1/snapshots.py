"""Snapshots on the node, of collections and of shards: a thin, faithful pass-through."""

from __future__ import annotations

import json
import re
from typing import Any, ClassVar

from django.http import HttpResponseBase
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.envelope import AnyAccept
from apps.api.exceptions import API_PREFIX
from apps.api.fields import EnumField, TextField
from apps.api.permissions import caller
from apps.api.schema import TRUE, operation
from apps.api.v1.download import download
from apps.api.v1.locations import resolve
from apps.api.v1.passthrough import NodeQuery, QdrantView, WaitQuery, passed_on
from apps.api.v1.recovery import recover
from apps.clusters.qdrant import SnapshotDescription, check_snapshot_possible, create_snapshot
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

    def accept(self, kind: OperationKind, *, snapshot_name: str = "", body: str = "") -> Response:
        """Leave the work to a worker, and answer where to look for its outcome."""
        asked = NodeOperation(
            kind=kind,
            cluster=self.cluster(),
            node=self.query(NodeQuery).get("node", ""),
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
        with self.snapshot_node() as node:
            return Response([shown_snapshot(each) for each in node.snapshots(self.collection, self.shard_id)])

    def create(self) -> Response:
        wait = self.query(WaitQuery)["wait"]
        try:
            check_snapshot_possible(self.collection)
        except ValueError as error:
            raise Unprocessable(str(error)) from error
        with self.snapshot_node() as node:
            if wait:
                made = create_snapshot(node.endpoint, self.collection, self.shard_id, Abort())
                return Response(shown_snapshot(made))
            node.snapshots(self.collection, self.shard_id)  # what does not exist is said at once
        return self.accept(OperationKind.CREATE)


class _SnapshotView(_TrackingView):
    """Download and delete; with and without a shard."""

    scopes = {"GET": Scope.READ, "DELETE": Scope.OPERATE}
    # What lies in a snapshot is the data itself.
    allow_anonymous: ClassVar[bool] = False
    content_negotiation_class = AnyAccept

    def stream(self, request: Request) -> HttpResponseBase:
        path = f"{_path(self)}/{QdrantView.quoted(self.snapshot_name)}"
        with passed_on():
            return download(self.snapshot_endpoint(), path, self.snapshot_name, request)

    def remove(self) -> Response:
        wait = self.query(WaitQuery)["wait"]
        name = self.snapshot_name
        with self.snapshot_node() as node:
            # For what is not there, the node's own refusal is the answer, whatever `wait` says.
            if not wait and any(each.name == name for each in node.snapshots(self.collection, self.shard_id)):
                return self.accept(OperationKind.DELETE, snapshot_name=name)
            path = f"{_path(self)}/{QdrantView.quoted(name)}"
            node.call("DELETE", path, params={"wait": "true"}, timeout_seconds=_DELETE_SECONDS)
        return Response(True)


class _RecoverView(_TrackingView):
    """Recover; with and without a shard."""

    scopes = {"POST": Scope.RESTORE}

    def recover(self) -> Response:
        wait = self.query(WaitQuery)["wait"]
        data = self.body(SnapshotRecoverSerializer)
        source = resolve(data["location"])
        with passed_on():
            endpoint = self.snapshot_endpoint()
        if not wait:
            return self.accept(OperationKind.RECOVER, body=json.dumps(data))
        recover(endpoint, self.collection, self.shard_id, source, data)
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
        "Snapshots of a collection on the node",
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
        "Snapshots of a shard on the node",
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


def shown_snapshot(snapshot: SnapshotDescription) -> dict[str, Any]:
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
    }
