"""Quiet hours: a daily range on the channel's own clock in which only what is critical is sent."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

_RANGE = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)", re.ASCII)


def parse_quiet(text: str) -> tuple[time, time]:
    """Read `22:00-07:00`; a range may cross midnight. Raises: ValueError."""
    found = _RANGE.fullmatch(text)
    if found is None:
        raise ValueError("quiet_hours is a range of times, for example 22:00-07:00, or empty.")
    begin = time(int(found[1]), int(found[2]))
    end = time(int(found[3]), int(found[4]))
    if begin == end:
        raise ValueError("quiet_hours must not begin and end at the same time: switch the channel off instead.")
    return begin, end


def quiet_until(text: str, zone: str, now: datetime) -> datetime | None:
    """Return when the quiet hours that hold at `now` are over (UTC); None when none do."""
    if not text:
        return None
    begin, end = parse_quiet(text)
    local = now.astimezone(ZoneInfo(zone))
    at = local.time()
    if begin < end:
        held, day = begin <= at < end, local.date()
    else:
        held = at >= begin or at < end
        day = local.date() + timedelta(days=1) if at >= begin else local.date()
    return datetime.combine(day, end, tzinfo=ZoneInfo(zone)).astimezone(UTC) if held else None
