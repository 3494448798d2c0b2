"""The admin of kept collections: what restores replaced by switching aliases, and what a person decides about it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from apps.backups.models import KeptCollection
from apps.core.admin_cells import NOTHING, OFF, WARN, number, state_cell, time_cell
from apps.core.admin_kit import FactAdmin, demand, may, person
from apps.core.errors import BackupmgrError
from apps.core.permissions import SCOPE_PERMISSIONS, Scope
from apps.jobs.kept import KeptInUse, forget_kept, remove_kept, switch_back


def kept_state(kept: KeptCollection) -> SafeString:
    if kept.switched_at is None:
        return state_cell("Switch unconfirmed", WARN, title="The restore ended before it heard of the switch")
    return state_cell("Kept", OFF, title="It stays until somebody removes it")


@admin.register(KeptCollection)
class KeptCollectionAdmin(FactAdmin):
    list_display = ["what", "status", "where", "led_here", "points", "since"]
    list_display_links = ["what"]
    list_filter = ["cluster"]
    list_select_related = ["cluster"]
    search_fields = ["collection_name", "replaced_by"]
    search_help_text = "Collection"
    ordering = ["-created_at", "-id"]
    sortable_by: list[str] = []
    empty_title = "Nothing is kept"
    empty_text = "When a restore switches an alias, the collection it led to stays, and is listed here."

    def own_urls(self) -> list[tuple[str, str, Callable[..., HttpResponse]]]:
        return [
            ("<uuid:kept_id>/remove/", "backups_keptcollection_remove", self.remove_view),
            ("<uuid:kept_id>/switch-back/", "backups_keptcollection_switch_back", self.switch_back_view),
            ("<uuid:kept_id>/forget/", "backups_keptcollection_forget", self.forget_view),
        ]

    def object_queryset(self, request: HttpRequest) -> Any:
        return KeptCollection.objects.select_related("cluster")

    # --- columns -------------------------------------------------------------------------------------------
    @admin.display(description="Collection")
    def what(self, kept: KeptCollection) -> SafeString:
        return format_html(
            '<span class="bm-wrap">{}</span><span class="bm-sub bm-wrap">replaced by {}</span>',
            kept.collection_name,
            kept.replaced_by,
        )

    @admin.display(description="Status")
    def status(self, kept: KeptCollection) -> SafeString:
        return kept_state(kept)

    @admin.display(description="Cluster")
    def where(self, kept: KeptCollection) -> str:
        return kept.cluster.name

    @admin.display(description="Aliases switched")
    def led_here(self, kept: KeptCollection) -> str:
        return ", ".join(kept.aliases)

    @admin.display(description="Points")
    def points(self, kept: KeptCollection) -> str:
        return NOTHING if kept.points_count is None else number(kept.points_count)

    @admin.display(description="Since")
    def since(self, kept: KeptCollection) -> SafeString:
        return time_cell(kept.created_at)

    # --- pages ---------------------------------------------------------------------------------------------
    def detail_view(self, request: HttpRequest, obj: KeptCollection) -> HttpResponse:
        return self.page(
            request,
            "admin/jobs/kept.html",
            title=obj.collection_name,
            kept=obj,
            aliases=", ".join(obj.aliases),
            state=kept_state(obj),
            may_switch_back=may(request, Scope.RESTORE),
            may_remove=may(request, Scope.ADMINISTER),
        )

    def remove_view(self, request: HttpRequest, kept_id: Any) -> HttpResponse:
        demand(request, SCOPE_PERMISSIONS[Scope.ADMINISTER])
        kept = self.find(request, str(kept_id))
        if kept is None:
            return self.gone(request)
        name, error = kept.collection_name, ""
        sure = bool(request.POST.get("even_if_changed"))
        if request.method == "POST" and request.POST.get("typed_name") != name:
            error = f"Type {name} exactly as it is written to remove it."
        elif request.method == "POST":
            try:
                remove_kept(kept_id=kept.pk, now=timezone.now(), user=person(request), even_if_changed=sure)
            except KeptInUse as refusal:
                # Read and typed once more, it goes although somebody writes to it; anything else refuses again.
                error, sure = str(refusal), True
            except BackupmgrError as failure:
                error = str(failure)
            else:
                messages.success(request, f"Removed {name} from {kept.cluster.name}.")
                return HttpResponseRedirect(self.list_url)
        held = "" if kept.points_count is None else f" It held {number(kept.points_count)} points at the switch."
        return self.confirm(
            request,
            title=f"Remove {name}?",
            crumbs=[*self.crumbs(), (name, self.object_url(kept))],
            sentences=[
                f"This deletes the collection {name} from {kept.cluster.name} with all its points.{held}",
                f"Clients come to {kept.replaced_by} through {', '.join(kept.aliases)}; that stays as it is.",
            ],
            verb="Remove the collection",
            danger=True,
            typed_name=name,
            hidden=[("even_if_changed", "1")] if sure else [],
            back=self.object_url(kept),
            error=error,
        )

    def switch_back_view(self, request: HttpRequest, kept_id: Any) -> HttpResponse:
        return self._decide(
            request,
            kept_id,
            Scope.RESTORE,
            switch_back,
            verb="Switch back",
            sentences=lambda kept: [
                f"{', '.join(kept.aliases)} on {kept.cluster.name} will lead to {kept.collection_name} again, in one "
                f"call.",
                f"{kept.replaced_by}, which was restored, is kept and listed here instead. Points that were written to "
                f"it since are in it alone.",
            ],
            done=lambda kept: f"Clients come to {kept.collection_name} again.",
        )

    def forget_view(self, request: HttpRequest, kept_id: Any) -> HttpResponse:
        return self._decide(
            request,
            kept_id,
            Scope.ADMINISTER,
            forget_kept,
            verb="Keep for good",
            sentences=lambda kept: [f"{kept.collection_name} stays where it is, and is no longer listed here."],
            done=lambda kept: f"{kept.collection_name} stays, and is no longer listed.",
        )

    def _decide(
        self,
        request: HttpRequest,
        kept_id: Any,
        scope: Scope,
        service: Callable[..., Any],
        *,
        verb: str,
        sentences: Callable[[KeptCollection], list[str]],
        done: Callable[[KeptCollection], str],
    ) -> HttpResponse:
        demand(request, SCOPE_PERMISSIONS[scope])
        kept = self.find(request, str(kept_id))
        if kept is None:
            return self.gone(request)
        confirm = partial(
            self.confirm,
            request,
            title=f"{verb}?",
            crumbs=[*self.crumbs(), (kept.collection_name, self.object_url(kept))],
            sentences=sentences(kept),
            verb=verb,
            back=self.object_url(kept),
        )
        if request.method != "POST":
            return confirm()
        try:
            service(kept_id=kept.pk, now=timezone.now(), user=person(request))
        except BackupmgrError as error:
            return confirm(error=str(error))
        messages.success(request, done(kept))
        return HttpResponseRedirect(self.list_url)
