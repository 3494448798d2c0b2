"""Leftovers: what of a run could not be removed when it ended, and is tried again until it is gone."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from apps.backups.deletion import StillLocked
from apps.backups.models import Leftover, LeftoverKind, Orphan, OrphanState
from apps.backups.removing import StillThere, remove
from apps.backups.traces import STORED, Trace, Traces, describe, kind_of, trace_from
from apps.clusters.qdrant import QdrantTimeout, QdrantUnreachable
from apps.core.abort import Abort
from apps.core.errors import BackupmgrError
from apps.core.tally import add_up
from apps.storage.backends import PROBE_PATIENCE, Patience
from apps.storage.errors import BucketMissing, StorageUnreachable

#: With a storage, while an operator waits for a cancelled job.
HURRIED_PATIENCE = Patience(connect_seconds=2, read_seconds=2, attempts=1)
MAX_RETRY_SECONDS = 3600
#: The figure of fruitless tries to delete a backup (apps/core/tally.py).
DELETE_FAILURES = "delete_failures"
#: What says that a whole node or storage is away, not that one thing resists.
_AWAY = (StorageUnreachable, BucketMissing, QdrantUnreachable, QdrantTimeout)

logger = logging.getLogger(__name__)


def clean_up(
    traces: Traces, *, job_id: uuid.UUID, tell: Callable[[str, bool], None], abort: Abort | None = None
) -> None:
    """Remove everything in `traces`, newest first; what resists becomes a Leftover. Never raises for an outside fault.

    `tell` receives a sentence for each thing, and whether that is gone now. Once `abort` has tripped somebody waits,
    and a storage gets little time; when it trips meanwhile, its reason is raised, and the rest is still in `traces`.
    """
    hurries = abort is not None and abort.reason is not None
    away: dict[str, BackupmgrError] = {}
    for trace in reversed(list(traces.items)):
        storage_id = trace.storage_id if isinstance(trace, STORED) else ""
        try:
            if storage_id in away:  # every further call would cost a time-out
                raise away[storage_id]
            done = remove(
                trace, patience=HURRIED_PATIENCE if hurries else PROBE_PATIENCE, abort=None if hurries else abort
            )
        except (StillThere, BackupmgrError) as error:
            if storage_id and isinstance(error, _AWAY):
                away[storage_id] = error
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
            kind=kind_of(trace),
            cluster_id=None if isinstance(trace, STORED) else trace.cluster_id,
            storage_id=trace.storage_id if isinstance(trace, STORED) else None,
            job_id=job_id,
            subject={"kind": str(kind_of(trace)), **asdict(trace)},
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


def bring_forward(*, now: datetime, tolerance: timedelta) -> int:
    """Have what lies further in the future than its next try may be tried now: the clock was set back."""
    changed = 0
    for leftover in Leftover.objects.filter(next_try_at__gt=now + tolerance + _pause(0)):
        if leftover.next_try_at > now + tolerance + _pause(leftover.tries):
            same = Leftover.objects.filter(pk=leftover.pk, next_try_at=leftover.next_try_at)
            changed += same.update(next_try_at=now)
    return changed


def _pause(tries: int) -> timedelta:
    return min(timedelta(seconds=MAX_RETRY_SECONDS), first_retry() * 2 ** min(tries, 10))


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
    # Claimed by moving its date.
    claimed = Leftover.objects.filter(pk=leftover.pk, next_try_at=leftover.next_try_at).update(
        next_try_at=now + _pause(leftover.tries), tries=leftover.tries + 1
    )
    if not claimed or (not isinstance(trace, STORED) and is_busy(trace.cluster_id, trace.collection)):
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
    if isinstance(error, StillLocked):
        # Nothing that is tried before then can help; it is no failure either.
        Leftover.objects.filter(pk=leftover.pk).update(last_error=str(error), next_try_at=error.not_before)
        return
    with transaction.atomic():
        Leftover.objects.filter(pk=leftover.pk).update(last_error=str(error))
        if leftover.kind == LeftoverKind.BACKUP:
            add_up(DELETE_FAILURES)


def describe_leftover(leftover: Leftover) -> str:
    """Name what a Leftover stands for."""
    return describe(trace_from(leftover.subject))
