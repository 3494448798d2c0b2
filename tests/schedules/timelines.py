"""Random timelines: made from a seed, judged by the product and by the reference, compared to the last reason."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from apps.backups.retention.evaluate import evaluate
from apps.backups.retention.rules import BackupFacts, CapAction, Pick, Rules, Span
from apps.schedules.timing.firing import plan_firing
from apps.schedules.timing.slots import next_due
from apps.schedules.timing.spec import Kind, Timing
from tests.schedules.reference import cron_fires, interval_fires, retain

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "America/Santiago")
SPANS = ("6h", "36h", "3d", "14d", "5w", "2m", "1y")


# --- retention ----------------------------------------------------------------------------------------------------
def random_backups(dice: random.Random, now: datetime, count: int, prefix: str) -> list[dict[str, Any]]:
    step = dice.choice((1200, 3600, 6 * 3600, 86400, 7 * 86400))
    moment = now - timedelta(seconds=dice.randrange(0, 3 * step))
    found: list[dict[str, Any]] = []
    for n in range(count):
        moment -= timedelta(seconds=dice.randrange(1, 2 * step))
        taken_at = moment if dice.random() > 0.02 else now + timedelta(seconds=dice.randrange(0, 86400))
        if dice.random() < 0.03 and found:
            taken_at = found[-1]["taken_at"]  # at the same moment: the id decides
        found.append(
            {
                "id": f"{prefix}{n:03}",
                "taken_at": taken_at,
                "size": dice.randrange(1, 100),
                "suspect": dice.random() < 0.1,
                "replaced_at": moment + timedelta(hours=dice.randrange(1, 900)) if dice.random() < 0.3 else None,
                "evidence": dice.choice((0, 0, 0, 1, 3)) if dice.random() < 0.3 else 0,
                "held": dice.random() < 0.03,
                "locked_until": now + timedelta(seconds=dice.randrange(-86400, 86400))
                if dice.random() < 0.05
                else None,
                "in_use": dice.random() < 0.03,
                "parent": None,
            }
        )
    if dice.random() < 0.4:  # chains: each one may need the next older one
        for child, older in itertools.pairwise(found):
            if dice.random() < 0.5:
                child["parent"] = older["id"]
    return found


def random_policy(dice: random.Random) -> dict[str, Any]:
    def count() -> int:
        return dice.choice((0, 0, 0, 1, 2, 3, 7, 30))

    return {
        "last": count(), "hourly": count(), "daily": count(), "weekly": count(), "monthly": count(), "yearly": count(),
        "within": dice.choice(("", "", *SPANS)),
        "max_age": dice.choice(("", "", "", *SPANS)),
        "cap": dice.choice((None, None, dice.randrange(1, 3000))),
        "cap_action": dice.choice(("warn", "delete")),
        "min_redundancy": dice.choice((1, 1, 2, 3)),
        "pick": dice.choice(("last", "first")),
        "zone": dice.choice(ZONES),
        "min_age": dice.choice((0, 3600, 86400)),
    }  # fmt: skip


def facts_of(backups: list[dict[str, Any]]) -> list[BackupFacts]:
    return [
        BackupFacts(
            id=b["id"], taken_at=b["taken_at"], size_bytes=b["size"], suspect=b["suspect"],
            replaced_at=b["replaced_at"], evidence=b["evidence"], held=b["held"], locked_until=b["locked_until"],
            in_use=b["in_use"], parent=b["parent"],
        )
        for b in backups
    ]  # fmt: skip


def rules_of(policy: dict[str, Any]) -> Rules:
    return Rules(
        keep_last=policy["last"], keep_hourly=policy["hourly"], keep_daily=policy["daily"],
        keep_weekly=policy["weekly"], keep_monthly=policy["monthly"], keep_yearly=policy["yearly"],
        keep_within=Span.parse(policy["within"]) if policy["within"] else None,
        max_age=Span.parse(policy["max_age"]) if policy["max_age"] else None,
        size_cap_bytes=policy["cap"], cap_action=CapAction(policy["cap_action"]),
        min_redundancy=policy["min_redundancy"], pick=Pick(policy["pick"]), zone=policy["zone"],
        min_age_seconds=policy["min_age"],
    )  # fmt: skip


def check_retention(seed: int, most: int = 120) -> tuple[int, int]:
    """Compare one timeline; return how many backups stay and go. Raises: AssertionError with the seed."""
    dice = random.Random(seed)
    now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=dice.randrange(0, 525_600))
    backups = random_backups(dice, now, dice.randrange(0, most), "b")
    elsewhere = random_backups(dice, now, dice.choice((0, 0, 3)), "x")
    policy, frozen = random_policy(dice), dice.random() < 0.05
    dice.shuffle(backups)

    found = evaluate(facts_of(backups), rules_of(policy), now, elsewhere=facts_of(elsewhere), frozen=frozen)
    expected = retain(backups, policy, now, elsewhere, frozen)

    kept = {key: set(verdict.codes) for key, verdict in found.verdicts.items() if verdict.keep}
    assert kept == expected, f"seed {seed}"
    assert set(found.expire) == {b["id"] for b in backups} - set(expected), f"seed {seed}"
    by_id = {b["id"]: b for b in backups}
    for place, key in enumerate(found.expire):
        assert not any(by_id[later]["parent"] == key for later in found.expire[place + 1 :]), f"seed {seed}: order"
    return len(kept), len(found.expire)


# --- slots --------------------------------------------------------------------------------------------------------
CRONS = (
    "30 2 * * *", "0 0 * * *", "15 2 * * 1-5", "0 3 * * 0", "30 1 L * *", "0 4 31 * *", "0 2 1 * *", "45 1 * * MON#1",
    "0 22 * * 5L", "0 */6 * * *", "5 1-3 * * *", "20 * * * *", "*/15 * * * *", "0 12 1,15 * 3", "59 23 LW * *",
    "0 0 29 2 *",
)  # fmt: skip


@dataclass
class Simulated:
    """What a schedule did: slots that ran, and stretches of missed ones (first, last, count)."""

    ran: list[datetime]
    caught_up: int
    missed: list[tuple[datetime, datetime, int]]


def simulate(
    timing: Timing,
    start: datetime,
    end: datetime,
    stops: list[tuple[datetime, datetime]],
    dice: random.Random,
    workers: int,
) -> Simulated:
    """Tick from start to end in jumps of 10 to 90 s by several workers, none of which ticks during a stop.

    A worker works with what it has read; it writes only when nobody has advanced the schedule meanwhile.
    """
    found = Simulated([], 0, [])
    first = next_due(timing, start)
    assert first is not None
    state = (0, first[0], first[1].at)
    read = [state] * workers
    now = start
    while now < end:
        # Ticks at which nothing is due change nothing: go on to the first one at which something is.
        now = max(now, state[2] - timedelta(seconds=90))
        now += timedelta(seconds=dice.randrange(10, 91))
        for begin, over in stops:
            if begin <= now < over:
                now = over + timedelta(seconds=dice.randrange(0, 90))
        for worker in dice.sample(range(workers), workers):
            if dice.random() < 0.7:
                read[worker] = state
            version, slot, run_at = read[worker]
            if run_at > now:
                continue
            firing = plan_firing(timing, slot, now, catch_up=True, window_seconds=None)
            if firing is None or state[0] != version:
                continue
            assert firing.next_fire_at is not None and firing.next_run_at is not None
            assert firing.next_run_at > now
            state = (version + 1, firing.next_fire_at, firing.next_run_at)
            if firing.slot is not None:
                found.ran.append(firing.slot)
                found.caught_up += firing.is_catch_up
            if firing.missed is not None:
                found.missed.append((firing.missed.first, firing.missed.last, firing.missed.count))
    return found


def check_slots(seed: int, start: datetime, days: int, zone: str, cron: str, stops: int) -> int:
    """Simulate one schedule and compare with the walk over every minute; return how many slots there were."""
    dice = random.Random(seed)
    end = start + timedelta(days=days)
    pauses = []
    for _ in range(stops):
        begin = start + timedelta(minutes=dice.randrange(0, days * 1440))
        pauses.append((begin, begin + timedelta(minutes=dice.choice((1, 7, 31, 60, 600, 4320)))))
    if cron.startswith("every "):
        seconds = int(cron.split()[1])
        anchor = start - timedelta(seconds=dice.randrange(0, 10 * seconds))
        timing = Timing(kind=Kind.INTERVAL, interval_seconds=seconds, anchor_at=anchor, zone=zone)
        oracle = interval_fires(anchor, seconds, start, end)
    else:
        timing = Timing(
            kind=Kind.CRON, cron=cron, zone=zone, jitter_seconds=dice.choice((0, 120)), jitter_key=str(seed)
        )
        oracle = cron_fires(cron, zone, start, end)
    found = simulate(timing, start, end, sorted(pauses), dice, workers=4)
    # What came due in the last minutes, or in a stop that lasts beyond the end, is nobody's yet.
    check_told(found, oracle, end, end - timedelta(days=4), f"seed {seed}")
    return len(oracle)


def check_told(found: Simulated, oracle: list[datetime], end: datetime, settled: datetime, whose: str) -> None:
    """Each slot of the oracle before `settled` ran once, or is told of as missed once. Raises: AssertionError."""
    assert len(found.ran) == len(set(found.ran)), f"{whose}: a slot ran twice"
    assert set(found.ran) <= set(oracle) | {slot for slot in found.ran if slot > end}, f"{whose}: no such slot"
    told: list[datetime] = []
    for first, last, count in found.missed:
        inside = [slot for slot in oracle if first <= slot <= last]
        assert len(inside) == count or last > end, f"{whose}: {count} missed, {len(inside)} slots"
        told += inside
    assert len(told) == len(set(told)), f"{whose}: a slot was missed twice"
    assert not set(told) & set(found.ran), f"{whose}: missed and run"
    left = [slot for slot in oracle if slot not in set(told) | set(found.ran) and slot < settled]
    assert left == [], f"{whose}: lost {left[:3]}"
