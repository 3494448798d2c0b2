"""Many days of 60 schedules in three zones, fired for real: by four processes at once, with stops in between.

What lies in the database afterwards is compared with a walk over every minute. scripts/prove-schedules takes a year.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db.models import Min
from django_q.models import OrmQ

from apps.clusters.models import Cluster
from apps.schedules.advance import upcoming
from apps.schedules.fire import fire_due
from apps.schedules.models import RunStatus, Schedule, ScheduleRun
from apps.storage.models import StorageConfig
from tests.schedules.processes import in_a_process
from tests.schedules.reference import cron_fires, interval_fires
from tests.schedules.timelines import CRONS, Simulated, check_told

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(7200)]

#: Four days around Berlin's change of clocks on 25 October; a year begins before those of spring.
DAYS = int(os.environ.get("PROVE_YEAR_DAYS", "4"))
START = datetime(2026, 10, 24, tzinfo=UTC) if DAYS < 100 else datetime(2026, 3, 1, tzinfo=UTC)
END = START + timedelta(days=DAYS)
STOPS, LENGTHS = (50, (1, 7, 31, 60, 600, 4320)) if DAYS >= 100 else (3, (31, 60, 600))
#: No stop reaches beyond.
SETTLED = END - timedelta(days=1)
ZONES = ("UTC", "Europe/Berlin", "America/New_York")
INTERVALS = (5400, 43200, 86400, 604800)
WORKERS = 4


def make_schedules(folder: Any) -> None:
    StorageConfig.objects.create(name="folder", type="local", path=str(folder))
    cluster = Cluster.objects.create(name="main", url="http://127.0.0.1:9")
    rules: list[dict[str, Any]] = [{"kind": "cron", "cron": cron, "cron_resolved": cron} for cron in CRONS]
    rules += [{"kind": "interval", "interval_seconds": n, "anchor_at": START - timedelta(hours=1)} for n in INTERVALS]
    for zone in ZONES:
        for n, rule in enumerate(rules):
            row = Schedule(id=uuid.uuid4(), name=f"{zone} {n}", cluster=cluster, tz=zone, **rule)
            row.jitter_seconds = 120 * (n % 2)
            for column, value in upcoming(row, START, ()).items():
                setattr(row, column, value)
            row.save(force_insert=True)


@contextmanager
def tickers() -> Iterator[Callable[[list[int], datetime], None]]:
    """Processes that wait to be told the time; yields what makes some of them tick at once."""
    fork = multiprocessing.get_context("fork")
    pipes = [fork.Pipe() for _ in range(WORKERS)]

    def work(place: int) -> None:
        mine = pipes[place][1]
        while (now := mine.recv()) is not None:
            fire_due(now=now)
            mine.send(now)

    def tick(who: list[int], now: datetime) -> None:
        for place in who:
            pipes[place][0].send(now)
        for place in who:
            assert pipes[place][0].poll(120), "a ticker does not answer"
            assert pipes[place][0].recv() == now

    processes = [in_a_process(lambda place=place: work(place)) for place in range(WORKERS)]
    try:
        yield tick
    finally:
        for ours, _ in pipes:
            ours.send(None)
        for process in processes:
            process.join(30)


def test_every_slot_of_every_schedule_runs_once_or_is_told_of_as_missed_once(folder: Any) -> None:
    make_schedules(folder)
    dice = random.Random(2026)
    stops = []
    for _ in range(STOPS):
        length = timedelta(minutes=dice.choice(LENGTHS))
        begin = START + dice.random() * (SETTLED - START - length)
        stops.append((begin, begin + length))

    now, rounds = START, 0
    with tickers() as tick:
        while now < END:
            # Ticks at which nothing is due change nothing: go on to those around the next run.
            following = Schedule.objects.aggregate(at=Min("next_run_at"))["at"]
            now = max(now, following - timedelta(seconds=90)) + timedelta(seconds=dice.randrange(10, 91))
            for begin, over in sorted(stops):
                if begin <= now < over:
                    now = over + timedelta(seconds=dice.randrange(0, 90))
            tick(dice.sample(range(WORKERS), dice.randrange(1, WORKERS + 1)), now)
            rounds += 1
            if rounds % 500 == 0:
                OrmQ.objects.all().delete()  # nobody takes the deliveries

    slots = runs = 0
    for schedule in Schedule.objects.all():
        assert schedule.error == ""
        assert schedule.next_run_at is not None and schedule.next_run_at > now
        oracle = (
            cron_fires(schedule.cron, schedule.tz, START, END)
            if schedule.kind == "cron"
            else interval_fires(schedule.anchor_at, schedule.interval_seconds, START, END)
        )
        found = Simulated([], 0, [])
        for run in schedule.runs.all():
            if run.status == RunStatus.MISSED:
                found.missed.append((run.missed_from, run.slot, run.missed_count))
            else:
                assert run.status == RunStatus.EXPANDING
                found.ran.append(run.slot)
        check_told(found, oracle, END, SETTLED, schedule.name)
        slots, runs = slots + len(oracle), runs + len(found.ran)
    assert runs > slots / 2
    assert ScheduleRun.objects.filter(is_catch_up=True).exists()
    print(f"{DAYS} days, {rounds} rounds of up to {WORKERS} tickers: {slots} slots, {runs} ran")
