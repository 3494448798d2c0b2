"""An independent model of slots and of retention: slow, obvious, and written from the specification alone.

It shares no code with apps/: where the product computes, this walks minute by minute and looks at every backup anew.
"""

from __future__ import annotations

import calendar
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
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


# --- retention ----------------------------------------------------------------------------------------------------
def _span_before(moment: datetime, text: str, tz: ZoneInfo) -> datetime:
    """The instant `text` (36h, 14d, 8w, 6m, 2y) before, days and more by the calendar of the zone."""
    count, unit = int(text[:-1]), text[-1]
    if unit == "h":
        return moment - timedelta(hours=count)
    wall = moment.astimezone(tz)
    if unit == "d":
        earlier = wall.replace(tzinfo=None) - timedelta(days=count)
    elif unit == "w":
        earlier = wall.replace(tzinfo=None) - timedelta(days=7 * count)
    else:
        year, month, day = wall.year, wall.month, wall.day
        for _ in range(count * (12 if unit == "y" else 1)):
            month -= 1
            if month == 0:
                year, month = year - 1, 12
        day = min(day, calendar.monthrange(year, month)[1])
        earlier = wall.replace(year=year, month=month, day=day, tzinfo=None)
    return earlier.replace(tzinfo=tz, fold=wall.fold).astimezone(UTC)


def _period(moment: datetime, tier: str, tz: ZoneInfo) -> tuple[object, ...]:
    wall = moment.astimezone(tz)
    if tier == "hourly":
        return (wall.year, wall.month, wall.day, wall.hour, wall.utcoffset())
    if tier == "daily":
        return (wall.year, wall.month, wall.day)
    if tier == "weekly":
        monday = wall.date() - timedelta(days=wall.weekday())
        return (monday,)
    if tier == "monthly":
        return (wall.year, wall.month)
    return (wall.year,)


def retain(
    backups: list[dict[str, Any]], policy: dict[str, Any], now: datetime, elsewhere: list[dict[str, Any]], frozen: bool
) -> dict[str, set[str]]:
    """Return, for each backup that stays, the words of every reason; those that are not in it go.

    A backup: id, taken_at, size, suspect, evidence, held, locked_until, in_use, parent. A policy: last to yearly,
    within, max_age, cap, cap_action, min_redundancy, pick, zone, min_age.
    """
    tz = ZoneInfo(policy["zone"])

    def is_future(b: dict[str, Any]) -> bool:
        return bool(b["taken_at"] - now > timedelta(minutes=5))

    def rank(b: dict[str, Any]) -> tuple[datetime, str]:
        return (b["taken_at"], b["id"])

    def is_good(b: dict[str, Any]) -> bool:
        return not b["suspect"] and not is_future(b)

    why: dict[str, set[str]] = {b["id"]: set() for b in backups}
    guard: dict[str, set[str]] = {b["id"]: set() for b in backups}
    good = [b for b in backups if is_good(b)]
    tiers = ("hourly", "daily", "weekly", "monthly", "yearly")

    # Every rule on its own, looking at every backup anew.
    mates_of = {tier: {} for tier in tiers}  # type: dict[str, dict[tuple[object, ...], list[dict[str, Any]]]]
    for tier in tiers:
        for b in good:
            mates_of[tier].setdefault(_period(b["taken_at"], tier, tz), []).append(b)
    for b in good:
        if sum(rank(other) > rank(b) for other in good) < policy["last"]:
            why[b["id"]].add("last")
        for tier in tiers:
            mates = mates_of[tier][_period(b["taken_at"], tier, tz)]
            newest_mate = max(rank(m) for m in mates)
            newer_periods = [p for p in mates_of[tier].values() if min(rank(o) for o in p) > newest_mate]
            chosen = max(mates, key=rank) if policy["pick"] == "last" else min(mates, key=rank)
            if chosen is b and len(newer_periods) < policy[tier]:
                why[b["id"]].add(tier)
        if policy["within"]:
            anchor = max(good, key=rank)["taken_at"]
            if b["taken_at"] >= _span_before(anchor, policy["within"], tz):
                why[b["id"]].add("within")
    if policy["max_age"]:
        for b in backups:
            if b["taken_at"] < _span_before(now, policy["max_age"], tz):
                why[b["id"]].clear()

    everywhere = good + [b for b in elsewhere if is_good(b)]
    for b in backups:
        g = guard[b["id"]]
        if is_good(b) and all(rank(o) <= rank(b) for o in everywhere):
            g.add("newest")
        if (
            is_good(b)
            and b["evidence"] > 0
            and all((o["evidence"], *rank(o)) <= (b["evidence"], *rank(b)) for o in everywhere)
        ):
            g.add("last-verified")
        if is_good(b) and sum(rank(o) > rank(b) for o in good) < policy["min_redundancy"]:
            g.add("min-redundancy")
        if b["held"]:
            g.add("hold")
        if b["locked_until"] is not None and b["locked_until"] > now:
            g.add("locked")
        if b["in_use"]:
            g.add("in-use")
        if is_future(b):
            g.add("clock")
        elif now - b["taken_at"] < timedelta(seconds=policy["min_age"]):
            g.add("min-age")
        if frozen:
            g.add("frozen")
        if b["suspect"] and not is_future(b):
            newer_good = [o["taken_at"] for o in good if rank(o) > rank(b)]
            ever = newer_good + ([b["replaced_at"]] if b["replaced_at"] else [])
            if not newer_good or now < min(ever) + timedelta(days=30):
                g.add("suspect")
        if not any(policy[tier] for tier in ("last", *tiers)) and not policy["within"]:
            g.add("no-rules")

    by_id = {b["id"]: b for b in backups}

    def closure(ids: set[str]) -> set[str]:
        whole = set(ids)
        while True:
            parents = {by_id[i]["parent"] for i in whole if by_id[i]["parent"] in by_id}
            if parents <= whole:
                return whole
            whole |= parents

    kept = {i for i in by_id if why[i] or guard[i]}
    if policy["cap"] is not None and policy["cap_action"] == "delete":
        for b in sorted(backups, key=rank):
            if sum(by_id[i]["size"] for i in closure(kept)) <= policy["cap"]:
                break
            if b["id"] in kept and not guard[b["id"]]:
                kept.remove(b["id"])
    result = {i: why[i] | guard[i] for i in kept}
    for i in closure(kept) - kept:
        result[i] = (why[i] | guard[i]) | {"needed-by"}
    return result
