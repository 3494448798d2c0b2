"""The pages of runs: what each firing was to do, and what came of it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.safestring import SafeString

from apps.core.admin_cells import time_cell
from apps.core.admin_kit import FactAdmin
from apps.core.text import format_duration, plural
from apps.schedules.admin.cells import RUN_WORDS, item_state, run_state
from apps.schedules.models import RunStatus, ScheduleRun


class StatusFilter(admin.SimpleListFilter):
    """The states, in the words of the list."""

    title = "status"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(status.value, word) for status, (word, _) in RUN_WORDS.items()]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        return queryset.filter(status=self.value()) if self.value() in RunStatus.values else queryset


def _span_words(begin: str, end: str) -> str:
    """'Runs of 20 Nov 2026', by the calendar that asks; empty for what is no span of days."""
    try:
        first, last = datetime.fromisoformat(begin), datetime.fromisoformat(end)
        last -= timedelta(seconds=1)
    except (ValueError, OverflowError):
        return ""
    days = f"{first:%d %b %Y}".lstrip("0")
    return f"Runs of {days}" if first.date() == last.date() else f"Runs from {days} to {last:%d %b %Y}"


@admin.register(ScheduleRun)
class ScheduleRunAdmin(FactAdmin):
    list_display = ["of", "state", "due", "started", "what", "why"]
    list_display_links = ["of"]
    list_filter = [StatusFilter, "schedule__cluster", "trigger"]
    list_select_related = ["schedule"]
    search_fields = ["schedule__name"]
    ordering = ["-created_at", "-id"]
    sortable_by: list[str] = []
    empty_title = "No run yet"
    empty_text = "Every time a schedule is due, a line appears here: also when nothing could run."

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest | None = None) -> bool:
        own = ("schedule__id", "schedule__cluster__id", "slot__", "items__collection_name")
        return lookup.startswith(own) or super().lookup_allowed(lookup, value, request)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """A day that a calendar led to stands in the title."""
        title = _span_words(request.GET.get("slot__gte", ""), request.GET.get("slot__lt", ""))
        return super().changelist_view(request, ({"title": title} if title else {}) | (extra_context or {}))

    @admin.display(description="Schedule")
    def of(self, run: ScheduleRun) -> str:
        return run.schedule.name

    @admin.display(description="Result")
    def state(self, run: ScheduleRun) -> SafeString:
        return run_state(run)

    @admin.display(description="Due")
    def due(self, run: ScheduleRun) -> SafeString:
        return time_cell(run.slot)

    @admin.display(description="Begun")
    def started(self, run: ScheduleRun) -> SafeString:
        return time_cell(run.created_at)

    @admin.display(description="Collections")
    def what(self, run: ScheduleRun) -> str:
        return plural(len(run.matched), "collection") if run.matched else "–"

    @admin.display(description="Why")
    def why(self, run: ScheduleRun) -> str:
        return run.error[:120] or ("asked for" if run.trigger == "manual" else "")

    def detail_view(self, request: HttpRequest, obj: ScheduleRun) -> HttpResponse:
        items = obj.items.select_related("storage", "job", "blocker").order_by("collection_name", "storage__name")
        return self.page(
            request,
            "admin/schedules/run.html",
            title=f"{obj.schedule.name}, {timezone.localtime(obj.slot):%d %b %Y %H:%M %Z}",
            run=obj,
            state=run_state(obj),
            took=format_duration(obj.duration_seconds(timezone.now())),
            items=[(item, item_state(item)) for item in items[:500]],
        )
