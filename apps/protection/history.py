"""What happened on each of the last days: backups by result, bytes and duration; and a strip for single collections.

Days are those of UTC. The database counts them with its own functions: Django's, on SQLite, are Python called per row.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from django.db.models import CharField, Count, FloatField, Func, Q, Sum
from django.utils import timezone

from apps.backups.models import Backup
from apps.jobs.models import Job
from apps.jobs.states import BACKUP_TYPES, JobStatus, JobType

DAYS = 30
#: Charts of a month need not be newer.
CACHE_SECONDS = 30.0


class UtcDay(Func):
    """The day of a moment as '2026-11-21'."""

    output_field = CharField()
    template = "substr(%(expressions)s, 1, 10)"  # SQLite holds moments as text, in UTC

    def as_postgresql(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        template = "to_char(%(expressions)s AT TIME ZONE 'UTC', 'YYYY-MM-DD')"
        return self.as_sql(compiler, connection, template=template, **extra)


class Seconds(Func):
    """The seconds between two moments."""

    output_field = FloatField()
    arity = 2
    arg_joiner = ") - julianday("
    template = "((julianday(%(expressions)s)) * 86400.0)"

    def as_postgresql(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        return self.as_sql(
            compiler, connection, template="EXTRACT(EPOCH FROM (%(expressions)s))", arg_joiner=" - ", **extra
        )


@dataclass
class Day:
    """What ended on one day."""

    day: date
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    size_bytes: int = 0
    seconds: float = 0.0

    @property
    def mean_seconds(self) -> float:
        """Of the backups that succeeded; 0 without one."""
        return self.seconds / self.succeeded if self.succeeded else 0.0


_lock = threading.Lock()
_cached: tuple[float, date, list[Day]] | None = None


def last_days(now: datetime) -> list[Day]:
    """The last DAYS days, today last; at most CACHE_SECONDS old."""
    global _cached
    today = now.astimezone(UTC).date()
    with _lock:
        cached = _cached
    if cached is not None and cached[1] == today and time.monotonic() - cached[0] < CACHE_SECONDS:
        return cached[2]
    found = read_days(today)
    with _lock:
        _cached = (time.monotonic(), today, found)
    return found


def forget_days() -> None:
    global _cached
    with _lock:
        _cached = None


def read_days(today: date) -> list[Day]:
    days = {day: Day(day) for day in _days(today)}
    rows = (
        Job.objects.filter(type__in=BACKUP_TYPES, completed_at__gte=_start(today), created_at__gte=_asked_since(today))
        .order_by()
        .values_list(UtcDay("completed_at"), "status")
        .annotate(Count("pk"), Sum("bytes_done"), seconds=Sum(Seconds("completed_at", "started_at")))
    )
    for name, status, count, size, seconds in rows:
        day = days.get(date.fromisoformat(name))
        if day is None:
            continue
        if status == JobStatus.COMPLETED:
            day.succeeded, day.size_bytes, day.seconds = count, size or 0, float(seconds or 0)
        elif status == JobStatus.FAILED:
            day.failed = count
        elif status == JobStatus.CANCELLED:
            day.cancelled = count
    return list(days.values())


@dataclass
class DayOfCollection:
    """One day of one collection. `missed` says that at its end (or now) the newest good backup was too old."""

    day: date
    succeeded: int = 0
    failed: int = 0
    missed: bool = False
    #: Before the first backup that we know of.
    before: bool = False


@dataclass
class Strip:
    days: list[DayOfCollection] = field(default_factory=list)

    @property
    def words(self) -> str:
        """For who cannot see it."""
        good = sum(day.succeeded > 0 for day in self.days)
        failed = sum(day.failed > 0 and not day.succeeded for day in self.days)
        missed = sum(day.missed and not day.failed for day in self.days)
        return f"Last {len(self.days)} days: {good} with a backup, {failed} with failures only, {missed} missed"


def strips(keys: Iterable[tuple[Any, str]], *, max_age_hours: dict[Any, int], now: datetime) -> dict[Any, Strip]:
    """(cluster id, collection) → its strip. Two queries, by the indexes on a collection's jobs and backups.

    What succeeded is counted by the backups that are there and by the jobs that made any: either may be gone by now.
    """
    wanted = list(keys)
    if not wanted:
        return {}
    today = now.astimezone(UTC).date()
    by_cluster: dict[Any, list[str]] = defaultdict(list)
    for cluster_id, name in wanted:
        by_cluster[cluster_id].append(name)
    condition = Q()
    for cluster_id, names in by_cluster.items():
        condition |= Q(cluster=cluster_id, collection_name__in=names)
    rows = (
        Job.objects.filter(condition, type=JobType.BACKUP, completed_at__gte=_start(today))
        .filter(created_at__gte=_asked_since(today), status__in=(JobStatus.COMPLETED, JobStatus.FAILED))
        .order_by()
        .values_list("cluster_id", "collection_name", UtcDay("completed_at"), "status")
        .annotate(Count("pk"))
    )
    counts: dict[Any, dict[tuple[date, str], int]] = defaultdict(dict)
    for cluster_id, name, day, status, count in rows:
        counts[(cluster_id, name)][(date.fromisoformat(day), status)] = count
    held = (
        Backup.objects.filter(condition, shard_id=None, created_at__gte=_start(today))
        .order_by()
        .values_list("cluster_id", "collection_name", UtcDay("created_at"))
        .annotate(Count("pk"))
    )
    for cluster_id, name, day, count in held:
        found, key = counts[(cluster_id, name)], (date.fromisoformat(day), JobStatus.COMPLETED)
        found[key] = max(count, found.get(key, 0))
    return {key: _strip(counts[key], today, max_age_hours.get(key[0], 24)) for key in wanted}


def _strip(counts: dict[tuple[date, str], int], today: date, max_age_hours: int) -> Strip:
    # Days are coarse: so many whole days in a row may be without a backup; today is not over yet.
    allowed = max(0, max_age_hours // 24 - 1)
    days, last_good, begun = [], None, False
    for day in _days(today):
        succeeded = counts.get((day, JobStatus.COMPLETED), 0)
        failed = counts.get((day, JobStatus.FAILED), 0)
        begun = begun or bool(succeeded or failed)
        last_good = day if succeeded else last_good
        late = last_good is None or (day - last_good).days > allowed + (day == today)
        days.append(DayOfCollection(day, succeeded, failed, missed=begun and late and not succeeded, before=not begun))
    return Strip(days)


def _asked_since(today: date) -> datetime:
    """What ended in the last days was asked for in them or as long before: a year of jobs stays out by the index."""
    return _start(today) - timedelta(days=DAYS)


def _days(today: date) -> list[date]:
    return [today - timedelta(days=back) for back in range(DAYS - 1, -1, -1)]


def _start(today: date) -> datetime:
    return timezone.make_aware(datetime.combine(today - timedelta(days=DAYS - 1), datetime.min.time()), UTC)
