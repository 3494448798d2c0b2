"""What runs and does not get on: jobs without a sign of life, jobs that move nothing, jobs that take far too long."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median

from django.db.models import F, Q, Window
from django.db.models.functions import RowNumber

from apps.core.text import format_duration
from apps.jobs.models import Job
from apps.jobs.states import BACKUP_TYPES, JobStatus, JobType

#: A running job whose worker has not renewed its lease for so long hangs, or nobody is left to take it back.
SILENT = timedelta(minutes=3)
#: A backup that has neither moved a byte nor come to another phase for so long.
STILL = timedelta(minutes=30)
#: A backup that takes longer than this, and so many times what it usually takes, is slow.
SLOW_AFTER = timedelta(minutes=30)
SLOW_TIMES = 3
#: What is usual: the median of so many of its last runs, of no fewer than so many, within so long.
RUNS, LEAST_RUNS = 20, 3
LOOKED_BACK = timedelta(days=90)


@dataclass(frozen=True)
class Trouble:
    """A running job that does not get on. `is_stuck` is the worse: else it is slow. `sentence` says why."""

    job: Job
    is_stuck: bool
    sentence: str


def read_troubles(now: datetime) -> list[Trouble]:
    """Look at the jobs that run: one query, and one more when a backup has run for long."""
    still = Q(type__in=BACKUP_TYPES) & (
        Q(progress_at__lt=now - STILL) | Q(progress_at=None, started_at__lt=now - STILL)
    )
    long = Q(type=JobType.BACKUP, started_at__lt=now - SLOW_AFTER)
    rows = (
        Job.objects.filter(status=JobStatus.RUNNING)
        .exclude(is_batch=True)  # it moves nothing itself: its children are looked at
        .filter(Q(heartbeat_at__lt=now - SILENT) | still | long)
        .select_related("cluster")
        .order_by("started_at", "id")
    )
    found, candidates = [], []
    for job in rows:
        words = _stuck(job, now)
        if words:
            found.append(Trouble(job, True, words))
        elif job.type == JobType.BACKUP:
            candidates.append(job)
    usual = _usual(candidates, now)
    for job in candidates:
        took, median_seconds = job.duration_seconds(now) or 0.0, usual.get(_key(job))
        if median_seconds is not None and took > SLOW_TIMES * median_seconds:
            words = f"it has run for {format_duration(took)}, and usually takes {format_duration(median_seconds)}."
            found.append(Trouble(job, False, words))
    return found


def _stuck(job: Job, now: datetime) -> str:
    if job.heartbeat_at is not None and now - job.heartbeat_at > SILENT:
        return f"its worker has given no sign of life since {job.heartbeat_at:%Y-%m-%d %H:%M} UTC."
    since = job.progress_at or job.started_at
    if job.type in BACKUP_TYPES and since is not None and now - since > STILL:
        where = f" ({job.phase})" if job.phase else ""
        return f"it has moved nothing since {since:%Y-%m-%d %H:%M} UTC{where}."
    return ""


def _usual(jobs: list[Job], now: datetime) -> dict[tuple[object, ...], float]:
    """How many seconds each of these backups usually takes; those with too few runs before are left out."""
    if not jobs:
        return {}
    before = Job.objects.filter(
        cluster__in={job.cluster_id for job in jobs},
        collection_name__in={job.collection_name for job in jobs},
        type=JobType.BACKUP,
        status=JobStatus.COMPLETED,
        is_batch=False,
        started_at__isnull=False,
        completed_at__gt=now - LOOKED_BACK,
    )
    nth = Window(
        RowNumber(),
        partition_by=[F("cluster"), F("collection_name"), F("storage")],
        order_by=F("completed_at").desc(),
    )
    seconds: dict[tuple[object, ...], list[float]] = defaultdict(list)
    for job in before.annotate(nth=nth).filter(nth__lte=RUNS):
        seconds[_key(job)].append(job.duration_seconds(now) or 0.0)
    return {key: median(found) for key, found in seconds.items() if len(found) >= LEAST_RUNS}


def _key(job: Job) -> tuple[object, ...]:
    return job.cluster_id, job.collection_name, job.storage_id
