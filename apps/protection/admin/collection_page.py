"""The page of one collection: how it is protected, what its cluster says of it now, its backups and its jobs.

The cluster is asked while the page is made, with short time-outs; when it does not answer, the page says so and the
rest stands.
"""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone

from apps.backups.admin import backup_state, proof
from apps.backups.models import Backup, BackupStatus
from apps.clusters.live_collection import read_collection
from apps.clusters.models import Cluster, ObservedCollection
from apps.core.admin_kit import may
from apps.core.permissions import Scope
from apps.jobs.admin.cells import duration_cell, job_state, name_of, poll_address, progress_cell
from apps.jobs.expected import UNKNOWN, expected_restore
from apps.jobs.models import Job
from apps.jobs.operations import NodeOperation, OperationStatus
from apps.protection.admin.dashboard import draw_strip
from apps.protection.admin.frame import protection_cell, shown_verdict
from apps.protection.admin.steps import back_up_address, collection_address, collections_address
from apps.protection.history import strips
from apps.schedules.admin.calendar import calendar_of_collection

if TYPE_CHECKING:
    from apps.protection.admin import CollectionAdmin

SHOWN = 20
_SEE_RUNS = "schedules.view_schedulerun"
#: What was asked of the nodes and went well is of interest for a day.
SHOWN_OPERATIONS = timedelta(days=1)


def find(request: HttpRequest) -> tuple[Cluster | None, str]:
    """The cluster and the name that the address asks for."""
    name = request.GET.get("name", "")
    try:
        cluster = Cluster.objects.filter(pk=request.GET.get("cluster", "")).first()
    except (ValidationError, ValueError):
        cluster = None
    # PostgreSQL cannot even ask for a text with NUL in it.
    return cluster, "" if "\x00" in name else name


def crumbs(cluster: Cluster, name: str = "") -> list[tuple[str, str]]:
    found = [
        ("Collections", collections_address()),
        (cluster.name, reverse("admin:clusters_cluster_overview", args=[cluster.pk])),
    ]
    return [*found, (name, collection_address(cluster.pk, name))] if name else found


def view(page: CollectionAdmin, request: HttpRequest) -> HttpResponse:
    page.demand_view(request)
    cluster, name = find(request)
    if cluster is None or not name:
        return page.gone(request, "collection")
    seen = ObservedCollection.objects.filter(cluster=cluster, name=name).first()
    backups = Backup.objects.filter(cluster=cluster, collection_name=name)
    jobs = Job.objects.filter(Q(cluster=cluster) | Q(target_cluster=cluster), collection_name=name)
    live = read_collection(cluster, name)
    if live.is_missing and seen is None and not backups.exists() and not jobs.exists():
        back = [(cluster.name, reverse("admin:clusters_cluster_overview", args=[cluster.pk]))]
        return page.gone(request, f"collection of {cluster.name}", back)
    now = timezone.now()
    key = (cluster.pk, name)
    days = strips([key], max_age_hours={cluster.pk: cluster.max_backup_age_hours}, now=now)[key]
    standing = next(
        (
            one
            for one in shown_verdict(request).verdict.standings
            if one.facts.name == name and one.facts.cluster_id == str(cluster.pk)
        ),
        None,
    )
    recent = list(
        jobs.select_related("cluster", "storage", "target_cluster")
        .defer("metadata", "checkpoint")
        .order_by("-created_at", "-id")[:SHOWN]
    )
    return page.page(
        request,
        "admin/protection/collection.html",
        title=name,
        crumbs=crumbs(cluster),
        cluster=cluster,
        name=name,
        seen=seen,
        live=live,
        standing_here=standing,
        state=protection_cell(standing.state) if standing else "",
        strip=draw_strip(days, f"{collection_address(cluster.pk, name)}&day="),
        strip_words=days.words,
        config=json.dumps(live.config, indent=2, ensure_ascii=False),
        backups=_backups(request, backups),
        backups_total=backups.count(),
        day=_day(request),
        list_address=reverse("admin:backups_backup_changelist")
        + "?"
        + collection_address(cluster.pk, name)
        .partition("?")[2]
        .replace("cluster=", "cluster__id__exact=")
        .replace("name=", "collection="),
        restore_time=_restore_time(cluster, backups),
        jobs=[_job(job, now) for job in recent],
        operations=NodeOperation.objects.filter(cluster=cluster, collection_name=name)
        .exclude(status=OperationStatus.COMPLETED, completed_at__lt=now - SHOWN_OPERATIONS)
        .order_by("-created_at")[:8],
        poll_address=poll_address(recent),
        back_up_address=back_up_address(cluster.pk, name),
        here=collection_address(cluster.pk, name).partition("?")[2],
        calendar=calendar_of_collection(cluster, name, now) if request.user.has_perm(_SEE_RUNS) else None,
        may_operate=may(request, Scope.OPERATE),
        may_restore=may(request, Scope.RESTORE),
    )


def _day(request: HttpRequest) -> date | None:
    try:
        day = date.fromisoformat(request.GET.get("day", ""))
    except ValueError:
        return None
    return day if day < date.max else None  # there is no day after that one


def _backups(request: HttpRequest, backups: Any) -> list[dict[str, Any]]:
    day = _day(request)
    if day is not None:
        # A day of the strip is one of UTC, whatever the viewer's zone.
        begins = datetime.combine(day, datetime.min.time(), UTC)
        backups = backups.filter(created_at__gte=begins, created_at__lt=begins + timedelta(days=1))
    rows = backups.select_related("storage").defer("manifest").order_by("-created_at", "-id")[:SHOWN]
    return [{"backup": row, "state": backup_state(row), "proof": proof(row)} for row in rows]


def _restore_time(cluster: Cluster, backups: Any) -> str:
    """How long a restore of the newest backup would take; empty while there is none."""
    newest = backups.filter(status=BackupStatus.COMPLETED).select_related("storage").defer("manifest")
    backup = newest.order_by("-created_at", "-id").first()
    if backup is None:
        return ""
    expected = expected_restore(size_bytes=backup.size_bytes, storage=backup.storage, cluster=cluster)
    return f"takes {expected.words}." if expected else f"takes a time that is {UNKNOWN[0].lower()}{UNKNOWN[1:]}"


def _job(job: Job, now: Any) -> dict[str, Any]:
    return {
        "job": job,
        "name": name_of(job),
        "state": job_state(job),
        "progress": progress_cell(job),
        "took": duration_cell(job, now),
    }
