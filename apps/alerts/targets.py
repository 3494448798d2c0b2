"""Targets: by when a backup of each collection has to be there, for each schedule that means it.

The deadline is stored, so that pages, API and /metrics see it pass even when no worker is left to notice. There is no
"expected interval": weekdays at 22:00 have a gap of one day and one of three, and each has its own deadline.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Any, NamedTuple

from django.db.models import Exists, F, Max, Min, OuterRef, Window
from django.db.models.functions import RowNumber
from django.utils import timezone

from apps.alerts.models import AlertClock, Target
from apps.clusters.models import ObservedCollection
from apps.protection.expectations import Expectation
from apps.schedules.advance import MOST_NAMED, windows_of
from apps.schedules.models import Clock, CollectionTag, ItemStatus, RunItem, Schedule
from apps.schedules.preview import duration_p95
from apps.schedules.selection import matching
from apps.schedules.timing.slots import gap_after, next_due
from apps.schedules.timing.spec import Kind, Timing, TimingInvalid

logger = logging.getLogger(__name__)

LEAST_GRACE = timedelta(minutes=15)
MOST_GRACE = timedelta(hours=6)
#: The collection has a backup of that slot.
_THERE = (ItemStatus.OK, ItemStatus.FRESH_ENOUGH)
#: What ended so shortly before the last look is read once more.
_OVERLAP = timedelta(minutes=10)
#: What a deadline follows from.
_COLUMNS = (
    "cluster_id", "include", "exclude", "tags", "kind", "cron_resolved", "interval_seconds", "anchor_at", "tz",
    "jitter_seconds", "grace_seconds", "enabled_at",
)  # fmt: skip
#: More slots in a row than this that blackouts leave out: nothing is expected.
MOST_SKIPPED = 1000


class Due(NamedTuple):
    """When a run is due, and by when its backup has to be there."""

    due_at: datetime | None
    deadline_at: datetime | None


NEVER_DUE = Due(None, None)


def next_deadline(timing: Timing, after: datetime, grace_seconds: int | None, p95: float | None) -> Due:
    """Return when the first slot after `after` is due and by when its backup has to be there; NEVER_DUE when none is.

    Slots that a blackout leaves out are passed over; one that it puts off counts from its end. Raises: TimingInvalid.
    """
    for _ in range(MOST_SKIPPED):
        found = next_due(timing, after)
        if found is None:
            return NEVER_DUE
        slot, due = found
        if due.skipped or due.at is None:
            after = slot
            continue
        if grace_seconds is not None:
            return Due(due.at, due.at + timedelta(seconds=grace_seconds))
        gap = gap_after(timing, slot) or timedelta(days=1)
        grace = max(LEAST_GRACE, min(gap / 4, MOST_GRACE), timedelta(seconds=2 * (p95 or 0)))
        return Due(due.at, due.at + grace)
    return NEVER_DUE


Key = tuple[Any, str]


def refresh_targets(*, now: datetime) -> None:
    """Work out the deadlines of which something has changed, and write them.

    What it costs follows from how many targets there are and from what has ended since the last time, not from how
    many runs there have ever been.
    """
    schedules = list(
        Schedule.objects.filter(enabled=True, deleted_at=None, paused_at=None).exclude(kind=Kind.MANUAL).only(*_COLUMNS)
    )
    known = {(row.schedule_id, row.collection_name): row for row in Target.objects.all()}
    meant = dict(_meant(schedules))
    slots = _slots(meant, known, now)
    wanted = dict(_reckon(schedules, meant, known, slots, now))
    fresh = [row for key, row in wanted.items() if key not in known]
    changed = [row for key, row in wanted.items() if key in known and row.is_changed]
    Target.objects.bulk_create(fresh, batch_size=500)
    Target.objects.bulk_update(changed, ["last_ok_slot", "due_at", "deadline_at", "basis"], batch_size=500)
    gone = [row.pk for key, row in known.items() if key not in wanted]
    for start in range(0, len(gone), 500):
        Target.objects.filter(pk__in=gone[start : start + 500]).delete()
    AlertClock.objects.filter(pk=1).update(targets_at=now)


def _meant(schedules: list[Schedule]) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """Which collections each schedule means, by its key; none for one that cannot be read."""
    names: dict[Any, set[str]] = defaultdict(set)
    for cluster_id, name in ObservedCollection.objects.filter(gone_at=None).values_list("cluster_id", "name"):
        names[cluster_id].add(name)
    tags: dict[Any, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for tag in CollectionTag.objects.all():
        tags[tag.cluster_id][tag.collection_name].append(tag.tag)
    for schedule in schedules:
        try:
            yield (
                schedule.pk,
                matching(
                    names[schedule.cluster_id],
                    include=schedule.include,
                    exclude=schedule.exclude,
                    tags=schedule.tags,
                    tags_of=tags[schedule.cluster_id],
                ),
            )
        except Exception:  # one broken schedule must not keep the others from theirs
            logger.exception("No deadlines for the schedule %s", schedule.pk)


def _slots(meant: dict[Any, tuple[str, ...]], known: dict[Key, Target], now: datetime) -> dict[Key, datetime]:
    """The newest slot of each target that all storages of its schedule have a backup of.

    Those that are stored and what has ended since they were; of new targets all there ever was.
    """
    # One storage that has it is not all of those that the schedule promises.
    lacking = RunItem.objects.filter(run=OuterRef("run"), collection_name=OuterRef("collection_name")).exclude(
        status__in=_THERE
    )
    good = RunItem.objects.filter(~Exists(lacking), status__in=_THERE).order_by()
    since = AlertClock.objects.filter(pk=1).values_list("targets_at", flat=True).first()
    fresh = [pk for pk, names in meant.items() if any((pk, name) not in known for name in names)]
    asked = []
    if since is None or len(fresh) > MOST_NAMED:
        asked.append(good)
    else:
        # A clock may have been put back meanwhile, and others may go a little after this one.
        asked.append(good.filter(settled_at__gte=min(since, now) - _OVERLAP))
        if fresh:
            asked.append(good.filter(run__schedule__in=fresh))
    slots = {} if since is None else {key: row.last_ok_slot for key, row in known.items() if row.last_ok_slot}
    for rows in asked:
        for *key, slot in rows.values_list("run__schedule", "collection_name").annotate(Max("run__slot")):
            schedule_id, name = key
            slots[(schedule_id, name)] = max(slot, slots.get((schedule_id, name), slot))
    return slots


def _reckon(
    schedules: list[Schedule],
    meant: dict[Any, tuple[str, ...]],
    known: dict[Key, Target],
    slots: dict[Key, datetime],
    now: datetime,
) -> Iterator[tuple[Key, Target]]:
    windows = windows_of(schedules)
    rules = Clock.objects.filter(pk=1).values_list("tzdata", flat=True).first()
    for schedule in schedules:
        try:
            timing = schedule.timing(windows[schedule.pk])
            reckoned: dict[datetime, Due] = {}
            common = repr((timing, schedule.grace_seconds, rules))
            for name in meant.get(schedule.pk, ()):
                key = (schedule.pk, name)
                row = known.get(key) or Target(schedule=schedule, collection_name=name, first_seen_at=now)
                # Nothing before it was switched on was expected of it, nor before the collection was there.
                after = max(
                    filter(None, [slots.get(key), None if key in slots else row.first_seen_at, schedule.enabled_at])
                )
                basis = blake2b(f"{common} {after.isoformat()}".encode(), digest_size=16).hexdigest()
                if row.basis != basis or row.last_ok_slot != slots.get(key):
                    row.is_changed = True
                    row.basis, row.last_ok_slot = basis, slots.get(key)
                    if after not in reckoned:
                        p95 = duration_p95(schedule) if schedule.grace_seconds is None else None
                        reckoned[after] = next_deadline(timing, after, schedule.grace_seconds, p95)
                    row.due_at, row.deadline_at = reckoned[after]
                yield key, row
        except TimingInvalid as error:
            logger.warning("No deadlines for the schedule %s: %s", schedule.pk, error)
        except Exception:  # one broken schedule must not keep the others from theirs
            logger.exception("No deadlines for the schedule %s", schedule.pk)


def expected(now: datetime) -> dict[tuple[str, str], Expectation]:
    """What the schedules expect, for the verdict (apps.protection.expectations): of several the earliest deadline."""
    rows = Target.objects.filter(schedule__enabled=True, schedule__deleted_at=None, schedule__paused_at=None)
    # Every page asks for this, and there may be many schedules for each collection: the database picks the earliest.
    collection = [F("schedule__cluster"), F("collection_name")]
    first = (
        rows.exclude(deadline_at=None)
        .annotate(
            nth=Window(RowNumber(), partition_by=collection, order_by="deadline_at"),
            next_run_at=Window(Min("schedule__next_run_at"), partition_by=collection),
        )
        .filter(nth=1)
    )
    found: dict[tuple[str, str], Expectation] = {}
    columns = first.values_list("schedule__cluster", "collection_name", "deadline_at", "schedule__name", "next_run_at")
    for cluster_id, name, deadline_at, schedule, next_run_at in columns:
        if deadline_at is not None:
            at = timezone.localtime(deadline_at)  # in the zone of who looks, else UTC
            words = f"expected by the schedule {schedule} until {at:%Y-%m-%d %H:%M %Z}"
            found[(str(cluster_id), name)] = Expectation(deadline_at, words, next_run_at)
    return found
