"""Next steps as (words, address), for who may take them."""

from __future__ import annotations

from django.http import HttpRequest
from django.urls import reverse
from django.utils.http import urlencode

from apps.core.admin_kit import may
from apps.core.permissions import Scope
from apps.protection.judge import Do, Standing, State, Step

Link = tuple[str, str]


def collections_address(**query: str) -> str:
    address = reverse("admin:clusters_observedcollection_changelist")
    return f"{address}?{urlencode(query)}" if query else address


def collection_address(cluster_id: object, name: str) -> str:
    """The page of a collection. By its name in the query: a path cannot hold every name ('..')."""
    return f"{reverse('admin:clusters_collection')}?{urlencode({'cluster': str(cluster_id), 'name': name})}"


def back_up_address(cluster_id: object, name: str) -> str:
    return f"{reverse('admin:jobs_job_backup')}?{urlencode({'cluster': str(cluster_id), 'collection': name})}"


def step_link(request: HttpRequest, step: Step | None) -> Link | None:
    """Where the step is taken; None without one, or when the person may not take it."""
    if step is None:
        return None
    if step.do == Do.ADD_CLUSTER:
        add = reverse("admin:protection_first_steps")
        return ("Get started", add) if request.user.has_perm("clusters.add_cluster") else None
    if step.do == Do.ADD_STORAGE:
        add = reverse("admin:protection_first_steps")
        return ("Add storage", add) if request.user.has_perm("storage.add_storageconfig") else None
    if step.do == Do.BACK_UP:
        if not may(request, Scope.OPERATE):
            return "Show collection", collection_address(step.cluster_id, step.collection)
        return "Back up now…", back_up_address(step.cluster_id, step.collection)
    if step.do == Do.OPEN_JOB:
        return "Open the failed job", reverse("admin:jobs_job_change", args=[step.object_id])
    if step.do == Do.OPEN_BACKUP:
        return "Open the backup", reverse("admin:backups_backup_change", args=[step.object_id])
    if step.do == Do.OPEN_CLUSTER:
        return "Open the cluster", reverse("admin:clusters_cluster_overview", args=[step.cluster_id])
    if step.do == Do.SHOW_DAMAGED:
        return "Show them", reverse("admin:backups_backup_changelist") + "?state=damaged"
    return "Show them", collections_address(state=step.state)


def standing_link(request: HttpRequest, standing: Standing) -> Link:
    """The next step for one collection."""
    facts = standing.facts
    if standing.state == State.FAILING and facts.failure and facts.failure.job_id:
        return "Open job", reverse("admin:jobs_job_change", args=[facts.failure.job_id])
    if standing.state in (State.UNPROTECTED, State.OVERDUE) and may(request, Scope.OPERATE):
        return "Back up now…", back_up_address(facts.cluster_id, facts.name)
    if standing.state == State.UNPROVEN and facts.newest:
        return "Open backup", reverse("admin:backups_backup_change", args=[facts.newest.backup_id])
    return "Show", collection_address(facts.cluster_id, facts.name)
