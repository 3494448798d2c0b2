"""The page of one cluster: whether it answers, its nodes, what is known of its version, its collections.

What was last seen of it is shown, so that the page is there at once when the cluster is not; "Test connection" asks.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone

from apps.clusters.advisories import advisories_for
from apps.clusters.models import Cluster, ClusterObservation
from apps.core.admin_kit import demand, may
from apps.core.permissions import Scope
from apps.jobs.models import Job
from apps.jobs.states import ACTIVE
from apps.protection.admin.dashboard import collection_row, raft_words
from apps.protection.admin.frame import protection_cell
from apps.protection.admin.steps import collections_address
from apps.protection.facts import recent_verdict
from apps.protection.history import strips
from apps.protection.judge import WORST_FIRST

if TYPE_CHECKING:
    from apps.protection.admin import CollectionAdmin

PER_PAGE = 50


def view(page: CollectionAdmin, request: HttpRequest, cluster_id: uuid.UUID) -> HttpResponse:
    demand(request, "clusters.view_cluster")
    cluster = Cluster.objects.select_related("observation").filter(pk=cluster_id).first()
    listed = reverse("admin:clusters_cluster_changelist")
    if cluster is None:
        return page.gone(request, "cluster", [("All clusters", listed)])
    seen: ClusterObservation | None = getattr(cluster, "observation", None)
    now = timezone.now()
    standings = [one for one in recent_verdict(now).standings if one.facts.cluster_id == str(cluster.pk)]
    shown = Paginator(standings, PER_PAGE).get_page(request.GET.get("p", "1"))
    keys = [(cluster.pk, one.facts.name) for one in shown]
    days = strips(keys, max_age_hours={cluster.pk: cluster.max_backup_age_hours}, now=now)
    versions = sorted({node["version"] for node in (seen.nodes if seen else []) if node["version"]})
    advisories = {advisory.id: advisory for version in versions for advisory in advisories_for(version)}
    states = [one.state for one in standings]
    return page.page(
        request,
        "admin/protection/cluster.html",
        title=cluster.name,
        crumbs=[("Clusters", listed)],
        cluster=cluster,
        seen=seen,
        raft=raft_words(seen.raft if seen else {}),
        versions=versions,
        advisories=advisories.values(),
        counts=[
            (protection_cell(state), states.count(state), collections_address(state=state, cluster=str(cluster.pk)))
            for state in WORST_FIRST
            if state in states
        ],
        rows=[collection_row(one, days.get(key)) for one, key in zip(shown, keys, strict=True)],
        listed=shown,
        running=Job.objects.filter(subject_cluster=cluster, status__in=ACTIVE).count(),
        may_operate=may(request, Scope.OPERATE),
        may_change=request.user.has_perm("clusters.change_cluster"),
        may_delete=request.user.has_perm("clusters.delete_cluster"),
    )
