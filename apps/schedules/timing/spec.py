"""Timing: everything that the slots of a schedule follow from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

from apps.schedules.timing.blackouts import Window


class Kind(StrEnum):
    CRON = "cron"
    INTERVAL = "interval"
    MANUAL = "manual"


class TimingInvalid(ValueError):
    """A field says something that no schedule can run by; `field` names it."""

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(sentence)
        self.field = field


@dataclass(frozen=True, kw_only=True)
class Timing:
    """When a schedule runs. A *slot* is a time by the rule; jitter and blackouts only move when it is run."""

    kind: Kind
    #: Resolved: five fields, without aliases and H.
    cron: str = ""
    interval_seconds: int = 0
    anchor_at: datetime | None = None
    #: IANA name.
    zone: str = "UTC"
    jitter_seconds: int = 0
    #: What the jitter follows from: the schedule's id.
    jitter_key: str = ""
    windows: tuple[Window, ...] = ()

    @property
    def tzinfo(self) -> ZoneInfo:
        """Raises: TimingInvalid when there is no such zone."""
        return load_zone(self.zone)

    @property
    def offset(self) -> timedelta:
        """By how much the start is put off: always the same for one schedule, so that what runs when can be told."""
        if self.jitter_seconds <= 0:
            return timedelta()
        return timedelta(seconds=stable_number(self.jitter_key, "jitter") % (self.jitter_seconds + 1))


def stable_number(key: str, purpose: str = "") -> int:
    """A large number that follows from the key alone."""
    return int.from_bytes(hashlib.sha256(f"{key}{purpose and ':' + purpose}".encode()).digest(), "big")


@lru_cache(maxsize=1)
def zone_names() -> frozenset[str]:
    return frozenset(available_timezones())


def load_zone(name: str) -> ZoneInfo:
    """Return the zone with the rules that are installed. Raises: TimingInvalid naming the field `tz`."""
    if name not in zone_names():
        raise TimingInvalid("tz", f"{name!r} is no IANA time zone: give one such as UTC or Europe/Berlin.")
    return ZoneInfo(name)
