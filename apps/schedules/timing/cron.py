"""Cron expressions: five fields in Debian's dialect, read by cronsim; aliases and H are ours.

Where cronsim has to be corrected (docs/schedules.md, "Time"):
  * From inside the second pass of a repeated hour it returns an instant before the one it was asked about: we go on
    until the result lies after it.
  * It steps over a fire of a cron that follows real time (minute or hour begins with *) when the clock shifts by
    other than whole hours, as in Lord Howe: the minutes around such a shift are looked at one by one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from apps.schedules.timing.spec import TimingInvalid, stable_number

ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
FIELDS = ("minute", "hour", "day of month", "month", "day of week")
_HASHED = re.compile(r"H(?:\((\d{1,2})-(\d{1,2})\))?(?:/(\d{1,2}))?")
_LAST_OF = (59, 23)
_CRONSIM_FIELDS = {
    "Bad minute": 0, "Bad hour": 1, "Bad day-of-month": 2, "Bad month": 3, "Bad day-of-week": 4,
}  # fmt: skip
#: A cron that has no slot for so long will never have one that matters.
HORIZON = timedelta(days=5 * 366)
_HOUR = timedelta(hours=1)
#: How far around a shift of the clock cronsim's steps may be led astray.
_NEAR = 4 * _HOUR


def resolve(expression: str, key: str) -> str:
    """Return the expression in five plain fields: aliases replaced, H by a number that follows from `key`.

    Raises: TimingInvalid naming the field `cron`, and which of its five fields it is about.
    """
    text = " ".join(expression.split())
    if not text:
        raise _bad("Give an expression of five fields: minute, hour, day of month, month, day of week.")
    if text.upper().startswith(("CRON_TZ=", "TZ=")):
        raise _bad("The zone has a field of its own: leave CRON_TZ= out of the expression.")
    if text.startswith("@"):
        if text.lower() not in ALIASES:
            hint = ""
            if text.lower().startswith("@every"):
                hint = " For every so many minutes or hours take an interval."
            elif text.lower() == "@reboot":
                hint = " There is no such moment here."
            raise _bad(f"{text.split()[0]!r} is not known: take one of {', '.join(sorted(ALIASES))}.{hint}")
        text = ALIASES[text.lower()]
    fields = text.upper().split(" ")
    if len(fields) == 6:
        raise _bad("These are six fields, and there are no seconds: minute, hour, day of month, month, day of week.")
    if len(fields) != 5:
        raise _bad(f"These are {len(fields)} fields instead of five: minute, hour, day of month, month, day of week.")
    for place, field in enumerate(fields):
        if "H" in field and place < 2:
            fields[place] = _unhash(field, place, key)
        if "?" in field:
            raise _bad(f"The {FIELDS[place]} {field!r} holds a question mark: write * instead.")
        if "W" in field and not (place == 2 and field == "LW") and not (place == 4 and "WED" in field):
            raise _bad(f"The {FIELDS[place]} {field!r} holds W, which is not known here; LW is the last weekday.")
    resolved = " ".join(fields)
    try:
        CronSim(resolved, datetime(2026, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        wrong = _CRONSIM_FIELDS.get(str(error))
        if wrong is None:
            raise _bad(f"{text!r} cannot be read: {error}.") from error
        raise _bad(f"The {FIELDS[wrong]} {fields[wrong]!r} cannot be read, or never comes.") from error
    return resolved


def _unhash(field: str, place: int, key: str) -> str:
    found = _HASHED.fullmatch(field)
    if found is None:
        raise _bad(f"The {FIELDS[place]} {field!r} cannot be read: H stands alone, as H(0-29), or as H/15.")
    low, high = (int(found[1]), int(found[2])) if found[1] else (0, _LAST_OF[place])
    if not low <= high <= _LAST_OF[place]:
        raise _bad(f"The {FIELDS[place]} {field!r}: the range goes from 0 to {_LAST_OF[place]}, the smaller one first.")
    number = stable_number(key, FIELDS[place])
    if found[3]:
        step = int(found[3])
        if not 1 <= step <= high - low + 1:
            raise _bad(f"The {FIELDS[place]} {field!r}: the step is larger than the range.")
        return f"{low + number % step}-{high}/{step}"
    return str(low + number % (high - low + 1))


def _bad(sentence: str) -> TimingInvalid:
    return TimingInvalid("cron", sentence)


def fires(resolved: str, after: datetime, zone: ZoneInfo) -> Iterator[datetime]:
    """Yield the slots after `after`, in UTC, each later than the one before. Ends when there are no more for years.

    Raises: TimingInvalid when the expression cannot be read: it must have come through `resolve`.
    """
    follows_time = any(field.startswith("*") for field in resolved.split(" ")[:2])
    base = after.replace(microsecond=0)
    limit = base + HORIZON
    try:
        sim = CronSim(resolved, base.astimezone(zone))
    except CronSimError as error:
        raise _bad(f"The stored expression {resolved!r} cannot be read: {error}.") from error
    last = base
    for local in sim:
        slot = local.astimezone(UTC)
        if slot > limit:
            return
        if slot <= last:
            continue
        if follows_time and zone.key != "UTC":
            yield from _stepped_over(sim, last, slot, zone)
        yield slot
        last, limit = slot, slot + HORIZON


def _stepped_over(sim: CronSim, last: datetime, slot: datetime, zone: ZoneInfo) -> Iterator[datetime]:
    """Yield the slots between two that cronsim gave, when the clock shifts by an odd amount there or just before."""
    start = last - _NEAR
    shift = (slot.astimezone(zone).utcoffset() or _HOUR) - (start.astimezone(zone).utcoffset() or _HOUR)
    if not shift % _HOUR:
        return
    change = _change_between(start, slot, zone)
    moment = max(last, change - _NEAR).replace(second=0) + timedelta(minutes=1)
    while moment < min(slot, change + _NEAR):
        local = moment.astimezone(zone)
        if (
            local.minute in sim.minutes
            and local.hour in sim.hours
            and local.month in sim.months
            and sim.match_day(local.date())
        ):
            yield moment
        moment += timedelta(minutes=1)


@lru_cache(maxsize=256)
def _change_between(low: datetime, high: datetime, zone: ZoneInfo) -> datetime:
    """Return the instant of the change of offset between two instants that have different ones."""
    before = low.astimezone(zone).utcoffset()
    while high - low > timedelta(minutes=1):
        middle = (low + (high - low) / 2).replace(second=0, microsecond=0)
        if middle <= low:
            break
        if middle.astimezone(zone).utcoffset() == before:
            low = middle
        else:
            high = middle
    return high


def explain(resolved: str) -> str:
    """cronsim's words for it: 'At 02:30'. Raises: TimingInvalid."""
    try:
        return CronSim(resolved, datetime(2026, 1, 1, tzinfo=UTC)).explain()
    except CronSimError as error:
        raise _bad(f"The stored expression {resolved!r} cannot be read: {error}.") from error
