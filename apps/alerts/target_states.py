"""How each target stands: what a schedule owes a collection, and whether it is there. Read, never stored."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from apps.alerts.models import Target
from apps.alerts.running import read_troubles
from apps.protection.judge import Verdict
from apps.schedules.models import ItemStatus, RunItem, Schedule


class TargetState(StrEnum):
    """The worst that holds; what runs hides neither what is overdue nor what fails."""

    OVERDUE = "overdue"  # the deadline has passed
    STUCK = "stuck"  # its backup runs, and gives no sign of life or moves nothing
    FAILING = "failing"  # the last backup failed; the deadline has not passed yet
    SLOW = "slow"  # its backup runs for far longer than it usually does
    RUNNING = "running"
    LATE = "late"  # due, and within its grace
    NEVER = "never"  # no backup by this schedule yet, and none was due
    OK = "ok"


@dataclass(frozen=True)
class TargetStanding:
    """One collection of one schedule. Times in UTC."""

    schedule_id: str
    schedule: str
    cluster: str
    collection: str
    state: TargetState
    #: The slot of the newest run of the schedule that backed it up into all storages; None before the first.
    last_ok_slot: datetime | None
    due_at: datetime | None
    deadline_at: datetime | None
    #: When a backup of the collection was last tested, whoever made it; None when none was.
    tested_at: datetime | None


def target_state(
    target: Target, *, running: bool, failing: bool, now: datetime, stuck: bool = False, slow: bool = False
) -> TargetState:
    """Tell how a target stands, from rows alone: a dead worker changes nothing about it. `stuck` and `slow` are about
    the backup that runs."""
    if target.deadline_at is not None and now > target.deadline_at:
        return TargetState.OVERDUE
    if stuck:
        return TargetState.STUCK
    if failing:
        return TargetState.FAILING
    if slow:
        return TargetState.SLOW
    if running:
        return TargetState.RUNNING
    if target.due_at is not None and now > target.due_at:
        return TargetState.LATE
    return TargetState.OK if target.last_ok_slot is not None else TargetState.NEVER


def read_targets(verdict: Verdict, *, now: datetime, schedule: Schedule | None = None) -> list[TargetStanding]:
    """Read the targets of all schedules (or of one) that run by themselves and are not paused: four queries, and one
    more when a backup has run for long."""
    known = {(one.facts.cluster_id, one.facts.name): one.facts for one in verdict.standings}
    queued = RunItem.objects.filter(status=ItemStatus.QUEUED).order_by()
    running = set(queued.values_list("run__schedule", "collection_name"))
    troubles = {(one.job.schedule_id, one.job.collection_name, one.is_stuck) for one in read_troubles(now)}
    rows = Target.objects.filter(schedule__enabled=True, schedule__deleted_at=None, schedule__paused_at=None)
    owners = Schedule.objects.filter(enabled=True, deleted_at=None, paused_at=None)
    if schedule is not None:
        rows, owners = rows.filter(schedule=schedule), owners.filter(pk=schedule.pk)
    # Columns beside the rows: there may be thousands of either.
    named = {row[0]: row[1:] for row in owners.values_list("pk", "name", "cluster_id", "cluster__name")}
    found = []
    for row in rows.order_by("schedule__name", "collection_name", "id"):
        if row.schedule_id not in named:
            continue  # paused between the two queries
        schedule_name, cluster_id, cluster_name = named[row.schedule_id]
        facts = known.get((str(cluster_id), row.collection_name))
        tests = [at for at in (facts.tested_at, facts.proven_at) if at] if facts else []
        state = target_state(
            row,
            running=(row.schedule_id, row.collection_name) in running,
            failing=facts is not None and facts.failure is not None,
            stuck=(row.schedule_id, row.collection_name, True) in troubles,
            slow=(row.schedule_id, row.collection_name, False) in troubles,
            now=now,
        )
        found.append(
            TargetStanding(
                schedule_id=str(row.schedule_id),
                schedule=schedule_name,
                cluster=cluster_name,
                collection=row.collection_name,
                state=state,
                last_ok_slot=row.last_ok_slot,
                due_at=row.due_at,
                deadline_at=row.deadline_at,
                tested_at=max(tests, default=None),
            )
        )
    return found
