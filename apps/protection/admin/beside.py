"""What stands beside the verdict on the overview: what runs next by itself, and how much is proven."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db.models import F
from django.http import HttpRequest
from django.urls import reverse

from apps.core.admin_cells import ago, number
from apps.protection.judge import PROOF_LASTS, Standing, Verdict
from apps.schedules.admin.cells import schedule_state
from apps.schedules.models import Schedule

SHOWN_SCHEDULES = 6


def next_runs(request: HttpRequest) -> list[dict[str, Any]]:
    """The schedules whose turn comes next; those that are paused or cannot run stand last. One query."""
    if not request.user.has_perm("schedules.view_schedule"):
        return []
    rows = (
        Schedule.objects.live()
        .select_related("cluster")
        .order_by(F("next_run_at").asc(nulls_last=True), "name")[:SHOWN_SCHEDULES]
    )
    return [
        {
            "schedule": row,
            "address": reverse("admin:schedules_schedule_change", args=[row.pk]),
            "state": schedule_state(row),
            "at": row.next_run_at if row.enabled and not row.is_paused and not row.error else None,
        }
        for row in rows
    ]


def proof_words(verdict: Verdict, now: datetime) -> str:
    """'38 of 41 proven by a restore in the last 30 days, the oldest proof 9 d ago.'; empty without collections."""
    if not verdict.standings:
        return ""
    proofs = [found for found in map(_proven_at, verdict.standings) if found is not None]
    recent = [at for at in proofs if now - at <= PROOF_LASTS]
    words = f"{number(len(recent))} of {number(len(verdict.standings))} proven by a restore in the last "
    words += f"{PROOF_LASTS.days} days"
    return f"{words}, the oldest proof {ago(min(recent), now)}." if recent else f"{words}."


def _proven_at(standing: Standing) -> datetime | None:
    return standing.facts.proven_at
