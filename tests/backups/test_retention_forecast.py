"""The forecast of retention equals what happens: living through it, with a look after each backup and every 6 hours."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from apps.backups.retention.evaluate import evaluate
from apps.backups.retention.forecast import Forecast, forecast
from apps.backups.retention.rules import BackupFacts, Pick, Rules, Span

DAY = timedelta(days=1)
#: A Monday.
NOW = datetime(2026, 6, 1, 14, 0, tzinfo=UTC)


def nightly(count: int, hour: int = 2, **fields: Any) -> list[BackupFacts]:
    """One a day at that hour, the newest that of today; oldest first, named by their days."""
    moments = [NOW.replace(hour=hour) - DAY * n for n in reversed(range(count))]
    return [BackupFacts(id=f"{moment:%m-%d}", taken_at=moment, size_bytes=10, **fields) for moment in moments]


def to_come(days: int = 401, hour: int = 2) -> list[datetime]:
    return [NOW.replace(hour=hour) + DAY * n for n in range(1, days + 1)]


def days_of(found: Forecast) -> dict[str, str]:
    return {key: f"{fate.day:%m-%d}" if fate.day else "stays" for key, fate in found.fates.items()}


def test_of_seven_daily_ones_one_goes_each_day() -> None:
    found = forecast(nightly(7), Rules(keep_daily=7), NOW, slots=to_come())

    assert days_of(found) == {
        "05-26": "06-02", "05-27": "06-03", "05-28": "06-04", "05-29": "06-05", "05-30": "06-06", "05-31": "06-07",
        "06-01": "06-08",
    }  # fmt: skip
    assert (found.is_whole, found.count_then, found.bytes_then) == (True, 7, 70)


def test_what_a_later_tier_takes_over_stays_until_that_lets_go() -> None:
    found = forecast(nightly(3), Rules(keep_last=2, keep_monthly=3), NOW, slots=to_come())

    # 05-31 is the last of May; June 30th takes the place of 06-01, and that of August makes the third month.
    assert days_of(found) == {"05-30": "06-01", "05-31": "08-01", "06-01": "06-03"}


def test_what_goes_now_goes_today() -> None:
    found = forecast(nightly(5), Rules(keep_last=3), NOW, slots=[])

    assert days_of(found) == {"05-28": "06-01", "05-29": "06-01", "05-30": "stays", "05-31": "stays", "06-01": "stays"}
    assert found.until == date(2027, 7, 6)
    assert {fate.guards for fate in found.fates.values()} == {()}, "a rule keeps them"


def test_a_guard_is_named_when_nothing_else_keeps_it() -> None:
    held, proved, *others = nightly(5)
    backups = [replace(held, held=True), replace(proved, evidence=3), *others]

    found = forecast(backups, Rules(keep_last=3), NOW, slots=to_come())

    assert (found.fates[held.id].day, found.fates[held.id].guards) == (None, ("hold",))
    assert (found.fates[proved.id].day, found.fates[proved.id].guards) == (None, ("last-verified",))
    assert found.fates[others[0].id].day == date(2026, 6, 2)


def test_locks_ages_and_jobs_end_and_so_do_suspicions() -> None:
    locked, used, bad, *others = nightly(6)
    backups = [
        replace(locked, locked_until=NOW + 20 * DAY),
        replace(used, in_use=True),
        replace(bad, suspect=True),
        *others,
    ]

    found = forecast(backups, Rules(keep_last=3), NOW, slots=to_come())

    assert found.fates[locked.id].day == date(2026, 6, 21)
    assert found.fates[used.id].day == date(2026, 6, 1)
    assert found.fates[bad.id].day == date(2026, 6, 29), "30 days after that of 05-30"


def test_a_greatest_age_acts_without_any_run() -> None:
    found = forecast(nightly(3), Rules(keep_last=9, max_age=Span.parse("30d"), min_redundancy=1), NOW)

    assert days_of(found) == {"05-30": "06-29", "05-31": "06-30", "06-01": "stays"}
    assert found.fates["06-01"].guards == ("min-redundancy", "newest")


def test_a_frozen_collection_loses_nothing() -> None:
    found = forecast(nightly(9), Rules(keep_last=1), NOW, slots=to_come(), frozen=True)

    assert {fate.day for fate in found.fates.values()} == {None}
    assert all("frozen" in fate.guards or not fate.guards for fate in found.fates.values())


def test_it_says_until_when_the_plan_was_known() -> None:
    slots = to_come(10)

    found = forecast(nightly(30), Rules(keep_last=30), NOW, slots=slots, planned_until=slots[-1])

    assert (found.until, found.is_whole) == (date(2026, 6, 10), False)
    assert found.fates["05-03"].day == date(2026, 6, 2)
    assert found.fates["06-01"].day is None


def test_it_ends_when_the_work_is_done() -> None:
    found = forecast(nightly(100), Rules(keep_last=100), NOW, slots=to_come(), looks=1000)

    assert not found.is_whole
    assert found.until < date(2026, 6, 20)


@pytest.mark.parametrize("hours", [1, 24])
def test_it_takes_well_below_a_second_for_a_set(hours: int) -> None:
    backups = [BackupFacts(id=f"{n}", taken_at=NOW - n * timedelta(hours=hours), size_bytes=1) for n in range(1, 101)]
    rules = Rules(keep_last=24, keep_daily=30, keep_weekly=12, keep_monthly=12, keep_yearly=5, zone="Europe/Berlin")
    slots = [NOW + n * timedelta(hours=hours) for n in range(1, 24 * 401 // hours)]

    begun = time.thread_time()
    found = forecast(backups, rules, NOW, slots=slots)

    assert found.fates.keys() == {backup.id for backup in backups}
    assert time.thread_time() - begun < 3, "of this thread alone; about 0.3 on a free core"


# --- against the slow and obvious ----------------------------------------------------------------------------------
def slowly(backups: list[BackupFacts], rules: Rules, slots: list[datetime], days: int) -> dict[str, date]:
    """Live through it: look after each backup, every six hours and at midnight; note on which day each one goes."""
    zone = ZoneInfo(rules.zone)
    today = NOW.astimezone(zone).date()
    moments = {NOW + timedelta(hours=6 * n) for n in range(4 * (days + 2))} | {
        slot + timedelta(minutes=61) for slot in slots
    }
    for ahead in range(days + 1):
        following = today + timedelta(days=ahead + 1)
        midnight = datetime(following.year, following.month, following.day, tzinfo=zone)
        moments.add(midnight.astimezone(UTC) - timedelta(microseconds=1))
    standing = {backup.id: backup for backup in backups}
    first_after: dict[str, datetime] = {}
    gone: dict[str, date] = {}
    for moment in sorted(moments):
        for n, slot in enumerate(slots):
            if slot <= moment and f"new {n}" not in gone and f"new {n}" not in standing:
                standing[f"new {n}"] = BackupFacts(id=f"new {n}", taken_at=slot, size_bytes=10)
        for key, backup in standing.items():
            newer = [b.taken_at for b in standing.values() if not b.suspect and b.taken_at > backup.taken_at]
            if backup.suspect and newer:
                first_after[key] = min([*newer, *([first_after[key]] if key in first_after else [])])
        seen = [replace(b, in_use=False, replaced_at=first_after.get(key)) for key, b in standing.items()]
        for key in evaluate(seen, rules, moment).expire:
            del standing[key]
            gone[key] = moment.astimezone(zone).date()
    last = today + timedelta(days=days)
    return {backup.id: gone[backup.id] for backup in backups if backup.id in gone and gone[backup.id] <= last}


@pytest.mark.parametrize("seed", range(24))
def test_it_equals_living_through_it(seed: int) -> None:
    dice, days = random.Random(seed), 60
    step = dice.choice((timedelta(hours=6), timedelta(hours=8), DAY, DAY, 7 * DAY))
    offset = timedelta(minutes=dice.randrange(70, 1440))
    backups = [
        BackupFacts(
            id=f"b{n:02}",
            taken_at=NOW - offset - n * step,
            size_bytes=10,
            suspect=dice.random() < 0.1,
            held=dice.random() < 0.05,
            in_use=dice.random() < 0.05,
            evidence=3 if dice.random() < 0.05 else 0,
            locked_until=NOW + dice.randrange(0, 40) * DAY if dice.random() < 0.1 else None,
        )
        for n in range(dice.randrange(1, 25))
    ]
    rules = Rules(
        keep_last=dice.choice((0, 1, 3)),
        keep_hourly=dice.choice((0, 5)),
        keep_daily=dice.choice((0, 3, 7)),
        keep_weekly=dice.choice((0, 2, 4)),
        keep_monthly=dice.choice((1, 2)),
        keep_within=dice.choice((None, Span.parse("3d"))),
        max_age=dice.choice((None, None, Span.parse("45d"))),
        min_redundancy=dice.choice((1, 2, 3)),
        pick=dice.choice(list(Pick)),
        zone=dice.choice(("UTC", "Europe/Berlin", "America/New_York")),
        min_age_seconds=dice.choice((0, 3600)),
    )
    slots = [NOW - offset + n * step for n in range(1, (days + 2) * DAY // step)]
    slots = [slot for slot in slots if slot > NOW]

    found = forecast(backups, rules, NOW, slots=slots, days=days)

    assert {key: fate.day for key, fate in found.fates.items() if fate.day} == slowly(backups, rules, slots, days)
