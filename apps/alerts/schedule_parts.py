"""What a schedule's page shows of its targets and incidents (apps/schedules/parts.py)."""

from __future__ import annotations

from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

from django.db.models import Case, IntegerField, Q, Value, When
from django.http import HttpRequest
from django.urls import reverse
from django.utils.http import urlencode

from apps.alerts.models import PING_KINDS, Channel, Incident, Severity
from apps.alerts.ping_settings import ping_settings
from apps.alerts.target_states import TargetStanding, TargetState, read_targets
from apps.core.admin_cells import BAD, BUSY, OFF, OK, WAIT, WARN, exact, state_cell
from apps.core.text import plural
from apps.protection.facts import recent_verdict
from apps.schedules.models import Schedule
from apps.schedules.parts import Part

SHOWN_TARGETS, SHOWN_INCIDENTS = 50, 10
#: So many collections are asked for incidents of their own.
ASKED = 500
_WORDS = {
    TargetState.OVERDUE: ("Overdue", BAD),
    TargetState.STUCK: ("Stuck", BAD),
    TargetState.FAILING: ("Failing", BAD),
    TargetState.SLOW: ("Slow", WARN),
    TargetState.RUNNING: ("Running", BUSY),
    TargetState.LATE: ("Due", WAIT),
    TargetState.NEVER: ("Not yet", OFF),
    TargetState.OK: ("In time", OK),
}
_SEVERITIES = {Severity.CRITICAL: ("Critical", BAD), Severity.WARNING: ("Warning", WARN)}


def targets_part(request: HttpRequest, schedule: Schedule, now: datetime) -> Part | None:
    """The collections that it means with the time by which each backup has to be there, the most pressing first."""
    if not request.user.has_perm("schedules.view_schedule"):
        return None
    found = sorted(read_targets(recent_verdict(now), now=now, schedule=schedule), key=_pressing)
    incidents: list[Incident] = []
    if request.user.has_perm("alerts.view_incident"):
        incidents = _incidents(schedule, [one.collection for one in found])
    return Part(
        "admin/alerts/schedule_part.html",
        {
            "targets": [_row(one, schedule, now) for one in found[:SHOWN_TARGETS]],
            "total": len(found),
            "incidents": [(one, state_cell(*_SEVERITIES[Severity(one.severity)])) for one in incidents],
            "is_paused": schedule.is_paused,
        },
    )


def pings_part(request: HttpRequest, schedule: Schedule, now: datetime) -> Part | None:
    """What to enter at a receiver of pings, for those who make channels."""
    if not request.user.has_perm("alerts.view_channel"):
        return None
    settings = ping_settings(schedule, now=now)
    if settings is None or not schedule.enabled:
        return None
    rows = Channel.objects.filter(kind__in=PING_KINDS, enabled=True).only("name", "schedules").order_by("name")
    channels = [
        (row.name, reverse("admin:alerts_channel_change", args=[row.pk]))
        for row in rows
        if any(fnmatchcase(schedule.name, glob) for glob in row.schedules)
    ]
    return Part("admin/alerts/schedule_pings.html", {"settings": settings, "channels": channels})


def overdue_warnings(schedule: Schedule, now: datetime) -> list[str]:
    """Said before a schedule is deleted: backups that it owes stay away for good."""
    late = [one for one in read_targets(recent_verdict(now), now=now, schedule=schedule) if _is_overdue(one)]
    if not late:
        return []
    since = min(one.deadline_at for one in late if one.deadline_at)
    names = ", ".join(one.collection for one in late[:5]) + (f" and {len(late) - 5} more" if len(late) > 5 else "")
    are, them = ("is", "it") if len(late) == 1 else ("are", "them")
    return [
        f"{plural(len(late), 'collection')} of it {are} overdue, since {exact(since)}: {names}. This schedule will not "
        f"back {them} up any more, and nobody will be told any more that it is late."
    ]


def _is_overdue(one: TargetStanding) -> bool:
    return one.state == TargetState.OVERDUE


def _pressing(one: TargetStanding) -> tuple[int, str, str]:
    deadline = one.deadline_at.isoformat() if one.deadline_at else "9999"
    return list(_WORDS).index(one.state), deadline, one.collection


def _row(one: TargetStanding, schedule: Schedule, now: datetime) -> dict[str, Any]:
    query = urlencode({"cluster": str(schedule.cluster_id), "name": one.collection})
    return {
        "name": one.collection,
        "address": f"{reverse('admin:clusters_collection')}?{query}",
        "state": state_cell(*_WORDS[one.state]),
        "deadline_at": one.deadline_at,
        "is_late": one.deadline_at is not None and one.deadline_at < now,
        "tested_at": one.tested_at,
    }


def _incidents(schedule: Schedule, collections: list[str]) -> list[Incident]:
    about = Q(target_key=str(schedule.pk)) | Q(
        cluster_name=schedule.cluster.name, collection_name__in=collections[:ASKED]
    )
    worst = Case(When(severity=Severity.CRITICAL, then=Value(0)), default=Value(1), output_field=IntegerField())
    rows = Incident.objects.filter(about, resolved_at=None).order_by(worst, "-opened_at", "-id")
    return list(rows[:SHOWN_INCIDENTS])
