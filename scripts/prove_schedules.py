"""The long proofs that need no database; scripts/prove-schedules starts them."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.schedules.timelines import CRONS, check_retention, check_slots

TIMELINES = 10_000
ZONES = ("UTC", "Europe/Berlin", "America/New_York")


def timelines() -> None:
    """10,000 random timelines of up to 120 backups in six zones: verdicts and reasons equal the reference."""
    stays = goes = 0
    for seed in range(1_000_000, 1_000_000 + TIMELINES):
        kept, gone = check_retention(seed)
        stays, goes = stays + kept, goes + gone
    print(f"retention: {TIMELINES:,} timelines equal the reference; {stays:,} backups stay, {goes:,} go")


def year() -> None:
    """60 schedules, a year from one change of clocks to the next, four workers, 50 stops of a minute to three days."""
    slots = 0
    rules = [*CRONS, "every 5400", "every 86400", "every 604800", "every 43200"]
    for zone in ZONES:
        for n, rule in enumerate(rules):
            slots += check_slots(n, datetime(2026, 3, 1, tzinfo=UTC), 365, zone, rule, stops=50)
    print(f"a year: {len(rules) * len(ZONES)} schedules, {slots:,} slots, each run once or told of as missed once")


if __name__ == "__main__":
    started = time.monotonic()
    {"timelines": timelines, "year": year}[sys.argv[1]]()
    print(f"  in {time.monotonic() - started:.0f} s")
