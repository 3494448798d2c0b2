"""Clusters: register, look at, change, remove, test."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.fields import FlagField, PeerIdField, TextField, TimeField
from apps.api.schema import TRUE, operation
from apps.api.v1.lookup import ClusterNotFound
from apps.api.views import ApiView
from apps.clusters.models import Cluster
from apps.clusters.qdrant import Endpoint, check_api_key, check_node_url
from apps.clusters.services import create_cluster, delete_cluster, probe_cluster, update_cluster
from apps.core.permissions import Scope

TAG = "clusters"


@extend_schema_field({"type": "object", "additionalProperties": {"type": "string"}})
class NodesField(serializers.Field[Any, Any, Any, Any]):
    """Peer id → REST address of that node."""

    def to_internal_value(self, data: Any) -> dict[str, str]:
        if not isinstance(data, dict):
            raise serializers.ValidationError("This must be an object: peer id → REST address.")
        for peer, url in data.items():
            if not (peer.isascii() and peer.isdigit() and len(peer) <= 20) or not isinstance(url, str):
                raise serializers.ValidationError("Write peer ids as digits and addresses as texts.")
            try:
                check_node_url(url)
            except ValueError as error:
                raise serializers.ValidationError(f"{peer}: {error}") from error
        return data

    def to_representation(self, value: Any) -> Any:
        return value


class ClusterUpdateSerializer(serializers.Serializer[Any]):
    """Any subset of a cluster's fields; what is left out stays."""

    name = TextField(required=False, max_length=100)
    url = TextField(required=False, max_length=500, help_text="REST address of a node")
    api_key = TextField(required=False, max_length=2000, write_only=True, allow_blank=True, help_text="Empty: none")
    nodes = NodesField(required=False, help_text="Peer id → REST address, for clusters of many nodes")
    is_default = FlagField(required=False)
    verify_tls = FlagField(required=False)
    ca = TextField(required=False, max_length=100_000, allow_blank=True, help_text="PEM")

    def validate_name(self, name: str) -> str:
        if name != name.strip() or not name.isprintable():
            raise serializers.ValidationError("No control characters, and no spaces at the ends.")
        return name

    def validate_url(self, url: str) -> str:
        try:
            check_node_url(url)
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from error
        return url

    def validate_api_key(self, key: str) -> str:
        try:
            check_api_key(key)
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from error
        return key

    def validate_ca(self, ca: str) -> str:
        try:
            Endpoint("https://unused", ca=ca).ssl_context()
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from error
        return ca


class ClusterCreateSerializer(ClusterUpdateSerializer):
    """A cluster to register."""

    name = TextField(max_length=100)
    url = TextField(max_length=500, help_text="REST address of a node")


class ClusterTestRequestSerializer(ClusterUpdateSerializer):
    """A cluster to try; it needs no name."""

    url = TextField(max_length=500, help_text="REST address of a node")


class ClusterSerializer(serializers.Serializer[Any]):
    """A cluster without its key."""

    id = serializers.CharField()
    name = serializers.CharField()
    url = serializers.CharField()
    nodes = NodesField()
    has_api_key = serializers.SerializerMethodField()
    verify_tls = serializers.BooleanField()
    ca = serializers.CharField(allow_blank=True)
    is_default = serializers.BooleanField()
    created_at = TimeField()
    updated_at = TimeField()

    def get_has_api_key(self, cluster: Cluster) -> bool:
        return bool(cluster.api_key)


class ClusterTestSerializer(serializers.Serializer[Any]):
    """Whether a node answers with these settings, and who it is."""

    success = serializers.BooleanField()
    message = serializers.CharField()
    version = serializers.CharField(allow_null=True)
    peer_id = PeerIdField(allow_null=True, help_text="null on a standalone node")


class ClustersView(ApiView):
    scopes = {"GET": Scope.READ, "POST": Scope.ADMINISTER}

    @operation("listClusters", "All clusters", tag=TAG, answer=ClusterSerializer(many=True))
    def get(self, request: Request) -> Response:
        return Response(ClusterSerializer(Cluster.objects.order_by("name", "id"), many=True).data)

    @operation("createCluster", "Register a cluster", tag=TAG, body=ClusterCreateSerializer, answer=ClusterSerializer)
    def post(self, request: Request) -> Response:
        return Response(ClusterSerializer(create_cluster(data=self.body(ClusterCreateSerializer))).data)


class ClusterView(ApiView):
    scopes = {"GET": Scope.READ, "PUT": Scope.ADMINISTER, "DELETE": Scope.ADMINISTER}

    @operation("getCluster", "One cluster", tag=TAG, answer=ClusterSerializer)
    def get(self, request: Request, id: str) -> Response:  # noqa: A002
        return Response(ClusterSerializer(self._cluster()).data)

    @operation("updateCluster", "Change a cluster", tag=TAG, body=ClusterUpdateSerializer, answer=ClusterSerializer)
    def put(self, request: Request, id: str) -> Response:  # noqa: A002
        return Response(
            ClusterSerializer(update_cluster(cluster=self._cluster(), data=self.body(ClusterUpdateSerializer))).data
        )

    @operation("deleteCluster", "Forget a cluster; its backups stay", tag=TAG, answer=TRUE)
    def delete(self, request: Request, id: str) -> Response:  # noqa: A002
        delete_cluster(cluster=self._cluster())
        return Response(True)

    def _cluster(self) -> Cluster:
        cluster = Cluster.objects.filter(pk=self.path_uuid()).first()
        if cluster is None:
            raise ClusterNotFound("There is no cluster with this id.")
        return cluster


class ClusterTestView(ApiView):
    scopes = {"POST": Scope.ADMINISTER}

    @operation(
        "testCluster",
        "Ask a node who it is; nothing is saved. A node that does not answer is 200 with success false",
        tag=TAG,
        body=ClusterTestRequestSerializer,
        answer=ClusterTestSerializer,
    )
    def post(self, request: Request) -> Response:
        probe = probe_cluster(Cluster(**self.body(ClusterTestRequestSerializer)))
        return Response(ClusterTestSerializer(probe).data)
