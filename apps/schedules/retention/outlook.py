"""Outlook: on which day each backup of a policy would go if runs go on as planned."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta

from django.db.models import Q

from apps.backups.retention.forecast import DAYS, LOOKS, Forecast, forecast
from apps.schedules.advance import windows_of
from apps.schedules.expand import tags_of
from apps.schedules.models import Schedule
from apps.schedules.retention.facts import SetKey
from apps.schedules.retention.plan import PolicyPlan, SetPlan
from apps.schedules.selection import select
from apps.schedules.timing.slots import due, slots
from apps.schedules.timing.spec import Kind, TimingInvalid

#: Of all sets of a policy together: a page must not take long. The sets that come later have no forecast.
LOOKS_ALTOGETHER = 150_000
#: Of all schedules of a policy together; an expression that fires every five minutes uses them up in two months.
SLOTS_ALTOGETHER = 20_000
#: Of one schedule, at most and (however many there are) at least.
SLOTS_MOST, SLOTS_LEAST = 10_000, 500


def forecast_plan(plan: PolicyPlan, *, now: datetime, only: Iterable[SetPlan] | None = None) -> dict[SetKey, Forecast]:
    """Return the forecast of each set of the plan, or of those in `only`, as far as the work allows.

    A set whose backups no schedule goes on to make is looked at, too: ages pass and locks end all the same.
    """
    wanted = list(plan.sets if only is None else only)
    calendar = _Calendar(plan, now) if any(one.key.is_scheduled for one in wanted) else None
    found: dict[SetKey, Forecast] = {}
    left = LOOKS_ALTOGETHER
    for one in wanted:
        if left <= 0:
            break
        coming, until = calendar.of(one.key) if calendar is not None and one.key.is_scheduled else ([], None)
        found[one.key] = forecast(
            one.facts,
            plan.rules,
            now,
            slots=coming,
            planned_until=until,
            elsewhere=one.elsewhere,
            frozen=bool(one.frozen),
            looks=min(LOOKS, left),
        )
        left -= found[one.key].looks
    return found


class _Calendar:
    """When the schedules that go by a policy are still to run, and for which collections."""

    def __init__(self, plan: PolicyPlan, now: datetime) -> None:
        self.now = now
        self.end = now + timedelta(days=DAYS + 2)
        rows = Schedule.objects.live().filter(policy=plan.policy, enabled=True).exclude(kind=Kind.MANUAL)
        planned = rows.filter(Q(paused_at=None) | Q(paused_until__isnull=False)).select_related("cluster")
        self.schedules = list(planned.prefetch_related("storages").order_by("name", "id"))
        self.windows = windows_of(self.schedules)
        self.most = min(SLOTS_MOST, max(SLOTS_LEAST, SLOTS_ALTOGETHER // max(1, len(self.schedules))))
        self._runs: dict[uuid.UUID, tuple[list[datetime], datetime | None]] = {}
        self._tags: dict[uuid.UUID, dict[str, set[str]]] = {}
        self._storages: dict[uuid.UUID, set[uuid.UUID]] = defaultdict(set)
        for schedule in self.schedules:
            self._storages[schedule.pk] = {storage.pk for storage in schedule.storages.all()}

    def of(self, key: SetKey) -> tuple[list[datetime], datetime | None]:
        """Return when backups of this set are to be taken, and up to when that is known (None: to the end)."""
        found: set[datetime] = set()
        until: datetime | None = None
        for schedule in self.schedules:
            if self._means(schedule, key):
                runs, known_until = self._runs_of(schedule)
                found |= set(runs)
                until = min(filter(None, (until, known_until)), default=None)
        return sorted(run for run in found if until is None or run <= until), until

    def _means(self, schedule: Schedule, key: SetKey) -> bool:
        group = key.group
        if schedule.cluster_id != group.cluster_id or group.shard_id is not None:
            return False
        if key.storage_id not in self._storages[schedule.pk]:
            return False
        tags = None
        if schedule.tags:
            if schedule.cluster_id not in self._tags:
                self._tags[schedule.cluster_id] = tags_of(schedule.cluster)
            tags = self._tags[schedule.cluster_id]
        selection = select(
            [group.collection_name],
            include=schedule.include,
            exclude=schedule.exclude,
            tags=schedule.tags,
            tags_of=tags,
        )
        return bool(selection.matched)

    def _runs_of(self, schedule: Schedule) -> tuple[list[datetime], datetime | None]:
        if schedule.pk not in self._runs:
            self._runs[schedule.pk] = self._work_out(schedule)
        return self._runs[schedule.pk]

    def _work_out(self, schedule: Schedule) -> tuple[list[datetime], datetime | None]:
        # Runs that a blackout puts off are one run when it ends.
        runs: dict[datetime, None] = {}
        after = max(filter(None, (self.now, schedule.paused_until)))
        try:
            timing = schedule.timing(self.windows[schedule.pk])
            for count, slot in enumerate(slots(timing, after)):
                if slot > self.end:
                    break
                if count == self.most:
                    return list(runs), slot
                when = due(timing, slot)
                if not when.skipped:
                    runs[when.at] = None
        except TimingInvalid:
            return [], None  # it cannot run, and says so itself
        return list(runs), None


def fate_words(found: Forecast | None, backup_id: str) -> str:
    """'2026-07-14', 'stays: hold', 'stays longer than 400 days', '' when nobody has worked it out."""
    fate = found.fates.get(backup_id) if found is not None else None
    if found is None or fate is None:
        return ""
    if fate.day is not None:
        return fate.day.isoformat()
    if fate.guards:
        return f"guarded: {', '.join(fate.guards)}"
    return f"stays longer than {DAYS} days" if found.is_whole else f"stays beyond {found.until.isoformat()}"
