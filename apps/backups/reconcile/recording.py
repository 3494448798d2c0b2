"""Findings become Orphan rows; what is ours and old is removed, by a tombstone that is tried until it is done."""

from __future__ import annotations

import uuid
from datetime import datetime

from django.db import transaction

from apps.backups.models import Backup, Leftover, Orphan, OrphanState
from apps.backups.reconcile.findings import Finding, JobBook
from apps.backups.traces import FolderTrace, Trace, kind_of, place_of, to_subject, trace_from
from apps.core.errors import Conflict
from apps.storage.models import StorageConfig


class OrphanInUse(Conflict):
    """It is not an orphan any more: a job or a backup has to do with it."""


def record_finding(finding: Finding, *, now: datetime) -> Orphan:
    """Write a finding down: a new row, or the one that it had before, open again if it had ended.

    What a person has dismissed stays dismissed.
    """
    seen = {
        "name": finding.name,
        "node_url": finding.node_url,
        "collection_name": finding.collection_name,
        "shard_id": finding.shard_id,
        "job_id": finding.job_id,
        "backup_id": finding.backup_id,
        "size_bytes": finding.size_bytes,
        "is_ours": finding.is_ours,
        "reason": finding.reason,
        "subject": to_subject(finding.trace) if finding.trace else None,
        "last_seen_at": now,
    }
    orphan, created = Orphan.objects.get_or_create(
        identity=finding.identity,
        defaults={
            **seen,
            "kind": finding.kind,
            "storage_id": finding.storage_id,
            "cluster_id": finding.cluster_id,
            "created_at": now,
        },
    )
    if not created:
        Orphan.objects.filter(pk=orphan.pk).update(**seen)
        over = (OrphanState.CLEANED, OrphanState.ADOPTED, OrphanState.GONE)
        Orphan.objects.filter(pk=orphan.pk, state__in=over).update(
            state=OrphanState.OPEN, created_at=now, ended_at=None, decided_by=None
        )
        orphan.refresh_from_db()
    return orphan


def end_unseen(*, storage_id: uuid.UUID | None, cluster_id: uuid.UUID | None, since: datetime, now: datetime) -> int:
    """Mark as gone what a whole look at a place did not show any more; return how many that are."""
    here = Orphan.objects.filter(state=OrphanState.OPEN, last_seen_at__lt=since, tombstone=None)
    here = here.filter(storage_id=storage_id) if storage_id is not None else here.filter(storage=None)
    here = here.filter(cluster_id=cluster_id) if cluster_id is not None else here.filter(cluster=None)
    return here.update(state=OrphanState.GONE, ended_at=now)


def bury_orphan(orphan: Orphan, *, now: datetime, book: JobBook, reason: str, user_id: int | None = None) -> Leftover:
    """Set a tombstone for an open orphan; nothing is touched yet. Everything is looked at once more.

    Raises: OrphanInUse.
    """
    with transaction.atomic():
        if orphan.storage_id is not None:
            # Whoever enters a backup that was found in a storage holds this lock, too (catalogue.enter).
            StorageConfig.objects.select_for_update().get(pk=orphan.storage_id)
        held = Orphan.objects.select_for_update().filter(pk=orphan.pk, state=OrphanState.OPEN).first()
        if held is None or held.subject is None:
            raise OrphanInUse("This has been decided already, or nothing here can remove it.")
        existing = Leftover.objects.filter(orphan=held).first()
        if existing is not None:
            return existing
        trace = trace_from(held.subject)
        check_removable(trace, held.job_id, book)
        return Leftover.objects.create(
            kind=kind_of(trace),
            orphan=held,
            job_id=held.job_id,
            subject=to_subject(trace),
            reason=reason,
            created_by_id=user_id,
            next_try_at=now,
            **place_of(trace),
        )


def check_removable(trace: Trace, job_id: uuid.UUID | None, book: JobBook) -> None:
    """Make sure that nobody needs what is about to be removed. Raises: OrphanInUse."""
    facts = book.facts(job_id) if job_id is not None else None
    if facts is not None and facts.is_active:
        raise OrphanInUse("The job that made it is pending or running again.")
    if not isinstance(trace, FolderTrace):
        return
    if Backup.objects.filter(storage_id=uuid.UUID(trace.storage_id), path=trace.path).exists():
        raise OrphanInUse("It is a backup of the catalogue by now.")
