"""Runs: what came of each firing of a schedule."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.fields import EnumField, TimeField
from apps.api.schema import operation
from apps.api.v1.lookup import as_uuid, find_cluster
from apps.api.v1.paging import PageQuery, PageSerializer, read_page
from apps.api.views import ApiView
from apps.core.errors import NotFound
from apps.core.permissions import Scope
from apps.schedules.models import ItemStatus, RunItem, RunStatus, ScheduleRun, Trigger

TAG = "runs"


class RunNotFound(NotFound):
    """There is no run with that id."""


class RunSerializer(serializers.Serializer[Any]):
    """A firing of a schedule, and what came of it. Slots that nothing ran in stand together in one row."""

    id = serializers.CharField()
    schedule_id = serializers.CharField()
    schedule = serializers.CharField(source="schedule.name")
    trigger = EnumField("RunTrigger", list(Trigger.values))
    status = EnumField("RunStatus", list(RunStatus.values))
    slot = TimeField(help_text="By the rule; the last one of a row that stands for several")
    missed_count = serializers.IntegerField(help_text="Slots that this row stands for; 0 for a run of its own")
    missed_from = TimeField(allow_null=True)
    is_catch_up = serializers.BooleanField(help_text="It made up for a slot that had passed")
    matched = serializers.ListField(child=serializers.CharField())
    excluded = serializers.ListField(child=serializers.CharField())
    vanished = serializers.ListField(child=serializers.CharField())
    counts = serializers.DictField(child=serializers.IntegerField(), help_text="Items by status")
    error = serializers.CharField(allow_blank=True)
    created_at = TimeField()
    started_at = TimeField(allow_null=True)
    completed_at = TimeField(allow_null=True)


class RunItemSerializer(serializers.Serializer[Any]):
    """One collection of a run, into one storage."""

    collection_name = serializers.CharField()
    storage = serializers.CharField(source="storage.name")
    status = EnumField("RunItemStatus", list(ItemStatus.values))
    message = serializers.CharField(allow_blank=True)
    job_id = serializers.CharField(allow_null=True)
    blocker_id = serializers.CharField(allow_null=True, help_text="The job that stood in the way")


class RunDetailSerializer(RunSerializer):
    """A run with its items."""

    items = serializers.SerializerMethodField()

    @extend_schema_field(RunItemSerializer(many=True))
    def get_items(self, run: ScheduleRun) -> list[dict[str, Any]]:
        rows = RunItem.objects.filter(run=run).select_related("storage").order_by("collection_name", "storage__name")
        return [dict(RunItemSerializer(row).data) for row in rows]


class RunPageSerializer(PageSerializer):
    """A page of runs."""

    items = RunSerializer(many=True)


class RunQuery(PageQuery):
    """Filters of the list."""

    schedule = serializers.CharField(required=False, help_text="Id")
    cluster = serializers.CharField(required=False, help_text="Name or id")
    status = EnumField("RunStatus", list(RunStatus.values), required=False)


class RunsView(ApiView):
    scopes = {"GET": Scope.READ}

    @operation("listRuns", "Runs of schedules, newest first", tag=TAG, query=[RunQuery], answer=RunPageSerializer)
    def get(self, request: Request) -> Response:
        query = self.query(RunQuery)
        rows = ScheduleRun.objects.select_related("schedule")
        if "schedule" in query:
            rows = rows.filter(schedule=as_uuid(query["schedule"])) if as_uuid(query["schedule"]) else rows.none()
        if "cluster" in query:
            rows = rows.filter(schedule__cluster=find_cluster(query["cluster"]))
        if "status" in query:
            rows = rows.filter(status=query["status"])
        return Response(RunPageSerializer(read_page(rows, query)).data)


class RunView(ApiView):
    scopes = {"GET": Scope.READ}

    @operation("getRun", "One run with its items", tag=TAG, answer=RunDetailSerializer)
    def get(self, request: Request, id: str) -> Response:  # noqa: A002
        run = ScheduleRun.objects.select_related("schedule").filter(pk=self.path_uuid()).first()
        if run is None:
            raise RunNotFound("There is no run with this id.")
        return Response(RunDetailSerializer(run).data)
