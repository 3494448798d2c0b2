"""Filters for templates: the words of apps.core.text and apps.core.admin_cells."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django import template
from django.contrib.admin.views.main import PAGE_VAR
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from unfold.paginator import InfinitePaginator

from apps.core import admin_cells, text

register = template.Library()


@register.filter
def size(value: float | None) -> str:
    return text.format_size(value)


@register.filter
def duration(value: float | None) -> str:
    return text.format_duration(value)


@register.filter
def number(value: int | None) -> str:
    return admin_cells.number(value)


@register.filter
def when(value: datetime | None) -> SafeString:
    return admin_cells.time_cell(value)


@register.filter
def exact(value: datetime | None) -> str:
    return admin_cells.exact(value) if value else admin_cells.NOTHING


@register.simple_tag
def state(word: str, tone: str) -> SafeString:
    return admin_cells.state_cell(word, tone)


@register.filter
def run_state(status: str) -> SafeString:
    return admin_cells.state_cell(*admin_cells.RUN_STATES[status])


@register.simple_tag
def visible(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The links of the menu that the person may follow."""
    return [item for item in items if item["has_permission"]]


@register.simple_tag
def endless(changelist: Any) -> bool:
    """Whether the list is one that nobody counts."""
    return isinstance(changelist.paginator, InfinitePaginator)


@register.simple_tag
def has_more(changelist: Any) -> bool:
    if endless(changelist):
        return len(changelist.result_list) == changelist.paginator.per_page
    return bool(changelist.page_num < changelist.paginator.num_pages)


@register.simple_tag
def page_of(changelist: Any, step: int) -> str:
    """The address of the page that many pages on, with the same filters."""
    return str(changelist.get_query_string({PAGE_VAR: changelist.page_num + step}))


@register.simple_tag
def query_of(query: dict[str, Any], **changes: Any) -> str:
    """A query string: `query` with `changes`, without what is empty."""
    return urlencode({name: value for name, value in (query | changes).items() if value not in ("", None)})
