"""Is anybody there to run jobs?"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings

from apps.jobs.models import Worker


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
    patience = timedelta(seconds=max(30.0, 6 * settings.BACKUPMGR_TICK_SECONDS))
    alive = Worker.objects.filter(stopped_at=None, seen_at__gt=now - patience).count()
    last = Worker.objects.order_by("-seen_at").values_list("seen_at", flat=True).first()
    return WorkerState(alive=alive, last_seen_at=last)
