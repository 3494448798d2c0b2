"""The admin of the trail: filterable, and nothing on it can be changed."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.paginator import InfinitePaginator

from apps.audit.models import AuditEntry, Outcome
from apps.core.admin_cells import BAD, NOTHING, OK, state_cell, time_cell
from apps.core.admin_kit import FactAdmin

#: What an entry can be about, by the model's name; more may stand in the trail and is found by the search.
_TYPES = {
    "job": "Jobs",
    "backup": "Backups",
    "cluster": "Clusters",
    "storageconfig": "Storages",
    "schedule": "Schedules",
    "apitoken": "API tokens",
    "user": "People",
    "group": "Groups",
}


class TypeFilter(admin.SimpleListFilter):
    title = "about"
    parameter_name = "about"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return list(_TYPES.items())

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        return queryset.filter(object_type=self.value()) if self.value() in _TYPES else queryset


class PersonFilter(admin.SimpleListFilter):
    """The people that there are; whoever has been deleted is found by the search."""

    title = "who"
    parameter_name = "who"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        names = list(User.objects.order_by("username").values_list("username", flat=True)[:50])
        asked = request.GET.get(self.parameter_name)
        if asked and asked not in names:
            names.insert(0, asked)
        return [(name, name) for name in names]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        return queryset.filter(actor=self.value()) if self.value() else queryset


@admin.register(AuditEntry)
class AuditEntryAdmin(FactAdmin):
    list_display = ["time", "who", "what", "about", "way", "result"]
    list_display_links = ["time"]
    list_filter = [PersonFilter, TypeFilter, "via", "outcome"]
    search_fields = ["actor", "summary", "object_name", "object_id", "address"]
    search_help_text = "Person, object, id, address or words"
    ordering = ["-created_at", "-id"]
    sortable_by: list[str] = []
    paginator = InfinitePaginator
    empty_title = "Nothing has been done yet"
    empty_text = "Every change by a person or a program will stand here, and what was refused."

    @admin.display(description="When")
    def time(self, entry: AuditEntry) -> SafeString:
        return time_cell(entry.created_at)

    @admin.display(description="Who")
    def who(self, entry: AuditEntry) -> str | SafeString:
        if not entry.actor:
            return "system" if entry.via == "system" else NOTHING
        token = format_html('<span class="bm-sub">{}</span>', entry.token) if entry.token else ""
        return format_html("{}{}", entry.actor, token)

    @admin.display(description="What")
    def what(self, entry: AuditEntry) -> str:
        return entry.summary if len(entry.summary) <= 160 else f"{entry.summary[:159]}…"

    @admin.display(description="To")
    def about(self, entry: AuditEntry) -> str:
        return entry.object_name or entry.object_id or NOTHING

    @admin.display(description="From")
    def way(self, entry: AuditEntry) -> SafeString:
        return format_html('{}<span class="bm-sub">{}</span>', entry.get_via_display(), entry.address)

    @admin.display(description="Result")
    def result(self, entry: AuditEntry) -> SafeString:
        return state_cell("Refused", BAD) if entry.outcome == Outcome.REFUSED else state_cell("Done", OK)

    def detail_view(self, request: HttpRequest, obj: AuditEntry) -> HttpResponse:
        facts = [
            ("When", time_cell(obj.created_at)),
            ("Who", obj.actor or ("system" if obj.via == "system" else NOTHING)),
            ("API token", obj.token or NOTHING),
            ("By", obj.get_via_display()),
            ("From", obj.address or NOTHING),
            ("Action", obj.action),
            ("Object", f"{obj.object_type} {obj.object_name}".strip() or NOTHING),
            ("Object id", obj.object_id or NOTHING),
            ("Result", self.result(obj)),
        ]
        return self.page(
            request,
            "admin/audit/entry.html",
            title=obj.summary[:120],
            entry=obj,
            facts=facts,
            object_url=self._object_url(obj),
            list_url=self.list_url,
        )

    def _object_url(self, entry: AuditEntry) -> str:
        """The page of what the entry is about, empty when it has none; whether it still exists, that page says."""
        for model in self.admin_site._registry:
            if model._meta.model_name == entry.object_type and entry.object_id:
                return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_change", args=[entry.object_id])
        return ""
