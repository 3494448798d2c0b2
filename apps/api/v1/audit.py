"""The audit trail: who did what, when, from where, to which object."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.fields import EnumField, TimeField
from apps.api.schema import operation
from apps.api.v1.paging import PageQuery, PageSerializer, read_page
from apps.api.views import ApiView
from apps.audit.models import AuditEntry, Outcome, Via
from apps.core.permissions import Scope

TAG = "audit"


class AuditQuery(PageQuery):
    """Which entries."""

    actor = serializers.CharField(required=False, help_text="User name")
    action = serializers.CharField(required=False, help_text="For example job.create")
    object_type = serializers.CharField(required=False, help_text="For example job, backup, cluster")
    object_id = serializers.CharField(required=False)
    via = EnumField("AuditVia", list(Via.values), required=False)
    outcome = EnumField("AuditOutcome", list(Outcome.values), required=False)


class AuditEntrySerializer(serializers.Serializer[Any]):
    """One thing that somebody did, or was refused."""

    id = serializers.IntegerField()
    at = TimeField(source="created_at")
    via = EnumField("AuditVia", list(Via.values))
    outcome = EnumField("AuditOutcome", list(Outcome.values))
    actor = serializers.CharField(help_text="User name; empty for the system")
    token = serializers.CharField(help_text="Name and beginning of the API token; empty without one")
    address = serializers.CharField(help_text="IP address the request came from")
    action = serializers.CharField()
    summary = serializers.CharField()
    object_type = serializers.CharField()
    object_id = serializers.CharField()
    object_name = serializers.CharField()


class AuditPageSerializer(PageSerializer):
    """A page of entries."""

    items = AuditEntrySerializer(many=True)


class AuditView(ApiView):
    scopes = {"GET": Scope.ADMINISTER}

    @operation(
        "listAuditEntries", "Who did what, newest first", tag=TAG, query=[AuditQuery], answer=AuditPageSerializer
    )
    def get(self, request: Request) -> Response:
        query = self.query(AuditQuery)
        asked = ("actor", "action", "object_type", "object_id", "via", "outcome")
        wanted = {name: query[name] for name in asked if name in query}
        return Response(AuditPageSerializer(read_page(AuditEntry.objects.filter(**wanted), query)).data)
