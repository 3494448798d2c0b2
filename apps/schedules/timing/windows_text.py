"""Blackouts as text, one a line, as forms and the configuration's document have them.

fri 22:00-06:00                          every week, in the schedule's zone; over midnight when it ends earlier
2026-12-24 18:00 - 2026-12-26 08:00      once, in UTC
Both may end in the words skip (runs are left out, instead of waiting) and cancel (jobs under way are cancelled).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, time
from typing import Any

from apps.schedules.timing.blackouts import Window

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WEEKLY = re.compile(r"(mon|tue|wed|thu|fri|sat|sun)\s+(\d\d):(\d\d)\s*-\s*(\d\d):(\d\d)((?:\s+(?:skip|cancel))*)")
_ONCE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d)\s*(?:-|to)\s*(\d{4}-\d\d-\d\d \d\d:\d\d)((?:\s+(?:skip|cancel))*)")


def parse_windows(text: str) -> list[Window]:
    """Read blackouts, one a line. Raises: ValueError naming the line."""
    windows = []
    for line in filter(None, (line.strip().lower() for line in text.splitlines())):
        weekly, once = _WEEKLY.fullmatch(line), _ONCE.fullmatch(line)
        words = (weekly[6] if weekly else once[3] if once else "").split()
        flags: dict[str, Any] = {"skips": "skip" in words, "cancels": "cancel" in words}
        try:
            if weekly:
                windows.append(
                    Window(
                        weekday=_DAYS.index(weekly[1]),
                        from_time=time(int(weekly[2]), int(weekly[3])),
                        to_time=time(int(weekly[4]) % 24, int(weekly[5])),
                        **flags,
                    )
                )
                continue
            if once:
                start, end = (datetime.fromisoformat(once[n]).replace(tzinfo=UTC) for n in (1, 2))
                windows.append(Window(starts_at=start, ends_at=end, **flags))
                continue
        except ValueError as error:
            raise ValueError(f"“{line}”: {error}.") from error
        raise ValueError(f"“{line}” cannot be read: write fri 22:00-06:00, or 2026-12-24 18:00 - 2026-12-26 08:00.")
    return windows


def write_windows(windows: Iterable[Any]) -> str:
    """Write windows, or rows with their fields, as `parse_windows` reads them."""
    lines = []
    for window in windows:
        words = "".join([" skip" if window.skips else "", " cancel" if window.cancels else ""])
        if window.weekday is not None:
            lines.append(f"{_DAYS[window.weekday]} {window.from_time:%H:%M}-{window.to_time:%H:%M}{words}")
        else:
            lines.append(f"{window.starts_at:%Y-%m-%d %H:%M} - {window.ends_at:%Y-%m-%d %H:%M}{words}")
    return "\n".join(lines)
