"""A small client of Qdrant's REST interface, free of Django: the only code here that speaks HTTP to Qdrant."""

from __future__ import annotations

from apps.clusters.qdrant.disk import disk_usage_percent
from apps.clusters.qdrant.endpoint import Endpoint, check_api_key, check_node_url
from apps.clusters.qdrant.errors import (
    CollectionNotFound,
    DownloadBroken,
    NotQdrant,
    QdrantDenied,
    QdrantError,
    QdrantFault,
    QdrantRejected,
    QdrantTimeout,
    QdrantTlsRefused,
    QdrantUnreachable,
    SnapshotChanged,
    SnapshotNotFound,
)
from apps.clusters.qdrant.names import check_collection_name, check_snapshot_possible
from apps.clusters.qdrant.node import QdrantNode
from apps.clusters.qdrant.transfer import SnapshotDownload, create_snapshot, recover_snapshot, upload_snapshot
from apps.clusters.qdrant.types import (
    ACTIVE,
    CollectionInfo,
    LocalShard,
    NodeInfo,
    Placement,
    RemoteShard,
    SnapshotDescription,
)

__all__ = [
    "ACTIVE",
    "CollectionInfo",
    "CollectionNotFound",
    "DownloadBroken",
    "Endpoint",
    "LocalShard",
    "NodeInfo",
    "NotQdrant",
    "Placement",
    "QdrantDenied",
    "QdrantError",
    "QdrantFault",
    "QdrantNode",
    "QdrantRejected",
    "QdrantTimeout",
    "QdrantTlsRefused",
    "QdrantUnreachable",
    "RemoteShard",
    "SnapshotChanged",
    "SnapshotDescription",
    "SnapshotDownload",
    "SnapshotNotFound",
    "check_api_key",
    "check_collection_name",
    "check_node_url",
    "check_snapshot_possible",
    "create_snapshot",
    "disk_usage_percent",
    "recover_snapshot",
    "upload_snapshot",
]
