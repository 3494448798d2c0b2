"""The coverage page: what protects each collection, what is missing, what is left of collections that are gone; and the
same as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode

from apps.clusters.models import Cluster
from apps.protection.admin.frame import protection_cell
from apps.protection.admin.steps import collection_address
from apps.protection.coverage import (
    ORPHANED,
    Coverage,
    Gap,
    Orphaned,
    count_orphaned,
    read_coverage,
    read_orphaned,
    recent_coverage,
)
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
#: By what the table can be sorted; without a word the worst come first.
_SORTS = ("collection", "last_good", "due", "checked", "proven", "expires")
_FAR, _LONG_AGO = datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)
_COLUMNS = (
    "cluster", "collection", "state", "gaps", "schedules", "last_good_utc", "maximum_age_hours", "due_utc",
    "tested_utc", "proven_utc", "storages", "next_expiry_utc", "gone_utc",
)  # fmt: skip


def view(page: CollectionAdmin, request: HttpRequest) -> HttpResponse:
    page.demand_view(request)
    now = timezone.now()
    as_csv = request.GET.get("as") == "csv"
    if as_csv:  # read elsewhere, and later: of this moment
        verdict = verdict_now(now)
        everywhere = read_coverage(verdict, now)
    else:
        verdict, everywhere = recent_coverage(now)
    clusters = list(Cluster.objects.order_by("name"))
    chosen = next((one for one in clusters if str(one.pk) == request.GET.get("cluster")), None)
    every = [one for one in everywhere if chosen is None or _of(one, chosen)]
    asked = request.GET.get("gap", "")
    asked = asked if asked in (*Gap, ORPHANED) else ""
    sort = request.GET.get("sort", "")
    is_down, by = sort.startswith("-"), sort.removeprefix("-")
    by = by if by in _SORTS else ""
    shown: list[Any] = [one for one in every if not asked or asked in one.gaps]
    if asked == ORPHANED:
        shown = [one for one in read_orphaned(verdict) if chosen is None or one.cluster_id == chosen.pk]
    left = count_orphaned(verdict)
    if by:
        shown = sorted(shown, key=lambda one: _sort_key(one, by), reverse=is_down)
    if as_csv:
        return _csv(_gone_cells(one) if asked == ORPHANED else _cells(one) for one in shown)
    listed = Paginator(shown, PER_PAGE).get_page(request.GET.get("p", "1"))
    query = {"gap": asked, "cluster": str(chosen.pk) if chosen else "", "sort": ("-" if is_down else "") + by}
    return page.page(
        request,
        "admin/protection/coverage.html",
        title="Coverage",
        rows=[_gone_row(one) if asked == ORPHANED else _row(one) for one in listed],
        listed=listed,
        total=len(every),
        gaps=[
            *((gap.value, _WORDS[gap], sum(gap in one.gaps for one in every)) for gap in Gap),
            (ORPHANED, "Orphaned: gone, backups stay", left.get(chosen.pk, 0) if chosen else sum(left.values())),
        ],
        gap=asked,
        orphaned=asked == ORPHANED,
        clusters=clusters,
        chosen=chosen,
        query=query,
        sorts={name: _sorted_by(name, by, is_down) for name in _SORTS},
        may_change=request.user.has_perm("schedules.change_schedule"),
        may_add=request.user.has_perm("schedules.add_schedule"),
    )


def _of(one: Coverage, cluster: Cluster) -> bool:
    return one.standing.facts.cluster_id == str(cluster.pk)


def _sort_key(one: Coverage | Orphaned, by: str) -> Any:
    """What never happened comes before everything, what is not to come after it."""
    facts: Any = one if isinstance(one, Orphaned) else one.standing.facts
    if by == "collection":
        return facts.name, facts.cluster
    if by == "expires":
        return one.expires_at or _FAR
    if by == "due":
        return getattr(facts, "expected_by", None) or _FAR
    if by == "last_good":
        newest = one.last_good_at if isinstance(one, Orphaned) else facts.newest and facts.newest.data_at
        return newest or _LONG_AGO
    return (facts.tested_at if by == "checked" else facts.proven_at) or _LONG_AGO


def _sorted_by(name: str, by: str, is_down: bool) -> dict[str, str]:
    """How a column's head leads on, and how it stands (for aria-sort)."""
    if name != by:
        return {"next": name, "now": ""}
    return {"next": name if is_down else f"-{name}", "now": "descending" if is_down else "ascending"}


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


def _gone_row(one: Orphaned) -> dict[str, Any]:
    """Without a cluster there is no page of the collection: then the list of backups finds it by its name."""
    backups = reverse("admin:backups_backup_changelist")
    if one.cluster_id is None:
        return {"one": one, "address": f"{backups}?{urlencode({'q': one.name})}"}
    return {"one": one, "address": collection_address(one.cluster_id, one.name)}


# --- CSV -----------------------------------------------------------------------------------------------------------
def _csv(rows: Iterable[list[str]]) -> HttpResponse:
    answer = HttpResponse(content_type="text/csv; charset=utf-8")
    answer["Content-Disposition"] = 'attachment; filename="coverage.csv"'
    writer = csv.writer(answer)
    writer.writerow(_COLUMNS)
    writer.writerows(rows)
    return answer


def _cells(one: Coverage) -> list[str]:
    facts = one.standing.facts
    return [
        _cell(facts.cluster), _cell(facts.name), one.standing.state, " ".join(one.gaps),
        _cell("; ".join(schedule.name for schedule in one.schedules)),
        _at(facts.newest.data_at if facts.newest else None),
        f"{facts.max_age.total_seconds() / 3600:g}" if facts.max_age else "", _at(facts.expected_by),
        _at(facts.tested_at), _at(facts.proven_at), _cell("; ".join(one.storages)), _at(one.expires_at), "",
    ]  # fmt: skip


def _gone_cells(one: Orphaned) -> list[str]:
    return [
        _cell(one.cluster), _cell(one.name), ORPHANED, ORPHANED, "", _at(one.last_good_at), "", "", _at(one.tested_at),
        _at(one.proven_at), _cell("; ".join(one.storages)), _at(one.expires_at), _at(one.gone_at),
    ]  # fmt: skip


def _at(moment: datetime | None) -> str:
    return moment.isoformat(timespec="seconds") if moment else ""


def _cell(text: str) -> str:
    """A text that a spreadsheet takes for one: names that begin like a formula are not run."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
