"""A clock that was set back: what was written under the old one lies in the future, and would be waited for.

A time in a row is bounded: a lease ends a lease after it was written, a heartbeat is past when it is written. What lies
beyond that was written under another clock. The tick takes it to be of this moment, so that nothing waits much longer
than it would have under one clock, and a lease whose worker is there is simply renewed. Each change is one conditional
UPDATE, and none is needed a second time.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Q

from apps.backups.leftovers import bring_forward
from apps.jobs.models import Job, Worker
from apps.jobs.operations import NodeOperation, OperationStatus
from apps.jobs.states import JobStatus

logger = logging.getLogger(__name__)


def tolerance() -> timedelta:
    """Return how far hosts' clocks may run apart before one of them counts as set back: half a lease."""
    return timedelta(seconds=settings.BACKUPMGR_LEASE_SECONDS / 2)


def mend_setback(*, now: datetime) -> int:
    """Bring what lies too far in the future back to `now`; return how many rows. Part of the tick."""
    lease = timedelta(seconds=settings.BACKUPMGR_LEASE_SECONDS)
    late = now + tolerance()
    running = Job.objects.filter(status=JobStatus.RUNNING)
    changed = running.filter(lease_until__gt=late + lease).update(lease_until=now + lease)
    changed += running.filter(heartbeat_at__gt=late).update(heartbeat_at=now)
    changed += running.filter(progress_at__gt=late).update(progress_at=now)
    changed += _mend_waiting(now, late)
    changed += NodeOperation.objects.filter(status=OperationStatus.RUNNING, seen_at__gt=late).update(seen_at=now)
    changed += NodeOperation.objects.filter(status=OperationStatus.PENDING, queued_at__gt=late).update(queued_at=now)
    changed += Worker.objects.filter(stopped_at=None, seen_at__gt=late).update(seen_at=now)
    changed += bring_forward(now=now, tolerance=tolerance())
    if changed:
        logger.warning(
            "A clock was set back, or hosts' clocks run apart: %s times that lay in the future are now", changed
        )
    return changed


def _mend_waiting(now: datetime, late: datetime) -> int:
    """Have waiting jobs wait as long as they were to, from the last thing that is known to have happened to them."""
    changed = 0
    pending = Job.objects.filter(status=JobStatus.PENDING)
    ahead = Q(heartbeat_at__gt=late) | Q(heartbeat_at=None, created_at__gt=late) | Q(queued_at__gt=late)
    for job in pending.filter(ahead, Q(not_before__gt=now) | Q(queued_at__gt=late))[:1000]:
        last = job.heartbeat_at or job.created_at
        changes: dict[str, datetime | None] = {}
        if last > late and job.not_before > now:
            changes["not_before"] = now + max(job.not_before - last, timedelta())
        if job.heartbeat_at is not None and job.heartbeat_at > late:
            changes["heartbeat_at"] = now
        if job.queued_at is not None and job.queued_at > late:
            changes["queued_at"] = None  # its delivery lies in the future as well: the tick makes another
        if changes:
            same = pending.filter(pk=job.pk, not_before=job.not_before, queued_at=job.queued_at)
            changed += same.update(**changes)
    return changed
