"""Where a backup came from, as GET /backups/{id} tells it."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from apps.api.fields import PeerIdField


@extend_schema_field({"oneOf": [{"type": "string"}, {"type": "integer", "format": "int64"}]})
class ShardKeyField(serializers.Field[Any, Any, Any, Any]):
    """A shard key as Qdrant has it: 1 and "1" are two."""

    def to_representation(self, value: Any) -> Any:
        return value


class BackedUpNodeSerializer(serializers.Serializer[Any]):
    """A node of the cluster when the backup was made."""

    peer_id = PeerIdField(allow_null=True, help_text="null for a node that is alone")
    url = serializers.CharField(
        allow_blank=True, help_text="Empty when it could not be asked, and for backups of earlier versions"
    )
    version = serializers.CharField(allow_blank=True, help_text="Of Qdrant; empty when it could not be asked")


class BackedUpKeySerializer(serializers.Serializer[Any]):
    """A shard key, and how many points its shards held together."""

    shard_key = ShardKeyField()
    shard_ids = serializers.ListField(child=serializers.IntegerField())
    points_min = serializers.IntegerField(help_text="Equal to points_max unless it was written to meanwhile")
    points_max = serializers.IntegerField()


class BackedUpReplicaSerializer(serializers.Serializer[Any]):
    """A replica of a shard when the backup was planned."""

    shard_id = serializers.IntegerField()
    peer_id = PeerIdField()
    state = serializers.CharField(help_text="As Qdrant calls it: Active, Partial, Dead, …")
    taken = serializers.BooleanField(help_text="The part of the shard was made from this one")
    why = serializers.CharField(allow_blank=True, help_text="Why this one was taken")


class OriginSerializer(serializers.Serializer[Any]):
    """Nodes, shard keys and replicas when a backup was made; empty lists where its manifest does not tell."""

    nodes = BackedUpNodeSerializer(many=True)
    keys = BackedUpKeySerializer(many=True, help_text="In the order of their ids; empty without custom sharding")
    replicas = BackedUpReplicaSerializer(many=True, help_text="Empty for backups of earlier versions of backupmgr")
