"""What is wrong right now, read from the same verdict that the first page shows. Nothing is written here."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from uuid import UUID

from django.db.models import Exists, F, OuterRef, Subquery

from apps.alerts.finding import Finding as Finding
from apps.alerts.models import Channel, Delivery, DeliveryState, Rule, Severity
from apps.alerts.running import read_troubles
from apps.alerts.schedule_findings import retention_findings, schedule_findings
from apps.backups.models import Backup, BackupStatus, Leftover, Verification, VerificationResult
from apps.core.text import plural
from apps.jobs.models import Job
from apps.jobs.states import JobStatus, JobType
from apps.protection.facts import read_facts
from apps.protection.judge import PROOF_LASTS, CollectionFacts, Facts, State, Verdict, judge
from apps.schedules.clock import clock_alert
from apps.schedules.coverage import covering_schedules
from apps.storage.observations import LOST_AFTER
from apps.storage.observed import StorageObservation

#: So many fruitless tries to delete something, and somebody should know.
DELETION_TRIES = 3

#: A collection whose backups nobody has tested is pointed out when it is known for longer.
UNTESTED = timedelta(days=7)

_STATES = {
    State.FAILING: (Rule.FAILING, Severity.CRITICAL),
    State.OVERDUE: (Rule.OVERDUE, Severity.CRITICAL),
    State.UNPROTECTED: (Rule.UNPROTECTED, Severity.WARNING),
}


def look(now: datetime) -> tuple[list[Finding], Facts, Verdict]:
    """Return everything that is wrong, and the verdict that it was read from: a fixed number of queries."""
    facts = read_facts(now)
    verdict = judge(facts)
    found = [
        *_collections(verdict, now),
        *_clusters(facts),
        *_storages(),
        *_worker(facts),
        *_clock(now),
        *_unscheduled(verdict),
        *_jobs(now),
        *_verifications(now),
        *schedule_findings(verdict, now),
        *_deletions(),
        *retention_findings(now),
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
        due = standing.facts.expected_by
        if standing.state == State.UNPROTECTED and due is not None and now > due:
            why = standing.facts.expectation or f"expected until {due:%Y-%m-%d %H:%M} UTC"
            yield _about(
                standing.facts,
                Rule.NEVER_SUCCEEDED,
                Severity.CRITICAL,
                f"no backup of it has ever succeeded, and the first one was {why}.",
            )


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


def _storages() -> Iterator[Finding]:
    """Storages that did not answer when they were asked several times. Told by what was seen, not by how long ago."""
    failing = StorageObservation.objects.filter(
        failing_since__isnull=False, tried_at__gte=F("failing_since") + LOST_AFTER
    )
    for row in failing.select_related("storage"):
        yield Finding(
            Rule.STORAGE_UNREACHABLE,
            str(row.pk),
            Severity.CRITICAL,
            f"The storage {row.storage.name} has not answered since {row.failing_since:%Y-%m-%d %H:%M} UTC: "
            f"{row.problem}",
        )


def _clock(now: datetime) -> Iterator[Finding]:
    """A clock that jumped. One that was put back keeps schedules from firing, and is told as that."""
    alert = clock_alert(now)
    if alert:
        yield Finding(Rule.CLOCK, "clock", Severity.CRITICAL, alert)


def _jobs(now: datetime) -> Iterator[Finding]:
    for trouble in read_troubles(now):
        job = trouble.job
        rule, severity = (Rule.STUCK, Severity.CRITICAL) if trouble.is_stuck else (Rule.SLOW, Severity.WARNING)
        words = (
            f"{job.collection_name} on {job.cluster.name}: the {job.get_type_display()} does not get on: "
            f"{trouble.sentence}"
        )
        yield Finding(rule, str(job.pk), severity, words, job.cluster.name, job.collection_name)


def _verifications(now: datetime) -> Iterator[Finding]:
    """Backups whose newest test failed and that still count as good: what the test marked is told as failing or as
    damaged. A test that could not be made is one, too."""
    since = now - PROOF_LASTS
    good = Backup.objects.filter(status=BackupStatus.COMPLETED, expired_at=None)
    later = Verification.objects.filter(
        backup=OuterRef("backup"), result=VerificationResult.OK, created_at__gt=OuterRef("created_at")
    )
    verdicts = Verification.objects.filter(
        ~Exists(later), result=VerificationResult.FAILED, created_at__gte=since, backup__in=good
    )
    found: dict[tuple[str, str, str], str] = {}
    for row in verdicts.select_related("backup").defer("backup__manifest").order_by("created_at", "id"):
        backup = row.backup
        found[(str(backup.cluster_id), backup.cluster_name, backup.collection_name)] = row.reason
    jobs = Job.objects.filter(type=JobType.VERIFY)
    passed = jobs.filter(
        cluster=OuterRef("cluster"), collection_name=OuterRef("collection_name"), status=JobStatus.COMPLETED,
        completed_at__gt=OuterRef("completed_at"),
    )  # fmt: skip
    failed = jobs.filter(~Exists(passed), status=JobStatus.FAILED, created_at__gte=since, backup__in=good)
    for job in failed.select_related("cluster").order_by("completed_at", "id"):
        found[(str(job.cluster_id), job.cluster.name, job.collection_name)] = job.error
    for (cluster_id, cluster, name), reason in found.items():
        yield Finding(
            Rule.VERIFY_FAILED,
            f"{cluster_id}/{name}",
            Severity.CRITICAL,
            f"{name} on {cluster}: the last test of a backup failed: {reason}",
            cluster,
            name,
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
