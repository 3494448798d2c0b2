"""Many tickers at once, and tickers that are killed at any moment: on a real database, in real processes."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connections

from apps.clusters.models import Cluster
from apps.schedules.fire import fire_due
from apps.schedules.models import RunItem, Schedule, ScheduleRun
from apps.storage.models import StorageConfig
from tests.schedules.processes import in_a_process

pytestmark = pytest.mark.django_db(transaction=True)

START = datetime(2026, 1, 1, tzinfo=UTC)
STEP = timedelta(minutes=5)
#: scripts/prove-schedules asks for more.
KILLS = int(os.environ.get("PROVE_KILLS", "60"))
DUE = int(os.environ.get("PROVE_DUE", "600"))


def make_many(folder: Any, count: int, **fields: Any) -> None:
    StorageConfig.objects.create(name="folder", type="local", path=str(folder))
    cluster = Cluster.objects.create(name="main", url="http://127.0.0.1:9")
    Schedule.objects.bulk_create(
        Schedule(
            id=uuid.uuid4(),
            name=f"schedule {n}",
            cluster=cluster,
            **{
                "kind": "interval",
                "interval_seconds": int(STEP.total_seconds()),
                "anchor_at": START,
                "next_fire_at": START + STEP,
                "next_run_at": START + STEP,
                **fields,
            },
        )
        for n in range(count)
    )


def test_eight_tickers_and_many_due_schedules_make_each_run_once(folder: Any) -> None:
    make_many(folder, DUE)
    now = START + STEP + timedelta(seconds=1)

    def work() -> None:
        for _ in range(3):
            fire_due(now=now)

    processes = [in_a_process(work) for _ in range(8)]
    for process in processes:
        process.join(120)

    assert [process.exitcode for process in processes] == [0] * 8
    assert ScheduleRun.objects.count() == DUE
    assert not Schedule.objects.exclude(error="").exists()
    assert not Schedule.objects.due(now).exists()


def test_two_tickers_that_have_read_the_same_batch_make_each_run_once(folder: Any, monkeypatch: Any) -> None:
    from apps.schedules import fire

    make_many(folder, 150)
    Schedule.objects.update(anchor_at=START, interval_seconds=60)  # some slots were missed: those are counted
    now = START + STEP + timedelta(seconds=90)
    both_have_read = multiprocessing.get_context("fork").Barrier(2, timeout=60)
    won = multiprocessing.get_context("fork").Array("i", 2)
    write = fire._write_all
    waited: list[bool] = []

    def after_both_have_read(steps: Any, now: datetime) -> int:
        if not waited:
            waited.append(True)
            both_have_read.wait()
        return write(steps, now)

    monkeypatch.setattr(fire, "_write_all", after_both_have_read)

    def ticker(place: int) -> Callable[[], None]:
        def work() -> None:
            won[place] = fire_due(now=now)

        return work

    processes = [in_a_process(ticker(place)) for place in range(2)]
    for process in processes:
        process.join(120)

    assert [process.exitcode for process in processes] == [0, 0]
    assert sum(won) == 150
    assert ScheduleRun.objects.filter(missed_count=0).count() == 150
    assert not Schedule.objects.exclude(error="").exists()
    assert not Schedule.objects.due(now).exists()
    assert Schedule.objects.filter(version=2).count() == 150


def test_tickers_killed_at_any_moment_lose_and_double_nothing(folder: Any) -> None:
    count = 30
    make_many(folder, count)
    dice = random.Random(8)
    began = time.monotonic()

    def clock() -> datetime:
        # Five minutes go by in about a quarter of a second: something is always due.
        return START + timedelta(seconds=(time.monotonic() - began) * 1200)

    def work() -> None:
        while True:
            fire_due(now=clock())

    killed, reach, seen = 0, 0.12, 0
    while killed < KILLS:
        processes = [in_a_process(work) for _ in range(2)]
        for process in processes:
            time.sleep(dice.uniform(0.0, reach))
            if process.pid is not None:
                os.kill(process.pid, signal.SIGKILL)
            process.join(10)
            killed += 1
        connections.close_all()
        # On a busy host they need longer to get anywhere: the blows must fall into their work.
        done = ScheduleRun.objects.count()
        reach, seen = (min(2.0, reach * 1.5) if done == seen else reach), done
    end = clock()
    fire_due(now=end)

    for schedule in Schedule.objects.all():
        assert schedule.error == ""
        assert schedule.next_run_at is not None and schedule.next_run_at > end
        told: list[datetime] = []
        for run in ScheduleRun.objects.filter(schedule=schedule):
            slots = [run.slot - STEP * n for n in range(max(1, run.missed_count))]
            assert run.missed_from in (None, slots[-1])
            told += slots
        expected = [START + STEP * n for n in range(1, int((end - START) / STEP) + 1)]
        assert sorted(told) == expected
    assert ScheduleRun.objects.filter(status="expanding").count() > count


def test_expanding_processes_killed_at_any_moment_make_each_item_once(
    cluster: Cluster, storage: StorageConfig, collections: Any, monkeypatch: Any
) -> None:
    from django.utils import timezone

    from apps.jobs.models import Job
    from apps.schedules import expand
    from apps.schedules.draft import ScheduleData
    from apps.schedules.services import create_schedule, run_now

    names = [f"c{n:02}" for n in range(12)]
    for name in names:
        collections.create(name, 1, shards=1)
    monkeypatch.setattr(expand, "CHUNK", 2)
    monkeypatch.setattr(expand, "CLAIM", timedelta(seconds=0))
    monkeypatch.setattr(expand, "MAX_TAKEN", 1000)
    dice = random.Random(9)
    runs: list[ScheduleRun] = []

    reach, seen = 0.1, 0
    for kill in range(max(20, KILLS)):
        if not ScheduleRun.objects.filter(status="expanding").exists():
            # Of schedules of their own: none stands in the way of another.
            data = ScheduleData(name=f"s{kill}", cluster=cluster, storages=[storage], kind="manual")
            runs.append(run_now(schedule=create_schedule(data=data, now=timezone.now()), now=timezone.now()))
        process = in_a_process(lambda: expand.expand_runs() and None)
        time.sleep(dice.uniform(0.0, reach))
        if process.pid is not None:
            os.kill(process.pid, signal.SIGKILL)
        process.join(10)
        connections.close_all()
        # On a busy host they need longer to get anywhere: the blows must fall into their work.
        done = RunItem.objects.count()
        reach, seen = (min(2.0, reach * 1.5) if done == seen else reach), done
    expand.expand_runs()

    for run in ScheduleRun.objects.all():
        assert (run.status, run.matched) == ("running", names)
        assert sorted(run.items.values_list("collection_name", flat=True)) == names
    assert Job.objects.count() == len(names) * len(runs)
    assert len(runs) > 1
