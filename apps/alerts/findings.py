"""What is wrong right now, read from the same verdict that the first page shows. Nothing is written here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import OuterRef, Subquery

from apps.alerts.models import Channel, Delivery, DeliveryState, Rule, Severity
from apps.backups.models import Leftover
from apps.core.text import plural
from apps.protection.facts import read_facts
from apps.protection.judge import Facts, State, Verdict, judge
from apps.schedules.models import RunStatus, Schedule, ScheduleRun

#: A schedule that is paused for longer is pointed out.
PAUSED_LONG = timedelta(days=7)
#: So many fruitless tries to delete something, and somebody should know.
DELETION_TRIES = 3

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
        *_collections(verdict),
        *_clusters(facts),
        *_worker(facts),
        *_schedules(now),
        *_deletions(),
        *_channels(now),
    ]
    return found, facts, verdict


def _collections(verdict: Verdict) -> Iterator[Finding]:
    for standing in verdict.standings:
        if standing.state in _STATES:
            rule, severity = _STATES[standing.state]
            one = standing.facts
            yield Finding(
                rule,
                f"{one.cluster_id}/{one.name}",
                severity,
                f"{one.name} on {one.cluster}: {standing.sentence}",
                one.cluster,
                one.name,
            )


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


def _channels(now: datetime) -> Iterator[Finding]:
    for channel in Channel.objects.filter(enabled=True):
        last = Delivery.objects.filter(channel=channel, state__in=(DeliveryState.DEAD, DeliveryState.SENT)).order_by(
            "-created_at"
        )
        newest = last.first()
        if newest is not None and newest.state == DeliveryState.DEAD:
            yield Finding(
                Rule.CHANNEL_BROKEN,
                str(channel.pk),
                Severity.CRITICAL,
                f"The channel {channel.name} does not deliver: {newest.error}",
            )
