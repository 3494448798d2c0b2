"""Clusters: register, look at, change, remove, test."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.fields import EnumField, FlagField, IntegerField, PeerIdField, TextField, TimeField
from apps.api.schema import TRUE, operation
from apps.api.v1.lookup import cluster_of_id
from apps.api.views import ApiView
from apps.clusters.advisories import Effect, Operation
from apps.clusters.keys import KeyVerdict
from apps.clusters.models import MAX_NODES, Cluster, Purpose
from apps.clusters.probe import probe_cluster
from apps.clusters.qdrant import Endpoint, check_api_key, check_node_url
from apps.clusters.registry import ProblemKind
from apps.clusters.services import create_cluster, delete_cluster, update_cluster, with_addresses
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


class UrlsField(serializers.ListField):
    """REST addresses of the nodes, in any order."""

    child = TextField(max_length=500)

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"min_length": 1, "max_length": MAX_NODES, **options})

    def to_internal_value(self, data: Any) -> list[str]:
        urls: list[str] = super().to_internal_value(data)
        for url in urls:
            try:
                check_node_url(url)
            except ValueError as error:
                raise serializers.ValidationError(f"{url}: {error}") from error
        return urls


class ClusterUpdateSerializer(serializers.Serializer[Any]):
    """Any subset of a cluster's fields; what is left out stays."""

    name = TextField(required=False, max_length=100)
    url = TextField(required=False, max_length=500, help_text="REST address of a node")
    urls = UrlsField(
        required=False,
        help_text="REST addresses of all nodes, in any order: which peer is where is asked. Replaces url and nodes",
    )
    api_key = TextField(required=False, max_length=2000, write_only=True, allow_blank=True, help_text="Empty: none")
    restore_api_key = TextField(
        required=False,
        max_length=2000,
        write_only=True,
        allow_blank=True,
        help_text="Sent by restores instead of api_key. Empty: they use api_key",
    )
    nodes = NodesField(required=False, help_text="Peer id → REST address, for clusters of many nodes")
    is_default = FlagField(required=False)
    max_jobs = IntegerField(required=False, min_value=1, max_value=100, help_text="Schedules start no more at once")
    max_jobs_per_node = IntegerField(required=False, min_value=1, max_value=100, help_text="The same, for each node")
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

    def validate_restore_api_key(self, key: str) -> str:
        return self.validate_api_key(key)

    def validate_ca(self, ca: str) -> str:
        try:
            Endpoint("https://unused", ca=ca).ssl_context()
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from error
        return ca

    def demand_address(self, data: dict[str, Any]) -> dict[str, Any]:
        """Raises: ValidationError when there is no address at all."""
        if "url" not in data and "urls" not in data:
            raise serializers.ValidationError({"url": ["Give url, or urls with one address a node."]})
        return data


class ClusterCreateSerializer(ClusterUpdateSerializer):
    """A cluster to register: name, and url or urls."""

    name = TextField(max_length=100)

    def validate(self, data: dict[str, Any]) -> dict[str, Any]:
        return self.demand_address(data)


class ClusterTestRequestSerializer(ClusterUpdateSerializer):
    """A cluster to try: url or urls. It needs no name."""

    def validate(self, data: dict[str, Any]) -> dict[str, Any]:
        return self.demand_address(data)


class ClusterSerializer(serializers.Serializer[Any]):
    """A cluster without its key."""

    id = serializers.CharField()
    name = serializers.CharField()
    url = serializers.CharField()
    urls = serializers.SerializerMethodField(help_text="All addresses, the first one first")
    nodes = NodesField()
    has_api_key = serializers.SerializerMethodField()
    has_restore_api_key = serializers.SerializerMethodField()
    verify_tls = serializers.BooleanField()
    ca = serializers.CharField(allow_blank=True)
    is_default = serializers.BooleanField()
    max_jobs = serializers.IntegerField(help_text="Schedules start no backup while so many jobs run on it")
    max_jobs_per_node = serializers.IntegerField()
    created_at = TimeField()
    updated_at = TimeField()

    def get_urls(self, cluster: Cluster) -> list[str]:
        return list(cluster.addresses)

    def get_has_api_key(self, cluster: Cluster) -> bool:
        return bool(cluster.api_key)

    def get_has_restore_api_key(self, cluster: Cluster) -> bool:
        return bool(cluster.restore_api_key)


class ClusterProblemSerializer(serializers.Serializer[Any]):
    """Something that is wrong, or odd, with the registration or the cluster."""

    kind = EnumField("ClusterProblemKind", [kind.value for kind in ProblemKind])
    message = serializers.CharField()
    is_error = serializers.BooleanField(help_text="false: it deserves a look, nothing more")
    blocks = serializers.BooleanField(help_text="true: nothing is backed up or restored until it is put right")
    url = serializers.CharField(allow_null=True)
    peer_id = PeerIdField(allow_null=True)


class RegisteredNodeSerializer(serializers.Serializer[Any]):
    """A peer and its REST address; or an address that is no peer's."""

    peer_id = PeerIdField(allow_null=True, help_text="null for a standalone node, and for an address of no peer")
    url = serializers.CharField(allow_blank=True, help_text="Empty for a peer without REST address")
    uri = serializers.CharField(allow_blank=True, help_text="Address between peers")
    version = serializers.CharField(allow_null=True)
    is_leader = serializers.BooleanField()
    is_voter = serializers.BooleanField(allow_null=True)
    is_usable = serializers.BooleanField(help_text="Whether backups and restores use it")
    suggested_url = serializers.CharField(allow_blank=True, help_text="What its address may be; untried")


class KeyCheckSerializer(serializers.Serializer[Any]):
    """What the key for one purpose may do."""

    purpose = EnumField("KeyPurpose", [purpose.value for purpose in Purpose])
    verdict = EnumField("KeyVerdict", [verdict.value for verdict in KeyVerdict])
    message = serializers.CharField()


class AdvisorySerializer(serializers.Serializer[Any]):
    """A known trouble of this version of Qdrant with snapshots."""

    id = serializers.CharField()
    operations = serializers.ListField(
        child=EnumField("AdvisoryOperation", [operation.value for operation in Operation])
    )
    effect = EnumField("AdvisoryEffect", [effect.value for effect in Effect])
    consequence = serializers.CharField()
    advice = serializers.CharField()
    fixed_in = serializers.CharField(allow_null=True)
    sources = serializers.ListField(child=serializers.CharField())


class ClusterTestSerializer(serializers.Serializer[Any]):
    """Who answers with these settings, and what is wrong."""

    success = serializers.BooleanField(help_text="false as soon as one problem is an error")
    message = serializers.CharField()
    version = serializers.CharField(allow_null=True)
    peer_id = PeerIdField(allow_null=True, help_text="null on a standalone node")
    distributed = serializers.BooleanField(source="report.distributed", default=None, allow_null=True)
    nodes = RegisteredNodeSerializer(source="report.nodes", many=True, default=[])
    problems = ClusterProblemSerializer(many=True, help_text="Errors first")
    keys = KeyCheckSerializer(many=True, help_text="Empty when no node could be asked")
    advisories = AdvisorySerializer(many=True, help_text="The worst first")


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
        return Response(ClusterSerializer(cluster_of_id(self.path_uuid())).data)

    @operation("updateCluster", "Change a cluster", tag=TAG, body=ClusterUpdateSerializer, answer=ClusterSerializer)
    def put(self, request: Request, id: str) -> Response:  # noqa: A002
        return Response(
            ClusterSerializer(
                update_cluster(cluster=cluster_of_id(self.path_uuid()), data=self.body(ClusterUpdateSerializer))
            ).data
        )

    @operation("deleteCluster", "Forget a cluster; its backups stay", tag=TAG, answer=TRUE)
    def delete(self, request: Request, id: str) -> Response:  # noqa: A002
        delete_cluster(cluster=cluster_of_id(self.path_uuid()))
        return Response(True)


class ClusterTestView(ApiView):
    scopes = {"POST": Scope.ADMINISTER}

    @operation(
        "testCluster",
        "Ask every address who it is; nothing is saved. Nodes that do not answer are 200 with success false",
        tag=TAG,
        body=ClusterTestRequestSerializer,
        answer=ClusterTestSerializer,
    )
    def post(self, request: Request) -> Response:
        asked = with_addresses(Cluster(), self.body(ClusterTestRequestSerializer))
        return Response(ClusterTestSerializer(probe_cluster(Cluster(**asked))).data)


class RegisteredClusterTestView(ApiView):
    scopes = {"POST": Scope.OPERATE}

    @operation(
        "testRegisteredCluster",
        "The same for a cluster that is registered, with its keys",
        tag=TAG,
        answer=ClusterTestSerializer,
    )
    def post(self, request: Request, id: str) -> Response:  # noqa: A002
        return Response(ClusterTestSerializer(probe_cluster(cluster_of_id(self.path_uuid()))).data)
