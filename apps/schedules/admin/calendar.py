"""Calendars of runs: a cell for every day of a year, the worst of its runs in it. Of a schedule, cluster or collection.

The database counts by hours of UTC with its own functions (Django's, on SQLite, are Python called for every row); which
day an hour belongs to is worked out here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, tzinfo
from itertools import groupby
from typing import Any
from zoneinfo import ZoneInfo

from django.db.models import CharField, Count, Exists, Func, OuterRef, Q, Sum, Value
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode

from apps.clusters.models import Cluster, ObservedCollection
from apps.schedules.admin.cells import ITEM_WORDS, RUN_WORDS
from apps.schedules.coverage import covering_schedules
from apps.schedules.models import ItemStatus, RunItem, RunStatus, Schedule, ScheduleRun
from apps.schedules.timing.spec import zone_names

WEEKS = 53
#: A run that is later than this, with nothing fired, is told as such: no worker has come round to call it missed.
LATE = timedelta(minutes=15)
_LATE = "late"
#: The worst one names the day. What was left out on purpose comes last: a day with a good run is a good one.
_WORST_FIRST = tuple(
    str(status)
    for status in (
        RunStatus.FAILED, RunStatus.EXPIRED, RunStatus.MISSED, _LATE, RunStatus.PARTIAL, RunStatus.SKIPPED_OVERLAP,
        ItemStatus.CANCELLED, RunStatus.RUNNING, RunStatus.EXPANDING, ItemStatus.QUEUED, RunStatus.OK,
        RunStatus.FRESH_ENOUGH, RunStatus.BLACKOUT,
    )
)  # fmt: skip
_WORDS = {str(status): words for status, words in (*ITEM_WORDS.items(), *RUN_WORDS.items())}
_WORDS[_LATE] = ("Due and not run", "missed")
_TONES = {status: {"wait": "busy"}.get(tone, tone) for status, (_, tone) in _WORDS.items()} | {"missed": "missed"}
LEGEND = (
    ("ok", "succeeded"), ("warn", "partly failed or skipped"), ("bad", "failed"), ("missed", "missed"),
    ("busy", "running"), ("off", "left out on purpose"), ("", "no run expected"),
)  # fmt: skip


class UtcMinute(Func):
    """A moment in UTC as '2026-11-21 02:30'."""

    output_field = CharField()
    template = "substr(%(expressions)s, 1, 16)"  # SQLite holds moments as text, in UTC

    def as_postgresql(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        template = "to_char(%(expressions)s AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI')"
        return self.as_sql(compiler, connection, template=template, **extra)


class UtcHour(UtcMinute):
    """A moment in UTC as '2026-11-21 02'."""

    template = "substr(%(expressions)s, 1, 13)"

    def as_postgresql(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        template = "to_char(%(expressions)s AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24')"
        return self.as_sql(compiler, connection, template=template, **extra)


@dataclass(frozen=True)
class Day:
    """One cell. `tone` and `link` are empty for a day without a run."""

    day: date
    tone: str
    words: str
    link: str = ""
    is_future: bool = False


@dataclass(frozen=True)
class Calendar:
    """Seven rows (Monday to Sunday) of 53 days, the newest week last; `months` head the weeks: (name, weeks)."""

    zone: str
    months: tuple[tuple[str, int], ...]
    rows: tuple[tuple[str, tuple[Day, ...]], ...]
    legend: tuple[tuple[str, str], ...] = LEGEND


@dataclass
class Found:
    """What there is on a day, by status; `until` is the last day that its rows reach to."""

    until: date
    counts: Counter[str] = field(default_factory=Counter)


#: (minute or hour of UTC, status, the first missed slot or None, rows, slots that they stand for)
Row = tuple[str, str, str | None, int, int]
#: Which runs a day leads to: from, until, and what is on it.
Link = Callable[[datetime, datetime, Found], str]


def calendar_of(schedule: Schedule, now: datetime) -> Calendar:
    """The runs of a schedule, by the days of its zone. One query."""
    zone = ZoneInfo(schedule.tz) if schedule.tz in zone_names() else ZoneInfo("UTC")
    first, _ = _span(now, zone)
    rows = count_runs(ScheduleRun.objects.filter(schedule=schedule, slot__gte=_midnight(first, zone)), zone)
    is_late = schedule.enabled and not schedule.is_paused and _is_late(schedule.next_run_at, now)
    late = [schedule.next_run_at] if is_late and schedule.next_run_at else []
    return _calendar(
        rows, zone, now, lambda begin, end, _: runs_address(begin, end, schedule__id__exact=schedule.pk), late
    )


def calendar_of_cluster(cluster: Cluster, now: datetime) -> Calendar:
    """The runs of all schedules of a cluster, by the viewer's days. One query that counts, and one for what is late."""
    zone = timezone.get_current_timezone()
    first, _ = _span(now, zone)
    runs = ScheduleRun.objects.filter(schedule__cluster=cluster, slot__gte=_midnight(first, zone))
    return _calendar(
        count_runs(runs, zone),
        zone,
        now,
        lambda begin, end, _: runs_address(begin, end, schedule__cluster__id__exact=cluster.pk),
        _late(Schedule.objects.filter(cluster=cluster), now),
    )


def calendar_of_collection(cluster: Cluster, name: str, now: datetime) -> Calendar:
    """What runs did with a collection, by the viewer's days; with what schedules that mean it today have missed since
    it was there. One query that counts, some small ones beside it."""
    zone = timezone.get_current_timezone()
    first, _ = _span(now, zone)
    begin = _midnight(first, zone)
    items = RunItem.objects.filter(collection_name=name, run__schedule__cluster=cluster, run__slot__gte=begin)
    means = [one.schedule_id for one in covering_schedules([(cluster.pk, name)]).get((cluster.pk, name), ())]
    seen = ObservedCollection.objects.filter(cluster=cluster, name=name).values_list("first_seen_at", flat=True).first()
    whole = Q(status__in=(RunStatus.FAILED, RunStatus.EXPIRED)) & ~Exists(RunItem.objects.filter(run=OuterRef("pk")))
    runs = ScheduleRun.objects.filter(
        Q(status__in=(RunStatus.MISSED, RunStatus.BLACKOUT)) | whole,
        schedule__in=means,
        slot__gte=max(begin, seen) if seen else begin,
    )
    unit = _unit(zone, now)
    of_items = (
        items.order_by()
        .values_list(unit("run__slot"), "status", Value(None, CharField()))
        .annotate(Count("pk"), stands=Value(0))
    )

    def link(begin: datetime, end: datetime, found: Found) -> str:
        if found.counts.keys() <= set(ItemStatus.values):
            return runs_address(begin, end, items__collection_name=name, schedule__cluster__id__exact=cluster.pk)
        return runs_address(begin, end, schedule__cluster__id__exact=cluster.pk)

    rows = list(of_items.union(_counted(runs, unit), all=True) if means else of_items)
    return _calendar(rows, zone, now, link, _late(Schedule.objects.filter(pk__in=means), now) if means else [])


def _is_late(next_run_at: datetime | None, now: datetime) -> bool:
    return next_run_at is not None and next_run_at < now - LATE


def _late(schedules: Any, now: datetime) -> list[datetime]:
    """When runs were due that nothing has fired yet."""
    waiting = schedules.filter(deleted_at=None, enabled=True, paused_at=None, next_run_at__lt=now - LATE)
    return list(waiting.values_list("next_run_at", flat=True))


def runs_address(begin: datetime, end: datetime, **filters: Any) -> str:
    """The list of runs whose slot lies in between."""
    span = {"slot__gte": begin.isoformat(), "slot__lt": end.isoformat()}
    return f"{reverse('admin:schedules_schedulerun_changelist')}?{urlencode(filters | span)}"


# --- counting ------------------------------------------------------------------------------------------------------
def count_runs(runs: Any, zone: tzinfo) -> list[Row]:
    """Count runs by their slot and status. One query."""
    return list(_counted(runs, _unit(zone, timezone.now())))


def _counted(runs: Any, unit: type[UtcMinute]) -> Any:
    counted = runs.order_by().values_list(unit("slot"), "status", unit("missed_from"))
    return counted.annotate(Count("pk"), stands=Sum("missed_count"))


def _unit(zone: tzinfo, now: datetime) -> type[UtcMinute]:
    """Hours when the days of the zone begin at full ones (in UTC), minutes otherwise."""
    offsets = [(now - timedelta(days=30 * month)).astimezone(zone).utcoffset() or timedelta() for month in range(14)]
    return UtcHour if all(offset % timedelta(hours=1) == timedelta() for offset in offsets) else UtcMinute


def by_day(rows: Iterable[Row], zone: tzinfo, first: date, last: date) -> dict[date, Found]:
    """Put what was counted into days from `first` to `last`. One row may stand for slots missed on several days: they
    are spread between its first and its last one."""
    found: dict[date, Found] = {}

    def put(day: date, status: str, count: int, until: date) -> None:
        if first <= day <= last:
            one = found.setdefault(day, Found(day))
            one.counts[status] += count
            one.until = max(one.until, until)

    for slot, status, missed_from, count, stands in rows:
        day = _day(slot, zone)
        if missed_from is None:
            put(day, status, count, day)
            continue
        for missed in _spread(_day(missed_from, zone), day, (stands or count) // count):
            put(missed, status, count, day)
    return found


def _spread(first: date, last: date, slots: int) -> list[date]:
    """The days on which so many slots were missed, the first and the last of them included."""
    days = (last - first).days
    if days <= 0:
        return [last]
    pieces = min(max(slots, 2), days + 1) - 1
    return [first + timedelta(days=round(days * piece / pieces)) for piece in range(pieces + 1)]


def _day(utc: str, zone: tzinfo) -> date:
    return datetime.fromisoformat(utc).replace(tzinfo=UTC).astimezone(zone).date()


# --- cells ---------------------------------------------------------------------------------------------------------
def rank(status: str) -> int:
    """0 for the worst."""
    return _WORST_FIRST.index(status)


def _in_words(counts: Counter[str]) -> str:
    """'1 failed, 2 succeeded'"""
    ordered = sorted(counts.items(), key=lambda pair: rank(pair[0]))
    return ", ".join(f"{count} {_WORDS[status][0].lower()}" for status, count in ordered)


def _span(now: datetime, zone: tzinfo) -> tuple[date, date]:
    today = now.astimezone(zone).date()
    return today - timedelta(days=today.weekday(), weeks=WEEKS - 1), today


def _midnight(day: date, zone: tzinfo) -> datetime:
    return datetime.combine(day, datetime.min.time(), tzinfo=zone)


def _calendar(rows: list[Row], zone: tzinfo, now: datetime, link: Link, late: Iterable[datetime]) -> Calendar:
    first, today = _span(now, zone)
    found = by_day(rows, zone, first, today + timedelta(days=7))
    for moment in late:
        day = moment.astimezone(zone).date()
        found.setdefault(day, Found(day)).counts[_LATE] += 1

    def cell(day: date) -> Day:
        named = f"{day:%d %b %Y}".lstrip("0")
        one = found.get(day)
        if one is None:
            return Day(day, "", f"{named}: no run", is_future=day > today)
        address = link(_midnight(day, zone), _midnight(one.until + timedelta(days=1), zone), one)
        return Day(day, _TONES[min(one.counts, key=rank)], f"{named}: {_in_words(one.counts)}", address)

    weeks = [first + timedelta(weeks=week) for week in range(WEEKS)]
    months = tuple((name, len(list(group))) for name, group in groupby(f"{week:%b}" for week in weeks))
    rows_of_cells = tuple(
        (f"{first + timedelta(days=weekday):%a}", tuple(cell(week + timedelta(days=weekday)) for week in weeks))
        for weekday in range(7)
    )
    return Calendar(str(zone), months, rows_of_cells)
