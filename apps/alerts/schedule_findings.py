"""What is wrong with schedules, their runs, and retention."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Count, Exists, F, Max, OuterRef, Q, Subquery, Window
from django.db.models.functions import RowNumber

from apps.alerts.finding import Finding
from apps.alerts.models import Rule, Severity
from apps.backups.models import Backup, BackupStatus
from apps.backups.policies import RetentionPolicy
from apps.backups.retention.rules import CapAction
from apps.core.text import format_size, plural
from apps.protection.judge import Standing, State, Verdict
from apps.schedules.models import (
    ItemStatus,
    RetentionRun,
    RetentionStatus,
    RunItem,
    RunStatus,
    Schedule,
    ScheduleRun,
    Trigger,
)

#: A schedule that is paused for longer is pointed out.
PAUSED_LONG = timedelta(days=7)
#: So many runs in a row that were left out, and somebody should know.
SKIPPED_IN_A_ROW = 3
#: Retention looks every six hours.
RETENTION_STALE = timedelta(hours=48)
#: More names than this are told by their number.
NAMED = 3

_BAD_RUNS = {
    RunStatus.FAILED: Severity.CRITICAL,
    RunStatus.EXPIRED: Severity.CRITICAL,
    RunStatus.MISSED: Severity.WARNING,
}
#: Runs of which something may have to be told: those that are fine are not even read.
_TOLD = (*_BAD_RUNS, RunStatus.PARTIAL, RunStatus.SKIPPED_OVERLAP)
#: Items that are as they should be, or will be.
_FINE = (ItemStatus.OK, ItemStatus.FRESH_ENOUGH, ItemStatus.QUEUED)
_FAILED = (ItemStatus.FAILED, ItemStatus.EXPIRED)
_CHUNK = 500


def schedule_findings(verdict: Verdict, now: datetime) -> Iterator[Finding]:
    """Schedules that do not run, and what of their newest runs no collection tells."""
    ended = ScheduleRun.objects.filter(schedule=OuterRef("pk"), completed_at__isnull=False).order_by(
        "-slot", "-created_at"
    )
    schedules = list(
        Schedule.objects.filter(deleted_at=None)
        .select_related("cluster")
        .only("name", "error", "paused_at", "pause_reason", "cluster__name")
        .annotate(newest=Subquery(ended.values("pk")[:1]))
    )
    newest = {
        run.pk: run
        for chunk in _chunks([row.newest for row in schedules if row.newest])
        for run in ScheduleRun.objects.filter(pk__in=chunk, status__in=_TOLD)
    }
    untold = _untold_items(
        [run for run in newest.values() if run.counts and run.status in (*_BAD_RUNS, RunStatus.PARTIAL)], verdict
    )
    skipped = _skipped_in_a_row([run for run in newest.values() if run.status == RunStatus.SKIPPED_OVERLAP])
    for schedule in schedules:
        yield from _state(schedule, now)
        run = newest.get(schedule.newest)
        if run is None:
            continue
        # A run whose collections failed is told by them; this is for what stands in no collection's record.
        if run.status in _BAD_RUNS and not run.counts:
            yield _of_run(Rule.RUN_FAILED, _BAD_RUNS[RunStatus(run.status)], schedule, run, run.error)
        elif untold.get(run.pk):
            items = untold[run.pk]
            whole = run.status in _BAD_RUNS and any(item.status in _FAILED for item in items)
            rule, severity = (Rule.RUN_FAILED, Severity.CRITICAL) if whole else (Rule.RUN_PARTIAL, Severity.WARNING)
            yield _of_run(rule, severity, schedule, run, _named(items))
        if schedule.pk in skipped:
            words = (
                f"Schedule {schedule.name} was left out {SKIPPED_IN_A_ROW} times in a row, since the run before had "
                f"not ended: see what holds it up, or let it run less often."
            )
            yield Finding(Rule.RUN_SKIPPED, str(schedule.pk), Severity.WARNING, words, schedule.cluster.name)


def _state(schedule: Schedule, now: datetime) -> Iterator[Finding]:
    where, key = schedule.cluster.name, str(schedule.pk)
    if schedule.error:
        words = f"Schedule {schedule.name} cannot be planned: {schedule.error}"
        yield Finding(Rule.SCHEDULE_BROKEN, key, Severity.CRITICAL, words, where)
    if schedule.paused_at and now - schedule.paused_at > PAUSED_LONG:
        words = f"Schedule {schedule.name} is paused since {schedule.paused_at:%Y-%m-%d}: {schedule.pause_reason}"
        yield Finding(Rule.PAUSED_LONG, key, Severity.WARNING, words, where)


def _of_run(rule: Rule, severity: Severity, schedule: Schedule, run: ScheduleRun, why: str) -> Finding:
    words = f"Schedule {schedule.name}, run of {run.slot:%Y-%m-%d %H:%M} UTC {run.get_status_display()}. {why}".strip()
    return Finding(rule, str(schedule.pk), severity, words, schedule.cluster.name)


def _named(items: Sequence[RunItem]) -> str:
    """The first of them, and why: "films: Cancelled." """
    names = {item.collection_name: item.message or item.get_status_display() for item in items}
    words = [f"{name}: {why if why.endswith('.') else why + '.'}" for name, why in list(names.items())[:NAMED]]
    if len(names) > NAMED:
        words.append(f"And {len(names) - NAMED} more.")
    return " ".join(words)


def _untold_items(runs: Sequence[ScheduleRun], verdict: Verdict) -> dict[UUID, list[RunItem]]:
    """What went wrong in these runs and stands in no collection's record: what was cancelled or left out, what never
    became a job, and what one storage lacks while another has it. A backup that was made since makes up for it."""
    standings = {(one.facts.cluster_id, one.facts.name): one for one in verdict.standings}
    by_id = {run.pk: run for run in runs}
    found: dict[UUID, list[RunItem]] = defaultdict(list)
    for chunk in _chunks(list(by_id)):
        items = RunItem.objects.filter(run__in=chunk).exclude(status__in=_FINE).select_related("run__schedule")
        for item in items.order_by("collection_name", "id"):
            key = (str(item.run.schedule.cluster_id), item.collection_name)
            if not _is_told(standings.get(key), by_id[item.run_id]):
                found[item.run_id].append(item)
    return found


def _is_told(standing: Standing | None, run: ScheduleRun) -> bool:
    if standing is None:
        return False
    good = standing.facts.newest
    since = good is not None and run.completed_at is not None and good.made_at > run.completed_at
    return standing.state == State.FAILING or since


def _skipped_in_a_row(runs: Sequence[ScheduleRun]) -> set[UUID]:
    """The schedules whose last runs were all left out because of the one before."""
    nth = Window(RowNumber(), partition_by=[F("schedule")], order_by=F("slot").desc())
    found: Counter[UUID] = Counter()
    for chunk in _chunks([run.schedule_id for run in runs]):
        last = ScheduleRun.objects.filter(
            schedule__in=chunk, trigger=Trigger.SCHEDULE, completed_at__isnull=False
        ).annotate(nth=nth)
        for run in last.filter(nth__lte=SKIPPED_IN_A_ROW):
            found[run.schedule_id] += run.status == RunStatus.SKIPPED_OVERLAP
    return {schedule for schedule, number in found.items() if number >= SKIPPED_IN_A_ROW}


def _chunks(ids: Sequence[UUID]) -> Iterator[Sequence[UUID]]:
    return (ids[start : start + _CHUNK] for start in range(0, len(ids), _CHUNK))


# --- retention ----------------------------------------------------------------------------------------------------
def retention_findings(now: datetime) -> Iterator[Finding]:
    """Policies that wait for somebody, cannot keep their size, or have not been looked at."""
    waiting = RetentionRun.objects.filter(status=RetentionStatus.WAITING).order_by()
    rows = waiting.values_list("policy", "policy__name").annotate(sets=Count("pk"))
    reasons = dict(waiting.values_list("policy").annotate(reason=Max("reason")))
    for policy_id, name, sets in rows:
        yield Finding(
            Rule.RETENTION_WAITS,
            str(policy_id),
            Severity.WARNING,
            f"Retention by the policy {name} waits for a confirmation, for {plural(sets, 'set')} of backups. "
            f"{reasons[policy_id]}".strip(),
        )
    yield from _caps(now)
    for policy in stale_policies(now):
        words = f"Retention has not looked at the policy {policy.name} for more than two days: old backups pile up."
        yield Finding(Rule.RETENTION_STALE, str(policy.pk), Severity.WARNING, words)


_SET = ("policy", "cluster_name", "collection_name", "shard_id", "storage", "is_scheduled")


def _caps(now: datetime) -> Iterator[Finding]:
    """Policies whose size cap the newest look at some set found exceeded."""
    nth = Window(RowNumber(), partition_by=[F(name) for name in _SET], order_by=F("created_at").desc())
    # Every look leaves a row, but for one that finds its plan waiting already; older rows are of sets that are gone.
    lately = Q(created_at__gte=now - RETENTION_STALE) | Q(status=RetentionStatus.WAITING)
    looks = RetentionRun.objects.filter(lately, policy__size_cap_bytes__isnull=False)
    runs = looks.exclude(status=RetentionStatus.FAILED).annotate(nth=nth).filter(nth=1)
    over: dict[Any, list[RetentionRun]] = defaultdict(list)
    for run in runs.select_related("policy").defer("plan"):
        if run.counts.get("over_cap_bytes", 0) > 0:
            over[run.policy_id].append(run)
    for policy_id, found in over.items():
        found.sort(key=lambda run: (-run.counts["over_cap_bytes"], run.cluster_name, run.collection_name))
        first, policy = found[0], found[0].policy
        size = format_size(first.counts["over_cap_bytes"])
        how = f"cannot be met: what has to stay takes {size} more" if policy.cap_action == CapAction.DELETE else (
            f"is exceeded by {size}"
        )  # fmt: skip
        more = f", and {plural(len(found) - 1, 'other set')}" if len(found) > 1 else ""
        words = (
            f"The size cap of the policy {policy.name} {how} ({first.collection_name} on {first.cluster_name}{more})."
        )
        yield Finding(Rule.CAP, str(policy_id), Severity.WARNING, words)


def stale_policies(now: datetime) -> list[RetentionPolicy]:
    """Policies that hold backups and that nobody has looked at for two days, nor changed. One whose plan waits for
    somebody is told as that."""
    then = now - RETENTION_STALE
    held = Backup.objects.filter(policy=OuterRef("pk"), expired_at=None, created_at__lt=then)
    looked = RetentionRun.objects.filter(policy=OuterRef("pk")).exclude(status=RetentionStatus.FAILED)
    return list(
        RetentionPolicy.objects.filter(
            Exists(held.exclude(status=BackupStatus.DELETING)),
            ~Exists(looked.filter(Q(created_at__gte=then) | Q(status=RetentionStatus.WAITING))),
            updated_at__lt=then,
        ).order_by("name")
    )
