"""What can be done with clusters: register, change, forget, test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import ProtectedError

from apps.clusters.models import Cluster
from apps.clusters.qdrant import QdrantNode
from apps.core.errors import BackupmgrError, Conflict, InvalidRequest
from apps.core.text import plural

#: Somebody waits for a connection test.
PROBE_TIMEOUT_SECONDS = 5.0


class ClusterInvalid(InvalidRequest):
    """The fields do not describe a cluster."""


class DefaultClusterNeeded(InvalidRequest):
    """There is always a default cluster, as long as there is one at all."""


class ClusterNameTaken(Conflict):
    """Another cluster has that name."""


class ClusterInUse(Conflict):
    """Jobs refer to the cluster."""


@dataclass(frozen=True)
class ClusterProbe:
    """Whether a node answers, and who it is; `message` is a sentence for people."""

    success: bool
    message: str
    version: str | None = None
    #: None on a standalone node.
    peer_id: int | None = None


def probe_cluster(cluster: Cluster) -> ClusterProbe:
    """Ask the cluster, saved or not, who it is and what it holds. A node that does not answer is a result, too."""
    try:
        with QdrantNode(cluster.quick_endpoint(PROBE_TIMEOUT_SECONDS)) as node:
            info = node.info()
            count = len(node.collections())
    except BackupmgrError as error:
        return ClusterProbe(False, str(error))
    kind = "standalone"
    if info.peer_id is not None:
        kind = f"peer {info.peer_id} of a cluster of {plural(len(info.cluster.get('peers') or {}), 'node')}"
    return ClusterProbe(
        True, f"Qdrant {info.version} answers: {kind}, {plural(count, 'collection')}.", info.version, info.peer_id
    )


def create_cluster(*, data: Mapping[str, Any]) -> Cluster:
    """Register a cluster; the first one becomes the default. Raises: ClusterInvalid, ClusterNameTaken, Conflict."""
    return _save(Cluster(), data)


def update_cluster(*, cluster: Cluster, data: Mapping[str, Any]) -> Cluster:
    """Change the given fields. Raises: as create_cluster; DefaultClusterNeeded."""
    if cluster.is_default and data.get("is_default") is False:
        raise DefaultClusterNeeded(f"{cluster.name!r} is the default cluster: make another one the default instead.")
    return _save(cluster, data)


def delete_cluster(*, cluster: Cluster) -> None:
    """Forget the cluster; its backups stay. Raises: DefaultClusterNeeded, ClusterInUse."""
    if cluster.is_default and Cluster.objects.exclude(pk=cluster.pk).exists():
        raise DefaultClusterNeeded(f"{cluster.name!r} is the default cluster: make another one the default first.")
    try:
        cluster.delete()
    except ProtectedError as error:
        raise ClusterInUse(
            f"Jobs refer to the cluster {cluster.name!r}: it stays for as long as they are kept."
        ) from error


def _save(cluster: Cluster, data: Mapping[str, Any]) -> Cluster:
    for field, value in data.items():
        setattr(cluster, field, value)
    try:
        cluster.clean()
    except ValidationError as error:
        raise ClusterInvalid(" ".join(error.messages)) from error
    try:
        with transaction.atomic():
            cluster.save()
    except IntegrityError as error:
        if Cluster.objects.exclude(pk=cluster.pk).filter(name=cluster.name).exists():
            raise ClusterNameTaken(
                f"There is a cluster named {cluster.name!r} already: choose another name."
            ) from error
        raise Conflict("Somebody else changed the clusters at the same moment: try again.") from error
    return cluster
