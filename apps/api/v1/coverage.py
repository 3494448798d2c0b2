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
from apps.protection.coverage import ORPHANED, Coverage, Gap, Orphaned, read_coverage, read_orphaned
from apps.protection.facts import verdict_now
from apps.protection.judge import WORST_FIRST

_GAPS = [*(gap.value for gap in Gap), ORPHANED]


class CoveringScheduleSerializer(serializers.Serializer[Any]):
    """An enabled schedule that means the collection."""

    id = serializers.CharField(source="schedule_id")
    name = serializers.CharField()
    is_paused = serializers.BooleanField()


class CoverageSerializer(serializers.Serializer[Any]):
    """One collection: who backs it up, what is held of it, and what it lacks; or an orphaned one, on no cluster."""

    cluster = serializers.CharField()
    cluster_id = serializers.CharField(allow_null=True, help_text="null: the cluster is gone as well")
    collection_name = serializers.CharField()
    state = EnumField(
        "ProtectionState", [str(state) for state in WORST_FIRST], allow_null=True, help_text="null: it is orphaned"
    )
    gaps = serializers.ListField(child=EnumField("CoverageGap", _GAPS))
    gone_at = TimeField(allow_null=True, help_text="Orphaned ones: since when it is not on its cluster, if known")
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
    gap = EnumField(
        "CoverageGap", _GAPS, required=False,
        help_text="orphaned: collections that are gone from their cluster while backups of them stay; listed only so",
    )  # fmt: skip
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
        now, page, limit = timezone.now(), query["page"], query["limit"]
        verdict, here = verdict_now(now), slice((page - 1) * limit, page * limit)
        found: list[Any]
        if query.get("gap") == ORPHANED:
            found = [one for one in read_orphaned(verdict) if cluster_id in (None, str(one.cluster_id))]
            items = [_left(one) for one in found[here]]
        else:
            found = [
                one
                for one in read_coverage(verdict, now)
                if ("gap" not in query or query["gap"] in one.gaps)
                and cluster_id in (None, one.standing.facts.cluster_id)
            ]
            items = [_shown(one) for one in found[here]]
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
        "gone_at": None,
        "schedules": one.schedules,
        "last_good_at": facts.newest.data_at if facts.newest else None,
        "max_age_hours": facts.max_age.total_seconds() / 3600 if facts.max_age else None,
        "expected_by": facts.expected_by,
        "tested_at": facts.tested_at,
        "proven_at": facts.proven_at,
        "storages": one.storages,
        "next_expiry_at": one.expires_at,
    }


def _left(one: Orphaned) -> dict[str, Any]:
    return {
        "cluster": one.cluster,
        "cluster_id": one.cluster_id,
        "collection_name": one.name,
        "state": None,
        "gaps": [ORPHANED],
        "gone_at": one.gone_at,
        "schedules": [],
        "last_good_at": one.last_good_at,
        "max_age_hours": None,
        "expected_by": None,
        "tested_at": one.tested_at,
        "proven_at": one.proven_at,
        "storages": one.storages,
        "next_expiry_at": one.expires_at,
    }
