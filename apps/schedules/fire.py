"""Fire: find the schedules that are due, advance each, and write a run, in one transaction.

Any number of tickers may do this at once. Whoever advances a schedule (one conditional UPDATE by its version) writes
its runs; (schedule, slot) is unique besides. A crash leaves all of it or nothing.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import DatabaseError, transaction
from django_q.tasks import async_task

from apps.schedules.advance import in_trouble, upcoming, windows_of
from apps.schedules.models import CatchUp, RunStatus, Schedule, ScheduleRun
from apps.schedules.tallies import count_ended
from apps.schedules.timing.blackouts import Window
from apps.schedules.timing.firing import Firing, Stretch, plan_firing
from apps.schedules.timing.slots import NoFutureSlot
from apps.schedules.timing.spec import Kind

logger = logging.getLogger(__name__)

#: Schedules advanced in one transaction.
BATCH = 200
#: One tick goes on for no longer than this: leases want looking after, too.
BUDGET_SECONDS = 20.0
#: Dotted, so that the queue holds a name. Means "there are runs to expand", whichever.
EXPAND = "apps.schedules.expand.expand_runs"


@dataclass
class _Step:
    """What one due schedule turns into."""

    schedule: Schedule
    changes: dict[str, Any]
    runs: list[ScheduleRun] = field(default_factory=list)


def fire_due(*, now: datetime) -> int:
    """Fire whatever is due; return how many schedules were advanced by this call. Raises: DatabaseError."""
    advanced = 0
    started = time.monotonic()
    while time.monotonic() - started < BUDGET_SECONDS:
        due = list(Schedule.objects.due(now)[:BATCH])
        if not due:
            break
        windows = windows_of(due)
        steps = [_step(schedule, windows[schedule.pk], now) for schedule in due]
        done = _write_all(steps, now)
        advanced += done
        if not done and len(due) < BATCH:
            break  # others are at it
    return advanced


def _step(schedule: Schedule, windows: tuple[Window, ...], now: datetime) -> _Step:
    """Work out what becomes of a schedule. Whatever is wrong with it stays its own trouble."""
    try:
        return _advance(schedule, windows, now)
    except Exception as error:  # noqa: BLE001 - a poisoned schedule is set aside, the others fire
        return _Step(schedule, in_trouble(schedule, error, now))


def _advance(schedule: Schedule, windows: tuple[Window, ...], now: datetime) -> _Step:
    if schedule.is_paused:
        # The tick looks at a paused one only when its pause is over.
        schedule.paused_at = schedule.paused_until = schedule.paused_by = None
        schedule.pause_reason = ""
        resumed = {"paused_at": None, "paused_until": None, "pause_reason": "", "paused_by": None}
        return _Step(schedule, resumed | upcoming(schedule, now, windows))
    if schedule.next_fire_at is None or schedule.kind == Kind.MANUAL:
        return _Step(schedule, upcoming(schedule, now, windows))
    firing = plan_firing(
        schedule.timing(windows),
        schedule.next_fire_at,
        now,
        catch_up=schedule.catchup == CatchUp.LATEST,
        window_seconds=schedule.catchup_window_seconds,
    )
    if firing is None:  # what holds it back was lengthened meanwhile
        return _Step(schedule, upcoming(schedule, now, windows))
    changes = {
        "next_fire_at": firing.next_fire_at,
        "next_run_at": firing.next_run_at,
        "last_slot": firing.last_slot,
        "error": "",
        "error_count": 0,
    }
    if firing.next_run_at is None:
        changes |= in_trouble(schedule, NoFutureSlot("cron", "There is no further run in the next five years."), now)
    return _Step(schedule, changes, _runs(schedule, firing, now))


def _runs(schedule: Schedule, firing: Firing, now: datetime) -> list[ScheduleRun]:
    runs = []
    if firing.missed is not None:
        runs.append(_stretch(schedule, firing.missed, RunStatus.MISSED, now))
    if firing.blackout is not None:
        runs.append(_stretch(schedule, firing.blackout, RunStatus.BLACKOUT, now))
    if firing.slot is not None:
        runs.append(ScheduleRun(schedule=schedule, slot=firing.slot, created_at=now, is_catch_up=firing.is_catch_up))
    return runs


def _stretch(schedule: Schedule, stretch: Stretch, status: RunStatus, now: datetime) -> ScheduleRun:
    return ScheduleRun(
        schedule=schedule,
        slot=stretch.last,
        status=status,
        missed_count=stretch.count,
        missed_from=stretch.first,
        created_at=now,
        completed_at=now,
    )


def _write_all(steps: list[_Step], now: datetime) -> int:
    """Write a batch in one transaction; when the database refuses it, each schedule on its own."""
    try:
        return _write(steps, now)
    except DatabaseError:
        if len(steps) == 1:
            return _set_aside(steps[0], now)
        return sum(_write_all([step], now) for step in steps)


def _write(steps: list[_Step], now: datetime) -> int:
    with transaction.atomic():
        won = [step for step in steps if _take(step)]
        runs = [run for step in won for run in step.runs]
        # A slot that has its run already (a clock was put back) keeps it; the schedule advances all the same.
        ScheduleRun.objects.bulk_create(runs, ignore_conflicts=True)
        count_ended(runs)
        if any(run.status == RunStatus.EXPANDING for run in runs):
            poke()
    return len(won)


def _take(step: _Step) -> bool:
    """Advance the schedule unless somebody else has, or it was edited meanwhile."""
    schedule = step.schedule
    return bool(
        Schedule.objects.filter(
            pk=schedule.pk, version=schedule.version, next_run_at=schedule.next_run_at, enabled=True
        ).update(**step.changes, version=schedule.version + 1)
    )


def _set_aside(step: _Step, now: datetime) -> int:
    """The database refuses what a schedule turns into: say so and try again later. Raises: DatabaseError."""
    try:
        return _write([step], now)
    except DatabaseError as error:
        return _write([_Step(step.schedule, in_trouble(step.schedule, error, now))], now)


def poke() -> None:
    """Put "there are runs to expand" on the queue. Harmless when it arrives twice, late, or for nothing."""
    async_task(EXPAND, task_name="expand runs")
