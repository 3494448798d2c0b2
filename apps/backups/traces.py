"""Traces: what a run has made outside the database and has not finished with.

They are saved with the job before each thing is made, so that whoever finds the job after a kill can remove
exactly what it made and nothing else. What cannot be removed now becomes a Leftover, which the tick tries again.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.utils import timezone

from apps.backups.deletion import BackupTrace, erase, forget
from apps.backups.evidence import cross_out
from apps.backups.models import Backup, Leftover, LeftoverKind, Orphan, OrphanState
from apps.backups.stamps import find_new_snapshot
from apps.clusters.models import Cluster, Purpose
from apps.clusters.qdrant import (
    CollectionNotFound,
    QdrantNode,
    QdrantTimeout,
    QdrantUnreachable,
)
from apps.core.errors import BackupmgrError
from apps.core.tally import add_up
from apps.storage.backends import PROBE_PATIENCE
from apps.storage.errors import BucketMissing, StorageUnreachable
from apps.storage.keys import manifest_key
from apps.storage.models import StorageConfig
from apps.storage.services import open_store
from apps.storage.stores import Unfinished

#: Clean-up happens while an operator waits for a cancelled job; a node that does not answer by then gets a Leftover.
CLEAN_UP_TIMEOUT_SECONDS = 3.0
#: A snapshot that was asked for may still appear for so long on a node that (before 1.16) does not tell whether it
#: makes one; on others for twice the time that the job looked for it.
PATIENCE_UNTOLD = timedelta(hours=2)
MAX_RETRY_SECONDS = 3600
#: The figure of fruitless tries to delete a backup (apps/core/tally.py).
DELETE_FAILURES = "delete_failures"
#: What says that a whole node or storage is away, not that one thing resists.
_AWAY = (StorageUnreachable, BucketMissing, QdrantUnreachable, QdrantTimeout)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SnapshotTrace:
    """A shard snapshot on a node.

    `name` is empty from the moment it is asked for until the node has answered; `known` are the snapshots that
    were there before, so that a new one can be told from them.
    """

    cluster_id: str
    collection: str
    shard_id: int
    requested_at: str
    known: tuple[str, ...] = ()
    name: str = ""
    #: The node said that it failed: nothing comes any more that is not there by now.
    answered: bool = False
    #: `requested_at` by the node's own clock; empty when it did not tell.
    node_time: str = ""
    #: Address of the node that it lies on; empty for the cluster's first one.
    node_url: str = ""


@dataclass(frozen=True)
class FolderTrace:
    """The folder of a backup without a manifest yet."""

    storage_id: str
    path: str


@dataclass(frozen=True)
class UploadTrace:
    """One object that was begun and not ended; with an empty `token` a small one that was written and is of no use."""

    storage_id: str
    key: str
    token: str = ""


@dataclass(frozen=True)
class CollectionTrace:
    """A collection that a restore creates and has not yet proved.

    Until `created` is set nobody knows whether Qdrant has made it for us, or somebody else got there first.
    """

    cluster_id: str
    collection: str
    created: bool = False
    #: When it was asked for: a request whose answer got lost may still be on its way.
    asked_at: str = ""


Trace = SnapshotTrace | FolderTrace | UploadTrace | CollectionTrace | BackupTrace

_KINDS: dict[type[Any], LeftoverKind] = {
    SnapshotTrace: LeftoverKind.SNAPSHOT,
    FolderTrace: LeftoverKind.FOLDER,
    CollectionTrace: LeftoverKind.COLLECTION,
    BackupTrace: LeftoverKind.BACKUP,
    UploadTrace: LeftoverKind.UPLOAD,
}
#: Those that lie in a storage; the others lie on a node.
_STORED = FolderTrace | UploadTrace | BackupTrace
_TYPES = {kind: cls for cls, kind in _KINDS.items()}


class StillThere(Exception):
    """Something could not be removed yet; the message says why."""


@dataclass
class Traces:
    """The open traces of one run, in the order in which they were made. Safe to change from many threads."""

    items: list[Trace] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def __bool__(self) -> bool:
        return bool(self.items)

    def add(self, trace: Trace) -> None:
        with self._lock:
            self.items.append(trace)

    def drop(self, trace: Trace) -> None:
        with self._lock:
            if trace in self.items:
                self.items.remove(trace)

    def replace(self, old: Trace, new: Trace) -> None:
        with self._lock:
            self.items[self.items.index(old)] = new

    def to_json(self) -> dict[str, Any]:
        with self._lock:
            return {"traces": [{"kind": str(_KINDS[type(item)]), **asdict(item)} for item in self.items]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Traces:
        return cls([trace_from(entry) for entry in data.get("traces", [])])


def to_subject(trace: Trace) -> dict[str, Any]:
    """Return the trace as JSON; `trace_from` reads it."""
    return {"kind": str(kind_of(trace)), **asdict(trace)}


def kind_of(trace: Trace) -> LeftoverKind:
    return _KINDS[type(trace)]


def place_of(trace: Trace) -> dict[str, uuid.UUID]:
    """Return the field of a Leftover that says where the trace lies."""
    if isinstance(trace, _STORED):
        return {"storage_id": uuid.UUID(trace.storage_id)}
    return {"cluster_id": uuid.UUID(trace.cluster_id)}


def trace_from(entry: dict[str, Any]) -> Trace:
    fields = {name: value for name, value in entry.items() if name != "kind"}
    if "known" in fields:
        fields["known"] = tuple(fields["known"])
    trace: Trace = _TYPES[LeftoverKind(entry["kind"])](**fields)
    return trace


def clean_up(traces: Traces, *, job_id: uuid.UUID, tell: Callable[[str, bool], None]) -> None:
    """Remove everything in `traces`, newest first; what resists becomes a Leftover. Never raises for an outside fault.

    `tell` receives a sentence for each thing, and whether that is gone now.
    """
    for trace in reversed(list(traces.items)):
        try:
            done = remove(trace)
        except (StillThere, BackupmgrError) as error:
            leave_behind(Traces([trace]), job_id=job_id, reason=str(error))
            tell(f"Could not remove {describe(trace)} yet ({error}); it will be tried again.", False)
        else:
            if done:
                tell(f"Removed {describe(trace)}.", True)
        traces.drop(trace)


def first_retry() -> timedelta:
    """Return how long after a failed try to remove something the next one comes."""
    return timedelta(seconds=settings.BACKUPMGR_LEFTOVER_SECONDS)


def leave_behind(traces: Traces, *, job_id: uuid.UUID, reason: str, first_try_seconds: float | None = None) -> None:
    """Make a Leftover of each trace, for the tick to remove; without `first_try_seconds` it has just been tried."""
    now = timezone.now()
    for trace in traces.items:
        Leftover.objects.create(
            kind=_KINDS[type(trace)],
            cluster_id=None if isinstance(trace, _STORED) else trace.cluster_id,
            storage_id=trace.storage_id if isinstance(trace, _STORED) else None,
            job_id=job_id,
            subject={"kind": str(_KINDS[type(trace)]), **asdict(trace)},
            last_error=reason,
            next_try_at=now + (first_retry() if first_try_seconds is None else timedelta(seconds=first_try_seconds)),
        )


def take_over_leftovers(job_id: uuid.UUID) -> list[Trace]:
    """Return what earlier attempts of the job could not remove, oldest first; from now on the caller sees to it.

    A backup that is being deleted is no such thing, although it names the job that made it. Called in the transaction
    that writes the traces down with the job.
    """
    left = Leftover.objects.filter(job_id=job_id).exclude(kind=LeftoverKind.BACKUP)
    rows = list(left.order_by("created_at", "id"))
    Leftover.objects.filter(pk__in=[row.pk for row in rows]).delete()
    return [trace_from(row.subject) for row in rows]


def retry_leftovers(
    *,
    now: datetime,
    is_busy: Callable[[str, str], bool],
    is_active: Callable[[uuid.UUID], bool] = lambda job_id: False,
    tell: Callable[[uuid.UUID, str], None] = lambda job_id, sentence: None,
    limit: int = 20,
) -> int:
    """Try due Leftovers again; return how many are gone now.

    `is_busy(cluster_id, collection)` tells whether a job works on the collection: its snapshots are then left
    alone, for a new one among them could be that job's. `is_active(job_id)` tells whether a job is pending or
    running: what the reconciler found of it is left alone then. `tell` is told what of a job is gone.
    """
    gone = 0
    # The next one of a place that does not answer would hold up the others for as long: left for the next round.
    away: dict[str, list[uuid.UUID]] = {"storage_id": [], "cluster_id": []}
    due = Leftover.objects.filter(next_try_at__lte=now).order_by("next_try_at", "id")
    for _ in range(limit):
        leftover = due.exclude(storage_id__in=away["storage_id"]).exclude(cluster_id__in=away["cluster_id"]).first()
        if leftover is None:
            break
        try:
            gone += try_leftover(leftover, now=now, is_busy=is_busy, is_active=is_active, tell=tell)
        except _AWAY:
            if leftover.storage_id is not None:
                away["storage_id"].append(leftover.storage_id)
            elif leftover.cluster_id is not None:
                away["cluster_id"].append(leftover.cluster_id)
        except BackupmgrError as error:
            logger.info("The left-over %s stays for now: %s", leftover.pk, error)
    return gone


def try_leftover(
    leftover: Leftover,
    *,
    now: datetime,
    is_busy: Callable[[str, str], bool],
    is_active: Callable[[uuid.UUID], bool] = lambda job_id: False,
    tell: Callable[[uuid.UUID, str], None] = lambda job_id, sentence: None,
) -> bool:
    """Try once to remove what a Leftover stands for; True when it is gone, and the row with it.

    Of several callers at once only one tries; the others return False. Raises: BackupmgrError, once that is written
    down, when the node or the storage cannot be used.
    """
    trace = trace_from(leftover.subject)
    wait = min(timedelta(seconds=MAX_RETRY_SECONDS), first_retry() * 2 ** min(leftover.tries, 10))
    # Claimed by moving its date.
    claimed = Leftover.objects.filter(pk=leftover.pk, next_try_at=leftover.next_try_at).update(
        next_try_at=now + wait, tries=leftover.tries + 1
    )
    if not claimed or (not isinstance(trace, _STORED) and is_busy(trace.cluster_id, trace.collection)):
        return False
    if leftover.orphan_id is not None and leftover.job_id is not None and is_active(leftover.job_id):
        return False  # its job was called back to life since
    try:
        remove(trace)
    except StillThere as error:
        _not_gone(leftover, error)
        return False
    except BackupmgrError as error:
        _not_gone(leftover, error)
        raise
    if leftover.orphan_id is not None:
        Orphan.objects.filter(pk=leftover.orphan_id, state=OrphanState.OPEN).update(
            state=OrphanState.CLEANED, ended_at=now
        )
    what = describe(trace)
    Leftover.objects.filter(pk=leftover.pk).delete()
    if leftover.job_id is not None:
        tell(leftover.job_id, f"Removed {what}, which could not be removed before (try {leftover.tries + 1}).")
    return True


def _not_gone(leftover: Leftover, error: Exception) -> None:
    Leftover.objects.filter(pk=leftover.pk).update(last_error=str(error))
    if leftover.kind == LeftoverKind.BACKUP:
        add_up(DELETE_FAILURES)


def remove(trace: Trace) -> bool:
    """Remove what the trace stands for; False when there was nothing.

    Raises: StillThere, BackupmgrError.
    """
    if isinstance(trace, BackupTrace):
        return _remove_backup(trace)
    if isinstance(trace, FolderTrace):
        if Backup.objects.filter(storage_id=uuid.UUID(trace.storage_id), path=trace.path).exists():
            return False  # it was finished after all, and is listed
        storage = StorageConfig.objects.filter(pk=trace.storage_id).first()
        if storage is None:
            return False
        store = open_store(storage, patience=PROBE_PATIENCE)
        # First what would make half of it look like a backup.
        store.delete(manifest_key(trace.path))
        return store.clear(trace.path) > 0
    if isinstance(trace, UploadTrace):
        return _remove_upload(trace)
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


def _remove_backup(trace: BackupTrace) -> bool:
    backup = Backup.objects.select_related("storage").defer("manifest").filter(pk=trace.backup_id).first()
    if backup is None:
        return False
    erase(backup, open_store(backup.storage, patience=PROBE_PATIENCE))
    forget(backup)
    return True


def _remove_upload(trace: UploadTrace) -> bool:
    storage = StorageConfig.objects.filter(pk=trace.storage_id).first()
    if storage is None:
        return False
    store = open_store(storage, patience=PROBE_PATIENCE)
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
            patience = timedelta(seconds=settings.BACKUPMGR_LOST_ANSWER_SECONDS)
            if trace.asked_at and timezone.now() - datetime.fromisoformat(trace.asked_at) < patience:
                raise StillThere("the node may still create it") from None
            return False
    return node.delete_collection(trace.collection)


def _remove_snapshot(node: QdrantNode, trace: SnapshotTrace) -> bool:
    if trace.name:
        return _delete_snapshot(node, trace, trace.name)
    try:
        name = find_new_snapshot(node, trace)
    except CollectionNotFound:
        return False
    if name is None:
        age = timezone.now() - datetime.fromisoformat(trace.requested_at)
        running = node.running_snapshots(trace.collection)
        if trace.answered and not running:
            return False
        patience = timedelta(seconds=2 * settings.BACKUPMGR_LOST_ANSWER_SECONDS)
        if running or age < (patience if running == 0 else PATIENCE_UNTOLD):
            raise StillThere("the node may still be making it")
        return False
    return _delete_snapshot(node, trace, name)


def _delete_snapshot(node: QdrantNode, trace: SnapshotTrace, name: str) -> bool:
    deleted = node.delete_snapshot(trace.collection, name, trace.shard_id)
    if deleted:  # else it may be out of sight with its collection: the evidence stays
        cross_out(trace)
    return deleted


def describe_leftover(leftover: Leftover) -> str:
    """Name what a Leftover stands for."""
    return describe(trace_from(leftover.subject))


def describe(trace: Trace) -> str:
    """Name a trace for people."""
    if isinstance(trace, SnapshotTrace):
        what = trace.name or "a snapshot under way"
        return f"{what} of shard {trace.shard_id} of {trace.collection!r} on the node"
    if isinstance(trace, BackupTrace):
        return f"the backup in {trace.path}"
    if isinstance(trace, UploadTrace):
        return f"the unfinished upload of {trace.key}" if trace.token else f"the temporary object {trace.key}"
    if isinstance(trace, FolderTrace):
        return f"the unfinished files in {trace.path}"
    return f"the half-restored collection {trace.collection!r}"
