"""Clock: whether the time can be trusted. A clock that is wrong must neither fire a burst nor let backups expire."""

from __future__ import annotations

import hashlib
import logging
import time
import zoneinfo
from collections.abc import Iterable
from datetime import datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from django.db.models import Value
from django.db.models.functions import Greatest

from apps.schedules.advance import recompute_all
from apps.schedules.models import Clock, Schedule

logger = logging.getLogger(__name__)

#: Clocks of several hosts differ by less than this, or one of them is wrong.
TOLERANCE = timedelta(minutes=2)
#: A clock that stays behind for so long was put right: from then on it counts.
BELIEVED_AFTER = timedelta(minutes=10)
#: After a jump by more than this nothing expires until the next sweep is over.
SUSPICIOUS_JUMP = timedelta(days=1)
SWEEP_EVERY = timedelta(hours=6)


class Time(NamedTuple):
    """Whether the clock can be trusted to fire by, and whether retention should go through all sets."""

    may_fire: bool
    sweep_due: bool = False


def keep_time(*, now: datetime, jumped_by: timedelta = timedelta()) -> Time:
    """Say that somebody looks for what is due, and tell whether anything may fire.

    `jumped_by`: how much further the clock has gone than time has, as far as this process can tell. One query when all
    is well and no sweep is due.
    """
    if jumped_by > TOLERANCE and _jump(now, jumped_by):
        return Time(may_fire=True)
    kept = Clock.objects.filter(
        pk=1, last_tick_at__lte=now + TOLERANCE, behind_since=None, alert="", next_sweep_at__gt=now
    ).update(last_tick_at=Greatest("last_tick_at", Value(now)))
    return Time(may_fire=True) if kept else _look_closer(now)


def may_expire(now: datetime) -> bool:
    """Tell whether the clock is good enough to call a backup old."""
    clock = Clock.objects.filter(pk=1).first()
    return clock is None or (
        clock.behind_since is None and (clock.no_expiry_before is None or clock.no_expiry_before <= now)
    )


def tick_problem(now: datetime) -> str:
    """Say why no schedule fires although workers may be alive; empty while all is well, and before the first tick."""
    clock = Clock.objects.filter(pk=1).first()
    if clock is None:
        return ""
    if clock.behind_since is not None:
        return clock.alert
    if now - clock.last_tick_at > TOLERANCE:
        return f"no worker has looked for what is due since {clock.last_tick_at:%Y-%m-%d %H:%M:%S} UTC"
    return ""


def clock_alert(now: datetime) -> str:
    """Say what was odd about the clock lately although schedules fire by it; empty while nothing was."""
    clock = Clock.objects.filter(pk=1, behind_since=None).first()
    return clock.alert if clock is not None and clock.no_expiry_before and clock.no_expiry_before > now else ""


def take_sweep(*, now: datetime) -> bool:
    """Tell whether the sweep is due, and take it: of many tickers one gets it."""
    return bool(Clock.objects.filter(pk=1, next_sweep_at__lte=now).update(next_sweep_at=now + SWEEP_EVERY))


def _look_closer(now: datetime) -> Time:
    clock, _ = Clock.objects.get_or_create(pk=1, defaults={"last_tick_at": now, "next_sweep_at": now + SWEEP_EVERY})
    row = Clock.objects.filter(pk=1)
    if clock.last_tick_at <= now + TOLERANCE:
        over = clock.no_expiry_before is None or clock.no_expiry_before <= now
        row.update(
            last_tick_at=Greatest("last_tick_at", Value(now)), behind_since=None, **({"alert": ""} if over else {})
        )
        return Time(may_fire=True, sweep_due=clock.next_sweep_at <= now)
    if clock.behind_since is None or now < clock.behind_since:
        alert = (
            f"The clock says {now:%Y-%m-%d %H:%M:%S} UTC, and a worker has seen "
            f"{clock.last_tick_at:%Y-%m-%d %H:%M:%S} UTC before: no schedule fires until that is clear. Check the "
            f"clocks of all hosts."
        )
        logger.error(alert)
        row.update(behind_since=now, alert=alert)
        return Time(may_fire=False)
    if now - clock.behind_since < BELIEVED_AFTER:
        return Time(may_fire=False)
    taken = row.filter(behind_since=clock.behind_since).update(
        last_tick_at=now, behind_since=None, alert="", next_sweep_at=now + SWEEP_EVERY
    )
    if taken:
        logger.warning("The clock was put back and runs on: schedules go by it from now on")
        recompute_all(now=now)
    return Time(may_fire=bool(taken))


def _jump(now: datetime, by: timedelta) -> bool:
    """The clock went ahead by itself: nobody missed anything meanwhile, and nothing has grown old.

    False when it only came back to where the tickers have been before.
    """
    clock, _ = Clock.objects.get_or_create(pk=1, defaults={"last_tick_at": now - by, "next_sweep_at": now})
    if clock.last_tick_at >= now - TOLERANCE:
        return False
    hours = by / timedelta(hours=1)
    alert = f"The clock jumped ahead by {hours:.1f} h at {now:%Y-%m-%d %H:%M:%S} UTC: check it."
    logger.error(alert)
    # Until then the alert stands, and nothing expires: long enough to be seen and told.
    quiet = now + (SWEEP_EVERY if by > SUSPICIOUS_JUMP else BELIEVED_AFTER)
    Clock.objects.filter(pk=1).update(
        last_tick_at=now, alert=alert, behind_since=None, no_expiry_before=quiet, next_sweep_at=now + SWEEP_EVERY
    )
    recompute_all(now=now)
    return True


class JumpWatch:
    """Compares the clock on the wall with one that cannot be set, from one call to the next."""

    def __init__(self) -> None:
        self._last: tuple[datetime, float] | None = None

    def jumped_by(self, now: datetime) -> timedelta:
        """Return how much further the wall's clock went than time did since the last call; zero at the first one."""
        # Goes on while the host sleeps (Linux): waking up late is downtime, no jump.
        elapsed = time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
        last, self._last = self._last, (now, elapsed)
        return timedelta() if last is None else (now - last[0]) - timedelta(seconds=elapsed - last[1])


# --- time zone rules ----------------------------------------------------------------------------------------------
def tzdata_version(zones: Iterable[str]) -> str:
    """Name the installed time zone rules: the digest of those of the given zones, and the release when it is known."""
    digest = hashlib.sha256()
    for zone in sorted(set(zones)):
        digest.update(zone.encode() + b"\0" + _rules_of(zone))
    return f"{_release()} {digest.hexdigest()[:16]}".strip()


def _rules_of(zone: str) -> bytes:
    """The file that zoneinfo would read: from the system's folders first, then from the tzdata package."""
    for folder in zoneinfo.TZPATH:
        path = Path(folder, *zone.split("/"))
        if path.is_file():
            return path.read_bytes()
    try:
        return resources.files("tzdata.zoneinfo").joinpath(*zone.split("/")).read_bytes()
    except (OSError, ModuleNotFoundError):
        return b""


def _release() -> str:
    for folder in zoneinfo.TZPATH:
        path = Path(folder, "tzdata.zi")
        if path.is_file():
            with path.open(encoding="utf-8", errors="replace") as lines:
                return lines.readline().removeprefix("# version").strip()[:20]
    return ""


def follow_tzdata(*, now: datetime) -> bool:
    """When the time zone rules are others than those that the stored times follow from, work these out anew.

    Called when a worker starts; tells whether anything was worked out anew.
    """
    zones = Schedule.objects.filter(enabled=True).values_list("tz", flat=True).distinct()
    version = tzdata_version(zones)
    clock, made = Clock.objects.get_or_create(
        pk=1, defaults={"last_tick_at": now, "next_sweep_at": now + SWEEP_EVERY, "tzdata": version}
    )
    if made or clock.tzdata == version:
        return False
    zoneinfo.ZoneInfo.clear_cache()
    changed = recompute_all(now=now, only_ahead=True)
    Clock.objects.filter(pk=1).update(tzdata=version)
    if changed:
        logger.warning(
            "The time zone rules changed from %r to %r: the next run of %s schedules moved",
            clock.tzdata,
            version,
            changed,
        )
    return True
