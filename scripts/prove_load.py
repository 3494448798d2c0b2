"""What 20,000 schedules and a million runs cost: ticks, pages and answers; scripts/prove-schedules starts it.

On a database of its own (SQLite, in a temporary folder). PROVE_SCHEDULES and PROVE_RUNS say otherwise how many.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from prove_world import COLLECTIONS, RUNS, SCHEDULES, make_history, make_schedules  # noqa: E402

#: What acceptance asks for: ms of an idle tick, seconds until all due ones have fired, ms and queries of a page.
IDLE_MS, DRAIN_SECONDS, PAGE_MS, PAGE_QUERIES, METRICS_SECONDS, METRICS_QUERIES = 10, 30, 300, 30, 2, 12
#: What we want besides: ticks while much is under way, and rounds of the watchdog, which come every 15 seconds.
BUSY_MS, CLAIM_MS, FIRST_DEADLINES_SECONDS, DEADLINES_SECONDS, ROUND_SECONDS = 500, 20, 30, 2, 7.5
REPEATS = 20


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="prove-load-") as folder:
        os.environ |= {"BACKUPMGR_DATA_DIR": folder, "DJANGO_SETTINGS_MODULE": "backupmgr.settings"}
        os.environ.pop("DATABASE_URL", None)
        import django

        django.setup()
        from django.core.management import call_command

        call_command("migrate", verbosity=0)
        rows = measure()
    width = max(len(name) for name, *_ in rows)
    for name, measured, wanted, unit, is_met in rows:
        print(f"{name:<{width}}  {measured:>10,.1f} {unit:<8} wanted {wanted:,} {'yes' if is_met else 'NO'}")
    return 0 if all(row[-1] for row in rows) else 1


Row = tuple[str, float, float, str, bool]


def measure() -> list[Row]:
    now = datetime.now(UTC).replace(microsecond=0)
    make_schedules(now)
    rows: list[Row] = []

    def add(name: str, measured: float, wanted: float, unit: str) -> None:
        rows.append((name, measured, wanted, unit, measured <= wanted))
        print(f"  {name}: {measured:,.1f} {unit}", flush=True)

    measure_ticks(add, now)
    began = time.monotonic()
    busiest = make_history(now)
    print(f"  the world took {time.monotonic() - began:.0f} s", flush=True)
    measure_alerts(add)
    measure_pages(add, busiest)
    return rows


Add = Callable[[str, float, float, str], None]


def measure_ticks(add: Add, now: datetime) -> None:
    from apps.schedules.fire import fire_due
    from apps.schedules.models import Schedule, ScheduleRun
    from apps.schedules.tick import tick

    tick(now=now)  # the first one of a process also looks at the time zone rules
    with counting() as seen:
        tick(now=now + timedelta(seconds=10))
    idle = seconds_of(lambda n: tick(now=now + timedelta(seconds=20 + n)))
    add(f"idle tick, {SCHEDULES:,} schedules", statistics.median(idle) * 1000, IDLE_MS, "ms")
    add("  its queries", len(seen), 3, "queries")
    due_at = now + timedelta(hours=2)
    began = time.monotonic()
    while Schedule.objects.due(due_at).exists():
        fire_due(now=due_at)
    add("all due at once, fired", time.monotonic() - began, DRAIN_SECONDS, "s")
    ran = ScheduleRun.objects.filter(missed_count=0).values("schedule").distinct().count()
    add("  schedules without a run", SCHEDULES - ran, 0, "")
    busy = seconds_of(lambda n: tick(now=now + timedelta(hours=2, seconds=n)), times=3)
    add(f"tick with {SCHEDULES:,} open runs", statistics.median(busy) * 1000, BUSY_MS, "ms")
    from apps.schedules.expand import claim_run, runs_waiting

    began, waiting = time.monotonic(), runs_waiting(now=due_at)
    for run_id in waiting:
        claim_run(run_id, now=due_at)
    add("  taking one of them up", (time.monotonic() - began) * 1000 / len(waiting), CLAIM_MS, "ms")


def measure_alerts(add: Add) -> None:
    """The round of the watchdog, which every worker may make each 15 seconds."""
    from django.utils import timezone

    from apps.alerts.models import Target
    from apps.alerts.targets import refresh_targets
    from apps.alerts.watch import look_and_tell

    first = seconds_of(lambda n: refresh_targets(now=timezone.now()), times=1)
    add(f"{Target.objects.count():,} deadlines, first time", first[0], FIRST_DEADLINES_SECONDS, "s")
    with counting() as seen:
        again = seconds_of(lambda n: refresh_targets(now=timezone.now()), times=3)
    add("  again", statistics.median(again), DEADLINES_SECONDS, "s")
    add("  its queries", len(seen) / 3, PAGE_QUERIES, "queries")
    look_and_tell(now=timezone.now())
    rounds = seconds_of(lambda n: look_and_tell(now=timezone.now() + timedelta(minutes=1 + n)), times=3)
    add("a whole round of the watchdog", statistics.median(rounds), ROUND_SECONDS, "s")


def measure_pages(add: Add, busiest: Any) -> None:
    from django.conf import settings
    from django.contrib.auth.models import User
    from django.test import Client
    from django.urls import reverse
    from django.utils import timezone

    from apps.protection.facts import verdict_now

    client = Client(HTTP_HOST="localhost")
    client.force_login(User.objects.create_superuser("prove"))
    runs = reverse("admin:schedules_schedulerun_changelist")
    pages = {
        "list of schedules": reverse("admin:schedules_schedule_changelist"),
        "schedule with calendar": reverse("admin:schedules_schedule_change", args=[busiest.pk]),
        "month of all schedules": reverse("admin:schedules_month"),
        "list of runs": runs,
        "  page 400": f"{runs}?p=400",
        "  one state": f"{runs}?state=missed",
        "  one schedule": f"{runs}?schedule__id__exact={busiest.pk}",
        "coverage": reverse("admin:protection_coverage"),
        "overview": reverse("admin:index"),
        "list of incidents": reverse("admin:alerts_incident_changelist"),
        "list of deliveries": reverse("admin:alerts_delivery_changelist"),
        "API: runs": "/api/v1/runs",
        "API: schedules": "/api/v1/schedules",
    }
    print(f"{RUNS:,} runs, {SCHEDULES:,} schedules, {COLLECTIONS:,} collections; p95 of {REPEATS}", flush=True)

    def get(address: str) -> None:
        status = client.get(address).status_code
        if status != 200:
            raise SystemExit(f"{address} answered with {status}")

    verdicts = seconds_of(lambda n: verdict_now(timezone.now()))
    add("the verdict, which pages read anew every 5 s", p95(verdicts) * 1000, PAGE_MS, "ms")
    for name, address in pages.items():
        with counting() as seen:
            get(address)
        took = seconds_of(lambda n, address=address: get(address))  # type: ignore[misc]
        add(name, p95(took) * 1000, PAGE_MS, "ms")
        add("  its queries", len(seen), PAGE_QUERIES, "queries")
    for most in (settings.BACKUPMGR_METRICS_MAX_TARGETS, 10**6):
        settings.BACKUPMGR_METRICS_MAX_TARGETS = most
        with counting() as seen:
            get("/metrics")
        took = seconds_of(lambda n: get("/metrics"), times=5)
        add(f"/metrics, single targets up to {most:,}", max(took), METRICS_SECONDS, "s")
        add("  its queries", len(seen), METRICS_QUERIES, "queries")


def p95(seconds: list[float]) -> float:
    return sorted(seconds)[max(0, round(len(seconds) * 0.95) - 1)]


@contextmanager
def counting() -> Iterator[list[str]]:
    """The queries of the block; a request resets Django's own record of them."""
    from django.db import connection

    seen: list[str] = []

    def note(execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
        seen.append(sql)
        return execute(sql, *rest)

    with connection.execute_wrapper(note):
        yield seen


def seconds_of(work: Callable[[int], object], times: int = REPEATS) -> list[float]:
    took = []
    for n in range(times):
        began = time.perf_counter()
        work(n)
        took.append(time.perf_counter() - began)
    return took


if __name__ == "__main__":
    sys.exit(main())
