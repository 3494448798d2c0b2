"""What comes next for a schedule: the one place that works out `next_fire_at` and `next_run_at`."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Q

from apps.schedules.models import Blackout, Schedule
from apps.schedules.timing.blackouts import Window
from apps.schedules.timing.slots import next_due
from apps.schedules.timing.spec import TimingInvalid

logger = logging.getLogger(__name__)

#: A schedule that cannot run is tried again after this, then after twice as long, and so on up to an hour.
FIRST_RETRY = timedelta(minutes=5)
LAST_RETRY = timedelta(hours=1)
#: Rows are asked for by the keys of so many schedules; for more all are read: statements have a greatest length.
MOST_NAMED = 1000


def upcoming(schedule: Schedule, now: datetime, windows: tuple[Window, ...] | None = None) -> dict[str, Any]:
    """Return the columns that say what comes next, counted from `now`: nothing before it is made up for.

    Also right for one that is off, paused or manual. Raises: TimingInvalid.
    """
    fresh: dict[str, Any] = {"next_fire_at": None, "next_run_at": None, "error": "", "error_count": 0}
    if not schedule.enabled:
        return fresh
    if schedule.is_paused:
        return fresh | {"next_run_at": schedule.paused_until}
    found = next_due(schedule.timing(windows), now)
    if found is None:
        return fresh
    slot, due = found
    return fresh | {"next_fire_at": slot, "next_run_at": due.at}


def in_trouble(schedule: Schedule, error: Exception, now: datetime) -> dict[str, Any]:
    """Return the columns of a schedule that cannot run: why, and when it is tried again."""
    if isinstance(error, TimingInvalid):
        sentence = f"{error.field}: {error}"
    else:
        logger.error("Schedule %s cannot run, for a reason nobody foresaw", schedule.pk, exc_info=error)
        sentence = (
            f"An internal error keeps it from running ({type(error).__name__}); the worker's log has the details."
        )
    wait = min(LAST_RETRY, FIRST_RETRY * 2 ** min(schedule.error_count, 10))
    at = now + wait
    if schedule.next_fire_at is not None:
        at = max(at, schedule.next_fire_at)
    return {"error": sentence[:500], "error_count": schedule.error_count + 1, "next_run_at": at}


def windows_of(schedules: Iterable[Schedule]) -> dict[Any, tuple[Window, ...]]:
    """Return the blackouts of each schedule, its cluster's included, by the schedule's key. One query."""
    schedules = list(schedules)
    rows = Blackout.objects.order_by("id")
    if len(schedules) <= MOST_NAMED:
        rows = rows.filter(
            Q(schedule__in=[schedule.pk for schedule in schedules])
            | Q(cluster__in={schedule.cluster_id for schedule in schedules})
        )
    by_owner: dict[Any, list[Window]] = defaultdict(list)
    for row in rows:
        by_owner[row.schedule_id or row.cluster_id].append(row.window)
    return {
        schedule.pk: tuple(by_owner.get(schedule.pk, []) + by_owner.get(schedule.cluster_id, []))
        for schedule in schedules
    }


def recompute_all(*, now: datetime, only_ahead: bool = False) -> int:
    """Work out anew what comes next for every schedule, from `now` on; return for how many it changed.

    After a change of a clock: what lies between then and now does not count as missed. `only_ahead`, after a change of
    the time zone rules: slots that have come already stay as they are, due, put off or to be made up for.
    """
    changed = 0
    schedules = list(Schedule.objects.filter(enabled=True))
    windows = windows_of(schedules)
    for schedule in schedules:
        if only_ahead and schedule.next_fire_at is not None and schedule.next_fire_at <= now:
            continue
        try:
            changes = upcoming(schedule, now, windows[schedule.pk])
        except Exception as error:  # noqa: BLE001 - one broken schedule must not keep the others from their times
            changes = in_trouble(schedule, error, now)
        if any(getattr(schedule, column) != value for column, value in changes.items()):
            changed += Schedule.objects.filter(pk=schedule.pk, version=schedule.version).update(
                **changes, version=schedule.version + 1
            )
    return changed
