"""Lease: who may work on a job. One conditional UPDATE each for taking, keeping and giving it back.

The queue may deliver twice, late, or to a worker that was given up for dead; none of that matters as long as every
write of a worker goes through the lease token.
"""

from __future__ import annotations

import uuid
from collections import Counter
from datetime import datetime, timedelta

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Exists, F, OuterRef

from apps.clusters.models import Cluster
from apps.jobs.models import Job, JobAttempt, JobQuerySet, Rank
from apps.jobs.services import PRIORITY_STEP as AGEING
from apps.jobs.states import JobStatus
from apps.storage.models import StorageConfig

#: How many waiting jobs one delivery looks at before it gives up; the tick delivers again.
MAX_CANDIDATES = 20
#: How many waiting jobs take part in the turns of clusters.
TURNS_CONSIDERED = 200


class LeaseLost(Exception):
    """Another worker has the job now, or it was ended from outside: stop, and write nothing more."""


def claim_next(*, worker: str, pid: int, now: datetime) -> Job | None:
    """Take the job whose turn it is and that may start; None when there is none.

    A delivery means "there is work": which job it was sent for does not matter, so that the order of start is ours
    whatever the queue does.
    """
    for job_id in _in_turn(now)[:MAX_CANDIDATES]:
        job = claim(job_id=job_id, worker=worker, pid=pid, now=now)
        if job is not None:
            return job
    return None


def startable(now: datetime) -> JobQuerySet:
    """Pending jobs that nothing but a free process keeps from starting, in their order.

    Nobody works on their collection; and those that a schedule asked for find room within the limits of cluster,
    nodes and storage. What a person asks for is not held back by limits, and counts.
    """
    busy = Job.objects.filter(
        status=JobStatus.RUNNING,
        subject_cluster=OuterRef("subject_cluster"),
        subject_collection=OuterRef("subject_collection"),
    )
    found = Job.objects.due(now).filter(~Exists(busy))
    running = Job.objects.at_work()
    by_cluster = Counter(running.values_list("subject_cluster", flat=True))
    if not by_cluster:
        return found
    by_storage = Counter(running.values_list("storage", flat=True))
    full_clusters = [
        cluster.pk
        for cluster in Cluster.objects.filter(pk__in=by_cluster)
        if by_cluster[cluster.pk] >= cluster.scheduled_jobs_at_once
    ]
    full_storages = [
        storage.pk
        for storage in StorageConfig.objects.filter(pk__in=by_storage)
        if by_storage[storage.pk] >= storage.max_jobs
    ]
    return found.exclude(rank__gte=Rank.SCHEDULED, subject_cluster__in=full_clusters).exclude(
        rank__gte=Rank.SCHEDULED, storage__in=full_storages
    )


def _in_turn(now: datetime) -> list[uuid.UUID]:
    """Return the ids of the next jobs in the order in which they should be taken.

    By rank, then by priority (one more for each half hour of waiting); among equals the cluster that has fewer jobs
    running comes first, so that one with many collections does not keep the others waiting.
    """
    rows = list(startable(now).values_list("pk", "rank", "queue_at", "subject_cluster")[:TURNS_CONSIDERED])
    if len({row[3] for row in rows}) < 2:
        return [row[0] for row in rows]
    running = Counter(Job.objects.at_work().values_list("subject_cluster", flat=True))

    def turn(place_and_row: tuple[int, tuple[uuid.UUID, int, datetime | None, uuid.UUID]]) -> tuple[int, int, int, int]:
        place, (_, rank, queue_at, cluster) = place_and_row
        urgency = 0 if queue_at is None else (now - queue_at) // AGEING
        return rank, -urgency, running[cluster], place

    return [row[0] for _, row in sorted(enumerate(rows), key=turn)]


def _finds_room(job_id: uuid.UUID) -> bool:
    """Tell whether a job of a schedule keeps the limits of cluster, nodes and storage. True for any other job.

    Called in the transaction that takes the job. Both rows stay locked until it ends, so that of two workers that
    look at the same moment one waits for what the other has taken (SQLite lets only one write anyway).
    """
    job = Job.objects.filter(pk=job_id, rank__gte=Rank.SCHEDULED).values("subject_cluster", "storage").first()
    if job is None:
        return True
    cluster = Cluster.objects.select_for_update().get(pk=job["subject_cluster"])
    storage = StorageConfig.objects.select_for_update().get(pk=job["storage"])
    running = Job.objects.at_work()
    return (
        running.filter(subject_cluster=cluster).count() < cluster.scheduled_jobs_at_once
        and running.filter(storage=storage).count() < storage.max_jobs
    )


def claim(*, job_id: uuid.UUID, worker: str, pid: int, now: datetime) -> Job | None:
    """Take this job; None when another worker was faster, another job runs on its collection, or limits are met."""
    token = uuid.uuid4()
    try:
        with transaction.atomic():
            if not _finds_room(job_id):
                return None
            taken = Job.objects.filter(pk=job_id, status=JobStatus.PENDING, not_before__lte=now).update(
                status=JobStatus.RUNNING,
                attempt=F("attempt") + 1,
                lease_token=token,
                lease_until=now + timedelta(seconds=settings.BACKUPMGR_LEASE_SECONDS),
                heartbeat_at=now,
                progress_at=now,
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
        "cluster", "storage", "backup", "backup__storage", "target_cluster", "subject_cluster", "created_by"
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
