"""Blackouts: ranges in which no backup should start. Weekly ones follow the clock on the wall, one-off ones UTC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
#: Windows that follow each other without a gap for longer than this leave no time to run at all.
LONGEST = timedelta(days=400)


@dataclass(frozen=True, kw_only=True)
class Window:
    """From its start (inclusive) to its end (exclusive). A weekly one belongs to the day on which it starts."""

    #: 0 is Monday; None for a one-off window.
    weekday: int | None = None
    from_time: time | None = None
    #: Not later than `from_time`: on the next day. Equal: a whole day.
    to_time: time | None = None
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    #: A run that is due inside is left out; otherwise it runs once at the end.
    skips: bool = False
    #: Backups that run when it begins are cancelled.
    cancels: bool = False

    def end_if_inside(self, moment: datetime, zone: ZoneInfo) -> datetime | None:
        """Return when the window that holds `moment` ends (UTC); None when it is not inside."""
        if self.starts_at is not None and self.ends_at is not None:
            return self.ends_at if self.starts_at <= moment < self.ends_at else None
        if self.weekday is None or self.from_time is None or self.to_time is None:
            return None
        local = moment.astimezone(zone)
        clock = local.time().replace(fold=0)
        overnight = self.to_time <= self.from_time
        begun = local.weekday() == self.weekday and clock >= self.from_time
        if begun and (overnight or clock < self.to_time):
            return _instant(local, 1 if overnight else 0, self.to_time, zone, after=moment)
        if overnight and (local.weekday() - 1) % 7 == self.weekday and clock < self.to_time:
            return _instant(local, 0, self.to_time, zone, after=moment)
        return None

    @property
    def sentence(self) -> str:
        """'Mondays 22:00 to 06:00: runs wait until it ends'"""
        effect = "runs are left out" if self.skips else "runs wait until it ends"
        if self.cancels:
            effect += ", backups under way are cancelled"
        if self.starts_at is not None and self.ends_at is not None:
            return f"{self.starts_at:%Y-%m-%d %H:%M} to {self.ends_at:%Y-%m-%d %H:%M} UTC: {effect}"
        if self.weekday is None or self.from_time is None or self.to_time is None:
            return f"never: {effect}"
        following = " of the next day" if self.to_time <= self.from_time else ""
        return f"{WEEKDAYS[self.weekday]}s {self.from_time:%H:%M} to {self.to_time:%H:%M}{following}: {effect}"


def _instant(local: datetime, days: int, clock: time, zone: ZoneInfo, *, after: datetime) -> datetime:
    """Return the first instant after `after` at which the wall of that day shows `clock`, or skips it."""
    day = local.date() + timedelta(days=days)
    wall = datetime.combine(day, clock)
    for fold in (0, 1):
        instant = wall.replace(tzinfo=zone, fold=fold).astimezone(UTC)
        if instant.astimezone(zone).replace(tzinfo=None, fold=0) != wall:
            # The clock jumps over it: the range ends with the jump.
            late = wall.replace(tzinfo=zone, fold=0).utcoffset()
            early = wall.replace(tzinfo=zone, fold=1).utcoffset()
            if late is not None and early is not None:
                instant = _jump(wall, min(late, early), zone)
        if instant > after:
            return instant
    return after + timedelta(minutes=1)


def _jump(wall: datetime, offset_before: timedelta, zone: ZoneInfo) -> datetime:
    """Return the instant of the jump that leaves `wall` out: the first one of the new offset."""
    low = (wall - offset_before).replace(tzinfo=UTC) - timedelta(hours=3)
    high = (wall - offset_before).replace(tzinfo=UTC) + timedelta(hours=3)
    before = low.astimezone(zone).utcoffset()
    while high - low > timedelta(seconds=1):
        middle = (low + (high - low) / 2).replace(microsecond=0)
        if middle in (low, high):
            break
        if middle.astimezone(zone).utcoffset() == before:
            low = middle
        else:
            high = middle
    return high


@dataclass(frozen=True)
class Cover:
    """Why nothing should run at a moment, and until when. `skips`: what is due then is left out."""

    until: datetime
    skips: bool
    cancels: bool


def cover(windows: Sequence[Window], moment: datetime, zone: ZoneInfo) -> Cover | None:
    """Return what the union of the windows says of `moment`; None when it may run.

    Windows that overlap or touch count as one: it ends with the last of them. One that leaves runs out decides over
    others that only put them off, and one that cancels over others that do not.
    """
    here = [(window, end) for window in windows if (end := window.end_if_inside(moment, zone)) is not None]
    if not here:
        return None
    until = max(end for _, end in here)
    while until - moment < LONGEST:
        further = [end for window in windows if (end := window.end_if_inside(until, zone)) is not None]
        if not further or max(further) <= until:
            break
        until = max(further)
    return Cover(
        until=until,
        skips=any(window.skips for window, _ in here),
        cancels=any(window.cancels for window, _ in here),
    )
