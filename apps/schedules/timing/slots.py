"""The slots of a schedule, and when each is run: the one home of "what comes next"."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice, pairwise

from apps.schedules.timing.blackouts import Cover, cover
from apps.schedules.timing.cron import fires
from apps.schedules.timing.spec import Kind, Timing, TimingInvalid

#: How many slots the smallest gap is looked for in.
GAP_SLOTS = 400


class NoFutureSlot(TimingInvalid):
    """The rule has no slot within five years."""


@dataclass(frozen=True)
class Due:
    """When a slot is looked at, and whether it is run then."""

    at: datetime
    #: It lies in a blackout that leaves runs out.
    skipped: bool = False
    #: A blackout puts it off.
    deferred: bool = False


def slots(timing: Timing, after: datetime) -> Iterator[datetime]:
    """Yield the slots after `after`, ascending. None for a manual schedule. Raises: TimingInvalid."""
    if timing.kind == Kind.CRON:
        yield from fires(timing.cron, after, timing.tzinfo)
    elif timing.kind == Kind.INTERVAL:
        if timing.anchor_at is None or timing.interval_seconds <= 0:
            raise TimingInvalid("interval_seconds", "An interval needs a length and an anchor.")
        step = timedelta(seconds=timing.interval_seconds)
        # Elapsed time from the anchor, whatever clocks on walls do.
        slot = timing.anchor_at + max(0, (after - timing.anchor_at) // step + 1) * step
        while True:
            yield slot
            slot += step


def next_slot(timing: Timing, after: datetime) -> datetime | None:
    """Return the first slot after `after`; None for a manual schedule.

    Raises: NoFutureSlot when there is none within five years; TimingInvalid when the rule cannot be read.
    """
    if timing.kind == Kind.MANUAL:
        return None
    for slot in slots(timing, after):
        return slot
    raise NoFutureSlot("cron", f"{timing.cron!r} has no run in the next five years: change the expression.")


def due(timing: Timing, slot: datetime) -> Due:
    """Return when the slot is to be run: put off by a blackout, then by the jitter.

    Jitter never leads into a blackout: a run that it would put there starts without it.
    """
    zone = timing.tzinfo
    covered = cover(timing.windows, slot, zone)
    if covered is not None and covered.skips:
        return Due(slot, skipped=True)
    at = slot if covered is None else covered.until
    late = at + timing.offset
    return Due(late if cover(timing.windows, late, zone) is None else at, deferred=covered is not None)


def next_due(timing: Timing, after: datetime) -> tuple[datetime, Due] | None:
    """Return the next slot and when it is run; None for a manual schedule. Raises: as next_slot."""
    slot = next_slot(timing, after)
    return None if slot is None else (slot, due(timing, slot))


def gap_after(timing: Timing, slot: datetime) -> timedelta | None:
    """Return the time from this slot to the next one; None when there is no next one."""
    for following in slots(timing, slot):
        return following - slot
    return None


def smallest_gap(timing: Timing, now: datetime, count: int = GAP_SLOTS) -> timedelta | None:
    """Return the shortest time between two of the next `count` slots; None when there are fewer than two."""
    if timing.kind == Kind.INTERVAL:
        return timedelta(seconds=timing.interval_seconds)
    gaps = [later - earlier for earlier, later in pairwise(islice(slots(timing, now), count))]
    return min(gaps, default=None)


def covered_at(timing: Timing, moment: datetime) -> Cover | None:
    """Return the blackout that holds at `moment`, None when there is none."""
    return cover(timing.windows, moment, timing.tzinfo)
