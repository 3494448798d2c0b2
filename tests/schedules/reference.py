"""An independent model of slots and of retention: slow, obvious, and written from the specification alone.

It shares no code with apps/: where the product computes, this walks minute by minute and looks at every backup anew.
"""

from __future__ import annotations

import calendar
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")


# --- cron -------------------------------------------------------------------------------------------------------
def _number(text: str, names: tuple[str, ...], first: int) -> int:
    return names.index(text) + first if text in names else int(text)


@cache
def _plain(field: str, low: int, high: int, names: tuple[str, ...] = (), first: int = 0) -> frozenset[int]:
    """The numbers that a field of lists, ranges and steps stands for."""
    numbers: set[int] = set()
    for term in field.split(","):
        body, _, step = term.partition("/")
        if body == "*":
            start, end = low, high
        elif "-" in body:
            left, right = body.split("-")
            start, end = _number(left, names, first), _number(right, names, first)
        else:
            start = _number(body, names, first)
            end = high if step else start
        numbers.update(range(start, end + 1, int(step or 1)))
    return frozenset(numbers)


def _day_matches(day: datetime, field: str) -> bool:
    last = calendar.monthrange(day.year, day.month)[1]
    for term in field.split(","):
        if term == "L":
            if day.day == last:
                return True
        elif term == "LW":
            weekday = last
            while calendar.weekday(day.year, day.month, weekday) > 4:
                weekday -= 1
            if day.day == weekday:
                return True
        elif day.day in _plain(term, 1, 31):
            return True
    return False


def _weekday_matches(day: datetime, field: str) -> bool:
    sunday_is_0 = (day.weekday() + 1) % 7
    last = calendar.monthrange(day.year, day.month)[1]
    for term in field.split(","):
        if term.endswith("L") and term[:-1].isdigit():
            if int(term[:-1]) % 7 == sunday_is_0 and day.day + 7 > last:
                return True
        elif "#" in term:
            name, nth = term.split("#")
            if _number(name, _DAYS, 0) % 7 == sunday_is_0 and (day.day - 1) // 7 + 1 == int(nth):
                return True
        elif sunday_is_0 in {number % 7 for number in _plain(term, 0, 7, _DAYS, 0)}:
            return True
    return False


def wall_matches(wall: datetime, cron: str) -> bool:
    """Whether a time on the wall matches the five fields, Debian's way: a day field that starts with * means AND."""
    minute, hour, day, month, weekday = cron.upper().split()
    if wall.minute not in _plain(minute, 0, 59) or wall.hour not in _plain(hour, 0, 23):
        return False
    if wall.month not in _plain(month, 1, 12, _MONTHS, 1):
        return False
    both = day.startswith("*") or weekday.startswith("*")
    by_day, by_weekday = _day_matches(wall, day), _weekday_matches(wall, weekday)
    return by_day and by_weekday if both else by_day or by_weekday


def cron_fires(cron: str, zone: str, start: datetime, end: datetime) -> list[datetime]:
    """Every fire in (start, end], found by looking at each minute in turn.

    A cron whose minute or hour starts with * runs whenever the wall matches. Any other runs in the first pass of a
    repeated hour only, and once at the first instant after a gap when a minute that the gap swallowed matched.
    """
    tz = ZoneInfo(zone)
    minute_field, hour_field = cron.split()[:2]
    follows_time = minute_field.startswith("*") or hour_field.startswith("*")
    fires = []
    moment = start.replace(second=0, microsecond=0)
    while moment <= end:
        local = moment.astimezone(tz)
        wall = local.replace(tzinfo=None, fold=0)
        matched = wall_matches(wall, cron) and (follows_time or local.fold == 0)
        if not follows_time and not matched:
            previous = (moment - MINUTE).astimezone(tz).replace(tzinfo=None, fold=0) + MINUTE
            while previous < wall:
                matched = matched or wall_matches(previous, cron)
                previous += MINUTE
        if matched and moment > start:
            fires.append(moment)
        moment += MINUTE
    return fires


def interval_fires(anchor: datetime, seconds: int, start: datetime, end: datetime) -> list[datetime]:
    """Every anchor + k * seconds (k >= 0) in (start, end]."""
    fires = []
    moment = anchor
    while moment <= end:
        if moment > start:
            fires.append(moment.astimezone(UTC))
        moment += timedelta(seconds=seconds)
    return fires
