"""What 20,000 schedules and a million runs cost: ticks, pages and answers; scripts/prove-schedules starts it.

On a database of its own (SQLite, in a temporary folder). PROVE_SCHEDULES and PROVE_RUNS say otherwise how many.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SCHEDULES = int(os.environ.get("PROVE_SCHEDULES", "20000"))
RUNS = int(os.environ.get("PROVE_RUNS", "1000000"))
#: What acceptance asks for: ms of an idle tick, seconds until all due ones have fired, ms and queries of a page.
IDLE_MS, DRAIN_SECONDS, PAGE_MS, PAGE_QUERIES = 10, 30, 300, 30
REPEATS = 20


def main() -> int:
    sys.path.insert(0, str(ROOT))
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
    from django.contrib.auth.models import User
    from django.db import connection
    from django.test import Client
    from django.test.utils import CaptureQueriesContext
    from django.urls import reverse

    from apps.clusters.models import Cluster
    from apps.schedules.models import Schedule, ScheduleRun
    from apps.schedules.tick import tick

    now = datetime.now(UTC).replace(microsecond=0)
    make_schedules(now)
    rows: list[Row] = []

    def add(name: str, measured: float, wanted: float, unit: str) -> None:
        rows.append((name, measured, wanted, unit, measured <= wanted))

    tick(now=now)  # the first one of a process also looks at the time zone rules
    with CaptureQueriesContext(
        connection,
    ) as seen:
        tick(now=now + timedelta(seconds=10))
    idle = seconds_of(lambda n: tick(now=now + timedelta(seconds=20 + n)))
    add(f"idle tick, {SCHEDULES:,} schedules", statistics.median(idle) * 1000, IDLE_MS, "ms")
    add("  its queries", len(seen), 3, "queries")

    due_at = now + timedelta(hours=2)
    began = time.monotonic()
    from apps.schedules.fire import fire_due

    while Schedule.objects.due(due_at).exists():
        fire_due(now=due_at)
    add("all due at once, fired", time.monotonic() - began, DRAIN_SECONDS, "s")
    ran = ScheduleRun.objects.filter(missed_count=0).values("schedule").distinct().count()
    add("  schedules without a run", SCHEDULES - ran, 0, "")

    busiest = make_runs(now)
    Cluster.objects.first()
    client = Client(HTTP_HOST="localhost")
    client.force_login(User.objects.create_superuser("prove"))
    pages = {
        "list of schedules": reverse("admin:schedules_schedule_changelist"),
        "schedule with calendar": reverse("admin:schedules_schedule_change", args=[busiest.pk]),
        "list of runs": reverse("admin:schedules_schedulerun_changelist"),
        "overview": reverse("admin:index"),
    }
    for name, address in pages.items():
        with counting() as counted:
            status = client.get(address).status_code
        if status != 200:
            raise SystemExit(f"{name}: {address} answered with {status}")
        took = seconds_of(lambda n, address=address: client.get(address))  # type: ignore[misc]
        add(f"{name}, p95, {RUNS:,} runs", sorted(took)[int(len(took) * 0.95) - 1] * 1000, PAGE_MS, "ms")
        add("  its queries", len(counted), PAGE_QUERIES, "queries")
    return rows


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


def seconds_of(work: Callable[[int], object]) -> list[float]:
    took = []
    for n in range(REPEATS):
        began = time.perf_counter()
        work(n)
        took.append(time.perf_counter() - began)
    return took


def make_schedules(now: datetime) -> None:
    from apps.clusters.models import Cluster
    from apps.schedules.models import Schedule
    from apps.storage.models import StorageConfig

    StorageConfig.objects.create(name="folder", type="local", path="/nowhere")
    cluster = Cluster.objects.create(name="main", url="http://127.0.0.1:9")
    at = now.replace(minute=0, second=0) + timedelta(hours=1)
    Schedule.objects.bulk_create(
        (
            Schedule(
                id=uuid.uuid4(), name=f"schedule {n}", cluster=cluster, kind="cron", cron="0 * * * *",
                cron_resolved="0 * * * *", enabled_at=now, next_fire_at=at, next_run_at=at,
            )
            for n in range(SCHEDULES)
        ),
        batch_size=2000,
    )  # fmt: skip


def make_runs(now: datetime) -> Any:
    """Multiply the runs that there are into the past until there are enough; return a schedule that has many."""
    from django.db import connection

    from apps.schedules.models import RunStatus, Schedule, ScheduleRun

    ScheduleRun.objects.update(status=RunStatus.OK, completed_at=now, missed_count=0, missed_from=None)
    table = ScheduleRun._meta.db_table
    names = [column.column for column in ScheduleRun._meta.concrete_fields]
    taken = {
        "id": "lower(hex(randomblob(16)))",
        "slot": "strftime('%Y-%m-%d %H:%M:%S', r.slot, '-' || n || ' hours')",
        "created_at": "strftime('%Y-%m-%d %H:%M:%S', r.created_at, '-' || n || ' hours')",
    }
    columns = ", ".join(f'"{name}"' for name in names)
    values = ", ".join(taken.get(str(name), f'r."{name}"') for name in names)
    there = Schedule.objects.count()
    # Half of them spread over all schedules, half of them those of a thousand: hourly runs of many weeks.
    each, thousand = max(1, RUNS // 2 // max(there, 1)), max(1, RUNS // 2 // 1000)
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TEMP TABLE seed AS SELECT * FROM {table} GROUP BY schedule_id HAVING slot = min(slot)")
        for limit, count, offset in ((there, each, 0), (1000, thousand, each)):
            cursor.execute(
                f"WITH RECURSIVE c(n) AS "
                f"(SELECT {offset + 1} UNION ALL SELECT n + 1 FROM c WHERE n < {offset + count}) "
                f"INSERT INTO {table} ({columns}) SELECT {values} FROM c, (SELECT * FROM seed LIMIT {limit}) AS r"
            )
        cursor.execute("ANALYZE")
    first = ScheduleRun.objects.order_by("schedule_id").values_list("schedule_id", flat=True)[0]
    print(f"{ScheduleRun.objects.count():,} runs of {there:,} schedules")
    return Schedule.objects.get(pk=first)


if __name__ == "__main__":
    sys.exit(main())
