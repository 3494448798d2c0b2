"""The first page: one sentence that says how things stand, what needs somebody, what runs, and the last thirty days.

Only the database is asked: a cluster that is gone must not hold up the page that says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, Q, Sum
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.timezone import localtime

from apps.backups.models import Backup, BackupStatus
from apps.clusters.advisories import advisories_for
from apps.clusters.models import Cluster
from apps.core.admin_kit import may
from apps.core.charts import Bar, Cell, bar_chart, strip
from apps.core.permissions import Scope
from apps.core.text import format_duration, format_size, plural
from apps.jobs.admin.cells import duration_cell, job_state, name_of, poll_address, progress_cell, route_of
from apps.jobs.health import worker_state
from apps.jobs.models import Job
from apps.jobs.states import ACTIVE, JobStatus
from apps.protection.admin.beside import next_runs, proof_words
from apps.protection.admin.frame import WORDS, may_see, protection_cell, shown_verdict
from apps.protection.admin.steps import collection_address, collections_address, standing_link, step_link
from apps.protection.facts import verdict_since
from apps.protection.history import Day, Strip, last_days, strips
from apps.protection.judge import WORST_FIRST, Standing, State, Verdict, group_failures
from apps.storage.models import StorageConfig

SHOWN = 8
SHOWN_COLLECTIONS = 12
#: Failures further back are history.
RECENT = timedelta(days=7)
#: So many failures are looked through for their causes.
LOOKED_AT = 200
NEEDY = (State.FAILING, State.UNPROTECTED, State.OVERDUE)


def dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Fill in the first page."""
    context |= {"title": "Overview", "crumbs": []}
    if not may_see(request):
        return context | {"nothing_to_see": True}
    now = timezone.now()
    # The page's icon may have asked for it in this very request: then it need not be made twice.
    verdict = verdict_since(getattr(request, "verdict_asked_at", math.inf), now)
    shown = shown_verdict(request, verdict)
    jobs = Job.objects.select_related("cluster", "storage", "target_cluster").defer("metadata", "checkpoint")
    active = list(jobs.filter(status__in=ACTIVE).order_by("-status", "-created_at", "-id")[: SHOWN + 1])
    clusters = list(Cluster.objects.select_related("observation").order_by("name"))
    days = last_days(now)
    return context | {
        "standing": shown,
        "site_favicons": [{"rel": "icon", "type": "image/svg+xml", "href": shown.icon}],
        "step": step_link(request, verdict.step),
        "counts": [
            (protection_cell(state), verdict.counts.get(state, 0), collections_address(state=state))
            for state in WORST_FIRST
        ],
        "needy": _needy(request, verdict),
        "needy_left_out": max(0, sum(verdict.counts.get(state, 0) for state in NEEDY) - SHOWN),
        "collections": _collections(verdict.standings[:SHOWN_COLLECTIONS], clusters, now),
        "collections_total": len(verdict.standings),
        "running": [
            {"job": job, "name": name_of(job), "route": route_of(job), "state": job_state(job),
             "progress": progress_cell(job), "took": duration_cell(job, now)}
            for job in active[:SHOWN]
        ],
        "more_running": len(active) > SHOWN,
        "causes": _causes(now),
        "next_runs": next_runs(request),
        "may_schedule": request.user.has_perm("schedules.add_schedule"),
        "proof_words": proof_words(verdict, now),
        "clusters": [_cluster(cluster, now) for cluster in clusters],
        "storages": _storages(now),
        "charts": charts(days),
        "workers": worker_state(now),
        "poll_address": poll_address(active[:SHOWN]),
        "may_operate": may(request, Scope.OPERATE),
        "may_begin": request.user.has_perm("clusters.add_cluster"),
    }  # fmt: skip


def _needy(request: HttpRequest, verdict: Verdict) -> list[dict[str, Any]]:
    """What needs somebody, by name, with the next step; failures with one cause are one row."""
    rows: list[dict[str, Any]] = []
    for cause in group_failures(verdict.of(State.FAILING)):
        if len(cause.standings) == 1:
            rows.append(_needy_row(request, cause.standings[0]))
            continue
        first = cause.standings[0]
        rows.append({
            "state": protection_cell(State.FAILING),
            "name": f"{len(cause.standings)} collections, since {localtime(cause.since):%d %b %H:%M %Z}",
            "address": collections_address(state=State.FAILING),
            "where": ", ".join(standing.facts.name for standing in cause.standings[:5]),
            "sentence": cause.sentence,
            "step": standing_link(request, first),
        })  # fmt: skip
    rows += [_needy_row(request, one) for state in NEEDY[1:] for one in verdict.of(state)[:SHOWN]]
    return rows[:SHOWN]


def _needy_row(request: HttpRequest, standing: Standing) -> dict[str, Any]:
    return {
        "state": protection_cell(standing.state),
        "name": standing.facts.name,
        "address": collection_address(standing.facts.cluster_id, standing.facts.name),
        "where": standing.facts.cluster,
        "sentence": standing.sentence,
        "step": standing_link(request, standing),
    }


def _collections(standings: Sequence[Standing], clusters: list[Cluster], now: datetime) -> list[dict[str, Any]]:
    ids = {str(cluster.pk): cluster for cluster in clusters}
    keys = [(ids[standing.facts.cluster_id].pk, standing.facts.name) for standing in standings]
    ages = {cluster.pk: cluster.max_backup_age_hours for cluster in clusters}
    found = strips(keys, max_age_hours=ages, now=now)
    return [collection_row(standing, found.get(key)) for standing, key in zip(standings, keys, strict=True)]


def collection_row(standing: Standing, days: Strip | None) -> dict[str, Any]:
    """A collection in a table."""
    facts = standing.facts
    return {
        "facts": facts,
        "state": protection_cell(standing.state, standing.sentence),
        "address": collection_address(facts.cluster_id, facts.name),
        "points": facts.points_count if facts.points_count is not None else None,
        "backup_address": reverse("admin:backups_backup_change", args=[facts.newest.backup_id]) if facts.newest else "",
        "strip": draw_strip(days) if days else "",
    }


def draw_strip(days: Strip, link: str = "") -> SafeString:
    """`link` makes each day with something on it lead there, with ?day=."""
    cells = []
    for day in days.days:
        named = f"{day.day:%d %b}"
        if day.before:
            cells.append(Cell("off", f"{named}: nothing known"))
        elif day.succeeded:
            also = f", {day.failed} failed" if day.failed else ""
            words = f"{named}: {plural(day.succeeded, 'backup')}{also}"
            cells.append(Cell("ok", words, f"{link}{day.day}" if link else ""))
        elif day.failed:
            words = f"{named}: {plural(day.failed, 'failed backup')}"
            cells.append(Cell("bad", words, f"{link}{day.day}" if link else ""))
        else:
            cells.append(Cell("missed", f"{named}: missed") if day.missed else Cell("none", f"{named}: no backup"))
    return strip(cells, label=days.words)


def _causes(now: datetime) -> list[dict[str, Any]]:
    """Failures of the last days by their sentence, the latest first."""
    failed = (
        Job.objects.filter(status=JobStatus.FAILED, created_at__gt=now - RECENT)
        .order_by("-created_at", "-id")
        .defer("metadata", "checkpoint")[:LOOKED_AT]
    )
    groups: dict[str, list[Job]] = {}
    for job in failed:
        groups.setdefault(job.error.replace(job.collection_name, "…"), []).append(job)
    return [
        {
            "sentence": found[0].error,
            "count": len(found),
            "last": found[0],
            "name": name_of(found[0]),
            "others": sorted({job.collection_name for job in found} - {found[0].collection_name})[:4],
        }
        for found in list(groups.values())[:SHOWN]
    ]


def _cluster(cluster: Cluster, now: datetime) -> dict[str, Any]:
    seen = getattr(cluster, "observation", None)
    nodes = seen.nodes if seen else []
    errors = [warning["message"] for warning in (seen.warnings if seen else []) if warning["is_error"]]
    versions = sorted({node["version"] for node in nodes if node["version"]})
    return {
        "cluster": cluster,
        "address": reverse("admin:clusters_cluster_overview", args=[cluster.pk]),
        "seen": seen,
        "problem": (seen.problem if seen else "") or " ".join(errors),
        "nodes": plural(len(nodes), "node") if nodes else "",
        "usable": sum(node["is_usable"] for node in nodes),
        "versions": ", ".join(versions),
        "raft": raft_words(seen.raft if seen else {}),
        "advisories": len({advisory.id for version in versions for advisory in advisories_for(version)}),
    }


def raft_words(raft: dict[str, Any]) -> str:
    """'term 3, commit 51'; empty for a standalone node."""
    if not raft:
        return ""
    words = f"term {raft.get('term', '?')}, commit {raft.get('commit', '?')}"
    pending = raft.get("pending_operations") or 0
    if not raft.get("leader"):
        words += ", no leader"
    return f"{words}, {plural(pending, 'operation')} pending" if pending else words


def _storages(now: datetime) -> list[dict[str, Any]]:
    lately = Q(created_at__gt=now - timedelta(days=7))
    held = {
        storage_id: (count, size, added or 0)
        for storage_id, count, size, added in Backup.objects.filter(status=BackupStatus.COMPLETED)
        .order_by()
        .values_list("storage")
        .annotate(Count("pk"), Sum("size_bytes"), added=Sum("size_bytes", filter=lately))
    }
    largest = max((size for _, size, _ in held.values()), default=0) or 1
    rows = []
    for storage in StorageConfig.objects.order_by("name"):
        count, size, added = held.get(storage.pk, (0, 0, 0))
        share = round(100 * size / largest)
        rows.append({"storage": storage, "count": count, "size": size, "added": added, "share": share})
    return rows


def charts(days: list[Day]) -> list[dict[str, Any]]:
    """Backups by result, bytes and duration over the last days; with the sentence that a chart alone does not say."""
    succeeded, failed = sum(day.succeeded for day in days), sum(day.failed for day in days)
    size, seconds = sum(day.size_bytes for day in days), sum(day.seconds for day in days)

    def name(day: Day) -> str:
        return f"{day.day.day} {day.day:%b}"

    def results(day: Day) -> str:
        return f"{name(day)}: {day.succeeded} succeeded, {day.failed} failed, {day.cancelled} cancelled"

    def bars(title: Any, pieces: Any) -> list[Bar]:
        return [Bar(name(day), title(day), pieces(day)) for day in days]

    return [
        {
            "title": "Backups by result",
            "says": f"{succeeded} succeeded, {failed} failed",
            "legend": [("ok", "Succeeded"), ("bad", "Failed"), ("off", "Cancelled")],
            "svg": bar_chart(
                bars(results, lambda day: [("ok", day.succeeded), ("off", day.cancelled), ("bad", day.failed)]),
                label=f"Backups of the last {len(days)} days: {succeeded} succeeded, {failed} failed",
                words=lambda value: f"{value:.0f}",
            ),
        },
        {
            "title": "Bytes backed up",
            "says": f"{format_size(size)} in {len(days)} days",
            "svg": bar_chart(
                bars(lambda day: f"{name(day)}: {format_size(day.size_bytes)}", lambda day: [("main", day.size_bytes)]),
                label=f"Bytes backed up in the last {len(days)} days: {format_size(size)}",
                words=format_size,
            ),
        },
        {
            "title": "Mean duration of a backup",
            "says": format_duration(seconds / succeeded) if succeeded else "no backup yet",
            "svg": bar_chart(
                bars(
                    lambda day: f"{name(day)}: {format_duration(day.mean_seconds) if day.succeeded else 'none'}",
                    lambda day: [("main", day.mean_seconds)],
                ),
                label=f"Mean duration of a backup on each of the last {len(days)} days",
                words=format_duration,
            ),
        },
    ]


def state_choices(verdict: Verdict) -> list[tuple[State, str, int]]:
    """The states with their words and how many collections are in each."""
    return [(state, WORDS[state][0], verdict.counts.get(state, 0)) for state in WORST_FIRST]
