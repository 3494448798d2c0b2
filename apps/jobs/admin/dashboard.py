"""The first page: one sentence that says how things stand, worst first; what runs; what failed; what is new.

Only the database is asked. Collections that nobody ever backed up are unknown to it, and the page says so instead
of calling everything safe.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, Max, Sum
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from apps.backups.models import Backup, BackupStatus
from apps.clusters.models import Cluster
from apps.core.admin_cells import ago
from apps.core.admin_kit import may
from apps.core.permissions import Scope
from apps.core.text import plural
from apps.jobs.admin.cells import duration_cell, job_state, name_of, poll_address, progress_cell, route_of
from apps.jobs.health import WorkerState, worker_state
from apps.jobs.models import Job
from apps.jobs.states import ACTIVE, BACKUP_TYPES, JobStatus
from apps.storage.models import StorageConfig

SHOWN = 8
#: Failures further back are history.
RECENT = timedelta(days=30)


@dataclass(frozen=True)
class Verdict:
    """How things stand, in one sentence; what that means; and the next step as (words, address)."""

    tone: str
    sentence: str
    more: str = ""
    step: tuple[str, str] | None = None


@dataclass(frozen=True)
class Failing:
    """A collection whose last backup failed: that job, and when its newest good backup was made."""

    job: Job
    newest_good: datetime | None


@dataclass(frozen=True)
class Standing:
    """What the verdict is made of."""

    now: datetime
    clusters: int
    storages: int
    collections: int
    newest_at: datetime | None
    bad_backups: int
    failing: list[Failing]
    waiting: int
    workers: WorkerState


def verdict(at: Standing) -> Verdict:
    """Say the worst that is known. It never says that all is safe: what was never backed up is not known here."""
    if not at.clusters:
        return Verdict(
            "calm", "No cluster yet: add one.",
            "A cluster, a storage and a first backup take about three minutes.",
            ("Add cluster", reverse("admin:clusters_cluster_add")),
        )  # fmt: skip
    if not at.storages:
        return Verdict(
            "calm", "No storage yet: add one.", "Backups need a place to go: a folder of this host or a bucket.",
            ("Add storage", reverse("admin:storage_storageconfig_add")),
        )  # fmt: skip
    if at.failing:
        job, newest, others = at.failing[0].job, at.failing[0].newest_good, len(at.failing) - 1
        good = f"Its newest good backup was made {ago(newest, at.now)}." if newest else "It has no good backup."
        return Verdict(
            "bad",
            f"The last backup of {job.collection_name} failed"
            + (f", and so did that of {plural(others, 'other collection')}." if others else "."),
            f"{job.error} {good}",
            ("Open job", reverse("admin:jobs_job_change", args=[job.pk])),
        )
    if at.bad_backups:
        return Verdict(
            "bad", f"{plural(at.bad_backups, 'backup')} cannot be restored: damaged or missing in the storage.",
            "Other backups are intact.",
            ("Show them", reverse("admin:backups_backup_changelist") + "?state=damaged"),
        )  # fmt: skip
    if at.waiting and not at.workers.alive:
        return Verdict("bad", f"{plural(at.waiting, 'job')} cannot start.", f"{at.workers.sentence.capitalize()}.")
    if not at.collections:
        return Verdict(
            "warn", "Nothing is backed up yet.", "",
            ("Back up now…", reverse("admin:jobs_job_backup")),
        )  # fmt: skip
    if not at.workers.alive:
        return Verdict("warn", "No job can run now.", f"{at.workers.sentence.capitalize()}.")
    count = "The last backup of the one collection that has any" if at.collections == 1 else (
        f"The last backups of all {at.collections} collections that have any"
    )  # fmt: skip
    return Verdict(
        "calm",
        f"{count} succeeded. Newest backup {ago(at.newest_at, at.now)}.",
        "Collections that were never backed up are not counted here: each cluster's page shows them.",
    )


def failing_collections(now: datetime) -> list[Failing]:
    """The last failed backup job of each collection that has had no good backup since, the latest first."""
    failed = (
        Job.objects.filter(status=JobStatus.FAILED, type__in=BACKUP_TYPES, created_at__gt=now - RECENT)
        .select_related("cluster")
        .defer("metadata", "checkpoint")
        .order_by("-created_at", "-id")[:200]
    )
    latest: dict[tuple[Any, str], Job] = {}
    for job in failed:
        latest.setdefault((job.cluster_id, job.collection_name), job)
    good = {
        (cluster, name): at
        for cluster, name, at in Backup.objects.filter(
            status=BackupStatus.COMPLETED, collection_name__in={name for _, name in latest}
        )
        .values_list("cluster_id", "collection_name")
        .annotate(at=Max("created_at"))
    }
    return [Failing(job, good.get(key)) for key, job in latest.items() if key not in good or good[key] < job.created_at]


def dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Fill in the first page."""
    context |= {"title": "Overview", "crumbs": []}
    if not request.user.has_perm("jobs.view_job"):
        return context | {"verdict": Verdict("calm", "You are signed in, but may not see anything yet.",
                                             "An administrator has to add you to a group.")}  # fmt: skip
    now = timezone.now()
    good = Backup.objects.filter(status=BackupStatus.COMPLETED)
    held = good.aggregate(count=Count("pk"), size=Sum("size_bytes"), newest=Max("created_at"))
    jobs = Job.objects.select_related("cluster", "storage", "target_cluster").defer("metadata", "checkpoint")
    active = list(jobs.filter(status__in=ACTIVE).order_by("-created_at", "-id")[: SHOWN + 1])
    standing = Standing(
        now=now,
        clusters=Cluster.objects.count(),
        storages=StorageConfig.objects.count(),
        collections=good.values("cluster_name", "collection_name").distinct().count(),
        newest_at=held["newest"],
        bad_backups=Backup.objects.filter(status__in=(BackupStatus.DAMAGED, BackupStatus.MISSING)).count(),
        failing=failing_collections(now),
        waiting=sum(job.status == JobStatus.PENDING for job in active),
        workers=worker_state(now),
    )
    failed = jobs.filter(status=JobStatus.FAILED).order_by("-created_at", "-id")[:SHOWN]
    return context | {
        "verdict": verdict(standing),
        "standing": standing,
        "held": held,
        "running": [
            {"job": job, "name": name_of(job), "route": route_of(job), "state": job_state(job),
             "progress": progress_cell(job), "took": duration_cell(job, now)}
            for job in active[:SHOWN]
        ],
        "more_running": len(active) > SHOWN,
        "failed": [{"job": job, "name": name_of(job)} for job in failed],
        "newest": good.select_related("storage").defer("manifest").order_by("-created_at", "-id")[:SHOWN],
        "poll_address": poll_address(active[:SHOWN]),
        "may_operate": may(request, Scope.OPERATE),
    }  # fmt: skip
