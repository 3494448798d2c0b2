"""Removing what a trace stands for: exactly that, from a node or a storage."""

from __future__ import annotations

import uuid
from datetime import datetime

from django.conf import settings
from django.utils import timezone

from apps.backups.deletion import BackupTrace, erase, forget
from apps.backups.evidence import cross_out
from apps.backups.models import Backup
from apps.backups.stamps import find_new_snapshot
from apps.backups.traces import CollectionTrace, FolderTrace, SnapshotTrace, Trace, UploadTrace
from apps.clusters.models import Cluster, Purpose
from apps.clusters.qdrant import CollectionNotFound, QdrantNode
from apps.core.abort import Abort
from apps.storage.backends import PROBE_PATIENCE, Patience
from apps.storage.keys import manifest_key
from apps.storage.models import StorageConfig
from apps.storage.services import open_store
from apps.storage.stores import Store, Unfinished

#: Clean-up happens while an operator waits for a cancelled job; a node that does not answer by then gets a Leftover.
CLEAN_UP_TIMEOUT_SECONDS = 3.0
#: A snapshot that was asked for may still appear for so long on a node that (before 1.16) does not tell whether it
#: makes one; on others for twice the time that the job looked for it.
PATIENCE_UNTOLD_SECONDS = 2 * 3600.0


class StillThere(Exception):
    """Something could not be removed yet; the message says why."""


def remove(trace: Trace, *, patience: Patience = PROBE_PATIENCE, abort: Abort | None = None) -> bool:
    """Remove what the trace stands for; False when there was nothing. `patience` is that with a storage.

    Raises: StillThere, BackupmgrError; the reason of `abort`, which ends calls to a storage.
    """
    if isinstance(trace, BackupTrace):
        return _remove_backup(trace)
    if isinstance(trace, FolderTrace):
        if Backup.objects.filter(storage_id=uuid.UUID(trace.storage_id), path=trace.path).exists():
            return False  # it was finished after all, and is listed
        storage = StorageConfig.objects.filter(pk=trace.storage_id).first()
        if storage is None:
            return False
        return _remove_folder(trace, open_store(storage, patience=patience, abort=abort))
    if isinstance(trace, UploadTrace):
        return _remove_upload(trace, patience, abort)
    cluster = Cluster.objects.filter(pk=trace.cluster_id).first()
    if cluster is None:
        return False
    # Only restores make collections, and the key of backups may not be allowed to delete one.
    purpose = Purpose.RESTORE if isinstance(trace, CollectionTrace) else Purpose.BACKUP
    url = trace.node_url if isinstance(trace, SnapshotTrace) else ""
    if url and url not in cluster.addresses:
        raise StillThere(f"the node at {url} is not registered any more")
    with QdrantNode(cluster.quick_endpoint(CLEAN_UP_TIMEOUT_SECONDS, purpose, url or None)) as node:
        if isinstance(trace, CollectionTrace):
            return _remove_collection(node, trace)
        return _remove_snapshot(node, trace)


def _remove_folder(trace: FolderTrace, store: Store) -> bool:
    # First what would make half of it look like a backup.
    store.delete(manifest_key(trace.path))
    found = store.clear(trace.path) > 0
    if trace.unsure_at and _may_still_come(trace.unsure_at, settings.BACKUPMGR_LOST_ANSWER_SECONDS):
        raise StillThere("a call was broken off that the storage may still act on")
    return found


def _remove_backup(trace: BackupTrace) -> bool:
    backup = Backup.objects.select_related("storage").defer("manifest").filter(pk=trace.backup_id).first()
    if backup is None:
        return False
    erase(backup, open_store(backup.storage, patience=PROBE_PATIENCE))
    forget(backup, erased_at=timezone.now())
    return True


def _remove_upload(trace: UploadTrace, patience: Patience, abort: Abort | None) -> bool:
    storage = StorageConfig.objects.filter(pk=trace.storage_id).first()
    if storage is None:
        return False
    store = open_store(storage, patience=patience, abort=abort)
    if trace.token:
        return store.discard(Unfinished(trace.key, trace.token))
    found = store.stat(trace.key) is not None
    store.delete(trace.key)
    return found


def _remove_collection(node: QdrantNode, trace: CollectionTrace) -> bool:
    if not trace.created:
        try:
            if node.count(trace.collection):
                return False  # we had not sent a point yet: it is somebody else's
        except CollectionNotFound:
            if trace.asked_at and _may_still_come(trace.asked_at, settings.BACKUPMGR_LOST_ANSWER_SECONDS):
                raise StillThere("the node may still create it") from None
            return False
    if trace.switching:
        aliases = node.aliases()
        if any(aliases.get(alias) == trace.collection for alias in trace.switching):
            return False  # the switch was made: clients use it
    return node.delete_collection(trace.collection)


def _remove_snapshot(node: QdrantNode, trace: SnapshotTrace) -> bool:
    if trace.name:
        return _delete_snapshot(node, trace, trace.name)
    try:
        name = find_new_snapshot(node, trace)
    except CollectionNotFound:
        return False
    if name is None:
        running = node.running_snapshots(trace.collection)
        if trace.answered and not running:
            return False
        patience = 2 * settings.BACKUPMGR_LOST_ANSWER_SECONDS if running == 0 else PATIENCE_UNTOLD_SECONDS
        if running or _may_still_come(trace.requested_at, patience):
            raise StillThere("the node may still be making it")
        return False
    return _delete_snapshot(node, trace, name)


def _may_still_come(asked_at: str, patience_seconds: float) -> bool:
    """Tell whether what was asked for then may come yet.

    A moment far in the future was written before the clock was set back; waiting for it would take as long as that.
    """
    age = (timezone.now() - datetime.fromisoformat(asked_at)).total_seconds()
    return -patience_seconds <= age < patience_seconds


def _delete_snapshot(node: QdrantNode, trace: SnapshotTrace, name: str) -> bool:
    deleted = node.delete_snapshot(trace.collection, name, trace.shard_id)
    if deleted:  # else it may be out of sight with its collection: the evidence stays
        cross_out(trace)
    return deleted
