"""The admin of clusters: where backups come from. No list page asks a cluster anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.db import transaction
from django.db.models import Max
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.utils.safestring import SafeString

from apps.clusters.admin_live import read_collections
from apps.clusters.forms import ClusterForm
from apps.clusters.models import Cluster
from apps.clusters.services import delete_cluster, probe_cluster
from apps.core.admin_cells import OK, state_cell, time_cell
from apps.core.admin_kit import ConsoleAdmin, demand, may
from apps.core.errors import BackupmgrError
from apps.core.permissions import SCOPE_PERMISSIONS, Scope
from apps.core.text import plural

COLLECTIONS_PER_PAGE = 50


@admin.register(Cluster)
class ClusterAdmin(ConsoleAdmin):
    form = ClusterForm
    list_display = ["name", "address", "default", "key", "last_backup"]
    list_display_links = ["name"]
    search_fields = ["name", "url"]
    ordering = ["name"]
    empty_title = "No cluster yet"
    empty_text = "A cluster is a Qdrant deployment whose collections are backed up."
    change_form_template = "admin/clusters/cluster/change_form.html"

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).annotate(last_backup_at=Max("backups__created_at"))

    def get_fieldsets(self, request: HttpRequest, obj: Cluster | None = None) -> Any:
        key = ["api_key", "clear_api_key"] if obj and obj.api_key else ["api_key"]
        if not self.has_change_permission(request, obj) and obj:
            key = ["key"]
        return [
            (None, {"fields": ["name", "url", *key, "is_default"]}),
            ("TLS", {"fields": ["verify_tls", "ca"]}),
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: Cluster | None = None) -> Any:
        return [] if self.has_change_permission(request, obj) or obj is None else ["key"]

    def own_urls(self) -> list[tuple[str, str, Callable[..., HttpResponse]]]:
        return [
            ("<uuid:object_id>/test/", "clusters_cluster_test", self.test_view),
            ("<uuid:object_id>/collections/", "clusters_cluster_collections", self.collections_view),
        ]

    # --- columns -------------------------------------------------------------------------------------------
    @admin.display(description="URL", ordering="url")
    def address(self, cluster: Cluster) -> str:
        return cluster.url

    @admin.display(description="Default", ordering="is_default")
    def default(self, cluster: Cluster) -> str | SafeString:
        return state_cell("Default", OK) if cluster.is_default else ""

    @admin.display(description="API key")
    def key(self, cluster: Cluster) -> str:
        return "set" if cluster.api_key else "not set"

    @admin.display(description="Last backup")
    def last_backup(self, cluster: Any) -> str | SafeString:
        return time_cell(cluster.last_backup_at)

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        context = {"may_operate": may(request, Scope.OPERATE)}
        return super().changeform_view(request, object_id, form_url, context | (extra_context or {}))

    # --- pages ---------------------------------------------------------------------------------------------
    def test_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Ask the cluster who it is, and say what came of it."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        demand(request, SCOPE_PERMISSIONS[Scope.OPERATE])
        cluster = self.find(request, object_id)
        if not isinstance(cluster, Cluster):
            return self.gone(request)
        found = probe_cluster(cluster)
        (messages.success if found.success else messages.error)(request, found.message)
        return HttpResponseRedirect(self.object_url(cluster))

    def collections_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The live collections of one cluster, a page of them at a time."""
        cluster = self.find(request, object_id)
        if not isinstance(cluster, Cluster):
            return self.gone(request)
        page = request.GET.get("page", "1")
        number = max(1, int(page)) if page.isascii() and page.isdecimal() and len(page) < 7 else 1
        first = (number - 1) * COLLECTIONS_PER_PAGE
        live = read_collections(cluster, first, COLLECTIONS_PER_PAGE)
        newest = dict(
            cluster.backups.filter(
                status="completed", shard_id=None, collection_name__in=[found.name for found in live.collections]
            )
            .values_list("collection_name")
            .annotate(at=Max("created_at"))
        )
        return self.page(
            request,
            "admin/clusters/cluster/collections.html",
            title=f"Collections of {cluster.name}",
            crumbs=[*self.crumbs(), (cluster.name, self.object_url(cluster))],
            cluster=cluster,
            live=live,
            rows=[(found, newest.get(found.name)) for found in live.collections],
            page_number=number,
            more=len(live.names) > first + COLLECTIONS_PER_PAGE,
            may_operate=may(request, Scope.OPERATE),
        )

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        cluster = self.find(request, object_id)
        if not isinstance(cluster, Cluster):
            return self.gone(request)
        demand(request, "clusters.delete_cluster")
        if request.method == "POST":
            name = cluster.name
            try:
                with transaction.atomic():
                    self.log_deletions(request, Cluster.objects.filter(pk=cluster.pk))
                    delete_cluster(cluster=cluster)
            except BackupmgrError as error:
                messages.error(request, str(error))
                return HttpResponseRedirect(self.object_url(cluster))
            messages.success(request, f"Removed the cluster {name}. Its backups stay in their storages.")
            return HttpResponseRedirect(self.list_url)
        blocked = cluster.jobs.exists() or cluster.restore_jobs.exists()
        backups = cluster.backups.count()
        sentences = (
            [_kept_by_jobs(cluster)]
            if blocked
            else [
                f"This removes the cluster {cluster.name} ({cluster.url}) from this list. Qdrant is not touched.",
                f"{plural(backups, 'backup')} of it stay in their storages and in the catalogue." if backups else "",
            ]
        )
        return self.confirm(
            request,
            title=f"Remove {cluster.name}?",
            crumbs=[*self.crumbs(), (cluster.name, self.object_url(cluster))],
            sentences=[sentence for sentence in sentences if sentence],
            verb="" if blocked else "Remove cluster",
            danger=True,
            keep="Back" if blocked else "Keep it",
            back=self.object_url(cluster),
        )


def _kept_by_jobs(cluster: Cluster) -> str:
    return f"{cluster.name} cannot be removed: jobs in the history belong to it."
