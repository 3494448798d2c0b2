"""Draft: what somebody wants a schedule to be, checked field by field, and not saved."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice

from apps.backups.policies import RetentionPolicy
from apps.clusters.models import Cluster
from apps.core.errors import InvalidRequest
from apps.core.text import format_duration
from apps.schedules.models import CatchUp, NothingMatched, Overlap, Schedule
from apps.schedules.selection import MAX_PATTERN_LENGTH, MAX_PATTERNS
from apps.schedules.timing.blackouts import Window
from apps.schedules.timing.cron import HORIZON, resolve
from apps.schedules.timing.slots import GAP_SLOTS, due, slots, smallest_gap
from apps.schedules.timing.spec import Kind, TimingInvalid, zone_names
from apps.storage.models import StorageConfig

#: Nothing runs more often than this.
MIN_GAP = timedelta(minutes=5)
MAX_INTERVAL = timedelta(days=366)
MAX_SECONDS = 400 * 86400
MAX_WINDOWS = 50
MAX_TAG_LENGTH = 50


class ScheduleInvalid(InvalidRequest):
    """The fields do not describe a schedule; `problems` has a sentence for each field."""

    def __init__(self, problems: dict[str, str]) -> None:
        super().__init__(" ".join(f"{name}: {sentence}" for name, sentence in problems.items()))
        self.problems = problems


@dataclass(frozen=True, kw_only=True)
class ScheduleData:
    """The fields that people set."""

    name: str
    cluster: Cluster
    storages: Sequence[StorageConfig]
    kind: str
    cron: str = ""
    interval_seconds: int | None = None
    anchor_at: datetime | None = None
    tz: str = "UTC"
    jitter_seconds: int = 0
    include: Sequence[str] = ("*",)
    exclude: Sequence[str] = ()
    tags: Sequence[str] = ()
    nothing_matched: str = NothingMatched.FAIL.value
    overlap: str = Overlap.SKIP.value
    catchup: str = CatchUp.LATEST.value
    catchup_window_seconds: int | None = None
    min_interval_seconds: int = 0
    start_deadline_seconds: int | None = None
    max_runtime_seconds: int = 24 * 3600
    priority: int = 5
    policy: RetentionPolicy | None = None
    grace_seconds: int | None = None
    enabled: bool = True
    blackouts: Sequence[Window] = field(default=())


#: Columns that a draft takes over as they are.
PLAIN = (
    "name", "cluster", "kind", "tz", "jitter_seconds", "nothing_matched", "overlap", "catchup",
    "catchup_window_seconds", "min_interval_seconds", "start_deadline_seconds", "max_runtime_seconds", "priority",
    "policy", "grace_seconds", "enabled",
)  # fmt: skip
#: Columns that the slots follow from: after a change of any of them what comes next is worked out anew.
TIMING = ("kind", "cron_resolved", "interval_seconds", "anchor_at", "tz", "jitter_seconds")


def make_draft(data: ScheduleData, *, now: datetime, schedule: Schedule | None = None) -> Schedule:
    """Return the schedule, a new one or the given one changed, not saved. Raises: ScheduleInvalid by field."""
    draft = schedule or Schedule(id=_new_id(data))
    problems = _check_plain(data)
    for name in PLAIN:
        setattr(draft, name, getattr(data, name))
    draft.name = str(data.name).strip()
    draft.include, draft.exclude, draft.tags = list(data.include), list(data.exclude), list(data.tags)
    _set_rule(draft, data, now, problems)
    if not problems:
        _check_times(draft, tuple(data.blackouts), now, problems)
    if problems:
        raise ScheduleInvalid(problems)
    return draft


def _new_id(data: ScheduleData) -> uuid.UUID:
    """Return the id that a schedule with this name gets on its cluster: the same for its preview and when it is saved.

    H and the jitter follow from the id, and a preview has to show the times that come.
    """
    name, number = ascii(str(data.name).strip()), 0  # whatever was typed can be hashed
    while True:
        found = uuid.uuid5(data.cluster.pk, f"{name}/{number}")
        # Taken by one that was deleted, or has another name by now.
        if not Schedule.objects.filter(pk=found).exists():
            return found
        number += 1


def _set_rule(draft: Schedule, data: ScheduleData, now: datetime, problems: dict[str, str]) -> None:
    draft.cron = draft.cron_resolved = ""
    draft.interval_seconds = draft.anchor_at = None
    if data.kind == Kind.CRON:
        draft.cron = " ".join(str(data.cron).split())
        try:
            draft.cron_resolved = resolve(draft.cron, str(draft.pk))
        except TimingInvalid as error:
            problems["cron"] = str(error)
        if len(draft.cron) > 200 or len(draft.cron_resolved) > 200:
            problems["cron"] = "That is longer than 200 characters: split it into several schedules."
    elif data.kind == Kind.INTERVAL:
        length = timedelta(seconds=data.interval_seconds or 0)
        if not MIN_GAP <= length <= MAX_INTERVAL:
            problems["interval_seconds"] = f"Give from {MIN_GAP.seconds} seconds to {MAX_INTERVAL.days} days."
        draft.interval_seconds = data.interval_seconds
        anchor = (data.anchor_at or now).astimezone(UTC).replace(microsecond=0)
        if not 1970 <= anchor.year <= 2199:
            problems["anchor_at"] = "Give a moment between 1970 and 2199."
        draft.anchor_at = anchor
    if data.kind != Kind.CRON and data.cron:
        problems["cron"] = f"A schedule of the kind {data.kind} has no cron expression: leave it out."
    if data.kind != Kind.INTERVAL and data.interval_seconds is not None:
        problems["interval_seconds"] = f"A schedule of the kind {data.kind} has no interval: leave it out."


def _check_plain(data: ScheduleData) -> dict[str, str]:
    problems: dict[str, str] = {}
    name = str(data.name).strip()
    if not name or len(name) > 100 or not name.isprintable():
        problems["name"] = "Give a name of 1 to 100 printable characters."
    if data.kind not in list(Kind):
        problems["kind"] = f"One of {', '.join(Kind)}."
    if not data.storages:
        problems["storages"] = "Give at least one storage to back up to."
    if data.tz not in zone_names():
        problems["tz"] = f"{data.tz!r} is no IANA time zone: give one such as UTC or Europe/Berlin."
    for field_name, choices in (("overlap", Overlap), ("catchup", CatchUp), ("nothing_matched", NothingMatched)):
        if getattr(data, field_name) not in choices.values:
            problems[field_name] = f"One of {', '.join(choices.values)}."
    if not data.include:
        problems["include"] = "Give at least one pattern; * is every collection."
    for field_name, longest in (
        ("include", MAX_PATTERN_LENGTH),
        ("exclude", MAX_PATTERN_LENGTH),
        ("tags", MAX_TAG_LENGTH),
    ):
        values = getattr(data, field_name)
        if len(values) > MAX_PATTERNS:
            problems[field_name] = f"At most {MAX_PATTERNS}."
        elif any(not value or len(value) > longest or "\x00" in value for value in values):
            problems[field_name] = f"Each has 1 to {longest} characters."
    for field_name, low, high in (
        ("jitter_seconds", 0, MAX_SECONDS), ("catchup_window_seconds", 1, MAX_SECONDS),
        ("min_interval_seconds", 0, MAX_SECONDS), ("start_deadline_seconds", 60, MAX_SECONDS),
        ("max_runtime_seconds", 60, MAX_SECONDS), ("grace_seconds", 60, MAX_SECONDS), ("priority", 0, 9),
    ):  # fmt: skip
        value = getattr(data, field_name)
        if value is not None and not low <= value <= high:
            problems[field_name] = f"Give a number from {low} to {high}."
    if len(data.blackouts) > MAX_WINDOWS:
        problems["blackouts"] = f"At most {MAX_WINDOWS}."
    for window in data.blackouts:
        if window.starts_at is not None and window.ends_at is not None and window.ends_at <= window.starts_at:
            problems["blackouts"] = "A blackout ends after it starts."
    return problems


def _check_times(draft: Schedule, windows: tuple[Window, ...], now: datetime, problems: dict[str, str]) -> None:
    """Look at the next slots: that there are some, not too close together, and not all where none may run."""
    if draft.kind == Kind.MANUAL:
        return
    timing = draft.timing(windows)
    rule = "cron" if draft.kind == Kind.CRON else "interval_seconds"
    following = list(islice(slots(timing, now), GAP_SLOTS))
    if len(following) < 2 or following[1] > now + HORIZON:
        problems[rule] = "It has fewer than two runs in the next five years: change it."
        return
    gap = smallest_gap(timing, now)
    if gap is None or gap < MIN_GAP:
        problems[rule] = f"Two runs lie less than {format_duration(MIN_GAP.total_seconds())} apart: run less often."
        return
    if draft.jitter_seconds and timedelta(seconds=draft.jitter_seconds) >= gap / 2:
        problems["jitter_seconds"] = (
            f"The jitter must be less than half the smallest gap, which is {format_duration(gap.total_seconds())}."
        )
    if windows and all(due(timing, slot).skipped for slot in following):
        problems["blackouts"] = "Every run lies in a blackout that leaves it out: nothing would ever be backed up."
