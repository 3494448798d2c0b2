"""Orphans: what the reconciler found, and what a person decides about it; and its runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.fields import EnumField, TimeField
from apps.api.permissions import caller
from apps.api.schema import operation
from apps.api.v1.lookup import find_cluster, find_storage
from apps.api.v1.paging import PageQuery, PageSerializer, read_page
from apps.api.views import ApiView
from apps.backups.models import Orphan, OrphanKind, OrphanState, Reconciliation, ReconciliationStatus
from apps.core.errors import NotFound
from apps.core.permissions import Scope
from apps.jobs import orphans
from apps.jobs.reconciling import ask_for_run

TAG = "orphans"


class ReconciliationNotFound(NotFound):
    """There is no reconciliation with that id."""


def _kind(**options: Any) -> EnumField:
    return EnumField("OrphanKind", list(OrphanKind.values), **options)


def _state(**options: Any) -> EnumField:
    return EnumField("OrphanState", list(OrphanState.values), **options)


class OrphanSerializer(serializers.Serializer[Any]):
    """Something that belongs to no backup and no job, or a backup whose files are gone or changed."""

    id = serializers.CharField()
    kind = _kind()
    state = _state()
    cluster = serializers.CharField(source="cluster.name", default=None, allow_null=True)
    storage = serializers.CharField(source="storage.name", default=None, allow_null=True)
    node = serializers.CharField(source="node_url", allow_blank=True, help_text="Address of the node it lies on")
    name = serializers.CharField(help_text="Folder or key in the storage; name of the snapshot on the node")
    collection_name = serializers.CharField(allow_blank=True)
    shard_id = serializers.IntegerField(allow_null=True)
    job_id = serializers.CharField(allow_null=True, help_text="The job that made it, as far as is known")
    backup_id = serializers.CharField(allow_null=True)
    size_bytes = serializers.IntegerField(allow_null=True)
    is_ours = serializers.BooleanField(help_text="Whether there is proof of that; only then it is removed by itself")
    reason = serializers.CharField()
    first_seen_at = TimeField(source="created_at")
    last_seen_at = TimeField()
    ended_at = TimeField(allow_null=True)


class OrphanPageSerializer(PageSerializer):
    """A page of orphans."""

    items = OrphanSerializer(many=True)


class OrphanQuery(PageQuery):
    """Filters of the list."""

    kind = _kind(required=False)
    state = _state(required=False)
    cluster = serializers.CharField(required=False, help_text="Name or id")
    storage = serializers.CharField(required=False, help_text="Id or name")


class OrphansView(ApiView):
    scopes = {"GET": Scope.READ}

    @operation(
        "listOrphans", "What was left behind or got lost", tag=TAG, query=[OrphanQuery], answer=OrphanPageSerializer
    )
    def get(self, request: Request) -> Response:
        query = self.query(OrphanQuery)
        rows = Orphan.objects.select_related("cluster", "storage")
        for name in ("kind", "state"):
            if name in query:
                rows = rows.filter(**{name: query[name]})
        if "cluster" in query:
            rows = rows.filter(cluster=find_cluster(query["cluster"]))
        if "storage" in query:
            rows = rows.filter(storage=find_storage(query["storage"]))
        return Response(OrphanPageSerializer(read_page(rows, query)).data)


class OrphanView(ApiView):
    scopes = {"GET": Scope.READ}

    @operation("getOrphan", "One orphan", tag=TAG, answer=OrphanSerializer)
    def get(self, request: Request, id: str) -> Response:  # noqa: A002
        return Response(OrphanSerializer(orphans.find_orphan(self.path_uuid())).data)


class _Decision(ApiView):
    scopes = {"POST": Scope.ADMINISTER}
    reaches_qdrant = True

    def decide(self, request: Request, service: Callable[..., Orphan]) -> Response:
        decided = service(orphan_id=self.path_uuid(), now=timezone.now(), user=caller(request))
        return Response(OrphanSerializer(decided).data)


class OrphanAdoptView(_Decision):
    @operation("adoptOrphan", "Enter a found backup into the catalogue", tag=TAG, answer=OrphanSerializer)
    def post(self, request: Request, id: str) -> Response:  # noqa: A002
        return self.decide(request, orphans.adopt_orphan)


class OrphanDismissView(_Decision):
    @operation("dismissOrphan", "Leave it, and do not bring it up again", tag=TAG, answer=OrphanSerializer)
    def post(self, request: Request, id: str) -> Response:  # noqa: A002
        return self.decide(request, orphans.dismiss_orphan)


class OrphanDeleteView(_Decision):
    @operation("deleteOrphan", "Remove it for good; open while that is not done yet", tag=TAG, answer=OrphanSerializer)
    def post(self, request: Request, id: str) -> Response:  # noqa: A002
        return self.decide(request, orphans.delete_orphan)


class PlaceSerializer(serializers.Serializer[Any]):
    """What came of looking at one storage or cluster."""

    kind = EnumField("PlaceKind", ["storage", "cluster"])
    id = serializers.CharField()
    name = serializers.CharField()
    error = serializers.CharField(allow_blank=True, help_text="Why it could not be looked at, or not everywhere")
    looked_at = serializers.IntegerField(help_text="Folders, or collections of nodes")
    orphans = serializers.IntegerField()
    cleaned = serializers.IntegerField()


class ReconciliationSerializer(serializers.Serializer[Any]):
    """One look at all storages and clusters."""

    id = serializers.CharField()
    status = EnumField("ReconciliationStatus", list(ReconciliationStatus.values))
    trigger = EnumField("ReconciliationTrigger", ["schedule", "command", "request"])
    places = PlaceSerializer(many=True)
    found = serializers.IntegerField()
    cleaned = serializers.IntegerField()
    error = serializers.SerializerMethodField()
    created_at = TimeField()
    started_at = TimeField(allow_null=True)
    completed_at = TimeField(allow_null=True)

    def get_error(self, row: Reconciliation) -> str | None:
        return row.error or None


class ReconciliationPageSerializer(PageSerializer):
    """A page of reconciliations."""

    items = ReconciliationSerializer(many=True)


class ReconciliationsView(ApiView):
    scopes = {"GET": Scope.READ, "POST": Scope.OPERATE}

    @operation(
        "listReconciliations",
        "Looks at storages and clusters, newest first; kept for 90 days",
        tag=TAG,
        query=[PageQuery],
        answer=ReconciliationPageSerializer,
    )
    def get(self, request: Request) -> Response:
        return Response(
            ReconciliationPageSerializer(read_page(Reconciliation.objects.all(), self.query(PageQuery))).data
        )

    @operation("createReconciliation", "Have a worker look soon", tag=TAG, answer=ReconciliationSerializer)
    def post(self, request: Request) -> Response:
        return Response(ReconciliationSerializer(ask_for_run(now=timezone.now(), user=caller(request))).data)


class ReconciliationView(ApiView):
    scopes = {"GET": Scope.READ}

    @operation("getReconciliation", "What came of a look", tag=TAG, answer=ReconciliationSerializer)
    def get(self, request: Request, id: str) -> Response:  # noqa: A002
        found = Reconciliation.objects.filter(pk=self.path_uuid()).first()
        if found is None:
            raise ReconciliationNotFound("There is no reconciliation with this id; they are kept for 90 days.")
        return Response(ReconciliationSerializer(found).data)
