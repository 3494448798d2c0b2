"""Left-overs: what has to go and is not gone yet."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.fields import EnumField, TimeField
from apps.api.schema import WHETHER, operation
from apps.api.v1.paging import PageQuery, PageSerializer, read_page
from apps.api.views import ApiView
from apps.backups.leftovers import describe_leftover
from apps.backups.models import Leftover, LeftoverKind
from apps.core.errors import NotFound
from apps.core.permissions import Scope
from apps.jobs.cleaning import retry_leftover

TAG = "leftovers"


class LeftoverNotFound(NotFound):
    """There is no left-over with that id (any more)."""


class LeftoverSerializer(serializers.Serializer[Any]):
    """Something of ours that has to go; it is tried again, with growing pauses, until it is gone."""

    id = serializers.CharField()
    kind = EnumField("LeftoverKind", list(LeftoverKind.values))
    subject = serializers.SerializerMethodField(help_text="What it is, in words")
    cluster = serializers.CharField(source="cluster.name", default=None, allow_null=True)
    storage = serializers.CharField(source="storage.name", default=None, allow_null=True)
    backup_id = serializers.CharField(allow_null=True, help_text="The backup that is being deleted")
    job_id = serializers.CharField(allow_null=True, help_text="The job that made it")
    reason = serializers.CharField(allow_blank=True, help_text="Why it has to go, when somebody said")
    tries = serializers.IntegerField()
    last_error = serializers.SerializerMethodField()
    created_at = TimeField()
    next_try_at = TimeField()

    def get_subject(self, row: Leftover) -> str:
        return describe_leftover(row)

    def get_last_error(self, row: Leftover) -> str | None:
        return row.last_error or None


class LeftoverPageSerializer(PageSerializer):
    """A page of left-overs."""

    items = LeftoverSerializer(many=True)


class LeftoverQuery(PageQuery):
    """Filters of the list."""

    kind = EnumField("LeftoverKind", list(LeftoverKind.values), required=False)


class LeftoversView(ApiView):
    scopes = {"GET": Scope.READ}

    @operation(
        "listLeftovers",
        "What has to go and is not gone yet, newest first",
        tag=TAG,
        query=[LeftoverQuery],
        answer=LeftoverPageSerializer,
    )
    def get(self, request: Request) -> Response:
        query = self.query(LeftoverQuery)
        rows = Leftover.objects.select_related("cluster", "storage")
        if "kind" in query:
            rows = rows.filter(kind=query["kind"])
        return Response(LeftoverPageSerializer(read_page(rows, query)).data)


class LeftoverView(ApiView):
    scopes = {"GET": Scope.READ}

    @operation("getLeftover", "A left-over; 404 once it is gone", tag=TAG, answer=LeftoverSerializer)
    def get(self, request: Request, id: str) -> Response:  # noqa: A002
        found = Leftover.objects.select_related("cluster", "storage").filter(pk=self.path_uuid()).first()
        if found is None:
            raise LeftoverNotFound("There is no left-over with this id (any more): what it stood for is gone.")
        return Response(LeftoverSerializer(found).data)


class LeftoverRetryView(ApiView):
    scopes = {"POST": Scope.OPERATE}
    reaches_qdrant = True

    @operation("retryLeftover", "Try now to remove it; false when it is still there", tag=TAG, answer=WHETHER)
    def post(self, request: Request, id: str) -> Response:  # noqa: A002
        return Response(retry_leftover(leftover_id=self.path_uuid(), now=timezone.now()))
