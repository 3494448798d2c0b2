"""How old backups may become: of a collection, or of all that carry a tag. Schedules change nothing about it."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.fields import EnumField, IntegerField
from apps.api.schema import operation
from apps.api.v1.lookup import find_cluster
from apps.api.v1.passthrough import ClusterQuery
from apps.api.views import ApiView
from apps.clusters.models import Cluster
from apps.core.permissions import Scope
from apps.schedules.ages import age_of_collection, set_age
from apps.schedules.models import MaximumAge
from apps.schedules.models.ages import MOST_HOURS


class SetAgeSerializer(serializers.Serializer[Any]):
    """The maximum age in hours, or null for none of its own."""

    hours = IntegerField(min_value=1, max_value=MOST_HOURS, allow_null=True)


class AgeSerializer(serializers.Serializer[Any]):
    """What counts for a collection, and who says so."""

    hours = serializers.IntegerField()
    set_by = EnumField("AgeSetBy", ["collection", "tag", "cluster"])
    tag = serializers.CharField(allow_null=True, help_text="The tag that says so")


class TagAgeSerializer(serializers.Serializer[Any]):
    """What counts for collections with the tag."""

    hours = serializers.IntegerField(allow_null=True, help_text="null: the tag says nothing")


class CollectionAgeView(ApiView):
    scopes = {"GET": Scope.READ, "PUT": Scope.ADMINISTER}

    @operation(
        "getCollectionMaxAge",
        "How old its newest good backup may be. The cluster's own age counts only while no schedule sets a deadline",
        tag="collections",
        query=[ClusterQuery],
        answer=AgeSerializer,
    )
    def get(self, request: Request, name: str) -> Response:
        return Response(_shown(find_cluster(self.query(ClusterQuery).get("cluster")), name))

    @operation(
        "setCollectionMaxAge",
        "Set it for this collection; it need not exist yet",
        tag="collections",
        query=[ClusterQuery],
        body=SetAgeSerializer,
        answer=AgeSerializer,
    )
    def put(self, request: Request, name: str) -> Response:
        cluster = find_cluster(self.query(ClusterQuery).get("cluster"))
        set_age(cluster=cluster, collection=name, hours=self.body(SetAgeSerializer)["hours"])
        return Response(_shown(cluster, name))


def _shown(cluster: Cluster, name: str) -> dict[str, Any]:
    age = age_of_collection(cluster=cluster, collection=name)
    if age is None:
        return {"hours": cluster.max_backup_age_hours, "set_by": "cluster", "tag": None}
    return {"hours": age.hours, "set_by": "tag" if age.tag else "collection", "tag": age.tag or None}


class TagAgeView(ApiView):
    scopes = {"GET": Scope.READ, "PUT": Scope.ADMINISTER}

    @operation(
        "getTagMaxAge",
        "How old backups of collections with this tag may be",
        tag="collections",
        query=[ClusterQuery],
        answer=TagAgeSerializer,
    )
    def get(self, request: Request, tag: str) -> Response:
        cluster = find_cluster(self.query(ClusterQuery).get("cluster"))
        row = MaximumAge.objects.filter(cluster=cluster, tag=tag).first() if tag and "\x00" not in tag else None
        return Response({"hours": row.hours if row else None})

    @operation(
        "setTagMaxAge",
        "Set it for all collections with this tag; of several tags the strictest counts",
        tag="collections",
        query=[ClusterQuery],
        body=SetAgeSerializer,
        answer=TagAgeSerializer,
    )
    def put(self, request: Request, tag: str) -> Response:
        hours = self.body(SetAgeSerializer)["hours"]
        set_age(cluster=find_cluster(self.query(ClusterQuery).get("cluster")), tag=tag, hours=hours)
        return Response({"hours": hours})
