"""What retention is told: the rules of a policy, and what is known of each backup."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

COUNTED_TIERS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")

#: More of one tier than this is a typing error; it also keeps every sum far from what a database column holds.
MAX_COUNT = 10_000
MAX_GRACE_DAYS = 30
_SPAN = re.compile(r"([1-9][0-9]{0,4})([hdwmy])")
_UNIT_WORDS = {"h": "hours", "d": "days", "w": "weeks", "m": "months", "y": "years"}
_MAX_YEARS = 100
_UNIT_YEARS = {"h": 24 * 365, "d": 365, "w": 52, "m": 12, "y": 1}


class Pick(StrEnum):
    """Which backup stands for a period."""

    LAST = "last"
    FIRST = "first"


class CapAction(StrEnum):
    """What happens when a set is larger than its cap."""

    WARN = "warn"
    DELETE = "delete"


@dataclass(frozen=True)
class Span:
    """A length of time as people say it: hours are absolute; days and more are counted on the calendar of a zone."""

    count: int
    unit: str

    @classmethod
    def parse(cls, text: str) -> Span:
        """'36h', '14d', '8w', '6m', '2y'. Raises: ValueError with a sentence."""
        found = _SPAN.fullmatch(text.strip().lower())
        if found is None:
            raise ValueError("Give a number and one of h, d, w, m, y: 36h, 14d, 8w, 6m, 2y.")
        span = cls(int(found[1]), found[2])
        if span.count > _MAX_YEARS * _UNIT_YEARS[span.unit]:
            raise ValueError(f"That is more than {_MAX_YEARS} years: give less.")
        return span

    def before(self, moment: datetime, zone: ZoneInfo) -> datetime:
        """Return the instant this much before `moment` (UTC). A day that a month lacks becomes its last one."""
        if self.unit == "h":
            return moment - timedelta(hours=self.count)
        local = moment.astimezone(zone)
        if self.unit in ("d", "w"):
            day = local.date() - timedelta(days=self.count * (7 if self.unit == "w" else 1))
            return _at(local, day.year, day.month, day.day)
        months = local.year * 12 + local.month - 1 - self.count * (12 if self.unit == "y" else 1)
        year, month = divmod(months, 12)
        return _at(local, year, month + 1, min(local.day, _days_in(year, month + 1)))

    def __str__(self) -> str:
        return f"{self.count}{self.unit}"

    @property
    def words(self) -> str:
        """'14 days'"""
        word = _UNIT_WORDS[self.unit]
        return f"{self.count} {word[:-1] if self.count == 1 else word}"


def _at(local: datetime, year: int, month: int, day: int) -> datetime:
    return local.replace(year=year, month=month, day=day).astimezone(UTC)


def _days_in(year: int, month: int) -> int:
    following = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
    return (following - timedelta(days=1)).day


@dataclass(frozen=True, kw_only=True)
class Rules:
    """A policy. Rules keep (their union), limits take away, guards always win."""

    keep_last: int = 0
    keep_hourly: int = 0
    keep_daily: int = 0
    keep_weekly: int = 0
    keep_monthly: int = 0
    keep_yearly: int = 0
    keep_within: Span | None = None
    max_age: Span | None = None
    size_cap_bytes: int | None = None
    cap_action: CapAction = CapAction.WARN
    min_redundancy: int = 2
    pick: Pick = Pick.LAST
    zone: str = "UTC"
    min_age_seconds: int = 3600

    @property
    def says_nothing(self) -> bool:
        """Whether there is no rule at all: then everything is kept, limits or not."""
        return self.keep_within is None and not any(getattr(self, f"keep_{tier}") for tier in COUNTED_TIERS)

    @property
    def sentence(self) -> str:
        """'the last 3, 7 daily and 4 weekly ones, and all of the last 14 days'"""
        pieces = [f"the last {self.keep_last}"] if self.keep_last else []
        pieces += [
            f"{getattr(self, f'keep_{tier}')} {tier}" for tier in COUNTED_TIERS[1:] if getattr(self, f"keep_{tier}")
        ]
        if self.keep_within is not None:
            pieces.append(f"all within {self.keep_within.words} of the newest")
        if not pieces:
            return "everything"
        return pieces[0] if len(pieces) == 1 else f"{', '.join(pieces[:-1])} and {pieces[-1]}"

    @staticmethod
    def problems_of(values: Mapping[str, Any]) -> dict[str, str]:
        """Return what is wrong with the fields of a policy, by field; empty when nothing is."""
        problems: dict[str, str] = {}
        for tier in COUNTED_TIERS:
            count = values.get(f"keep_{tier}") or 0
            if not 0 <= count <= MAX_COUNT:
                problems[f"keep_{tier}"] = f"Give a number from 0 to {MAX_COUNT:,}."
        for name in ("keep_within", "max_age"):
            if values.get(name):
                try:
                    Span.parse(values[name])
                except ValueError as error:
                    problems[name] = str(error)
        if not any(values.get(f"keep_{tier}") for tier in COUNTED_TIERS) and not values.get("keep_within"):
            problems.setdefault("keep_last", "Give at least one rule: a policy that keeps nothing is none.")
        if not 1 <= (values.get("min_redundancy") or 0) <= MAX_COUNT:
            problems["min_redundancy"] = "At least 1: the newest good backup always stays."
        if not 0 <= (values.get("grace_days") or 0) <= MAX_GRACE_DAYS:
            problems["grace_days"] = f"Give a number of days from 0 to {MAX_GRACE_DAYS}."
        if values.get("size_cap_bytes") is not None and values["size_cap_bytes"] < 1:
            problems["size_cap_bytes"] = "Give a number of bytes above 0, or leave it empty."
        if not 0 <= (values.get("min_age_seconds") or 0) <= 366 * 86400:
            problems["min_age_seconds"] = "Give a number of seconds from 0 to one year."
        if values.get("tz") not in available_timezones():
            problems["tz"] = "Give an IANA time zone, for example UTC or Europe/Berlin."
        return problems


@dataclass(frozen=True, kw_only=True)
class BackupFacts:
    """What retention has to know of one backup. Those that are being deleted, or are missing, are left out."""

    id: str
    #: When its first snapshot was taken, by our clock (UTC).
    taken_at: datetime
    size_bytes: int = 0
    #: Its verification failed: it counts for nothing.
    suspect: bool = False
    #: Suspect ones: when the first good one after it was taken, as far as is known of ones that are gone since.
    replaced_at: datetime | None = None
    #: How strongly it is proved: 0 not at all, more is better.
    evidence: int = 0
    held: bool = False
    locked_until: datetime | None = None
    #: A restore, verification, copy or drill of it is waiting or running.
    in_use: bool = False
    #: The backup without which this one cannot be restored.
    parent: str | None = None


@dataclass(frozen=True)
class Reason:
    """Why a backup stays or goes: a word for programs, and the particulars for people."""

    code: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.code} {self.detail}" if self.detail else self.code


@dataclass(frozen=True)
class Verdict:
    """What is to become of one backup, and every reason for it."""

    id: str
    keep: bool
    reasons: tuple[Reason, ...]

    @property
    def codes(self) -> frozenset[str]:
        return frozenset(reason.code for reason in self.reasons)


@dataclass(frozen=True)
class Decision:
    """What is to become of a set. `expire` is in the order in which backups should go."""

    verdicts: Mapping[str, Verdict]
    expire: tuple[str, ...]
    #: Bytes that the set is still too large by; 0 when the cap is met, or there is none.
    over_cap_bytes: int = 0
