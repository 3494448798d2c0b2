"""Today's timeline: what has run, what runs, and what is still to run, as bars on the viewer's clock."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Avg, DurationField, Exists, ExpressionWrapper, F, OuterRef, Q, QuerySet
from django.utils import timezone
from django.utils.safestring import SafeString

from apps.clusters.models import Cluster
from apps.core.charts import Span, day_line
from apps.core.text import format_duration, plural
from apps.schedules.admin.cells import RUN_WORDS
from apps.schedules.advance import windows_of
from apps.schedules.models import RunStatus, Schedule, ScheduleRun
from apps.schedules.timing.slots import next_due
from apps.schedules.timing.spec import Kind, TimingInvalid

#: Schedules that are shown: those whose run is next or under way.
MOST_SCHEDULES = 40
#: Runs of the day that are drawn, and planned ones of each schedule.
MOST_RUNS, MOST_PLANNED = 2000, 288
#: How long a run takes is told by those of the last days.
LATELY = timedelta(days=7)


@dataclass(frozen=True)
class Line:
    """One schedule's day."""

    schedule: Schedule
    line: SafeString
    words: str


@dataclass(frozen=True)
class Today:
    lines: tuple[Line, ...]
    zone: str
    #: Schedules that have no line here.
    left_out: int


def today_of(now: datetime, cluster: Cluster | None = None) -> Today:
    """Return the day that is today for the viewer. Five queries, whatever there is."""
    zone = timezone.get_current_timezone()
    begin = datetime.combine(now.astimezone(zone).date(), datetime.min.time(), tzinfo=zone)
    end = datetime.combine(begin.date() + timedelta(days=1), datetime.min.time(), tzinfo=zone)
    begin, end = begin.astimezone(UTC), end.astimezone(UTC)  # 23 or 25 hours when clocks change
    live = Schedule.objects.live().filter(enabled=True)
    if cluster is not None:
        live = live.filter(cluster=cluster)
    ran = ScheduleRun.objects.filter(schedule=OuterRef("pk"), slot__gte=begin, slot__lt=end)
    live = live.filter(Q(next_run_at__lt=end) | Exists(ran))
    total = live.count()
    shown = live.select_related("cluster").order_by(F("next_run_at").asc(nulls_last=True), "name")
    schedules = list(shown[:MOST_SCHEDULES])
    runs = _runs(schedules, begin, end)
    takes = _durations(schedules, now)
    windows = windows_of(schedules)
    lines = []
    for schedule in schedules:
        length = takes.get(schedule.pk, timedelta(minutes=1))
        done = [_span(run, begin, now) for run in runs[schedule.pk]]
        planned = _planned(schedule, windows[schedule.pk], max(begin, now), end)
        ahead = [
            Span(_hours(at, begin), _hours(at + length, begin), "planned", f"{_clock(at)}: planned") for at in planned
        ]
        words = _words(runs[schedule.pk], planned)
        drawn = day_line([*done, *ahead], now=_hours(now, begin), hours=_hours(end, begin), label=words)
        lines.append(Line(schedule, drawn, words))
    return Today(tuple(lines), str(zone), total - len(lines))


def _runs(schedules: list[Schedule], begin: datetime, end: datetime) -> dict[UUID, list[ScheduleRun]]:
    rows: QuerySet[ScheduleRun] = ScheduleRun.objects.filter(
        schedule__in=[schedule.pk for schedule in schedules], slot__gte=begin, slot__lt=end
    ).defer("matched", "excluded", "vanished", "counts")
    found: dict[UUID, list[ScheduleRun]] = defaultdict(list)
    for run in rows.order_by("-slot")[:MOST_RUNS]:
        found[run.schedule_id].insert(0, run)
    return found


def _durations(schedules: list[Schedule], now: datetime) -> dict[UUID, timedelta]:
    """How long the runs of each schedule took on average lately."""
    took = ExpressionWrapper(F("completed_at") - F("created_at"), output_field=DurationField())
    rows = ScheduleRun.objects.filter(
        schedule__in=[schedule.pk for schedule in schedules],
        slot__gte=now - LATELY,
        status__in=(RunStatus.OK, RunStatus.PARTIAL),
        completed_at__isnull=False,
    )
    return dict(rows.order_by().values_list("schedule").annotate(took=Avg(took)))


def _planned(schedule: Schedule, windows: Any, after: datetime, end: datetime) -> list[datetime]:
    """When it runs until the day ends."""
    if schedule.is_paused or schedule.error or schedule.kind == Kind.MANUAL:
        return []
    found: list[datetime] = []
    try:
        timing = schedule.timing(windows)
        after = after.astimezone(UTC)
        # What was left out by hand, and what is to be made up for, is known by the row alone.
        if schedule.next_fire_at is not None:
            after = max(after, schedule.next_fire_at - timedelta(microseconds=1)).astimezone(UTC)
        for _ in range(MOST_PLANNED):
            following = next_due(timing, after)
            if following is None or following[0] >= end:
                break
            after, due = following
            if not due.skipped and due.at < end:
                found.append(due.at)
    except TimingInvalid:
        pass
    return found


def _span(run: ScheduleRun, begin: datetime, now: datetime) -> Span:
    word, tone = RUN_WORDS[RunStatus(run.status)]
    started = run.created_at if run.is_open or run.completed_at else run.slot
    ended = now if run.is_open else run.completed_at or run.slot
    started = min(max(started, run.slot), ended) if not run.missed_count else run.slot
    title = f"{_clock(run.slot)}: {word.lower()}"
    if run.missed_count:
        ended = run.slot
    elif ended > started:
        title += f", {format_duration((ended - started).total_seconds())}"
    return Span(_hours(started, begin), _hours(ended, begin), {"wait": "busy"}.get(tone, tone), title)


def _words(runs: list[ScheduleRun], planned: list[datetime]) -> str:
    """'2 runs so far, 1 of them failed; next at 14:00 and 3 more'"""
    bad = sum(RUN_WORDS[RunStatus(run.status)][1] == "bad" for run in runs)
    running = sum(run.is_open for run in runs)
    words = [f"{plural(len(runs), 'run')} so far"] if runs else ["no run so far"]
    if bad:
        words[0] += f", {bad} of them failed or missed"
    if running:
        words.append("running now")
    if planned:
        words.append(f"next at {_clock(planned[0])}" + (f" and {len(planned) - 1} more" if planned[1:] else ""))
    else:
        words.append("no other today")
    return "; ".join(words)


def _clock(moment: datetime) -> str:
    return f"{timezone.localtime(moment):%H:%M}"


def _hours(moment: datetime, begin: datetime) -> float:
    return (moment - begin).total_seconds() / 3600
