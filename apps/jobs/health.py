"""Is anybody there to run jobs, and does the queue reach them?"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import QuerySet, Sum

from apps.core.text import plural
from apps.jobs.lease import startable
from apps.jobs.models import Job, JobAttempt, Worker
from apps.jobs.operations import NodeOperation, OperationStatus

#: As many of the latest attempts are looked at; more begin or end within a minute nowhere.
_LATEST_ATTEMPTS = 200


@dataclass(frozen=True)
class WorkerState:
    """`alive` workers have ticked lately; `last_seen_at` is None when there never was one."""

    alive: int
    last_seen_at: datetime | None

    @property
    def sentence(self) -> str:
        if self.alive:
            return f"{self.alive} worker{'s' if self.alive != 1 else ''} alive"
        if self.last_seen_at is None:
            return "no worker has ever run: start one with manage.py worker"
        return (
            f"no worker has been seen since {self.last_seen_at:%Y-%m-%d %H:%M:%S} UTC: start one with manage.py worker"
        )


def worker_state(now: datetime) -> WorkerState:
    """Count the workers that have ticked in the last half minute (or six ticks, if those are longer)."""
    alive = _alive(now).count()
    last = Worker.objects.order_by("-seen_at").values_list("seen_at", flat=True).first()
    return WorkerState(alive=alive, last_seen_at=last)


def _alive(now: datetime) -> QuerySet[Worker]:
    patience = timedelta(seconds=max(30.0, 6 * settings.BACKUPMGR_TICK_SECONDS))
    return Worker.objects.filter(stopped_at=None, seen_at__gt=now - patience, seen_at__lt=now + patience)


def stuck_sentence(now: datetime) -> str:
    """Say that the queue is stuck; empty while it is not, and when no worker is alive (that is another matter).

    It is stuck when jobs wait although a process is free, and nothing has begun or ended for half of
    BACKUPMGR_STUCK_SECONDS. After all of them the worker replaces its queue.
    """
    since = now - timedelta(seconds=settings.BACKUPMGR_STUCK_SECONDS / 2)
    waiting = startable(now).filter(not_before__lt=since)
    oldest = waiting.order_by("not_before").values_list("not_before", flat=True).first()
    if oldest is None or moved_since(since):
        return ""
    processes = _alive(now).filter(started_at__lt=since).aggregate(total=Sum("processes"))["total"] or 0
    busy = Job.objects.at_work().count()
    busy += NodeOperation.objects.filter(status=OperationStatus.RUNNING).count()
    if busy >= processes:
        return ""
    return (
        f"the queue is stuck: {plural(waiting.count(), 'job')} could start and nobody takes them, the first since "
        f"{oldest:%H:%M:%S} UTC; the worker replaces its queue after {settings.BACKUPMGR_STUCK_SECONDS} seconds"
    )


def moved_since(moment: datetime, *, worker: str | None = None) -> bool:
    """Tell whether any attempt at a job (by this worker) has begun or ended since."""
    latest = JobAttempt.objects.order_by("-pk").values_list("worker", "started_at", "ended_at")[:_LATEST_ATTEMPTS]
    return any(
        worker in (None, by) and (began > moment or (ended is not None and ended > moment))
        for by, began, ended in latest
    )
