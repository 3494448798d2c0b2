"""What became of requests with `wait=false`."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.fields import EnumField, TimeField
from apps.api.schema import operation
from apps.api.v1.paging import PageQuery, PageSerializer, read_page
from apps.api.v1.snapshots import SnapshotDescriptionSerializer
from apps.api.views import ApiView
from apps.core.errors import NotFound
from apps.core.permissions import Scope
from apps.jobs.operations import NodeOperation, OperationKind, OperationStatus

TAG = "operations"


class OperationNotFound(NotFound):
    """There is no operation with that id."""


class OperationSerializer(serializers.Serializer[Any]):
    """A call to a node that nobody waited for, and what came of it."""

    id = serializers.CharField()
    kind = EnumField("OperationKind", list(OperationKind.values))
    status = EnumField("OperationStatus", list(OperationStatus.values))
    cluster = serializers.CharField(source="cluster.name")
    node = serializers.SerializerMethodField(help_text="Peer id, when the request named one")
    collection_name = serializers.CharField()
    shard_id = serializers.IntegerField(allow_null=True)
    snapshot_name = serializers.SerializerMethodField()
    snapshot = SnapshotDescriptionSerializer(source="result", allow_null=True, help_text="What was made")
    error = serializers.SerializerMethodField()
    created_at = TimeField()
    started_at = TimeField(allow_null=True)
    completed_at = TimeField(allow_null=True)

    def get_node(self, row: NodeOperation) -> str | None:
        return row.node or None

    def get_snapshot_name(self, row: NodeOperation) -> str | None:
        return row.snapshot_name or None

    def get_error(self, row: NodeOperation) -> str | None:
        return row.error or None


class OperationPageSerializer(PageSerializer):
    """A page of operations."""

    items = OperationSerializer(many=True)


class OperationsView(ApiView):
    scopes = {"GET": Scope.READ}

    @operation(
        "listOperations",
        "What wait=false asked for, newest first; kept for 30 days",
        tag=TAG,
        query=[PageQuery],
        answer=OperationPageSerializer,
    )
    def get(self, request: Request) -> Response:
        rows = NodeOperation.objects.select_related("cluster").defer("body")
        return Response(OperationPageSerializer(read_page(rows, self.query(PageQuery))).data)


class OperationView(ApiView):
    scopes = {"GET": Scope.READ}

    @operation("getOperation", "What became of a request with wait=false", tag=TAG, answer=OperationSerializer)
    def get(self, request: Request, id: str) -> Response:  # noqa: A002
        found = NodeOperation.objects.select_related("cluster").defer("body").filter(pk=self.path_uuid()).first()
        if found is None:
            raise OperationNotFound("There is no operation with this id; they are kept for 30 days.")
        return Response(OperationSerializer(found).data)
