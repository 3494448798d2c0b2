"""A month of all schedules, or of a cluster's: what has run on each day, and what is still to run; and today's line."""

from __future__ import annotations

import calendar
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError
from django.db.models import Count, F, QuerySet, Sum
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.safestring import SafeString

from apps.clusters.models import Cluster
from apps.core.admin_cells import state_cell
from apps.schedules.admin.calendar import UtcMinute, by_day, calendar_of_cluster, count_runs, rank, runs_address
from apps.schedules.admin.cells import RUN_WORDS
from apps.schedules.admin.today import today_of
from apps.schedules.advance import windows_of
from apps.schedules.models import RunStatus, Schedule, ScheduleRun
from apps.schedules.timing.slots import next_due
from apps.schedules.timing.spec import Kind, Timing, TimingInvalid

if TYPE_CHECKING:
    from apps.schedules.admin.schedules import ScheduleAdmin

#: A schedule that runs more often in a month than this is told by its first runs and a sign.
MOST_RUNS = 150
#: So many schedules are planned ahead: those that run next.
MOST_PLANNED = 100
#: Of more schedules than this what has run is counted for all of them together.
MOST_APART = 500
#: So many schedules are named on a day; the others are counted.
MOST_NAMED = 6


@dataclass(frozen=True)
class Day:
    """`done`: state, schedule and number of runs; `planned`: schedule and number, with a sign when there are more."""

    day: date
    in_month: bool
    is_today: bool
    done: tuple[tuple[SafeString, str, int], ...]
    planned: tuple[tuple[str, str], ...]
    #: The list of its runs; empty without one.
    link: str = ""

    @property
    def shown_done(self) -> tuple[tuple[SafeString, str, int], ...]:
        return self.done[:MOST_NAMED]

    @property
    def shown_planned(self) -> tuple[tuple[str, str], ...]:
        return self.planned[:MOST_NAMED]

    @property
    def more_done(self) -> int:
        return max(0, len(self.done) - MOST_NAMED)

    @property
    def more_planned(self) -> int:
        return max(0, len(self.planned) - MOST_NAMED)


def month_of(first: date, now: datetime, cluster: Cluster | None = None) -> list[list[Day]]:
    """Return the weeks (from Monday) of the month that begins with `first`, in the viewer's zone. Four queries."""
    zone = timezone.get_current_timezone()
    weeks = calendar.Calendar().monthdatescalendar(first.year, first.month)

    def midnight(day: date) -> datetime:
        return datetime.combine(day, datetime.min.time(), tzinfo=zone)

    begin, end = midnight(weeks[0][0]), midnight(weeks[-1][-1] + timedelta(days=1))
    runs = ScheduleRun.objects.filter(slot__gte=begin, slot__lt=end)
    schedules = Schedule.objects.live().filter(enabled=True, paused_at=None).exclude(kind=Kind.MANUAL)
    filters: dict[str, Any] = {}
    if cluster is not None:
        runs, schedules = runs.filter(schedule__cluster=cluster), schedules.filter(cluster=cluster)
        filters = {"schedule__cluster__id__exact": cluster.pk}
    apart = schedules.count() <= MOST_APART
    done, reach = (_done if apart else _done_by_all)(runs, weeks[0][0], weeks[-1][-1], zone)
    planned = _planned(schedules, max(begin, now), end, zone)
    today = now.astimezone(zone).date()

    def one(day: date) -> Day:
        following = midnight(reach[day] + timedelta(days=1)) if day in reach else None
        return Day(
            day=day,
            in_month=day.month == first.month,
            is_today=day == today,
            done=tuple(done.get(day, ())),
            planned=tuple(planned.get(day, ())),
            link=runs_address(midnight(day), following, **filters) if following else "",
        )

    return [[one(day) for day in week] for week in weeks]


def _done(
    runs: QuerySet[ScheduleRun], first: date, last: date, zone: tzinfo
) -> tuple[dict[date, list[tuple[SafeString, str, int]]], dict[date, date]]:
    """What has run on each day, the worst first; and until which day the rows behind it reach."""
    rows = (
        runs.order_by()
        .values_list("schedule__name", UtcMinute("slot"), "status", UtcMinute("missed_from"))
        .annotate(Count("id"), stands=Sum("missed_count"))
    )
    by_name: dict[str, list[Any]] = defaultdict(list)
    for name, *row in rows:
        by_name[name].append(row)
    found: dict[date, list[tuple[str, str, int]]] = defaultdict(list)
    reach: dict[date, date] = {}
    for name in sorted(by_name):
        for day, of_day in by_day(by_name[name], zone, first, last).items():
            found[day] += [(status, name, count) for status, count in of_day.counts.items()]
            reach[day] = max(reach.get(day, day), of_day.until)
    return {
        day: [
            (state_cell(*RUN_WORDS[RunStatus(status)]), name, count)
            for status, name, count in sorted(entries, key=lambda entry: (rank(entry[0]), entry[1]))
        ]
        for day, entries in found.items()
    }, reach


def _done_by_all(
    runs: QuerySet[ScheduleRun], first: date, last: date, zone: tzinfo
) -> tuple[dict[date, list[tuple[SafeString, str, int]]], dict[date, date]]:
    """The same without the names of the schedules."""
    days = by_day(count_runs(runs, zone), zone, first, last)
    return {
        day: [
            (state_cell(*RUN_WORDS[RunStatus(status)]), "all schedules", found.counts[status])
            for status in sorted(found.counts, key=rank)
        ]
        for day, found in days.items()
    }, {day: found.until for day, found in days.items()}


def _planned(
    schedules: QuerySet[Schedule], begin: datetime, end: datetime, zone: tzinfo
) -> dict[date, list[tuple[str, str]]]:
    ahead = list(schedules.order_by(F("next_run_at").asc(nulls_last=True), "name")[:MOST_PLANNED])
    windows = windows_of(ahead)
    found: dict[date, list[tuple[str, str]]] = defaultdict(list)
    known: dict[Timing, tuple[Counter[date], bool]] = {}
    for schedule in sorted(ahead, key=lambda one: (one.name, one.pk)):
        timing = schedule.timing(windows[schedule.pk])
        if not timing.jitter_seconds:
            timing = replace(timing, jitter_key="")  # many schedules follow one rule
        try:
            if timing not in known:
                known[timing] = _days(timing, begin, end, zone)
            counts, cut = known[timing]
        except TimingInvalid:
            continue
        for day, count in counts.items():
            found[day].append((schedule.name, f"{count}+" if cut and day == max(counts) else str(count)))
    return found


def _days(timing: Timing, begin: datetime, end: datetime, zone: tzinfo) -> tuple[Counter[date], bool]:
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
    this = timezone.localtime(now).date().replace(day=1)
    try:
        first = datetime.strptime(request.GET.get("month", ""), "%Y-%m").replace(tzinfo=UTC).date()
        first = first if 2000 <= first.year <= 2100 else this
    except ValueError:
        first = this
    cluster = _cluster(request.GET.get("cluster", ""))
    return page.page(
        request,
        "admin/schedules/month.html",
        title=f"Runs in {first:%B %Y}" + (f" on {cluster.name}" if cluster else ""),
        weeks=month_of(first, now, cluster),
        before=f"{first - timedelta(days=1):%Y-%m}",
        after=f"{first + timedelta(days=32):%Y-%m}",
        today=today_of(now, cluster) if first == this else None,
        calendar=calendar_of_cluster(cluster, now) if cluster else None,
        clusters=list(Cluster.objects.order_by("name")[:100]),
        chosen=cluster,
        query={"month": request.GET.get("month", "") if first != this else "", "cluster": cluster and str(cluster.pk)},
        planned_ahead=MOST_PLANNED,
        zone=timezone.get_current_timezone_name(),
    )


def _cluster(reference: str) -> Cluster | None:
    try:
        return Cluster.objects.filter(pk=reference).first() if reference else None
    except (ValidationError, ValueError):
        return None
