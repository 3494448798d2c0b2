"""Preview: what a schedule would do, saved or not: in a sentence, as its next runs, and with what looks odd."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice

from cronsim import CronSim

from apps.core.errors import BackupmgrError
from apps.core.text import format_duration, plural
from apps.jobs.models import Job
from apps.jobs.states import JobStatus
from apps.schedules.advance import windows_of
from apps.schedules.draft import ScheduleData, make_draft
from apps.schedules.expand import list_collections, tags_of
from apps.schedules.load import Load, expected_load
from apps.schedules.models import Blackout, CatchUp, Schedule
from apps.schedules.retention.lint import lint_policy
from apps.schedules.selection import Selection, select
from apps.schedules.timing.blackouts import Window
from apps.schedules.timing.cron import explain
from apps.schedules.timing.slots import due, slots, smallest_gap
from apps.schedules.timing.spec import Kind, Timing
from apps.storage.models import StorageConfig

SHOWN_RUNS = 10
#: Other schedules of the cluster that start within this of a run are named.
CLOSE = timedelta(minutes=10)
#: p95 of so many durations.
DURATIONS = 20


@dataclass(frozen=True)
class NextRun:
    """One of the next runs. `marks` say what is special about it."""

    slot: datetime
    run_at: datetime
    #: On the wall of the schedule's zone: "Sun 25 Oct 2026 02:30 CEST".
    local: str
    skipped: bool = False
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Preview:
    """Everything that a form shows before it is saved."""

    sentence: str
    runs: tuple[NextRun, ...]
    lint: tuple[str, ...]
    #: None when the cluster did not tell its collections; `listing_error` says why.
    selection: Selection | None = None
    listing_error: str = ""
    #: The expression with aliases and H replaced.
    cron_resolved: str = ""
    windows: tuple[Window, ...] = field(default=())
    #: What a run asks of the cluster; None when its collections are not known.
    load: Load | None = None


def preview_schedule(
    *, data: ScheduleData, now: datetime, schedule: Schedule | None = None, with_collections: bool = True
) -> Preview:
    """Work out what these fields would do. Saves nothing; asks the cluster for its collections.

    Raises: ScheduleInvalid by field.
    """
    draft = make_draft(data, now=now, schedule=_copy(schedule))
    rows = Blackout.objects.filter(cluster=data.cluster).order_by("id")
    windows = tuple(data.blackouts) + tuple(row.window for row in rows)
    selection, error = None, ""
    if with_collections:
        try:
            selection = select_now(draft, list_collections(data.cluster))
        except BackupmgrError as refused:
            error = str(refused)
    timing = draft.timing(windows)
    return Preview(
        sentence=describe(draft, windows, [storage.name for storage in data.storages]),
        runs=next_runs(timing, now),
        lint=tuple(lint(draft, timing, now, data.storages)) + tuple(_lint_selection(selection)),
        selection=selection,
        listing_error=error,
        cron_resolved=draft.cron_resolved,
        windows=windows,
        load=expected_load(draft, timing, collections=selection.matched, storages=len(data.storages), now=now)
        if selection
        else None,
    )


def select_now(schedule: Schedule, names: Sequence[str]) -> Selection:
    return select(
        names,
        include=schedule.include,
        exclude=schedule.exclude,
        tags=schedule.tags,
        tags_of=tags_of(schedule.cluster) if schedule.tags else None,
    )


def _copy(schedule: Schedule | None) -> Schedule | None:
    return None if schedule is None else Schedule.objects.get(pk=schedule.pk)


# --- the next runs -------------------------------------------------------------------------------------------------
def next_runs(timing: Timing, now: datetime, count: int = SHOWN_RUNS) -> tuple[NextRun, ...]:
    """Return the next `count` slots with when each is run, and what is special about it. Raises: TimingInvalid."""
    return tuple(_next_run(timing, slot) for slot in islice(slots(timing, now), count))


def _next_run(timing: Timing, slot: datetime) -> NextRun:
    zone = timing.tzinfo
    when = due(timing, slot)
    local = slot.astimezone(zone)
    marks = list(_clock_marks(timing, local))
    if when.skipped:
        marks.append("left out: blackout")
    elif when.deferred:
        marks.append(f"put off by a blackout to {when.at.astimezone(zone):%H:%M}")
    elif when.at > slot:
        marks.append(f"starts {format_duration((when.at - slot).total_seconds())} later (jitter)")
    return NextRun(slot, when.at, local.strftime("%a %d %b %Y %H:%M %Z"), when.skipped, tuple(marks))


def _clock_marks(timing: Timing, local: datetime) -> list[str]:
    """Say what a change of the clock does to this run."""
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    before = midnight.utcoffset() or timedelta()
    after = (midnight + timedelta(days=1)).utcoffset() or timedelta()
    if local.astimezone(UTC).astimezone(local.tzinfo).utcoffset() == before == after:
        return []
    if after > before:
        if timing.kind == Kind.CRON and not _on_the_wall(timing.cron, local):
            return ["clocks go forward: its time does not exist that day, it runs right after the gap"]
        return ["clocks go forward that day"]
    if after < before:
        repeated = local.replace(fold=0).utcoffset() != local.replace(fold=1).utcoffset()
        if repeated and timing.kind == Kind.CRON:
            which = "second" if local.fold else "first"
            return [f"clocks go back: this hour comes twice, this is the {which} time"]
        return ["clocks go back that day"]
    return []


def _on_the_wall(cron: str, local: datetime) -> bool:
    sim = CronSim(cron, datetime(2026, 1, 1, tzinfo=UTC))
    return local.minute in sim.minutes and local.hour in sim.hours


# --- in words ------------------------------------------------------------------------------------------------------
def describe(schedule: Schedule, windows: Sequence[Window], storages: Sequence[str]) -> str:
    """Say in a sentence or two what the schedule does."""
    timing = schedule.timing(tuple(windows))
    what = "all collections"
    if list(schedule.include) != ["*"]:
        what = f"collections named {' or '.join(schedule.include)}"
    what += f" of {schedule.cluster.name}"
    if schedule.tags:
        what += f" with the tag {' or '.join(schedule.tags)}"
    if schedule.exclude:
        what += f", except {' and '.join(schedule.exclude)},"
    text = f"{when(timing)}, backs up {what} to {' and '.join(storages) or 'no storage'}."
    if timing.offset:
        text += f" It starts {format_duration(timing.offset.total_seconds())} later (jitter)."
    if windows:
        text += f" Not during {plural(len(windows), 'blackout')}."
    if schedule.policy is None:
        return f"{text} The backups are kept for ever."
    return f"{text} Keeps {schedule.policy.rules.sentence} (policy {schedule.policy.name})."


def when(timing: Timing) -> str:
    """'At 02:30 every day (Europe/Berlin)'"""
    if timing.kind == Kind.MANUAL:
        return "Only when somebody asks for it"
    if timing.kind == Kind.INTERVAL:
        return f"Every {format_duration(timing.interval_seconds)} of elapsed time, whatever clocks do"
    return f"{explain(timing.cron)} ({timing.zone})"


# --- lint ----------------------------------------------------------------------------------------------------------
def lint(schedule: Schedule, timing: Timing, now: datetime, storages: Sequence[StorageConfig]) -> list[str]:
    """Return what is allowed and yet probably not meant."""
    found: list[str] = []
    gap = smallest_gap(timing, now) if timing.kind != Kind.MANUAL else None
    if timing.kind == Kind.CRON:
        found += _lint_cron(timing, now)
    if timing.kind == Kind.INTERVAL and timing.interval_seconds % 86400 == 0:
        found.append(
            "An interval counts elapsed time: by the clock on the wall it moves by an hour when clocks change. For a "
            "fixed time of the day take a cron expression."
        )
    found += lint_policy(schedule.policy, gap=gap, zone=timing.zone, storages=storages)
    p95 = duration_p95(schedule)
    if gap is not None and p95 is not None and timedelta(seconds=p95) > gap:
        found.append(
            f"Backups take up to {format_duration(p95)}, longer than the {format_duration(gap.total_seconds())} "
            f"between two runs: some will be left out or wait."
        )
    if schedule.grace_seconds is not None and p95 is not None and schedule.grace_seconds < p95:
        found.append(f"The grace is shorter than backups take ({format_duration(p95)}): it will warn without need.")
    if gap is not None and timedelta(seconds=schedule.min_interval_seconds) > gap:
        found.append("The least interval is longer than the time between two runs: some runs will do nothing.")
    if schedule.catchup == CatchUp.NONE and gap is not None and gap >= timedelta(days=1):
        found.append("Runs that fall into a downtime are not made up for: a whole day or more stays without a backup.")
    found += _lint_neighbours(schedule, timing, now)
    return found


def _lint_cron(timing: Timing, now: datetime) -> list[str]:
    found = []
    minute, hour, day, _, weekday = timing.cron.split(" ")
    days = {int(piece) for piece in day.replace("-", ",").replace("/", ",").split(",") if piece.isdigit()}
    if days and not day.startswith("*") and max(days) >= 29 and min(days) >= 29:
        found.append("Some months have no such day and get no run: L is the last day of every month.")
    if day != "*" and weekday != "*":
        both = day.startswith("*") or weekday.startswith("*")
        words = "both have to fit" if both else "one of them is enough"
        found.append(f"Day of month and day of week are both given: {words}.")
    fixed = not minute.startswith("*") and not hour.startswith("*")
    if fixed and _changes_clock(timing, now) and _runs_in_the_small_hours(timing, now):
        found.append(
            f"Clocks of {timing.zone} change between 01:00 and 03:00: on one night a year this time does not exist "
            f"(it runs right after the gap), on another it comes twice (it runs once)."
        )
    return found


def _changes_clock(timing: Timing, now: datetime) -> bool:
    offsets = {(now + timedelta(days=30 * month)).astimezone(timing.tzinfo).utcoffset() for month in range(12)}
    return len(offsets) > 1


def _runs_in_the_small_hours(timing: Timing, now: datetime) -> bool:
    return any(1 <= slot.astimezone(timing.tzinfo).hour < 3 for slot in islice(slots(timing, now), 24))


def _lint_neighbours(schedule: Schedule, timing: Timing, now: datetime) -> list[str]:
    if timing.kind == Kind.MANUAL:
        return []
    starts = {run.run_at for run in next_runs(timing, now, 3) if not run.skipped}
    others = Schedule.objects.live().filter(cluster=schedule.cluster, enabled=True).exclude(pk=schedule.pk)
    neighbours = list(others.exclude(kind=Kind.MANUAL)[:50])
    windows = windows_of(neighbours)
    names = []
    for other in neighbours:
        try:
            runs = next_runs(other.timing(windows[other.pk]), now, 24)
        except ValueError:
            continue
        if any(abs(run.run_at - start) <= CLOSE for run in runs for start in starts):
            names.append(other.name)
    return [f"Starts within minutes of {', '.join(sorted(names))} on the same cluster."] if names else []


def _lint_selection(selection: Selection | None) -> list[str]:
    if selection is not None and not selection.matched:
        return ["It matches no collection as things stand: such a run fails."]
    return []


def duration_p95(schedule: Schedule) -> float | None:
    """Seconds that 95 % of the last backups of the schedule took at most; None when there are none."""
    done = Job.objects.filter(schedule_id=schedule.pk, status=JobStatus.COMPLETED, started_at__isnull=False)
    rows = done.order_by("-completed_at").values_list("started_at", "completed_at")[:DURATIONS]
    seconds = sorted((ended - begun).total_seconds() for begun, ended in rows if begun and ended)
    return seconds[min(len(seconds) - 1, round(0.95 * (len(seconds) - 1)))] if seconds else None
