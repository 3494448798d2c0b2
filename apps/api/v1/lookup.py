"""From what a client wrote (an id or a name) to the row that is meant."""

from __future__ import annotations

import uuid

from apps.backups.models import Backup
from apps.clusters.models import Cluster
from apps.core.errors import NotFound
from apps.storage.models import StorageConfig


class ClusterNotFound(NotFound):
    """No cluster has that name or id."""


class StorageNotFound(NotFound):
    """No storage has that id (or name)."""


class BackupNotFound(NotFound):
    """No backup has that id."""


def find_cluster(reference: str | None) -> Cluster:
    """Return the cluster with this name or id; the default one for None. Raises: ClusterNotFound."""
    if reference is None:
        cluster = Cluster.objects.default()
        if cluster is None:
            raise ClusterNotFound("No cluster is registered yet: add one first.")
        return cluster
    cluster = Cluster.objects.named(reference)
    if cluster is None:
        raise ClusterNotFound(f"There is no cluster with the name or id {reference!r}.")
    return cluster


def cluster_of_id(identifier: uuid.UUID) -> Cluster:
    """Return the cluster with this id. Raises: ClusterNotFound."""
    cluster = Cluster.objects.filter(pk=identifier).first()
    if cluster is None:
        raise ClusterNotFound("There is no cluster with this id.")
    return cluster


def find_storage(reference: str) -> StorageConfig:
    """Return the storage with this id or name. Raises: StorageNotFound."""
    identifier = as_uuid(reference)
    storage = StorageConfig.objects.filter(pk=identifier).first() if identifier else None
    storage = storage or StorageConfig.objects.filter(name=reference).first()
    if storage is None:
        raise StorageNotFound(f"There is no storage with the id or name {reference!r}.")
    return storage


def find_backup(reference: str) -> Backup:
    """Return the backup with this id. Raises: BackupNotFound."""
    identifier = as_uuid(reference)
    found = Backup.objects.select_related("storage", "cluster").filter(pk=identifier) if identifier else None
    backup = found.first() if found is not None else None
    if backup is None:
        raise BackupNotFound(f"There is no backup with the id {reference!r}.")
    return backup


def as_uuid(text: str) -> uuid.UUID | None:
    """Return `text` as a UUID, None when it is none."""
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
