"""Traces: what a run has made outside the database and has not finished with.

They are saved with the job before each thing is made, so that whoever finds the job after a kill can remove
exactly what it made and nothing else (removing.py). What cannot be removed now becomes a Leftover (leftovers.py).
"""

from __future__ import annotations

import threading
import uuid
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from apps.backups.deletion import BackupTrace
from apps.backups.models import LeftoverKind


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
    #: When a call to the storage was broken off that may take effect yet; empty when there was none.
    unsure_at: str = ""


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
    #: Aliases that are being switched to it, now that it is proved: once they lead to it, it is no trace any more.
    switching: tuple[str, ...] = ()


Trace = SnapshotTrace | FolderTrace | UploadTrace | CollectionTrace | BackupTrace

_KINDS: dict[type[Any], LeftoverKind] = {
    SnapshotTrace: LeftoverKind.SNAPSHOT,
    FolderTrace: LeftoverKind.FOLDER,
    CollectionTrace: LeftoverKind.COLLECTION,
    BackupTrace: LeftoverKind.BACKUP,
    UploadTrace: LeftoverKind.UPLOAD,
}
#: Those that lie in a storage; the others lie on a node.
STORED = FolderTrace | UploadTrace | BackupTrace
_TYPES = {kind: cls for cls, kind in _KINDS.items()}


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
    if isinstance(trace, STORED):
        return {"storage_id": uuid.UUID(trace.storage_id)}
    return {"cluster_id": uuid.UUID(trace.cluster_id)}


def trace_from(entry: dict[str, Any]) -> Trace:
    fields = {name: value for name, value in entry.items() if name != "kind"}
    for name in ("known", "switching"):
        if name in fields:
            fields[name] = tuple(fields[name])
    trace: Trace = _TYPES[LeftoverKind(entry["kind"])](**fields)
    return trace


def doubt_folders(traces: Traces, now: datetime) -> None:
    """Write down that something may still appear in the folders: they are looked at until it cannot come any more."""
    for trace in list(traces.items):
        if isinstance(trace, FolderTrace):
            traces.replace(trace, replace(trace, unsure_at=now.isoformat()))


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
