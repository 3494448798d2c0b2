"""Targets: by when a backup of each collection has to be there, for each schedule that means it.

The deadline is stored, so that pages, API and /metrics see it pass even when no worker is left to notice. There is no
"expected interval": weekdays at 22:00 have a gap of one day and one of three, and each has its own deadline.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db.models import Exists, Max, OuterRef
from django.utils import timezone

from apps.alerts.models import Target
from apps.clusters.models import ObservedCollection
from apps.protection.expectations import Expectation
from apps.schedules.advance import windows_of
from apps.schedules.models import CollectionTag, ItemStatus, RunItem, Schedule
from apps.schedules.preview import duration_p95
from apps.schedules.selection import select
from apps.schedules.timing.slots import gap_after, next_due
from apps.schedules.timing.spec import Kind, Timing, TimingInvalid

logger = logging.getLogger(__name__)

LEAST_GRACE = timedelta(minutes=15)
MOST_GRACE = timedelta(hours=6)
#: The collection has a backup of that slot.
_THERE = (ItemStatus.OK, ItemStatus.FRESH_ENOUGH)
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


def refresh_targets(*, now: datetime) -> None:
    """Work out all deadlines, and write those that have changed."""
    schedules = list(Schedule.objects.filter(enabled=True, deleted_at=None, paused_at=None).exclude(kind=Kind.MANUAL))
    known = {(row.schedule_id, row.collection_name): row for row in Target.objects.all()}
    wanted = dict(_wanted(schedules, known, now))
    fresh = [row for key, row in wanted.items() if key not in known]
    changed = [row for key, row in wanted.items() if key in known and row.is_changed]
    Target.objects.bulk_create(fresh, batch_size=500)
    Target.objects.bulk_update(changed, ["last_ok_slot", "due_at", "deadline_at"], batch_size=500)
    gone = [row.pk for key, row in known.items() if key not in wanted]
    for start in range(0, len(gone), 500):
        Target.objects.filter(pk__in=gone[start : start + 500]).delete()


def _wanted(
    schedules: list[Schedule], known: dict[tuple[Any, str], Target], now: datetime
) -> Iterator[tuple[tuple[Any, str], Target]]:
    windows = windows_of(schedules)
    names: dict[Any, set[str]] = defaultdict(set)
    clusters = {schedule.cluster_id for schedule in schedules}
    seen = ObservedCollection.objects.filter(cluster__in=clusters, gone_at=None)
    for cluster_id, name in seen.values_list("cluster_id", "name"):
        names[cluster_id].add(name)
    tags: dict[Any, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for tag in CollectionTag.objects.filter(cluster__in=clusters):
        tags[tag.cluster_id][tag.collection_name].append(tag.tag)
    # One storage that has it is not all of those that the schedule promises.
    lacking = RunItem.objects.filter(run=OuterRef("run"), collection_name=OuterRef("collection_name")).exclude(
        status__in=_THERE
    )
    good = RunItem.objects.filter(~Exists(lacking), run__schedule__in=schedules, status__in=_THERE).order_by()
    slots = {
        (schedule_id, name): slot
        for schedule_id, name, slot in good.values_list("run__schedule", "collection_name").annotate(Max("run__slot"))
    }
    for schedule in schedules:
        try:
            timing = schedule.timing(windows[schedule.pk])
            p95 = duration_p95(schedule)
            matched = select(
                names[schedule.cluster_id],
                include=schedule.include,
                exclude=schedule.exclude,
                tags=schedule.tags,
                tags_of=tags[schedule.cluster_id],
            ).matched
            reckoned: dict[datetime, Due] = {}
            for name in matched:
                key = (schedule.pk, name)
                row = known.get(key) or Target(schedule=schedule, collection_name=name, first_seen_at=now)
                # Nothing before it was switched on was expected of it, nor before the collection was there.
                after = max(
                    filter(None, [slots.get(key), None if key in slots else row.first_seen_at, schedule.enabled_at])
                )
                if after not in reckoned:
                    reckoned[after] = next_deadline(timing, after, schedule.grace_seconds, p95)
                due = reckoned[after]
                row.is_changed = (row.last_ok_slot, row.due_at, row.deadline_at) != (slots.get(key), *due)
                row.last_ok_slot, (row.due_at, row.deadline_at) = slots.get(key), due
                yield key, row
        except TimingInvalid as error:
            logger.warning("No deadlines for the schedule %s: %s", schedule.pk, error)
        except Exception:  # one broken schedule must not keep the others from theirs
            logger.exception("No deadlines for the schedule %s", schedule.pk)


def expected(now: datetime) -> dict[tuple[str, str], Expectation]:
    """What the schedules expect, for the verdict (apps.protection.expectations): of several the earliest deadline."""
    rows = Target.objects.filter(schedule__enabled=True, schedule__deleted_at=None, schedule__paused_at=None)
    found: dict[tuple[str, str], Expectation] = {}
    columns = rows.exclude(deadline_at=None).values_list(
        "schedule__cluster", "collection_name", "deadline_at", "schedule__name", "schedule__next_run_at"
    )
    for cluster_id, name, deadline_at, schedule, next_run_at in columns:
        key = (str(cluster_id), name)
        before = found.get(key)
        upcoming = [at for at in (next_run_at, before.next_run_at if before else None) if at is not None]
        if deadline_at is None:
            continue
        if before is None or before.expected_by is None or deadline_at < before.expected_by:
            at = timezone.localtime(deadline_at)  # in the zone of who looks, else UTC
            words = f"expected by the schedule {schedule} until {at:%Y-%m-%d %H:%M %Z}"
            found[key] = Expectation(deadline_at, words, min(upcoming, default=None))
        else:
            found[key] = Expectation(before.expected_by, before.words, min(upcoming, default=None))
    return found
