"""The coverage page: what protects each collection, what is missing, and the same as CSV."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode

from apps.protection.admin.frame import protection_cell
from apps.protection.admin.steps import collection_address
from apps.protection.coverage import Coverage, Gap, read_coverage
from apps.protection.facts import verdict_now

if TYPE_CHECKING:
    from apps.protection.admin import CollectionAdmin

PER_PAGE = 50
_WORDS = {
    Gap.UNPROTECTED: "Never backed up",
    Gap.UNSCHEDULED: "In no schedule",
    Gap.STALE: "Too old",
    Gap.NEVER_VERIFIED: "Never tested",
    Gap.PAUSED: "Paused",
}
_COLUMNS = (
    "cluster", "collection", "state", "gaps", "schedules", "last_good_utc", "maximum_age_hours", "due_utc",
    "tested_utc", "proven_utc", "storages", "next_expiry_utc",
)  # fmt: skip


def view(page: CollectionAdmin, request: HttpRequest) -> HttpResponse:
    page.demand_view(request)
    every = read_coverage(verdict_now(timezone.now()))
    asked = request.GET.get("gap", "")
    shown = [one for one in every if asked not in list(Gap) or asked in one.gaps]
    if request.GET.get("as") == "csv":
        return _csv(shown)
    listed = Paginator(shown, PER_PAGE).get_page(request.GET.get("p", "1"))
    return page.page(
        request,
        "admin/protection/coverage.html",
        title="Coverage",
        rows=[_row(one) for one in listed],
        listed=listed,
        total=len(every),
        gaps=[(gap.value, _WORDS[gap], sum(gap in one.gaps for one in every)) for gap in Gap],
        gap=asked if asked in list(Gap) else "",
        query={"gap": asked if asked in list(Gap) else ""},
        may_change=request.user.has_perm("schedules.change_schedule"),
        may_add=request.user.has_perm("schedules.add_schedule"),
    )


def _row(one: Coverage) -> dict[str, Any]:
    facts = one.standing.facts
    return {
        "one": one,
        "facts": facts,
        "state": protection_cell(one.standing.state),
        "address": collection_address(facts.cluster_id, facts.name),
        "age_hours": facts.max_age.total_seconds() / 3600 if facts.max_age else None,
        "words": ", ".join(_WORDS[gap] for gap in one.gaps),
        "change_address": reverse("admin:schedules_collection")
        + "?"
        + urlencode({"cluster": facts.cluster_id, "name": facts.name}),
        "add_address": reverse("admin:schedules_schedule_add")
        + "?"
        + urlencode({"cluster": facts.cluster_id, "collection": facts.name}),
    }


def _csv(rows: list[Coverage]) -> HttpResponse:
    answer = HttpResponse(content_type="text/csv; charset=utf-8")
    answer["Content-Disposition"] = 'attachment; filename="coverage.csv"'
    writer = csv.writer(answer)
    writer.writerow(_COLUMNS)
    for one in rows:
        facts = one.standing.facts
        moments = [
            facts.newest.data_at if facts.newest else None, facts.expected_by, facts.tested_at, facts.proven_at,
            one.expires_at,
        ]  # fmt: skip
        last_good, due, tested, proven, expires = [at.isoformat(timespec="seconds") if at else "" for at in moments]
        age = f"{facts.max_age.total_seconds() / 3600:g}" if facts.max_age else ""
        writer.writerow(
            [
                _cell(facts.cluster), _cell(facts.name), one.standing.state, " ".join(one.gaps),
                _cell("; ".join(schedule.name for schedule in one.schedules)), last_good, age, due, tested, proven,
                _cell("; ".join(one.storages)), expires,
            ]
        )  # fmt: skip
    return answer


def _cell(text: str) -> str:
    """A text that a spreadsheet takes for one: names that begin like a formula are not run."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
