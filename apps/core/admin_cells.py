"""Cells of the admin's tables: numbers, times and states as people read them. Everything is escaped here."""

from __future__ import annotations

from datetime import UTC, datetime

from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

NOTHING = "–"

#: Tones of a state: colour and shape come from static/backupmgr/admin.css, so that a state never rests on colour alone.
OK, BAD, WARN, BUSY, WAIT, OFF = "ok", "bad", "warn", "busy", "wait", "off"


#: The words of a run, by the status of its job.
RUN_STATES = {
    "pending": ("Queued", WAIT),
    "running": ("Running", BUSY),
    "completed": ("Succeeded", OK),
    "failed": ("Failed", BAD),
    "cancelled": ("Cancelled", OFF),
}
CANCELLING = ("Cancelling", WAIT)
#: Pending, after an attempt that came to nothing, until the next one.
RETRYING = ("Waiting", WAIT)


def state_cell(word: str, tone: str, *, element_id: str = "", title: str = "", swap: bool = False) -> SafeString:
    """A state: its word, with the shape and colour of its tone. `swap` makes it replace the cell of the same id."""
    return format_html(
        '<span class="bm-state bm-{}"{}{}{}>{}</span>',
        tone,
        format_html(' id="{}"', element_id) if element_id else "",
        format_html(' title="{}"', title) if title else "",
        SafeString(' hx-swap-oob="true"') if swap else "",
        word,
    )


def number(value: int | None) -> str:
    """1204331 -> '1 204 331', with narrow spaces that do not break."""
    return NOTHING if value is None else f"{value:,}".replace(",", "\u202f")


def ago(moment: datetime | None, now: datetime | None = None) -> str:
    """How long ago (or in how long), coarse on purpose: the exact time stands in the title."""
    if moment is None:
        return NOTHING
    seconds = ((now or timezone.now()) - moment).total_seconds()
    words = _span(abs(seconds))
    if not words:
        return "just now"
    return f"in {words}" if seconds < 0 else f"{words} ago"


def exact(moment: datetime) -> str:
    """'20 Nov 2026 02:00:13 UTC', in the viewer's zone"""
    return timezone.localtime(moment).strftime("%d %b %Y %H:%M:%S %Z").lstrip("0")


def machine(moment: datetime) -> str:
    """'2026-11-20T02:00:13Z': the same for every viewer."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def time_cell(moment: datetime | None, now: datetime | None = None) -> SafeString:
    """The time in words, the exact one in the title and for machines."""
    if moment is None:
        return SafeString(NOTHING)
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        machine(moment),
        exact(moment),
        ago(moment, now),
    )


def _span(seconds: float) -> str:
    if seconds < 10:
        return ""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds // 3600:.0f} h"
    return f"{seconds // 86400:.0f} d"
