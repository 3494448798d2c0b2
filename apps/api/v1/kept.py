"""Kept collections: what restores replaced by switching aliases, until somebody decides about it."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.fields import TimeField
from apps.api.permissions import caller
from apps.api.schema import TRUE, operation
from apps.api.v1.lookup import find_cluster
from apps.api.v1.paging import PageQuery, PageSerializer, read_page
from apps.api.views import ApiView
from apps.backups.models import KeptCollection
from apps.core.permissions import Scope
from apps.jobs.kept import find_kept, forget_kept, remove_kept, switch_back

TAG = "kept collections"


class KeptCollectionSerializer(serializers.Serializer[Any]):
    """A collection that clients came to through aliases, until a restore beside it took these over."""

    id = serializers.CharField()
    cluster = serializers.CharField(source="cluster.name")
    collection_name = serializers.CharField(help_text="What was replaced, and is still there")
    replaced_by = serializers.CharField(help_text="The restored collection, to which the aliases lead now")
    aliases = serializers.ListField(child=serializers.CharField())
    points_count = serializers.IntegerField(allow_null=True, help_text="At the switch; null: it could not be counted")
    job_id = serializers.CharField(allow_null=True, help_text="The restore; null after a switch back")
    created_at = TimeField()
    switched_at = TimeField(allow_null=True, help_text="null while nobody knows whether the switch came through")


class KeptCollectionPageSerializer(PageSerializer):
    """A page of kept collections."""

    items = KeptCollectionSerializer(many=True)


class KeptCollectionQuery(PageQuery):
    """Filters of the list."""

    cluster = serializers.CharField(required=False, help_text="Name or id")


class KeptRemovalQuery(serializers.Serializer[Any]):
    """How sure one is."""

    even_if_changed = serializers.BooleanField(
        required=False, default=False, help_text="true: also when its number of points is another than at the switch"
    )


class KeptCollectionsView(ApiView):
    scopes = {"GET": Scope.READ}

    @operation(
        "listKeptCollections",
        "Collections that restores replaced by switching aliases, newest first",
        tag=TAG,
        query=[KeptCollectionQuery],
        answer=KeptCollectionPageSerializer,
    )
    def get(self, request: Request) -> Response:
        query = self.query(KeptCollectionQuery)
        rows = KeptCollection.objects.select_related("cluster")
        if "cluster" in query:
            rows = rows.filter(cluster=find_cluster(query["cluster"]))
        return Response(KeptCollectionPageSerializer(read_page(rows, query)).data)


class KeptCollectionView(ApiView):
    scopes = {"GET": Scope.READ, "DELETE": Scope.ADMINISTER}
    reaches_qdrant = True

    @operation("getKeptCollection", "A kept collection", tag=TAG, answer=KeptCollectionSerializer)
    def get(self, request: Request, id: str) -> Response:  # noqa: A002
        return Response(KeptCollectionSerializer(find_kept(self.path_uuid())).data)

    @operation(
        "removeKeptCollection",
        "Delete it from its cluster; 409 while an alias leads to it, a job works on it, or it is written to",
        tag=TAG,
        query=[KeptRemovalQuery],
        answer=TRUE,
    )
    def delete(self, request: Request, id: str) -> Response:  # noqa: A002
        sure = self.query(KeptRemovalQuery)["even_if_changed"]
        remove_kept(kept_id=self.path_uuid(), now=timezone.now(), user=caller(request), even_if_changed=sure)
        return Response(True)


class KeptSwitchBackView(ApiView):
    scopes = {"POST": Scope.RESTORE}
    reaches_qdrant = True

    @operation(
        "switchBackKeptCollection",
        "Let the aliases lead to it again; returns what is kept now: the one that was restored",
        tag=TAG,
        answer=KeptCollectionSerializer,
    )
    def post(self, request: Request, id: str) -> Response:  # noqa: A002
        kept = switch_back(kept_id=self.path_uuid(), now=timezone.now(), user=caller(request))
        return Response(KeptCollectionSerializer(kept).data)


class KeptForgetView(ApiView):
    scopes = {"POST": Scope.ADMINISTER}

    @operation("forgetKeptCollection", "Leave it where it is, and list it no longer", tag=TAG, answer=TRUE)
    def post(self, request: Request, id: str) -> Response:  # noqa: A002
        forget_kept(kept_id=self.path_uuid(), now=timezone.now(), user=caller(request))
        return Response(True)
