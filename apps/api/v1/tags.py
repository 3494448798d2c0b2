"""Tags of collections: words of the operator's that schedules select by. Qdrant knows nothing of them."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.fields import TextField
from apps.api.schema import operation
from apps.api.v1.lookup import find_cluster
from apps.api.v1.passthrough import ClusterQuery
from apps.api.views import ApiView
from apps.core.permissions import Scope
from apps.schedules.tags import set_tags, tags_of_collection

TAG = "collections"


class TagsSerializer(serializers.Serializer[Any]):
    """All tags of a collection."""

    tags = serializers.ListField(child=TextField(max_length=50), max_length=20)


class CollectionTagsView(ApiView):
    scopes = {"GET": Scope.READ, "PUT": Scope.ADMINISTER}

    @operation(
        "getCollectionTags", "The tags that schedules select by", tag=TAG, query=[ClusterQuery], answer=TagsSerializer
    )
    def get(self, request: Request, name: str) -> Response:
        cluster = find_cluster(self.query(ClusterQuery).get("cluster"))
        return Response({"tags": tags_of_collection(cluster=cluster, collection=name)})

    @operation(
        "setCollectionTags", "Replace a collection's tags; it need not exist yet", tag=TAG, query=[ClusterQuery],
        body=TagsSerializer, answer=TagsSerializer,
    )  # fmt: skip
    def put(self, request: Request, name: str) -> Response:
        cluster = find_cluster(self.query(ClusterQuery).get("cluster"))
        tags = self.body(TagsSerializer)["tags"]
        return Response({"tags": set_tags(cluster=cluster, collection=name, tags=tags)})
