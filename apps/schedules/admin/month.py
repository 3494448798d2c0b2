"""A month of all schedules: what has run on each day, and what is still to run."""

from __future__ import annotations

import calendar
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db.models import Count
from django.db.models.functions import TruncDate
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.safestring import SafeString

from apps.core.admin_cells import state_cell
from apps.schedules.admin.cells import RUN_WORDS
from apps.schedules.advance import windows_of
from apps.schedules.models import RunStatus, Schedule, ScheduleRun
from apps.schedules.timing.slots import next_due
from apps.schedules.timing.spec import Kind, Timing, TimingInvalid

if TYPE_CHECKING:
    from apps.schedules.admin.schedules import ScheduleAdmin

#: A schedule that runs more often in a month than this is told by its first runs and a sign.
MOST_RUNS = 200


@dataclass(frozen=True)
class Day:
    """`done`: state, schedule and number of runs; `planned`: schedule and number, with a sign when there are more."""

    day: date
    in_month: bool
    is_today: bool
    done: tuple[tuple[SafeString, str, int], ...]
    planned: tuple[tuple[str, str], ...]


def month_of(first: date, now: datetime) -> list[list[Day]]:
    """Return the weeks (from Monday) of the month that begins with `first`, in the site's zone. Four queries."""
    zone = ZoneInfo(settings.TIME_ZONE)
    weeks = calendar.Calendar().monthdatescalendar(first.year, first.month)
    begin = datetime.combine(weeks[0][0], datetime.min.time(), tzinfo=zone)
    end = datetime.combine(weeks[-1][-1] + timedelta(days=1), datetime.min.time(), tzinfo=zone)
    done = _done(begin, end, zone)
    planned = _planned(max(begin, now), end, zone)
    today = now.astimezone(zone).date()
    return [
        [
            Day(day, day.month == first.month, day == today, tuple(done.get(day, ())), tuple(planned.get(day, ())))
            for day in week
        ]
        for week in weeks
    ]


def _done(begin: datetime, end: datetime, zone: ZoneInfo) -> dict[date, list[tuple[SafeString, str, int]]]:
    rows = (
        ScheduleRun.objects.filter(slot__gte=begin, slot__lt=end)
        .annotate(day=TruncDate("slot", tzinfo=zone))
        .values_list("day", "schedule__name", "status")
        .annotate(count=Count("id"))
        .order_by("day", "schedule__name", "status")
    )
    found: dict[date, list[tuple[SafeString, str, int]]] = defaultdict(list)
    for day, name, status, count in rows:
        found[day].append((state_cell(*RUN_WORDS[RunStatus(status)]), name, count))
    return found


def _planned(begin: datetime, end: datetime, zone: ZoneInfo) -> dict[date, list[tuple[str, str]]]:
    schedules = list(
        Schedule.objects.live().filter(enabled=True, paused_at=None).exclude(kind=Kind.MANUAL).order_by("name", "id")
    )
    windows = windows_of(schedules)
    found: dict[date, list[tuple[str, str]]] = defaultdict(list)
    for schedule in schedules:
        try:
            counts, cut = _days(schedule.timing(windows[schedule.pk]), begin, end, zone)
        except TimingInvalid:
            continue
        for day, count in counts.items():
            found[day].append((schedule.name, f"{count}+" if cut and day == max(counts) else str(count)))
    return found


def _days(timing: Timing, begin: datetime, end: datetime, zone: ZoneInfo) -> tuple[Counter[date], bool]:
    """Count the runs of each day; True when it stopped counting."""
    counts: Counter[date] = Counter()
    after = begin.astimezone(UTC)
    for _ in range(MOST_RUNS):
        following = next_due(timing, after)
        if following is None:
            return counts, False
        after, due = following
        if after >= end:
            return counts, False
        if not due.skipped and due.at is not None and due.at < end:
            counts[due.at.astimezone(zone).date()] += 1
    return counts, True


def month_view(page: ScheduleAdmin, request: HttpRequest) -> HttpResponse:
    if not page.has_view_permission(request):
        return page.gone(request)
    now = timezone.now()
    try:
        first = datetime.strptime(request.GET.get("month", ""), "%Y-%m").replace(tzinfo=UTC).date()
        first = first if 2000 <= first.year <= 2100 else now.date().replace(day=1)
    except ValueError:
        first = now.date().replace(day=1)
    return page.page(
        request,
        "admin/schedules/month.html",
        title=f"Runs in {first:%B %Y}",
        weeks=month_of(first, now),
        before=f"{first - timedelta(days=1):%Y-%m}",
        after=f"{first + timedelta(days=32):%Y-%m}",
        zone=settings.TIME_ZONE,
    )
