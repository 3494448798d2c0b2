"""What a run of a schedule asks of its cluster: how many backups, for about how long, and what else runs then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Avg, DurationField, ExpressionWrapper, F

from apps.core.text import format_duration, plural
from apps.jobs.models import Job
from apps.jobs.states import JobStatus, JobType
from apps.schedules.advance import windows_of
from apps.schedules.models import RunStatus, Schedule, ScheduleRun
from apps.schedules.timing.slots import due, next_due, slots
from apps.schedules.timing.spec import Kind, Timing, TimingInvalid

#: How long backups and runs take is told by those of the last days.
LATELY = timedelta(days=30)
#: Other schedules of the cluster that are looked at; collections that are asked for how long theirs took.
MOST_OTHERS, MOST_COLLECTIONS = 50, 500
#: A run of another schedule that began this long before may still be under way, or have been put off by a blackout.
_LONGEST = timedelta(hours=24)
_MOST_SLOTS = 300


@dataclass(frozen=True)
class Load:
    """Sentences for people; `overlaps` are the names of the schedules that run at the same time."""

    sentences: tuple[str, ...]
    overlaps: tuple[str, ...] = ()


def expected_load(draft: Schedule, timing: Timing, *, collections: Sequence[str], storages: int, now: datetime) -> Load:
    """Work out what the next run of a schedule, saved or not, asks of its cluster. Four queries."""
    cluster, backups = draft.cluster, len(collections) * storages
    at_once = min(backups, cluster.max_jobs) if cluster.max_jobs else backups
    sentences = []
    if backups:
        limit = f", at most {cluster.max_jobs} of them at once" if at_once < backups else ""
        sentences.append(f"A run makes {plural(backups, 'backup')}{limit}.")
    took = _durations(draft, collections, now)
    known = sum(took.values(), timedelta()) * storages
    length = known / at_once if at_once else timedelta()
    if took:
        missing = len(collections) - len(took)
        but = f"; {missing} of them not measured yet" if missing else ""
        about = format_duration(length.total_seconds())
        sentences.append(f"It takes about {about}, going by how long its collections took lately{but}.")
    elif backups:
        sentences.append("How long it takes is not known: none of its collections has been backed up lately.")
    start = _next_start(timing, now)
    if start is None:
        return Load(tuple(sentences))
    overlaps = _overlaps(draft, timing, start, start + max(length, timedelta(minutes=1)), now)
    between = f"{_clock(start, timing)} to {_clock(start + length, timing)}" if length else _clock(start, timing)
    if overlaps:
        named = ", ".join(f"{name} ({words})" for name, words in overlaps[:5])
        more = f" and {len(overlaps) - 5} more" if len(overlaps) > 5 else ""
        sentences.append(f"While the next one runs ({between}), these run on {cluster.name} as well: {named}{more}.")
    else:
        sentences.append(f"While the next one runs ({between}), no other schedule runs on {cluster.name}.")
    return Load(tuple(sentences), tuple(name for name, _ in overlaps))


def _durations(draft: Schedule, collections: Sequence[str], now: datetime) -> dict[str, timedelta]:
    """How long a backup of each collection took on average lately, of those that were made."""
    took = ExpressionWrapper(F("completed_at") - F("started_at"), output_field=DurationField())
    jobs = Job.objects.filter(
        cluster=draft.cluster,
        type=JobType.BACKUP,
        status=JobStatus.COMPLETED,
        collection_name__in=collections[:MOST_COLLECTIONS],
        completed_at__gte=now - LATELY,
    )
    rows = jobs.order_by().values_list("collection_name").annotate(took=Avg(took))
    return {name: length for name, length in rows if length is not None}


def _next_start(timing: Timing, now: datetime) -> datetime | None:
    try:
        after = now
        for _ in range(_MOST_SLOTS):
            following = next_due(timing, after)
            if following is None:
                return None
            after, found = following
            if not found.skipped:
                return found.at
    except TimingInvalid:
        pass
    return None


def _overlaps(draft: Schedule, own: Timing, begin: datetime, end: datetime, now: datetime) -> list[tuple[str, str]]:
    """Other schedules of the cluster that run then, with when (by the clock of this one) and for how long."""
    rows = Schedule.objects.live().filter(cluster=draft.cluster, enabled=True, paused_at=None)
    others = list(rows.exclude(pk=draft.pk).exclude(kind=Kind.MANUAL).order_by("name")[:MOST_OTHERS])
    windows, takes = windows_of(others), _run_durations(others, now)
    found = []
    for other in others:
        length = takes.get(other.pk, timedelta())
        try:
            timing = other.timing(windows[other.pk])
            at = _start_between(timing, begin - min(length, _LONGEST), end)
        except TimingInvalid:
            continue
        if at is not None:
            about = f", about {format_duration(length.total_seconds())}" if length else ""
            found.append((other.name, f"{_clock(at, own)}{about}"))
    return found


def _start_between(timing: Timing, begin: datetime, end: datetime) -> datetime | None:
    """When it starts in between; slots before may be put off into it by a blackout or by jitter."""
    back = _LONGEST if timing.windows else timedelta(minutes=1)
    for number, slot in enumerate(slots(timing, begin - timing.offset - back)):
        if number > _MOST_SLOTS or slot >= end:
            return None
        found = due(timing, slot)
        if not found.skipped and begin <= found.at < end:
            return found.at
    return None


def _run_durations(schedules: Sequence[Schedule], now: datetime) -> dict[UUID, timedelta]:
    took: Any = ExpressionWrapper(F("completed_at") - F("created_at"), output_field=DurationField())
    rows = ScheduleRun.objects.filter(
        schedule__in=[one.pk for one in schedules],
        slot__gte=now - LATELY,
        status__in=(RunStatus.OK, RunStatus.PARTIAL),
        completed_at__isnull=False,
    )
    return dict(rows.order_by().values_list("schedule").annotate(took=Avg(took)))


def _clock(moment: datetime, timing: Timing) -> str:
    return f"{moment.astimezone(timing.tzinfo):%H:%M}"
