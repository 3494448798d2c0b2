"""First steps: connect a cluster, add a storage, back up a collection, watch it. Each step says what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.http import HttpRequest, HttpResponse
from django.urls import reverse

from apps.backups.models import Backup
from apps.clusters.models import Cluster
from apps.core.admin_kit import may
from apps.core.permissions import Scope
from apps.core.text import plural
from apps.jobs.admin.cells import job_state, name_of, poll_address, progress_cell
from apps.jobs.health import worker_state
from apps.jobs.models import Job
from apps.protection.admin.steps import Link, back_up_address
from apps.storage.models import StorageConfig

if TYPE_CHECKING:
    from apps.protection.admin import CollectionAdmin

OFFERED = 8


@dataclass
class FirstStep:
    """One step: whether it is done, what is known, what is wrong, and the links to do it."""

    title: str
    done: bool
    said: str = ""
    warnings: list[str] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    #: (address to POST to, words)
    post: tuple[str, str] | None = None


def view(page: CollectionAdmin, request: HttpRequest) -> HttpResponse:
    from django.utils import timezone

    page.demand_view(request)
    now = timezone.now()
    job = Job.objects.select_related("cluster", "storage", "target_cluster").order_by("-created_at", "-id").first()
    steps = first_steps(request, job)
    workers = worker_state(now)
    return page.page(
        request,
        "admin/protection/first_steps.html",
        title="First steps",
        crumbs=[],
        steps=steps,
        job=job,
        job_name=name_of(job) if job else "",
        job_state=job_state(job) if job else "",
        job_progress=progress_cell(job, big=True) if job else "",
        workers=workers,
        poll_address=poll_address([job] if job else []),
        all_done=all(step.done for step in steps),
    )


def first_steps(request: HttpRequest, job: Job | None) -> list[FirstStep]:
    cluster = Cluster.objects.select_related("observation").order_by("-is_default", "created_at").first()
    storage = StorageConfig.objects.order_by("-is_default", "created_at").first()
    return [_cluster(request, cluster), _storage(request, storage), _backup(request, cluster, storage), _watch(job)]


def _cluster(request: HttpRequest, cluster: Cluster | None) -> FirstStep:
    if cluster is None:
        step = FirstStep(
            "Connect a cluster", False, "The REST address of a Qdrant node, and its API key if it has one."
        )
        if request.user.has_perm("clusters.add_cluster"):
            step.links.append(("Connect a cluster…", reverse("admin:clusters_cluster_add")))
        else:
            step.warnings.append("An administrator has to do this.")
        return step
    step = FirstStep(f"Connect a cluster: {cluster.name}", False, links=[_open("Open it", cluster)])
    if may(request, Scope.OPERATE):
        step.post = (reverse("admin:clusters_cluster_test", args=[cluster.pk]) + "?next=first-steps", "Test connection")
    seen: Any = getattr(cluster, "observation", None)
    if seen is None or seen.tried_at is None:
        step.said = "It is registered; nobody has asked it yet."
        return step
    if seen.problem:
        step.warnings.append(seen.problem)
        return step
    step.done = True
    count = cluster.observed_collections.filter(gone_at=None).count()
    step.said = f"Qdrant {seen.version} answers: {plural(len(seen.nodes), 'node')}, {plural(count, 'collection')}."
    step.warnings += [warning["message"] for warning in seen.warnings]
    return step


def _storage(request: HttpRequest, storage: StorageConfig | None) -> FirstStep:
    if storage is None:
        step = FirstStep("Add a storage", False, "Where backups go: a folder of this host, or a bucket (S3).")
        if request.user.has_perm("storage.add_storageconfig"):
            step.links.append(("Add a storage…", reverse("admin:storage_storageconfig_add")))
        else:
            step.warnings.append("An administrator has to do this.")
        return step
    step = FirstStep(f"Add a storage: {storage.name}", True, f"{storage.get_type_display()}: {storage.location}")
    step.links.append(("Open it", reverse("admin:storage_storageconfig_change", args=[storage.pk])))
    if request.user.has_perm("storage.change_storageconfig"):
        test = reverse("admin:storage_storageconfig_test", args=[storage.pk]) + "?next=first-steps"
        step.post = (test, "Test storage")
    return step


def _backup(request: HttpRequest, cluster: Cluster | None, storage: StorageConfig | None) -> FirstStep:
    done = Backup.objects.exists()
    step = FirstStep("Back up a collection", done or Job.objects.exists())
    if cluster is None or storage is None:
        step.said = "When there is a cluster and a storage."
        return step
    step.said = "Done: others follow in the same way." if done else "Choose one; it stays in use meanwhile."
    if may(request, Scope.OPERATE):
        names = cluster.observed_collections.filter(gone_at=None).order_by("name").values_list("name", flat=True)
        step.links += [(name, back_up_address(cluster.pk, name)) for name in names[:OFFERED]]
        step.links.append(("Another…" if names else "Back up now…", reverse("admin:jobs_job_backup")))
    return step


def _watch(job: Job | None) -> FirstStep:
    ended = job is not None and job.is_ended
    return FirstStep("Watch it", bool(ended), "" if job else "Its progress shows here. It goes on when you leave.")


def _open(words: str, cluster: Cluster) -> Link:
    return words, reverse("admin:clusters_cluster_overview", args=[cluster.pk])
