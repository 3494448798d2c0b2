"""Incidents open, go on and end: findings in, rows out. Told by `messages`, in the same transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from django.db.models import F

from apps.alerts.findings import Finding
from apps.alerts.models import Incident, Severity

#: An incident that comes back this soon is the same one.
FLAP = timedelta(minutes=30)


def settle_incidents(findings: Sequence[Finding], *, now: datetime) -> None:
    """Open what is new, refresh what goes on, end what is over. Call inside a transaction, one caller at a time."""
    wrong = {(str(finding.rule), finding.target_key[:500]): finding for finding in findings}
    open_ones = {(row.rule, row.target_key): row for row in Incident.objects.filter(resolved_at=None)}
    for key, row in open_ones.items():
        finding = wrong.get(key)
        if finding is None:
            Incident.objects.filter(pk=row.pk, resolved_at=None).update(resolved_at=now)
            continue
        row.last_seen_at, row.summary = now, finding.summary
        if row.severity != Severity.CRITICAL and finding.severity == Severity.CRITICAL:
            # Who asked for what is critical only has not heard of it: it is told once more, and stays critical.
            row.severity, row.notified_at = Severity.CRITICAL, None
    Incident.objects.bulk_update(
        [row for key, row in open_ones.items() if key in wrong],
        ["last_seen_at", "summary", "severity", "notified_at"],
        batch_size=500,
    )
    fresh = [finding for key, finding in wrong.items() if key not in open_ones]
    if not fresh:
        return
    back = {
        (row.rule, row.target_key): row
        for row in Incident.objects.filter(resolved_at__gt=now - FLAP).order_by("resolved_at")
    }
    new = []
    for finding in fresh:
        before = back.get((str(finding.rule), finding.target_key[:500]))
        if before is not None:
            _reopen(before, finding, now)
        else:
            new.append(
                Incident(
                    rule=finding.rule,
                    target_key=finding.target_key[:500],
                    severity=finding.severity,
                    summary=finding.summary,
                    cluster_name=finding.cluster,
                    collection_name=finding.collection,
                    opened_at=now,
                    last_seen_at=now,
                )
            )
    Incident.objects.bulk_create(new, batch_size=500)


def _reopen(row: Incident, finding: Finding, now: datetime) -> None:
    """Go on with an incident. Whoever has been told that it was over is told again; whoever has not, is not."""
    told = row.recovery_notified_at is not None
    Incident.objects.filter(pk=row.pk).update(
        resolved_at=None,
        last_seen_at=now,
        summary=finding.summary,
        severity=finding.severity,
        recovery_notified_at=None,
        notified_at=None if told else F("notified_at"),
    )
