"""What protects each collection, and what is missing: the coverage page, for programs."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.fields import EnumField, TimeField
from apps.api.schema import operation
from apps.api.v1.lookup import find_cluster
from apps.api.views import ApiView
from apps.core.permissions import Scope
from apps.protection.coverage import Coverage, Gap, read_coverage
from apps.protection.facts import verdict_now
from apps.protection.judge import WORST_FIRST


class CoveringScheduleSerializer(serializers.Serializer[Any]):
    """An enabled schedule that means the collection."""

    id = serializers.CharField(source="schedule_id")
    name = serializers.CharField()
    is_paused = serializers.BooleanField()


class CoverageSerializer(serializers.Serializer[Any]):
    """One collection: who backs it up, what is held of it, and what it lacks."""

    cluster = serializers.CharField()
    cluster_id = serializers.CharField()
    collection_name = serializers.CharField()
    state = EnumField("ProtectionState", [str(state) for state in WORST_FIRST])
    gaps = serializers.ListField(child=EnumField("CoverageGap", [gap.value for gap in Gap]))
    schedules = CoveringScheduleSerializer(many=True)
    last_good_at = TimeField(allow_null=True, help_text="When the data of the newest good backup was read")
    max_age_hours = serializers.FloatField(allow_null=True, help_text="null: a schedule's deadline alone counts")
    expected_by = TimeField(allow_null=True)
    tested_at = TimeField(allow_null=True)
    proven_at = TimeField(allow_null=True)
    storages = serializers.ListField(child=serializers.CharField(), help_text="They hold a good backup of it")
    next_expiry_at = TimeField(allow_null=True, help_text="When retention deletes the next backup of it")


class CoveragePageSerializer(serializers.Serializer[Any]):
    """A page of collections, those without any backup first."""

    items = CoverageSerializer(many=True)
    total = serializers.IntegerField(min_value=0, help_text="Collections on all pages")
    page = serializers.IntegerField(min_value=1)
    limit = serializers.IntegerField(min_value=1, max_value=100)


class CoverageQuery(serializers.Serializer[Any]):
    """Which collections."""

    page = serializers.IntegerField(required=False, min_value=1, default=1)
    limit = serializers.IntegerField(required=False, min_value=1, max_value=100, default=20)
    gap = EnumField("CoverageGap", [gap.value for gap in Gap], required=False)
    cluster = serializers.CharField(required=False, help_text="Name or id")


class CoverageView(ApiView):
    scopes = {"GET": Scope.READ}

    @operation(
        "getCoverage",
        "Every collection with its schedules, backups and storages, and what it lacks",
        tag="protection",
        query=[CoverageQuery],
        answer=CoveragePageSerializer,
    )
    def get(self, request: Request) -> Response:
        query = self.query(CoverageQuery)
        cluster_id = str(find_cluster(query["cluster"]).pk) if "cluster" in query else None
        found = [
            one
            for one in read_coverage(verdict_now(timezone.now()))
            if ("gap" not in query or query["gap"] in one.gaps) and cluster_id in (None, one.standing.facts.cluster_id)
        ]
        page, limit = query["page"], query["limit"]
        items = [_shown(one) for one in found[(page - 1) * limit : page * limit]]
        answer = {"items": items, "total": len(found), "page": page, "limit": limit}
        return Response(CoveragePageSerializer(answer).data)


def _shown(one: Coverage) -> dict[str, Any]:
    facts = one.standing.facts
    return {
        "cluster": facts.cluster,
        "cluster_id": facts.cluster_id,
        "collection_name": facts.name,
        "state": one.standing.state,
        "gaps": [gap.value for gap in one.gaps],
        "schedules": one.schedules,
        "last_good_at": facts.newest.data_at if facts.newest else None,
        "max_age_hours": facts.max_age.total_seconds() / 3600 if facts.max_age else None,
        "expected_by": facts.expected_by,
        "tested_at": facts.tested_at,
        "proven_at": facts.proven_at,
        "storages": one.storages,
        "next_expiry_at": one.expires_at,
    }
