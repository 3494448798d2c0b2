"""Slots on the days when clocks change: the table of docs/schedules.md, and every minute around each change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest

from apps.schedules.timing.slots import next_slot, slots
from apps.schedules.timing.spec import Kind, Timing
from tests.schedules.reference import cron_fires

BERLIN, NEW_YORK, LORD_HOWE, SANTIAGO = (
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Santiago",
)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def timing(cron: str, zone: str) -> Timing:
    return Timing(kind=Kind.CRON, cron=cron, zone=zone)


def on_local_day(cron: str, zone: str, day: str) -> list[datetime]:
    """The slots of a local day, found from the evening before."""
    spec = timing(cron, zone)
    start = datetime.fromisoformat(day).replace(tzinfo=spec.tzinfo).astimezone(UTC) - timedelta(hours=2)
    found = []
    for slot in slots(spec, start):
        local = slot.astimezone(spec.tzinfo).date().isoformat()
        if local > day:
            return found
        if local == day:
            found.append(slot)
    raise AssertionError


@pytest.mark.parametrize(
    ("cron", "zone", "day", "expected"),
    [
        ("30 2 * * *", BERLIN, "2026-03-29", ["2026-03-29T01:00"]),
        ("30 2 * * *", BERLIN, "2026-10-25", ["2026-10-25T00:30"]),
        ("0 2 * * *", NEW_YORK, "2026-03-08", ["2026-03-08T07:00"]),
        ("30 1 * * *", NEW_YORK, "2026-11-01", ["2026-11-01T05:30"]),
        ("15 2 * * *", LORD_HOWE, "2026-10-04", ["2026-10-03T15:30"]),
        ("45 1 * * *", LORD_HOWE, "2026-04-05", ["2026-04-04T14:45"]),
        ("0 0 * * *", SANTIAGO, "2026-09-06", ["2026-09-06T04:00"]),
        ("30 1-3 * * *", BERLIN, "2026-03-29", ["2026-03-29T00:30", "2026-03-29T01:00", "2026-03-29T01:30"]),
        ("30 1-3 * * *", BERLIN, "2026-10-25", ["2026-10-24T23:30", "2026-10-25T00:30", "2026-10-25T02:30"]),
    ],
)
def test_the_table_of_the_documentation(cron: str, zone: str, day: str, expected: list[str]) -> None:
    assert on_local_day(cron, zone, day) == [at(text) for text in expected]


def test_a_cron_that_follows_time_runs_in_both_passes_of_a_repeated_hour() -> None:
    found = on_local_day("0 */2 * * *", BERLIN, "2026-10-25")

    assert found[:4] == [at(f"2026-10-{t}") for t in ("24T22:00", "25T00:00", "25T01:00", "25T03:00")]


def test_the_fire_that_cronsim_steps_over_in_lord_howe_is_there() -> None:
    assert at("2026-10-03T15:30") in on_local_day("30 * * * *", LORD_HOWE, "2026-10-04")


@pytest.mark.parametrize("zone", ["UTC", BERLIN, NEW_YORK, LORD_HOWE])
def test_a_nightly_job_has_365_slots_in_a_year(zone: str) -> None:
    found = list(islice(slots(timing("30 2 * * *", zone), at("2025-12-30T20:00")), 368))

    within = [slot for slot in found if slot.astimezone(timing("", zone).tzinfo).year == 2026]
    assert len(set(within)) == 365


@pytest.mark.parametrize("zone", ["UTC", BERLIN, NEW_YORK, LORD_HOWE])
def test_every_quarter_of_an_hour_has_35039_slots_after_new_year(zone: str) -> None:
    found = 0
    for slot in slots(timing("*/15 * * * *", zone), at("2026-01-01T00:00")):
        if slot >= at("2027-01-01T00:00"):
            break
        found += 1

    assert found == 35_039


CHANGES = {
    BERLIN: ("2026-03-29T01:00", "2026-10-25T01:00"),
    NEW_YORK: ("2026-03-08T07:00", "2026-11-01T06:00"),
    LORD_HOWE: ("2026-10-03T15:30", "2026-04-04T15:00"),
    SANTIAGO: ("2026-09-06T04:00", "2026-04-05T03:00"),
}
HOURLY_CRONS = [f"{minute} {hour} * * *" for minute in ("0", "15", "30", "45", "*/15", "7,37") for hour in
                ("*", "*/2", "1-3", "0,2")]  # fmt: skip


@pytest.mark.parametrize("zone", list(CHANGES))
def test_from_every_minute_of_a_day_of_change_the_next_slot_is_that_of_the_oracle(zone: str) -> None:
    for text in CHANGES[zone]:
        change = at(text)
        start, end = change - timedelta(hours=14), change + timedelta(hours=14)
        for cron in HOURLY_CRONS:
            spec = timing(cron, zone)
            expected = cron_fires(cron, zone, start - timedelta(minutes=1), end + timedelta(days=2))
            place = 0
            for minute in range(int((end - start) / timedelta(minutes=1))):
                base = start + timedelta(minutes=minute)
                while expected[place] <= base:
                    place += 1
                found = next_slot(spec, base)
                assert found is not None and found > base
                assert found == expected[place], (cron, zone, base)


FIXED = ["30 2 * * *", "15 2 * * *", "0 0 * * *", "45 1 * * *", "0 3 * * *", "5,35 2 * * *", "30 2 29 3 *", "0 2 * * 0",
         "30 1 L * *", "0 2 25 10 *", "59 1 * * *", "0 0 1 * *"]  # fmt: skip


@pytest.mark.parametrize("zone", list(CHANGES))
@pytest.mark.parametrize("cron", FIXED)
def test_around_a_change_the_slots_are_those_of_the_oracle(cron: str, zone: str) -> None:
    for text in CHANGES[zone]:
        change = at(text)
        start, end = change - timedelta(days=2), change + timedelta(days=2)
        expected = cron_fires(cron, zone, start, end)

        found = []
        for slot in slots(timing(cron, zone), start):
            if slot > end:
                break
            found.append(slot)

        assert found == expected, (cron, zone)


def test_seconds_and_microseconds_of_the_base_do_not_matter() -> None:
    spec = timing("*/5 * * * *", "UTC")

    assert next_slot(spec, at("2026-01-01T00:04:59.999999")) == at("2026-01-01T00:05")
    assert next_slot(spec, at("2026-01-01T00:05:00")) == at("2026-01-01T00:10")
    assert next_slot(spec, at("2026-01-01T00:05:00.5")) == at("2026-01-01T00:10")
