"""The tick of this room, called by every worker's supervisor: fire what is due, look after runs, start the sweep."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

from django.db import DatabaseError
from django_q.tasks import async_task

from apps.schedules.clock import JumpWatch, follow_tzdata, keep_time, take_sweep
from apps.schedules.fire import fire_due
from apps.schedules.settle import settle_runs

logger = logging.getLogger(__name__)

#: Dotted, so that the queue holds a name.
SWEEP = "apps.schedules.retention.work.sweep"

_watch = JumpWatch()
_followed: set[bool] = set()


def tick(*, now: datetime) -> None:
    """Do one round. Three queries when nothing is due. Raises: DatabaseError."""
    jumped = _watch.jumped_by(now)
    if not _followed:
        follow_tzdata(now=now)
        _followed.add(True)
    may_fire, sweep_due = keep_time(now=now, jumped_by=jumped)
    if may_fire:
        _apart(lambda: fire_due(now=now))
    if sweep_due and take_sweep(now=now):
        async_task(SWEEP, task_name="retention sweep")
    _apart(lambda: settle_runs(now=now))


def _apart(work: Callable[[], object]) -> None:
    """What goes wrong in one part must not keep the others from their turn."""
    try:
        work()
    except DatabaseError:
        raise
    except Exception:
        logger.exception("A part of the schedules' tick failed")
