"""Small charts as SVG, drawn here: no script, no style attribute, and words for who cannot see them.

Colours are classes (`bm-c-…`, static/backupmgr/pages.css), so that they follow the theme.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

WIDTH, HEIGHT = 360, 120
_LEFT, _BOTTOM, _TOP = 4, 18, 16


@dataclass(frozen=True)
class Bar:
    """One column: its name, what to say of it, and its pieces from the bottom up as (tone, value)."""

    label: str
    title: str
    pieces: Sequence[tuple[str, float]]

    @property
    def height(self) -> float:
        return sum(value for _, value in self.pieces)


def bar_chart(bars: Sequence[Bar], *, label: str, words: Callable[[float], str]) -> SafeString:
    """Draw columns side by side, the largest as high as there is room; `words` turns a value into text."""
    top = max((bar.height for bar in bars), default=0) or 1
    room, step = HEIGHT - _BOTTOM - _TOP, (WIDTH - 2 * _LEFT) / max(1, len(bars))
    columns = SafeString(
        "".join(_column(bar, _LEFT + index * step, step, room / top) for index, bar in enumerate(bars))
    )
    first, last = (bars[0].label, bars[-1].label) if bars else ("", "")
    return format_html(
        '<svg class="bm-chart" viewBox="0 0 {} {}" role="img" aria-label="{}">'
        '<line class="bm-c-grid" x1="{}" y1="{}" x2="{}" y2="{}"/><text class="bm-c-text" x="{}" y="11">{}</text>{}'
        '<line class="bm-c-axis" x1="{}" y1="{}" x2="{}" y2="{}"/>'
        '<text class="bm-c-text" x="{}" y="{}">{}</text><text class="bm-c-text bm-c-end" x="{}" y="{}">{}</text></svg>',
        WIDTH, HEIGHT, label,
        _LEFT, _TOP, WIDTH - _LEFT, _TOP, _LEFT, words(top) if any(bar.height for bar in bars) else "", columns,
        _LEFT, HEIGHT - _BOTTOM, WIDTH - _LEFT, HEIGHT - _BOTTOM,
        _LEFT, HEIGHT - 4, first, WIDTH - _LEFT, HEIGHT - 4, last,
    )  # fmt: skip


def _column(bar: Bar, x: float, step: float, scale: float) -> SafeString:
    base, pieces = float(HEIGHT - _BOTTOM), []
    for tone, value in bar.pieces:
        if value <= 0:
            continue
        height = max(2.0, value * scale)
        base -= height
        pieces.append((tone, f"{x + step * 0.15:.1f}", f"{base:.1f}", f"{step * 0.7:.1f}", f"{height:.1f}"))
    drawn = format_html_join("", '<rect class="bm-c-{}" x="{}" y="{}" width="{}" height="{}" rx="1"/>', pieces)
    # The whole column answers to the pointer, not only what is drawn of it.
    return format_html(
        '<g><title>{}</title><rect class="bm-c-hit" x="{}" y="{}" width="{}" height="{}"/>{}</g>',
        bar.title, f"{x:.1f}", _TOP, f"{step:.1f}", HEIGHT - _BOTTOM - _TOP, drawn,
    )  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A piece of a strip: its tone (ok, warn, bad, missed, busy, none, off), what to say of it, and where it leads."""

    tone: str
    title: str
    link: str = ""


def strip(cells: Sequence[Cell], *, label: str) -> SafeString:
    """Draw a strip, oldest first and the last one outlined: shapes differ, not colours alone."""
    width = 8 * len(cells)
    drawn = SafeString("".join(_cell(cell, index, index == len(cells) - 1) for index, cell in enumerate(cells)))
    return format_html(
        '<svg class="bm-strip" viewBox="0 0 {} 20" width="{}" height="20" role="{}" aria-label="{}">{}</svg>',
        width, width, "group" if any(cell.link for cell in cells) else "img", label, drawn,
    )  # fmt: skip


_SHAPES = {
    "ok": '<rect class="bm-c-ok" x="{x}" y="2" width="6" height="16" rx="1.5"/>',
    "bad": '<rect class="bm-c-bad" x="{x}" y="2" width="6" height="16" rx="1.5"/>'
    '<path class="bm-c-cut" d="M{x} 18 l6 -16"/>',
    "warn": '<rect class="bm-c-warn" x="{x}" y="2" width="6" height="16" rx="1.5"/>'
    '<path class="bm-c-cut" d="M{x} 10 h6"/>',
    "busy": '<rect class="bm-c-busy" x="{x}" y="6" width="6" height="12" rx="1.5"/>',
    "missed": '<rect class="bm-c-hollow" x="{h}" y="2.5" width="5" height="15" rx="1.5"/>'
    '<path class="bm-c-cross" d="M{c} 8 l3 4 m0 -4 l-3 4"/>',
    "none": '<rect class="bm-c-faint" x="{x}" y="9" width="6" height="2" rx="1"/>',
    "off": '<rect class="bm-c-off-day" x="{x}" y="9.5" width="6" height="1" rx="0.5"/>',
}


def _cell(cell: Cell, index: int, last: bool) -> SafeString:
    x = index * 8 + 1
    shape = SafeString(_SHAPES[cell.tone].format(x=x, h=x + 0.5, c=x + 1.5))
    outline = format_html('<rect class="bm-c-today" x="{}" y="0.5" width="7" height="19" rx="2"/>', x - 0.5)
    edge = outline if last else ""
    if cell.link:
        hit = format_html('<rect class="bm-c-hit" x="{}" width="8" height="20"/>', x - 1)
        inside = format_html("<title>{}</title>{}{}{}", cell.title, hit, shape, edge)
        return format_html('<a href="{}" aria-label="{}">{}</a>', cell.link, cell.title, inside)
    if cell.tone == "off":  # nothing to say of it, and most cells of a long list are so
        return format_html("{}{}", shape, edge)
    return format_html("<g><title>{}</title>{}{}</g>", cell.title, shape, edge)


@dataclass(frozen=True)
class Span:
    """A piece of a day: from and to in hours, its tone (ok, bad, warn, busy, off, planned) and what to say of it."""

    begin: float
    end: float
    tone: str
    title: str


_HOUR = 20


def day_line(spans: Sequence[Span], *, now: float, hours: float, label: str) -> SafeString:
    """Draw a day of so many hours as a line with a mark at `now`; what has no length is drawn as a thin piece."""
    width = hours * _HOUR
    grid = [(f"{hour * _HOUR}",) * 2 for hour in range(0, int(hours) + 1, 6)]
    pieces = []
    for span in spans:
        x, end = max(0.0, span.begin * _HOUR), min(width, span.end * _HOUR)
        pieces.append((span.title, span.tone, f"{x:.1f}", f"{max(3.0, end - x):.1f}"))
    return format_html(
        '<svg class="bm-day-line" viewBox="0 0 {} 20" preserveAspectRatio="none" role="img" aria-label="{}">{}{}'
        '<line class="bm-c-now" x1="{}" y1="0" x2="{}" y2="20"/></svg>',
        f"{width:.0f}", label,
        format_html_join("", '<line class="bm-c-grid" x1="{}" y1="0" x2="{}" y2="20"/>', grid),
        format_html_join(
            "", '<g><title>{}</title><rect class="bm-c-{}" x="{}" y="4" width="{}" height="12" rx="1.5"/></g>', pieces
        ),
        f"{now * _HOUR:.1f}", f"{now * _HOUR:.1f}",
    )  # fmt: skip
