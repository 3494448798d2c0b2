"""plan_firing: what a ticker that finds a schedule due has to do with it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from apps.schedules.timing.slots import Due, due, slots
from apps.schedules.timing.spec import Timing

#: A tick this late is no downtime.
ON_TIME = timedelta(minutes=5)
#: A missed slot is not made up for when the next one is closer than this, or than a tenth of the gap.
TOO_CLOSE = timedelta(minutes=30)


@dataclass(frozen=True)
class Stretch:
    """Slots that one row stands for."""

    first: datetime
    last: datetime
    count: int


@dataclass(frozen=True)
class Firing:
    """What becomes of the slots that have come due, and what comes next."""

    #: The slot to run now; None when there is none.
    slot: datetime | None
    is_catch_up: bool
    #: Slots that nobody ran in time.
    missed: Stretch | None
    #: Slots that a blackout left out, or put together with another one.
    blackout: Stretch | None
    last_slot: datetime
    next_fire_at: datetime | None
    next_run_at: datetime | None


class _Gathering:
    """Counts slots, remembers the first and the last."""

    def __init__(self) -> None:
        self._first: datetime | None = None
        self._last: datetime | None = None
        self._count = 0

    def add(self, slot: datetime) -> None:
        self._first = min(self._first or slot, slot)
        self._last = max(self._last or slot, slot)
        self._count += 1

    @property
    def stretch(self) -> Stretch | None:
        return Stretch(self._first, self._last, self._count) if self._first and self._last else None


def plan_firing(
    timing: Timing, first: datetime, now: datetime, *, catch_up: bool, window_seconds: int | None
) -> Firing | None:
    """Decide about the slots from `first` on that are due at `now`; None when not even `first` is.

    At most one of them runs, the latest; whether it does when it was found late is a matter of `catch_up` and of
    `window_seconds` (None: as long as the next slot has not come). Raises: TimingInvalid.
    """
    missed, blackout = _Gathering(), _Gathering()
    latest: tuple[datetime, Due] | None = None
    last: datetime | None = None
    following: tuple[datetime, Due] | None = None
    for slot in _from(timing, first):
        when = due(timing, slot)
        if when.at > now:
            following = (slot, when)
            break
        last = slot
        if when.skipped:
            blackout.add(slot)
            continue
        if latest is not None:
            (blackout if latest[1].deferred else missed).add(latest[0])
        latest = (slot, when)
    if last is None:
        return None
    run, is_catch_up = None, False
    if latest is not None:
        slot, when = latest
        gap = following[0] - slot if following else None
        late = now - when.at
        is_catch_up = late > (min(ON_TIME, gap / 2) if gap else ON_TIME)
        if not is_catch_up or (catch_up and _worth_it(slot, now, gap, following, window_seconds)):
            run = slot
        else:
            missed.add(slot)
    return Firing(
        slot=run,
        is_catch_up=is_catch_up and run is not None,
        missed=missed.stretch,
        blackout=blackout.stretch,
        last_slot=last,
        next_fire_at=following[0] if following else None,
        next_run_at=following[1].at if following else None,
    )


def _from(timing: Timing, first: datetime) -> Iterator[datetime]:
    yield first
    yield from slots(timing, first)


def _worth_it(
    slot: datetime,
    now: datetime,
    gap: timedelta | None,
    following: tuple[datetime, Due] | None,
    window_seconds: int | None,
) -> bool:
    """Tell whether a missed slot should be made up for now."""
    if window_seconds is not None and now - slot > timedelta(seconds=window_seconds):
        return False
    return gap is None or following is None or following[1].at - now >= min(TOO_CLOSE, gap / 10)
