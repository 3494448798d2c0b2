"""The admin of collections: how each is protected, what it looks like on its cluster, and the first steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils import timezone

from apps.clusters.models import Cluster, ObservedCollection
from apps.core.admin_kit import FactAdmin
from apps.protection.admin import cluster_page, collection_page, coverage_page, first_steps, snapshot_pages
from apps.protection.admin.dashboard import collection_row, state_choices
from apps.protection.admin.frame import shown_verdict
from apps.protection.admin.steps import collection_address
from apps.protection.facts import recent_verdict
from apps.protection.history import strips
from apps.protection.judge import WORST_FIRST, Standing

PER_PAGE = 50


@admin.register(ObservedCollection)
class CollectionAdmin(FactAdmin):
    """All collections of all clusters, as the verdict sees them: the worst first."""

    def own_urls(self) -> list[tuple[str, str, Callable[..., HttpResponse]]]:
        def bound(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
            def wrapper(request: HttpRequest, **kwargs: Any) -> HttpResponse:
                return view(self, request, **kwargs)

            return wrapper

        return [
            ("of/", "clusters_collection", bound(collection_page.view)),
            ("of/snapshots/create/", "clusters_collection_snapshot_create", bound(snapshot_pages.create_view)),
            ("of/snapshots/delete/", "clusters_collection_snapshot_delete", bound(snapshot_pages.delete_view)),
            ("of/snapshots/recover/", "clusters_collection_snapshot_recover", bound(snapshot_pages.recover_view)),
            ("coverage/", "protection_coverage", bound(coverage_page.view)),
            ("cluster/<uuid:cluster_id>/", "clusters_cluster_overview", bound(cluster_page.view)),
            ("first-steps/", "protection_first_steps", bound(first_steps.view)),
        ]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        self.demand_view(request)
        verdict = shown_verdict(request, recent_verdict(timezone.now())).verdict
        state, cluster, words = (request.GET.get(name, "") for name in ("state", "cluster", "q"))
        found = [one for one in verdict.standings if _fits(one, state, cluster, words.strip().lower())]
        clusters = list(Cluster.objects.order_by("name"))
        pages = Paginator(found, PER_PAGE)
        page = pages.get_page(request.GET.get("p", "1"))
        ids = {str(one.pk): one for one in clusters}
        keys = [(ids[one.facts.cluster_id].pk, one.facts.name) for one in page if one.facts.cluster_id in ids]
        ages = {one.pk: one.max_backup_age_hours for one in clusters}
        days = strips(keys, max_age_hours=ages, now=timezone.now())
        return self.page(
            request,
            "admin/protection/collections.html",
            title="Collections",
            crumbs=[],
            rows=[collection_row(one, days.get(key)) for one, key in zip(page, keys, strict=False)],
            listed=page,
            total=len(verdict.standings),
            states=state_choices(verdict),
            state=state,
            clusters=clusters,
            chosen=ids.get(cluster),
            words=words,
            query={"state": state, "cluster": cluster, "q": words},
        )

    def detail_view(self, request: HttpRequest, obj: ObservedCollection) -> HttpResponse:
        return HttpResponseRedirect(collection_address(obj.cluster_id, obj.name))

    def demand_view(self, request: HttpRequest) -> None:
        if not self.has_view_permission(request):
            raise PermissionDenied


def _fits(standing: Standing, state: str, cluster: str, words: str) -> bool:
    return (
        (state not in WORST_FIRST or standing.state == state)
        and (not cluster or standing.facts.cluster_id == cluster)
        and (not words or words in standing.facts.name.lower())
    )
