"""The tick: looks after jobs whose worker vanished, jobs that nobody picks up, and left-overs.

Run by every worker's supervisor every few seconds. Every change is one conditional UPDATE, so any number of
tickers may run at once.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django_q.models import OrmQ

from apps.backups.leftovers import leave_behind
from apps.backups.traces import Traces
from apps.jobs.attempts import AttemptOutcome, end_attempt
from apps.jobs.events import record
from apps.jobs.lease import startable
from apps.jobs.models import EventLevel, Job
from apps.jobs.operations import look_after_operations
from apps.jobs.services import look_after_batches, poke
from apps.jobs.setback import mend_setback
from apps.jobs.states import JobStatus

#: A job that has waited this long for a delivery gets another one.
POKE_AGAIN = timedelta(seconds=10)
#: Wait before a job whose worker vanished starts anew; doubles with each loss.
BACK_OFF_SECONDS = 2
#: So many late jobs end at one tick.
EXPIRED_AT_ONCE = 500
#: A delivery that some worker took this long ago and never acknowledged belongs to a worker that is gone.
STALE_DELIVERY = timedelta(days=1)


def tick(*, worker: str, now: datetime) -> None:
    """Do one round. Raises: DatabaseError."""
    mend_setback(now=now)
    take_back_lost(Job.objects.lost(now).values_list("pk", flat=True), now=now)
    take_back_lost(_orphans_of(worker), now=now)
    expire(now=now)
    wake(now=now)
    look_after_operations(now=now)
    look_after_batches(now=now)


def take_back_lost(job_ids: Iterable[uuid.UUID], *, now: datetime) -> None:
    """Give jobs back whose worker is gone: pending again, or ended when that happens too often or it was cancelled."""
    for job_id in list(job_ids):
        with transaction.atomic():
            job = Job.objects.filter(pk=job_id, status=JobStatus.RUNNING).first()
            if job is not None:
                _take_back(job, now)


def _take_back(job: Job, now: datetime) -> None:
    held = Job.objects.filter(pk=job.pk, status=JobStatus.RUNNING, lease_token=job.lease_token)
    given_back = {"lease_token": None, "lease_until": None, "rate_bytes_per_second": None, "phase": ""}
    if job.cancel_requested_at is not None:
        changed = held.update(status=JobStatus.CANCELLED, completed_at=now, checkpoint={}, **given_back)
        text, level, ended = "Cancelled; its worker had vanished.", EventLevel.WARNING, True
    elif job.lost_count + 1 >= settings.BACKUPMGR_MAX_ATTEMPTS:
        text = (
            f"The worker vanished {job.lost_count + 1} times while it ran this job; it is not tried again. "
            f"Look at the worker's log and at the memory of its host."
        )
        changed = held.update(
            status=JobStatus.FAILED,
            completed_at=now,
            error=text,
            checkpoint={},
            lost_count=F("lost_count") + 1,
            **given_back,
        )
        level, ended = EventLevel.ERROR, True
    else:
        wait = timedelta(seconds=BACK_OFF_SECONDS * 2**job.lost_count)
        text, level, ended = "The worker vanished; the job starts anew.", EventLevel.WARNING, False
        changed = held.update(
            status=JobStatus.PENDING,
            not_before=now + wait,
            bytes_done=0,
            lost_count=F("lost_count") + 1,
            queued_at=None,
            wait_reason=text,
            **given_back,
        )
    if not changed:
        return
    end_attempt(
        job_id=job.pk,
        number=job.attempt,
        outcome=AttemptOutcome.LOST,
        # The last sign of life: how long it was gone before anybody noticed is no part of the attempt.
        at=min(now, job.heartbeat_at or now),
        bytes_moved=job.bytes_done,
        error="The worker vanished while it ran the job.",
        error_category="worker_vanished",
        next_attempt_at=None if ended else now + wait,
    )
    record(job, text, at=now, level=level)
    if ended:
        leave_behind(Traces.from_json(job.checkpoint), job_id=job.pk, reason=text, first_try_seconds=0)


def _orphans_of(worker: str) -> list[uuid.UUID]:
    """Jobs that this worker's processes ran and that died: no need to wait for their lease."""
    mine = Job.objects.filter(status=JobStatus.RUNNING, worker=worker).exclude(worker="")
    return [job_id for job_id, pid in mine.values_list("pk", "pid") if not _is_alive(pid)]


def _is_alive(pid: int | None) -> bool:
    if pid is None:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def expire(*, now: datetime) -> None:
    """End jobs that were to start by a certain time and have not: a free process came too late for them."""
    late = Job.objects.filter(status=JobStatus.PENDING, attempt=0, start_by__lt=now)
    for job in late[:EXPIRED_AT_ONCE]:
        text = (
            f"It could not start by {job.start_by:%Y-%m-%d %H:%M} UTC: no process was free, or the limits of cluster "
            f"or storage were met. Look at what ran meanwhile; more workers or other times help."
        )
        with transaction.atomic():
            if late.filter(pk=job.pk).update(status=JobStatus.FAILED, completed_at=now, error=text, phase=""):
                record(job, text, at=now, level=EventLevel.ERROR)


def wake(*, now: datetime) -> None:
    """Deliver again for jobs that wait although they could start; a delivery may have died with its worker."""
    OrmQ.objects.filter(
        lock__gt=now, lock__lt=now + timedelta(seconds=settings.Q_CLUSTER["retry"]) - STALE_DELIVERY
    ).delete()
    waiting = startable(now)
    oldest = waiting.first()
    if oldest is None or (oldest.queued_at is not None and now - oldest.queued_at < POKE_AGAIN):
        return
    # Deliveries that nobody has taken yet will do; only when there are fewer than jobs is another one needed.
    if OrmQ.objects.filter(lock__lte=now).count() < waiting.count():
        poke(oldest, now=now)
