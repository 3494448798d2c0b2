"""What is wrong right now, read from the same verdict that the first page shows. Nothing is written here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db.models import Count, Max, OuterRef, Subquery

from apps.alerts.models import Channel, Delivery, DeliveryState, Rule, Severity
from apps.backups.models import Leftover
from apps.core.text import plural
from apps.protection.facts import read_facts
from apps.protection.judge import CollectionFacts, Facts, State, Verdict, judge
from apps.schedules.coverage import covering_schedules
from apps.schedules.models import RetentionRun, RetentionStatus, RunStatus, Schedule, ScheduleRun

#: A schedule that is paused for longer is pointed out.
PAUSED_LONG = timedelta(days=7)
#: So many fruitless tries to delete something, and somebody should know.
DELETION_TRIES = 3

#: A collection whose backups nobody has tested is pointed out when it is known for longer.
UNTESTED = timedelta(days=7)

_STATES = {
    State.FAILING: (Rule.FAILING, Severity.CRITICAL),
    State.OVERDUE: (Rule.OVERDUE, Severity.CRITICAL),
    State.UNPROTECTED: (Rule.UNPROTECTED, Severity.WARNING),
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. `target_key` tells it from the others of its rule."""

    rule: Rule
    target_key: str
    severity: Severity
    summary: str
    cluster: str = ""
    collection: str = ""


def look(now: datetime) -> tuple[list[Finding], Facts, Verdict]:
    """Return everything that is wrong, and the verdict that it was read from: a fixed number of queries."""
    facts = read_facts(now)
    verdict = judge(facts)
    found = [
        *_collections(verdict, now),
        *_clusters(facts),
        *_worker(facts),
        *_unscheduled(verdict),
        *_schedules(now),
        *_deletions(),
        *_retention(),
        *_channels(),
    ]
    return found, facts, verdict


def _collections(verdict: Verdict, now: datetime) -> Iterator[Finding]:
    for standing in verdict.standings:
        if standing.state == State.UNPROVEN and _never_tested(standing.facts, now):
            yield _about(
                standing.facts,
                Rule.NEVER_VERIFIED,
                Severity.WARNING,
                f"no backup of it has been tested, and it is known for more than {UNTESTED.days} days.",
            )
        if standing.state in _STATES:
            yield _about(standing.facts, *_STATES[standing.state], standing.sentence)


def _about(one: CollectionFacts, rule: Rule, severity: Severity, sentence: str) -> Finding:
    words = f"{one.name} on {one.cluster}: {sentence}"
    return Finding(rule, f"{one.cluster_id}/{one.name}", severity, words, one.cluster, one.name)


def _never_tested(one: CollectionFacts, now: datetime) -> bool:
    since = one.first_seen_at
    return not (one.tested_at or one.proven_at) and (since is None or now - since > UNTESTED)


def _unscheduled(verdict: Verdict) -> Iterator[Finding]:
    """Collections that no schedule means. One without any backup is told as that."""
    backed_up = [one for one in verdict.standings if one.state != State.UNPROTECTED]
    covered = covering_schedules((UUID(one.facts.cluster_id), one.facts.name) for one in backed_up)
    for standing in backed_up:
        one = standing.facts
        if (UUID(one.cluster_id), one.name) not in covered:
            yield _about(one, Rule.UNSCHEDULED, Severity.WARNING, "no schedule backs it up.")


def _clusters(facts: Facts) -> Iterator[Finding]:
    for cluster in facts.clusters:
        if not cluster.in_touch:
            since = f"since {cluster.seen_at:%Y-%m-%d %H:%M} UTC" if cluster.seen_at else "yet"
            yield Finding(
                Rule.UNREACHABLE,
                cluster.cluster_id,
                Severity.WARNING,
                f"Cluster {cluster.name} has not answered {since}: {cluster.problem or 'nobody has asked it.'}",
                cluster.name,
            )


def _worker(facts: Facts) -> Iterator[Finding]:
    if facts.waiting_jobs and not facts.workers_alive:
        yield Finding(
            Rule.NO_WORKER,
            "workers",
            Severity.CRITICAL,
            f"{plural(facts.waiting_jobs, 'job')} cannot start: {facts.workers_sentence}.",
        )
    if facts.tick_problem:
        yield Finding(Rule.NOT_FIRING, "tick", Severity.CRITICAL, f"No schedule fires: {facts.tick_problem}")
    if facts.damaged_backups:
        are = "backup is" if facts.damaged_backups == 1 else "backups are"
        words = f"{facts.damaged_backups} older {are} damaged or missing; each collection has a newer good one."
        yield Finding(Rule.DAMAGED, "backups", Severity.WARNING, words)


_BAD_RUNS = {
    RunStatus.FAILED: Severity.CRITICAL,
    RunStatus.EXPIRED: Severity.CRITICAL,
    RunStatus.MISSED: Severity.WARNING,
}


def _schedules(now: datetime) -> Iterator[Finding]:
    ended = ScheduleRun.objects.filter(schedule=OuterRef("pk"), completed_at__isnull=False).order_by(
        "-slot", "-created_at"
    )
    rows = (
        Schedule.objects.filter(deleted_at=None)
        .select_related("cluster")
        .annotate(newest=Subquery(ended.values("pk")[:1]))
    )
    schedules = list(rows)
    newest = ScheduleRun.objects.in_bulk([row.newest for row in schedules if row.newest])
    for schedule in schedules:
        where, key = schedule.cluster.name, str(schedule.pk)
        if schedule.error:
            yield Finding(
                Rule.SCHEDULE_BROKEN,
                key,
                Severity.CRITICAL,
                f"Schedule {schedule.name} cannot be planned: {schedule.error}",
                where,
            )
        if schedule.paused_at and now - schedule.paused_at > PAUSED_LONG:
            yield Finding(
                Rule.PAUSED_LONG,
                key,
                Severity.WARNING,
                f"Schedule {schedule.name} is paused since {schedule.paused_at:%Y-%m-%d}: {schedule.pause_reason}",
                where,
            )
        run = newest.get(schedule.newest)
        # A run whose collections failed is told by them; this is for what stands in no collection's record.
        if run is not None and run.status in _BAD_RUNS and not run.counts:
            yield Finding(
                Rule.RUN_FAILED,
                key,
                _BAD_RUNS[RunStatus(run.status)],
                f"Schedule {schedule.name}, run of {run.slot:%Y-%m-%d %H:%M} UTC "
                f"{run.get_status_display()}. {run.error}".strip(),
                where,
            )


def _deletions() -> Iterator[Finding]:
    for row in Leftover.objects.filter(tries__gte=DELETION_TRIES)[:100]:
        yield Finding(
            Rule.DELETION_STUCK,
            str(row.pk),
            Severity.WARNING,
            f"A {row.get_kind_display()} could not be removed in {row.tries} tries: {row.last_error}",
        )


def _channels() -> Iterator[Finding]:
    """Channels whose newest message was given up. One that was taken back says nothing about its channel."""
    ended = Delivery.objects.filter(channel=OuterRef("pk"), state__in=(DeliveryState.DEAD, DeliveryState.SENT))
    newest = ended.order_by("-created_at", "-id")
    rows = Channel.objects.filter(enabled=True).annotate(
        newest_state=Subquery(newest.values("state")[:1]), newest_error=Subquery(newest.values("error")[:1])
    )
    for channel in rows.filter(newest_state=DeliveryState.DEAD):
        yield Finding(
            Rule.CHANNEL_BROKEN,
            str(channel.pk),
            Severity.CRITICAL,
            f"The channel {channel.name} does not deliver: {channel.newest_error}",
        )


def _retention() -> Iterator[Finding]:
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
