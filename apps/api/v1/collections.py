"""Collections of a cluster: names, details, placement."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.fields import EnumField, ObjectField, PeerIdField
from apps.api.schema import operation
from apps.api.v1.passthrough import ClusterQuery, QdrantView
from apps.clusters.qdrant import CollectionInfo, QdrantError, QdrantNode
from apps.core.permissions import Scope

TAG = "collections"


class CollectionNameSerializer(serializers.Serializer[Any]):
    """A collection in the list."""

    name = serializers.CharField()


class CollectionsSerializer(serializers.Serializer[Any]):
    """The names of all collections, sorted."""

    collections = CollectionNameSerializer(many=True)


class CollectionParamsSerializer(serializers.Serializer[Any]):
    """Qdrant's params, with whatever else its version has."""

    shard_number = serializers.IntegerField()
    replication_factor = serializers.IntegerField()


class CollectionConfigSerializer(serializers.Serializer[Any]):
    """Qdrant's config, with whatever else its version has."""

    params = CollectionParamsSerializer()
    hnsw_config = ObjectField()
    optimizer_config = ObjectField()
    wal_config = ObjectField()


class CollectionDetailSerializer(serializers.Serializer[Any]):
    """A collection, with whatever else Qdrant's version tells of it."""

    name = serializers.CharField()
    status = EnumField("CollectionStatus", ["green", "yellow", "grey", "red"])
    vectors_count = serializers.IntegerField(help_text="Dense and sparse vectors of all points, approximately")
    points_count = serializers.IntegerField(help_text="Approximately")
    segments_count = serializers.IntegerField()
    config = CollectionConfigSerializer()
    payload_schema = ObjectField()


class LocalShardSerializer(serializers.Serializer[Any]):
    """A replica on the node that was asked."""

    shard_id = serializers.IntegerField()
    points_count = serializers.IntegerField()
    state = serializers.CharField(help_text="For example Active")


class RemoteShardSerializer(serializers.Serializer[Any]):
    """A replica on another node."""

    shard_id = serializers.IntegerField()
    peer_id = PeerIdField()
    state = serializers.CharField(help_text="For example Active")


class CollectionClusterSerializer(serializers.Serializer[Any]):
    """Where the shards live, as the node that was asked sees it."""

    peer_id = PeerIdField()
    shard_count = serializers.IntegerField()
    local_shards = LocalShardSerializer(many=True)
    remote_shards = RemoteShardSerializer(many=True)
    shard_transfers = serializers.ListField(child=ObjectField())


class CollectionsView(QdrantView):
    scopes = {"GET": Scope.READ}

    @operation("listCollections", "Names", tag=TAG, query=[ClusterQuery], answer=CollectionsSerializer)
    def get(self, request: Request) -> Response:
        with self.node() as node:
            return Response({"collections": [{"name": name} for name in node.collections()]})


class CollectionView(QdrantView):
    scopes = {"GET": Scope.READ}

    @operation("getCollection", "One collection", tag=TAG, query=[ClusterQuery], answer=CollectionDetailSerializer)
    def get(self, request: Request, name: str) -> Response:
        with self.node() as node:
            info = node.collection(self.collection)
            vectors = _count_vectors(node, self.collection, info)
        return Response(
            {
                **info.raw,
                "name": name,
                "vectors_count": vectors,
                "points_count": info.points_count or 0,
                "segments_count": info.raw.get("segments_count") or 0,
                "payload_schema": info.payload_schema,
            }
        )


class CollectionClusterView(QdrantView):
    scopes = {"GET": Scope.READ}

    @operation(
        "getCollectionCluster",
        "Where the shards live",
        tag=TAG,
        query=[ClusterQuery],
        answer=CollectionClusterSerializer,
    )
    def get(self, request: Request, name: str) -> Response:
        with self.node() as node:
            # Raw: shard keys, transfers and reshardings have fields that differ between versions.
            answer = node.call("GET", self.collection_path(self.collection, "cluster"))
        empty: dict[str, list[Any]] = {"local_shards": [], "remote_shards": [], "shard_transfers": []}
        return Response(empty | {key: value for key, value in answer.items() if value is not None})


def _count_vectors(node: QdrantNode, collection: str, info: CollectionInfo) -> int:
    """Return how many vectors the collection holds.

    Qdrant up to 1.14 tells. Later ones are asked, vector by vector, how many points have it: points × vectors would
    count the ones that points lack. Where a node refuses to count (strict mode), the larger of points and indexed
    vectors is what is certain.
    """
    told = info.raw.get("vectors_count")
    if told is not None:
        return int(told)
    params = info.config.get("params") or {}
    dense = params.get("vectors") or {}
    # A single unnamed vector is described in place of the map of names; its name is the empty string.
    names = [""] if "size" in dense and not isinstance(dense["size"], dict) else list(dense)
    names += list(params.get("sparse_vectors") or {})
    try:
        return sum(_count_having(node, collection, name) for name in names)
    except QdrantError:
        return max(info.points_count or 0, int(info.raw.get("indexed_vectors_count") or 0))


def _count_having(node: QdrantNode, collection: str, vector: str) -> int:
    body = {"exact": False, "filter": {"must": [{"has_vector": vector}]}}
    answer = node.call("POST", QdrantView.collection_path(collection, "points/count"), json=body)
    return int(answer["count"])
