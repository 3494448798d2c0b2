"""Lease: who may work on a job. One conditional UPDATE each for taking, keeping and giving it back.

The queue may deliver twice, late, or to a worker that was given up for dead; none of that matters as long as every
write of a worker goes through the lease token.
"""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Exists, F, OuterRef

from apps.jobs.models import Job, JobAttempt
from apps.jobs.states import JobStatus

#: How many waiting jobs one delivery looks at before it gives up; the tick delivers again.
MAX_CANDIDATES = 20


class LeaseLost(Exception):
    """Another worker has the job now, or it was ended from outside: stop, and write nothing more."""


def claim_next(*, worker: str, pid: int, now: datetime) -> Job | None:
    """Take the job that has waited longest and may start; None when there is none.

    A delivery means "there is work": which job it was sent for does not matter, so that the order of start is that
    of creation whatever the queue does.
    """
    busy = Job.objects.filter(
        status=JobStatus.RUNNING,
        subject_cluster=OuterRef("subject_cluster"),
        subject_collection=OuterRef("subject_collection"),
    )
    due = Job.objects.due(now).filter(~Exists(busy)).values_list("pk", flat=True)
    for job_id in due[:MAX_CANDIDATES]:
        job = claim(job_id=job_id, worker=worker, pid=pid, now=now)
        if job is not None:
            return job
    return None


def claim(*, job_id: uuid.UUID, worker: str, pid: int, now: datetime) -> Job | None:
    """Take this job; None when another worker was faster, or another job runs on its collection."""
    token = uuid.uuid4()
    try:
        with transaction.atomic():
            taken = Job.objects.filter(pk=job_id, status=JobStatus.PENDING, not_before__lte=now).update(
                status=JobStatus.RUNNING,
                attempt=F("attempt") + 1,
                lease_token=token,
                lease_until=now + timedelta(seconds=settings.BACKUPMGR_LEASE_SECONDS),
                heartbeat_at=now,
                worker=worker,
                pid=pid,
                started_at=now,
                completed_at=None,
                phase="starting",
                bytes_done=0,
                bytes_total=0,
                rate_bytes_per_second=None,
                error="",
                wait_reason="",
            )
            if taken:
                number = Job.objects.values_list("attempt", flat=True).get(pk=job_id)
                JobAttempt.objects.create(job_id=job_id, number=number, started_at=now, worker=worker, pid=pid)
    except IntegrityError:  # one_running_job_per_collection
        return None
    if not taken:
        return None
    return Job.objects.select_related(
        "cluster", "storage", "backup", "backup__storage", "target_cluster", "subject_cluster"
    ).get(pk=job_id)


def extend(*, job_id: uuid.UUID, token: uuid.UUID, now: datetime, **changes: object) -> None:
    """Renew the lease and write progress. Raises: LeaseLost."""
    until = now + timedelta(seconds=settings.BACKUPMGR_LEASE_SECONDS)
    kept = Job.objects.held_by(job_id, token).update(lease_until=until, heartbeat_at=now, **changes)
    if not kept:
        raise LeaseLost(f"The lease of job {job_id} was lost.")


def release(*, job_id: uuid.UUID, token: uuid.UUID, status: JobStatus, now: datetime, **changes: object) -> None:
    """Give the job back in its new state. Raises: LeaseLost."""
    ended = {} if status == JobStatus.PENDING else {"completed_at": now}
    kept = Job.objects.held_by(job_id, token).update(
        status=status, lease_token=None, lease_until=None, rate_bytes_per_second=None, **ended, **changes
    )
    if not kept:
        raise LeaseLost(f"The lease of job {job_id} was lost.")
