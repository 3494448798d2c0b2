"""Left-overs as the jobs see them: tried again by the tick, or because somebody asks."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime

from apps.backups.leftovers import retry_leftovers, try_leftover
from apps.backups.models import Leftover
from apps.core.errors import NotFound
from apps.jobs.events import record
from apps.jobs.models import Job
from apps.jobs.states import ACTIVE, JobStatus


def clean_leftovers(*, now: datetime) -> int:
    """Try again to remove what could not be removed; return how much is gone. Talks to Qdrant and storages."""
    return retry_leftovers(now=now, is_busy=is_busy, is_active=is_active, tell=_tell(now))


def retry_leftover(*, leftover_id: uuid.UUID, now: datetime) -> bool:
    """Try now to remove one; tell whether it is gone. False, too, while somebody else tries or a job is in the way.

    Raises: NotFound; whatever the node or the storage refuses with.
    """
    found = Leftover.objects.filter(pk=leftover_id).first()
    if found is None:
        raise NotFound("There is no left-over with this id (any more): what it stood for is gone.")
    return try_leftover(found, now=now, is_busy=is_busy, is_active=is_active, tell=_tell(now))


def _tell(now: datetime) -> Callable[[uuid.UUID, str], None]:
    """Return what adds a line to the story of the job that made the thing, if that is still known."""

    def tell(job_id: uuid.UUID, sentence: str) -> None:
        job = Job.objects.filter(pk=job_id).first()
        if job is not None:
            record(job, sentence, at=now, data={"removed": True})

    return tell


def is_busy(cluster_id: str, collection: str) -> bool:
    """Tell whether a job works on the collection at this moment."""
    return Job.objects.filter(
        status=JobStatus.RUNNING, subject_cluster_id=uuid.UUID(cluster_id), subject_collection=collection
    ).exists()


def is_active(job_id: uuid.UUID) -> bool:
    """Tell whether the job is pending or running."""
    return Job.objects.filter(pk=job_id, status__in=ACTIVE).exists()
