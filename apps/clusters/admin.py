"""The admin of clusters: where backups come from. No list page asks a cluster anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.db import transaction
from django.db.models import Max
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from apps.clusters.admin_live import read_collections
from apps.clusters.forms import ClusterForm
from apps.clusters.models import Cluster
from apps.clusters.nodes import resolve_nodes
from apps.clusters.observations import observe_cluster
from apps.clusters.probe import advisories_of, probe_cluster
from apps.clusters.services import PROBE_TIMEOUT_SECONDS, adopt_suggestions, delete_cluster
from apps.core.admin_cells import BAD, NOTHING, OK, state_cell, time_cell
from apps.core.admin_kit import ConsoleAdmin, demand, may
from apps.core.errors import BackupmgrError
from apps.core.permissions import SCOPE_PERMISSIONS, Scope
from apps.core.text import plural

COLLECTIONS_PER_PAGE = 50
_TLS = ("TLS", {"fields": ["verify_tls", "ca"]})


@admin.register(Cluster)
class ClusterAdmin(ConsoleAdmin):
    form = ClusterForm
    list_display = ["titled", "state", "version", "address", "default", "last_backup"]
    list_display_links = None
    list_select_related = ["observation"]
    search_fields = ["name", "url"]
    ordering = ["name"]
    empty_title = "No cluster yet"
    empty_text = "A cluster is a Qdrant deployment whose collections are backed up."
    change_form_template = "admin/clusters/cluster/change_form.html"

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).annotate(last_backup_at=Max("backups__created_at"))

    def get_fieldsets(self, request: HttpRequest, obj: Cluster | None = None) -> Any:
        key = ["api_key", "clear_api_key"] if obj and obj.api_key else ["api_key"]
        key += ["restore_api_key", "clear_restore_api_key"] if obj and obj.restore_api_key else ["restore_api_key"]
        if not self.has_change_permission(request, obj) and obj:
            return [
                (
                    None,
                    {
                        "fields": [
                            "name",
                            "all_urls",
                            "key",
                            "restore_key",
                            "max_backup_age_hours",
                            "max_jobs",
                            "max_jobs_per_node",
                            "is_default",
                        ]
                    },
                ),
                _TLS,
            ]
        return [
            (
                None,
                {
                    "fields": [
                        "name",
                        "url",
                        *key,
                        "max_backup_age_hours",
                        "max_jobs",
                        "max_jobs_per_node",
                        "is_default",
                    ]
                },
            ),
            _TLS,
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: Cluster | None = None) -> Any:
        if self.has_change_permission(request, obj) or obj is None:
            return []
        return ["all_urls", "key", "restore_key"]

    def own_urls(self) -> list[tuple[str, str, Callable[..., HttpResponse]]]:
        return [
            ("<uuid:object_id>/test/", "clusters_cluster_test", self.test_view),
            ("<uuid:object_id>/nodes/", "clusters_cluster_nodes", self.nodes_view),
            ("<uuid:object_id>/adopt/", "clusters_cluster_adopt", self.adopt_view),
            ("<uuid:object_id>/collections/", "clusters_cluster_collections", self.collections_view),
        ]

    def object_url(self, obj: Any) -> str:
        """The page that tells of it; its settings are one click further."""
        return reverse("admin:clusters_cluster_overview", args=[obj.pk])

    # --- columns -------------------------------------------------------------------------------------------
    @admin.display(description="Name", ordering="name")
    def titled(self, cluster: Cluster) -> SafeString:
        return format_html('<a class="bm-link bm-strong" href="{}">{}</a>', self.object_url(cluster), cluster.name)

    @admin.display(description="Health")
    def state(self, cluster: Cluster) -> SafeString:
        seen = getattr(cluster, "observation", None)
        if seen is None or seen.tried_at is None:
            return state_cell("Not checked yet", "unknown")
        return state_cell("No contact", BAD, title=seen.problem) if seen.problem else state_cell("Reachable", OK)

    @admin.display(description="Qdrant")
    def version(self, cluster: Cluster) -> str:
        seen = getattr(cluster, "observation", None)
        nodes = len(seen.nodes) if seen else 0
        return f"{seen.version}, {plural(nodes, 'node')}" if seen and seen.version else NOTHING

    @admin.display(description="URL", ordering="url")
    def address(self, cluster: Cluster) -> str:
        more = len(cluster.addresses) - 1
        return f"{cluster.url} and {plural(more, 'more address', 'more addresses')}" if more else cluster.url

    @admin.display(description="URLs")
    def all_urls(self, cluster: Cluster) -> SafeString:
        return format_html_join(SafeString("<br>"), "{}", ((url,) for url in cluster.addresses))

    @admin.display(description="Default", ordering="is_default")
    def default(self, cluster: Cluster) -> str | SafeString:
        return state_cell("Default", OK) if cluster.is_default else ""

    @admin.display(description="API key")
    def key(self, cluster: Cluster) -> str:
        return "set" if cluster.api_key else "not set"

    @admin.display(description="API key for restores")
    def restore_key(self, cluster: Cluster) -> str:
        return "set" if cluster.restore_api_key else "not set: restores use the API key"

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

    def _saved(self, request: HttpRequest, obj: Any) -> HttpResponse:
        """Ask it at once: what came of it is what the next page is about."""
        observe_cluster(obj, now=timezone.now())
        answer = super()._saved(request, obj)
        return self._on(answer, obj)

    def _on(self, answer: HttpResponse, cluster: Cluster) -> HttpResponse:
        """While nothing has ever been backed up, the first steps are the way."""
        if cluster.backups.exists() or cluster.jobs.exists() or Cluster.objects.count() > 1:
            return answer
        return HttpResponseRedirect(reverse("admin:protection_first_steps"))

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
        observe_cluster(cluster, now=timezone.now())
        (messages.success if found.success else messages.error)(request, found.message)
        for problem in found.problems:
            if not problem.is_error:
                messages.warning(request, problem.message)
        if request.GET.get("next") == "first-steps":
            return HttpResponseRedirect(reverse("admin:protection_first_steps"))
        if found.report is not None and (found.report.distributed or found.report.suggestions):
            return HttpResponseRedirect(reverse("admin:clusters_cluster_nodes", args=[cluster.pk]))
        return HttpResponseRedirect(self.object_url(cluster))

    def nodes_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Which peer is at which address, asked now; what is wrong, and what is known of the version."""
        cluster = self.find(request, object_id)
        if not isinstance(cluster, Cluster):
            return self.gone(request)
        report, problem = None, ""
        try:
            report = resolve_nodes(cluster, timeout_seconds=PROBE_TIMEOUT_SECONDS).report
        except BackupmgrError as error:
            problem = str(error)
        return self.page(
            request,
            "admin/clusters/cluster/nodes.html",
            title=f"Nodes of {cluster.name}",
            crumbs=[*self.crumbs(), (cluster.name, self.object_url(cluster))],
            cluster=cluster,
            report=report,
            problem=problem,
            advisories=advisories_of(report) if report else (),
            may_operate=may(request, Scope.OPERATE),
            may_change=self.has_change_permission(request, cluster),
        )

    def adopt_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Add the addresses that peers without one seem to have, once each has answered as that peer."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        demand(request, "clusters.change_cluster")
        cluster = self.find(request, object_id)
        if not isinstance(cluster, Cluster):
            return self.gone(request)
        try:
            added, refused = adopt_suggestions(cluster=cluster)
        except BackupmgrError as error:
            messages.error(request, str(error))
            return HttpResponseRedirect(self.object_url(cluster))
        if added:
            self.log_change(request, cluster, f"Added {', '.join(added.values())}.")
            messages.success(
                request, f"Added {plural(len(added), 'address', 'addresses')}: {', '.join(added.values())}."
            )
        for peer, reason in refused.items():
            messages.warning(request, f"Nothing was added for peer {peer}: {reason}")
        if not added and not refused:
            messages.info(request, "There is nothing to add: no peer without address has a suggestion.")
        return HttpResponseRedirect(reverse("admin:clusters_cluster_nodes", args=[cluster.pk]))

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
