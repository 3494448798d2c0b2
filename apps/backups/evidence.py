"""Which snapshots on nodes are ours: written down before a node is asked, crossed out when it has deleted the file."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import TYPE_CHECKING

from django.db.models import QuerySet

from apps.backups.orphans import MadeSnapshot

if TYPE_CHECKING:
    from apps.backups.traces import SnapshotTrace


def note_request(trace: SnapshotTrace, job_id: uuid.UUID) -> None:
    """Write down that a node is about to be asked for a snapshot."""
    MadeSnapshot.objects.create(
        cluster_id=uuid.UUID(trace.cluster_id),
        collection_name=trace.collection,
        shard_id=trace.shard_id,
        job_id=job_id,
        requested_at=datetime.fromisoformat(trace.requested_at),
        node_time=datetime.fromisoformat(trace.node_time) if trace.node_time else None,
        known=list(trace.known),
    )


def note_made(trace: SnapshotTrace, checksum: str | None) -> None:
    """Write down what the node has made."""
    rows_of(trace).update(name=trace.name, checksum=checksum or "")


def cross_out(trace: SnapshotTrace) -> None:
    """The node has deleted it, never made it, or it turned out to be somebody else's."""
    rows_of(trace).delete()


def rows_of(trace: SnapshotTrace) -> QuerySet[MadeSnapshot]:
    return MadeSnapshot.objects.filter(
        cluster_id=uuid.UUID(trace.cluster_id),
        collection_name=trace.collection,
        shard_id=trace.shard_id,
        requested_at=datetime.fromisoformat(trace.requested_at),
    )
