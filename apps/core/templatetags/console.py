"""Filters for templates: the words of apps.core.text and apps.core.admin_cells."""

from __future__ import annotations

from datetime import datetime

from django import template
from django.utils.safestring import SafeString

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
