"""Fire: find the schedules that are due, advance each, and write a run, in one transaction.

Any number of tickers may do this at once. Whoever advances a schedule (a conditional UPDATE by its version) writes its
runs; (schedule, slot) is unique besides. A crash leaves all of it or nothing.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import DatabaseError, connection, transaction
from django_q.tasks import async_task

from apps.schedules.advance import in_trouble, upcoming, windows_of
from apps.schedules.models import CatchUp, RunStatus, Schedule, ScheduleRun, Trigger
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
#: What advancing a schedule may change; what it does not change is written back as it was read.
_ADVANCED = (
    "next_fire_at", "next_run_at", "last_slot", "error", "error_count",
    "paused_at", "paused_until", "pause_reason", "paused_by",
)  # fmt: skip
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
        return _Step(schedule, upcoming(schedule, now, windows))
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
    """Advance those that are still as they were read, and write their runs; return how many. Raises: DatabaseError."""
    with transaction.atomic():
        steps = _still_so(steps)
        if not steps:
            return 0
        _take(steps)
        runs = _not_there_yet([run for step in steps for run in step.runs])
        ScheduleRun.objects.bulk_create(runs)
        count_ended(runs)
        if any(run.status == RunStatus.EXPANDING for run in runs):
            poke()
    return len(steps)


def _still_so(steps: list[_Step]) -> list[_Step]:
    """Leave out what somebody else has advanced or edited meanwhile, and lock the rest, in one order for all."""
    rows = Schedule.objects.filter(pk__in=[step.schedule.pk for step in steps], enabled=True).order_by("pk")
    now_so = set(rows.select_for_update().values_list("pk", "version", "next_run_at"))
    return [step for step in steps if (step.schedule.pk, step.schedule.version, step.schedule.next_run_at) in now_so]


def _take(steps: list[_Step]) -> None:
    """Advance schedules by one prepared statement: with thousands of them this is most of the work.

    Raises: DatabaseError, also when one of them is not as it was read.
    """
    to_set = [_field(name) for name in (*_ADVANCED, "version")]
    to_match = [_field(name) for name in ("id", "version", "next_run_at", "enabled")]
    sets = ", ".join(f"{_quoted(field.column)} = %s" for field in to_set)
    match = " AND ".join(f"{_quoted(field.column)} = %s" for field in to_match)
    statement = f"UPDATE {_quoted(Schedule._meta.db_table)} SET {sets} WHERE {match}"  # noqa: S608 - names of columns
    rows = []
    for step in steps:
        read = {field.attname: getattr(step.schedule, field.attname) for field in (*to_set, *to_match)}
        changed = read | step.changes | {"version": step.schedule.version + 1}
        pairs = [(field, changed) for field in to_set] + [(field, read) for field in to_match]
        rows.append([field.get_db_prep_save(values[field.attname], connection) for field, values in pairs])
    with connection.cursor() as cursor:
        cursor.executemany(statement, rows)
        if cursor.rowcount != len(rows):
            raise DatabaseError(f"Only {cursor.rowcount} of {len(rows)} schedules were as they had been read.")


def _not_there_yet(runs: list[ScheduleRun]) -> list[ScheduleRun]:
    """A slot that has its run already (a clock was put back) keeps it; the schedule advances all the same.

    Looked up, not left to `ignore_conflicts`: SQLite would ignore every other thing that is wrong with a row, too.
    """
    there = set(
        ScheduleRun.objects.filter(
            trigger=Trigger.SCHEDULE,
            schedule__in={run.schedule_id for run in runs},
            slot__in={run.slot for run in runs},
        ).values_list("schedule", "slot")
    )
    return [run for run in runs if (run.schedule_id, run.slot) not in there]


def _quoted(name: str) -> str:
    return connection.ops.quote_name(name)


def _field(name: str) -> Any:
    return Schedule._meta.get_field(name)


def _set_aside(step: _Step, now: datetime) -> int:
    """The database refuses what a schedule turns into: say so and try again later. Raises: DatabaseError."""
    try:
        return _write([step], now)
    except DatabaseError as error:
        return _write([_Step(step.schedule, in_trouble(step.schedule, error, now))], now)


def poke() -> None:
    """Put "there are runs to expand" on the queue. Harmless when it arrives twice, late, or for nothing."""
    async_task(EXPAND, task_name="expand runs")
