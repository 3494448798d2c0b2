"""How well everything is protected: the verdict of the overview, for programs."""

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
from apps.protection.facts import verdict_now
from apps.protection.judge import WORST_FIRST, Standing, State

TAG = "protection"


class ProtectionCountSerializer(serializers.Serializer[Any]):
    """How many collections are in a state."""

    state = EnumField("ProtectionState", [str(state) for state in WORST_FIRST])
    collections = serializers.IntegerField(min_value=0)


class ProtectedCollectionSerializer(serializers.Serializer[Any]):
    """How one collection is protected, and why."""

    cluster = serializers.CharField()
    cluster_id = serializers.CharField()
    collection_name = serializers.CharField()
    state = EnumField("ProtectionState", [str(state) for state in WORST_FIRST])
    sentence = serializers.CharField(help_text="Why, in words")
    backup_id = serializers.CharField(allow_null=True, help_text="The newest good backup of the whole collection")
    backup_data_at = TimeField(allow_null=True, help_text="When the data of that backup was read")
    expected_by = TimeField(allow_null=True, help_text="When the next backup has to be there; null when none has to")
    tested_at = TimeField(allow_null=True, help_text="When a backup of it was last checked")
    proven_at = TimeField(allow_null=True, help_text="When a restore of it was last proved equal")
    points_count = serializers.IntegerField(allow_null=True, help_text="Qdrant's estimate when it was last asked")


class ProtectionSerializer(serializers.Serializer[Any]):
    """The verdict, and a page of collections, the worst first."""

    state = EnumField("OverallState", [str(state) for state in State])
    sentence = serializers.CharField()
    more = serializers.CharField(allow_blank=True)
    counts = ProtectionCountSerializer(many=True)
    items = ProtectedCollectionSerializer(many=True)
    total = serializers.IntegerField(min_value=0, help_text="Collections on all pages")
    page = serializers.IntegerField(min_value=1)
    limit = serializers.IntegerField(min_value=1, max_value=100)


class ProtectionQuery(serializers.Serializer[Any]):
    """Which collections to list; the verdict is about all of them in any case."""

    page = serializers.IntegerField(required=False, min_value=1, default=1)
    limit = serializers.IntegerField(required=False, min_value=1, max_value=100, default=20)
    state = EnumField("ProtectionState", [str(state) for state in WORST_FIRST], required=False)
    cluster = serializers.CharField(required=False, help_text="Name or id")


class ProtectionView(ApiView):
    scopes = {"GET": Scope.READ}

    @operation(
        "getProtection",
        "Whether every collection is safe, and how each stands",
        tag=TAG,
        query=[ProtectionQuery],
        answer=ProtectionSerializer,
    )
    def get(self, request: Request) -> Response:
        query = self.query(ProtectionQuery)
        cluster_id = str(find_cluster(query["cluster"]).pk) if "cluster" in query else None
        verdict = verdict_now(timezone.now())
        found = [
            standing
            for standing in verdict.standings
            if query.get("state") in (None, standing.state) and cluster_id in (None, standing.facts.cluster_id)
        ]
        page, limit = query["page"], query["limit"]
        answer = {
            "state": verdict.state,
            "sentence": verdict.sentence,
            "more": verdict.more,
            "counts": [{"state": state, "collections": verdict.counts.get(state, 0)} for state in WORST_FIRST],
            "items": [_shown(standing) for standing in found[(page - 1) * limit : page * limit]],
            "total": len(found),
            "page": page,
            "limit": limit,
        }
        return Response(ProtectionSerializer(answer).data)


def _shown(standing: Standing) -> dict[str, Any]:
    facts = standing.facts
    return {
        "cluster": facts.cluster,
        "cluster_id": facts.cluster_id,
        "collection_name": facts.name,
        "state": standing.state,
        "sentence": standing.sentence,
        "backup_id": facts.newest.backup_id if facts.newest else None,
        "backup_data_at": facts.newest.data_at if facts.newest else None,
        "expected_by": facts.expected_by,
        "tested_at": facts.tested_at,
        "proven_at": facts.proven_at,
        "points_count": facts.points_count,
    }
