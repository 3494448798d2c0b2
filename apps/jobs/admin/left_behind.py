"""The admin of what was left behind: orphans that wait for a decision, and left-overs that are being removed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from apps.backups.leftovers import describe_leftover
from apps.backups.models import Leftover, Orphan, OrphanKind, OrphanState, Reconciliation
from apps.core.admin_cells import BAD, BUSY, NOTHING, OFF, OK, WARN, ago, state_cell, time_cell
from apps.core.admin_kit import FactAdmin, demand, may, person
from apps.core.errors import BackupmgrError
from apps.core.permissions import SCOPE_PERMISSIONS, Scope
from apps.core.text import format_size, plural
from apps.jobs.cleaning import retry_leftover
from apps.jobs.orphans import adopt_orphan, delete_orphan, dismiss_orphan
from apps.jobs.reconciling import ask_for_run

_STATES = {
    OrphanState.OPEN: ("To decide", WARN),
    OrphanState.CLEANED: ("Removed", OK),
    OrphanState.ADOPTED: ("Adopted", OK),
    OrphanState.DISMISSED: ("Dismissed", OFF),
    OrphanState.GONE: ("Gone by itself", OFF),
}
_UNDECIDED = (OrphanState.OPEN, OrphanState.DISMISSED)


def orphan_state(orphan: Orphan, tombstone: Leftover | None) -> SafeString:
    if tombstone is not None and orphan.state == OrphanState.OPEN:
        return state_cell("Being removed", BUSY, title=tombstone.last_error)
    if orphan.kind == OrphanKind.ROW and orphan.state == OrphanState.OPEN:
        return state_cell("To decide", BAD, title=orphan.reason)
    return state_cell(*_STATES[OrphanState(orphan.state)], title=orphan.reason)


class StateFilter(admin.SimpleListFilter):
    """Open ones unless asked otherwise: the others are history."""

    title = "status"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [*((state.value, word) for state, (word, _) in _STATES.items()), ("all", "All")]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        if self.value() == "all":
            return queryset
        chosen = self.value() if self.value() in OrphanState.values else OrphanState.OPEN
        return queryset.filter(state=chosen)


class KindFilter(admin.SimpleListFilter):
    title = "kind"
    parameter_name = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(value, label.capitalize()) for value, label in OrphanKind.choices]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        return queryset.filter(kind=self.value()) if self.value() in OrphanKind.values else queryset


@admin.register(Orphan)
class OrphanAdmin(FactAdmin):
    list_display = ["what", "status", "where", "size", "why", "seen"]
    list_display_links = ["what"]
    list_filter = [StateFilter, KindFilter, "storage", "cluster"]
    list_select_related = ["storage", "cluster", "tombstone"]
    search_fields = ["name", "collection_name"]
    search_help_text = "Name, folder or collection"
    ordering = ["-created_at", "-id"]
    sortable_by: list[str] = []
    change_list_template = "admin/jobs/orphan_list.html"
    empty_title = "Nothing to decide"
    empty_text = "What was left behind in a storage or on a node, and what got lost there, is listed here."

    def own_urls(self) -> list[tuple[str, str, Callable[..., HttpResponse]]]:
        return [
            ("look/", "backups_orphan_look", self.look_view),
            ("<uuid:orphan_id>/adopt/", "backups_orphan_adopt", self.adopt_view),
            ("<uuid:orphan_id>/dismiss/", "backups_orphan_dismiss", self.dismiss_view),
            ("<uuid:orphan_id>/remove/", "backups_orphan_remove", self.remove_view),
        ]

    def object_queryset(self, request: HttpRequest) -> Any:
        return Orphan.objects.select_related("storage", "cluster", "backup", "decided_by", "tombstone")

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        runs = Reconciliation.objects.order_by("-created_at")
        context = {
            "last_run": runs.filter(status__in=("completed", "failed")).first(),
            "active_run": runs.filter(status__in=("pending", "running")).first(),
            "leftovers": Leftover.objects.count(),
            "may_look": may(request, Scope.OPERATE),
        }
        return super().changelist_view(request, context | (extra_context or {}))

    # --- columns -------------------------------------------------------------------------------------------
    @admin.display(description="What")
    def what(self, orphan: Orphan) -> SafeString:
        return format_html(
            '<span class="bm-wrap">{}</span><span class="bm-sub bm-wrap">{}</span>',
            orphan.get_kind_display().capitalize(),
            orphan.name,
        )

    @admin.display(description="Status")
    def status(self, orphan: Orphan) -> SafeString:
        return orphan_state(orphan, _tombstone(orphan))

    @admin.display(description="Where")
    def where(self, orphan: Orphan) -> str:
        return orphan.place

    @admin.display(description="Size")
    def size(self, orphan: Orphan) -> str:
        return format_size(orphan.size_bytes)

    @admin.display(description="Why")
    def why(self, orphan: Orphan) -> SafeString:
        return format_html('<span class="bm-wrap">{}</span>', orphan.reason)

    @admin.display(description="Seen")
    def seen(self, orphan: Orphan) -> SafeString:
        return time_cell(orphan.last_seen_at)

    # --- pages ---------------------------------------------------------------------------------------------
    def detail_view(self, request: HttpRequest, obj: Orphan) -> HttpResponse:
        tombstone = _tombstone(obj)
        undecided = obj.state in _UNDECIDED and tombstone is None and may(request, Scope.ADMINISTER)
        return self.page(
            request,
            "admin/jobs/orphan.html",
            title=obj.get_kind_display().capitalize(),
            orphan=obj,
            state=orphan_state(obj, tombstone),
            tombstone=tombstone,
            may_adopt=undecided and obj.kind == OrphanKind.BACKUP,
            may_dismiss=undecided and obj.state == OrphanState.OPEN,
            may_remove=undecided and (obj.subject is not None or obj.kind == OrphanKind.ROW),
        )

    def look_view(self, request: HttpRequest) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        demand(request, SCOPE_PERMISSIONS[Scope.OPERATE])
        ask_for_run(now=timezone.now(), user=person(request))
        messages.success(request, "A worker looks at all storages and clusters soon: come back in a while.")
        return HttpResponseRedirect(self.list_url)

    def adopt_view(self, request: HttpRequest, orphan_id: Any) -> HttpResponse:
        return self._decide(
            request,
            orphan_id,
            adopt_orphan,
            verb="Adopt backup",
            sentences=lambda orphan: [
                f"This enters the backup in {orphan.name} ({format_size(orphan.size_bytes)}) into the catalogue.",
                f"Nothing in {orphan.place} is changed. It can be restored from then on.",
            ],
        )

    def dismiss_view(self, request: HttpRequest, orphan_id: Any) -> HttpResponse:
        return self._decide(
            request,
            orphan_id,
            dismiss_orphan,
            verb="Dismiss",
            sentences=lambda orphan: [f"{orphan.name} stays where it is, and is not brought up again."],
        )

    def remove_view(self, request: HttpRequest, orphan_id: Any) -> HttpResponse:
        def sentences(orphan: Orphan) -> list[str]:
            told = f"This removes {orphan.name} ({format_size(orphan.size_bytes)}) from {orphan.place} for good."
            return [told, f"Why it is listed: {orphan.reason}"]

        return self._decide(request, orphan_id, delete_orphan, verb="Remove for good", sentences=sentences, danger=True)

    def _decide(
        self,
        request: HttpRequest,
        orphan_id: Any,
        service: Callable[..., Orphan],
        *,
        verb: str,
        sentences: Callable[[Orphan], list[str]],
        danger: bool = False,
    ) -> HttpResponse:
        demand(request, SCOPE_PERMISSIONS[Scope.ADMINISTER])
        orphan = self.find(request, str(orphan_id))
        if orphan is None:
            return self.gone(request)
        here = self.object_url(orphan)
        if request.method == "POST":
            try:
                decided = service(orphan_id=orphan.pk, now=timezone.now(), user=person(request))
            except BackupmgrError as error:
                messages.error(request, str(error))
            else:
                word = "being removed" if decided.state == OrphanState.OPEN else decided.get_state_display()
                messages.success(request, f"{decided.name}: {word}.")
            return HttpResponseRedirect(here)
        tombstone = _tombstone(orphan)
        decidable = orphan.state in _UNDECIDED and tombstone is None
        return self.confirm(
            request,
            title=f"{verb}?",
            crumbs=[*self.crumbs(), (orphan.get_kind_display().capitalize(), here)],
            sentences=sentences(orphan) if decidable else ["This has been decided already."],
            verb=verb if decidable else "",
            danger=danger,
            back=here,
        )


@admin.register(Leftover)
class LeftoverAdmin(FactAdmin):
    list_display = ["what", "where", "tries", "error", "next_try"]
    list_display_links = ["what"]
    list_filter = ["kind", "storage", "cluster"]
    list_select_related = ["storage", "cluster"]
    ordering = ["-created_at", "-id"]
    sortable_by: list[str] = []
    empty_title = "Nothing is waiting to be removed"
    empty_text = "What could not be removed at once waits here, and is tried again until it is gone."

    def own_urls(self) -> list[tuple[str, str, Callable[..., HttpResponse]]]:
        return [("<uuid:leftover_id>/retry/", "backups_leftover_retry", self.retry_view)]

    @admin.display(description="What")
    def what(self, leftover: Leftover) -> SafeString:
        return format_html('<span class="bm-wrap">{}</span>', describe_leftover(leftover))

    @admin.display(description="Where")
    def where(self, leftover: Leftover) -> str:
        place = leftover.storage or leftover.cluster
        return place.name if place is not None else NOTHING

    @admin.display(description="Last error")
    def error(self, leftover: Leftover) -> SafeString:
        return format_html('<span class="bm-wrap">{}</span>', leftover.last_error or NOTHING)

    @admin.display(description="Next try")
    def next_try(self, leftover: Leftover) -> SafeString:
        return time_cell(leftover.next_try_at)

    def detail_view(self, request: HttpRequest, obj: Leftover) -> HttpResponse:
        return self.page(
            request,
            "admin/jobs/leftover.html",
            title=f"To remove: {describe_leftover(obj)}",
            leftover=obj,
            tries=plural(obj.tries, "try", "tries"),
            may_retry=may(request, Scope.OPERATE),
        )

    def retry_view(self, request: HttpRequest, leftover_id: Any) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        demand(request, SCOPE_PERMISSIONS[Scope.OPERATE])
        found = self.find(request, str(leftover_id))
        if found is None:
            return self.gone(request)
        try:
            done = retry_leftover(leftover_id=found.pk, now=timezone.now())
        except BackupmgrError as error:
            messages.error(request, str(error))
            return HttpResponseRedirect(self.object_url(found))
        if done:
            messages.success(request, f"Removed {describe_leftover(found)}.")
            return HttpResponseRedirect(self.list_url)
        messages.warning(request, f"Not yet; it is tried again {ago(found.next_try_at)}.")
        return HttpResponseRedirect(self.object_url(found))


def _tombstone(orphan: Orphan) -> Leftover | None:
    return getattr(orphan, "tombstone", None)
