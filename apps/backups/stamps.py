"""Which snapshot on a node is ours when nobody told its name: judged by when the node began with it."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from apps.clusters.qdrant import QdrantNode, SnapshotDescription

if TYPE_CHECKING:
    from apps.backups.traces import SnapshotTrace

#: A node stamps its snapshots by its own clock. How far that may be from ours when it does not say what its clock
#: says; and by how much we may be wrong when it does (HTTP dates and stamps are of whole seconds, and lag).
CLOCK_SKEW = timedelta(minutes=10)
CLOCK_ERROR = timedelta(seconds=5)
#: A snapshot is stamped when the node begins with it. A request that was not answered may have waited this long for
#: that; what is stamped later is somebody else's.
BEGUN_WITHIN = timedelta(minutes=10)
_STAMPED = re.compile(r"-(\d{4}-\d\d-\d\d-\d\d-\d\d-\d\d)\.snapshot$")


def find_new_snapshot(node: QdrantNode, trace: SnapshotTrace) -> str | None:
    """Return the snapshot that the node made for an unanswered request; None when there is none (yet).

    It is the one snapshot of the shard that was not there before and was begun soon after the request, by the node's
    own clock. When there are several, somebody else makes snapshots too and nobody can tell which is ours: none is
    ours then.
    """
    new = [
        snapshot.name
        for snapshot in node.snapshots(trace.collection, trace.shard_id)
        if snapshot.name not in trace.known and may_be_of(trace, snapshot)
    ]
    return new[0] if len(new) == 1 else None


def may_be_of(trace: SnapshotTrace, snapshot: SnapshotDescription) -> bool:
    """Tell whether the snapshot was begun when the node may have begun with the one that the trace asked for."""
    told = bool(trace.node_time)
    asked = datetime.fromisoformat(trace.node_time or trace.requested_at)
    error = CLOCK_ERROR if told else CLOCK_SKEW
    begun = begun_at(snapshot, asked)
    return asked - error <= begun <= asked + error + BEGUN_WITHIN


def begun_at(snapshot: SnapshotDescription, default: datetime) -> datetime:
    """When the node began with a snapshot, by its own clock: the name says it. `default` when nothing does."""
    found = _STAMPED.search(snapshot.name)
    if found:
        with suppress(ValueError):  # digits that are no time
            return datetime.strptime(found[1], "%Y-%m-%d-%H-%M-%S").replace(tzinfo=UTC)
    return _stamp(snapshot.creation_time, default)


def _stamp(creation_time: str | None, default: datetime) -> datetime:
    """Read Qdrant's `creation_time` (UTC without a zone); `default` where the node's file system keeps none."""
    if not creation_time:
        return default
    stamp = datetime.fromisoformat(creation_time)
    return stamp if stamp.tzinfo else stamp.replace(tzinfo=default.tzinfo)


def is_fresh(creation_time: str | None, now: datetime) -> bool:
    """Tell whether a snapshot may be of this very second, so that the next one would get the same name.

    `now` by the node's clock. Where that is not known and far off, the name itself is compared afterwards.
    """
    return bool(creation_time) and abs(_stamp(creation_time, now) - now) < timedelta(seconds=3)
