"""The calendar of a schedule's runs: a cell for every day of a year, the worst of its runs in it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from django.db.models import Count
from django.db.models.functions import TruncDate

from apps.schedules.admin.cells import RUN_WORDS
from apps.schedules.models import RunStatus, Schedule, ScheduleRun
from apps.schedules.timing.spec import zone_names

WEEKS = 53
#: The worst one names the day.
_WORST_FIRST = (
    RunStatus.FAILED, RunStatus.EXPIRED, RunStatus.MISSED, RunStatus.PARTIAL, RunStatus.SKIPPED_OVERLAP,
    RunStatus.RUNNING, RunStatus.EXPANDING, RunStatus.BLACKOUT, RunStatus.FRESH_ENOUGH, RunStatus.OK,
)  # fmt: skip
_TONES = {"ok": "ok", "bad": "bad", "warn": "warn", "busy": "busy", "wait": "busy", "off": "off"}


@dataclass(frozen=True)
class Day:
    """One cell. `tone` is empty for a day without a run."""

    day: date
    tone: str
    words: str
    is_future: bool = False


def calendar_of(schedule: Schedule, now: datetime) -> list[list[Day]]:
    """Return seven rows (Monday to Sunday) of 53 days, the newest week last. One query."""
    zone = ZoneInfo(schedule.tz) if schedule.tz in zone_names() else ZoneInfo("UTC")
    today = now.astimezone(zone).date()
    first = today - timedelta(days=today.weekday(), weeks=WEEKS - 1)
    rows = (
        ScheduleRun.objects.filter(schedule=schedule, slot__gte=now - timedelta(weeks=WEEKS + 1))
        .annotate(day=TruncDate("slot", tzinfo=zone))
        .values_list("day", "status")
        .annotate(count=Count("id"))
        .order_by()
    )
    found: dict[date, dict[str, int]] = defaultdict(dict)
    for day, status, count in rows:
        found[day][status] = count
    return [
        [_cell(first + timedelta(days=weekday, weeks=week), found, today) for week in range(WEEKS)]
        for weekday in range(7)
    ]


def _cell(day: date, found: dict[date, dict[str, int]], today: date) -> Day:
    counts = found.get(day, {})
    if not counts:
        return Day(day, "", f"{day:%d %b %Y}: no run", day > today)
    worst = next(status for status in _WORST_FIRST if status in counts)
    words = ", ".join(f"{count} {RUN_WORDS[RunStatus(status)][0].lower()}" for status, count in sorted(counts.items()))
    return Day(day, _TONES[RUN_WORDS[worst][1]], f"{day:%d %b %Y}: {words}")
