"""The world that scripts/prove_load.py measures in: many schedules, and what they have left behind. SQLite only.

Rows are multiplied within the database: a million of them in about a minute.
"""

from __future__ import annotations

import os
import uuid
from datetime import datetime, timedelta
from typing import Any

SCHEDULES = int(os.environ.get("PROVE_SCHEDULES", "20000"))
RUNS = int(os.environ.get("PROVE_RUNS", "1000000"))
#: Collections on all clusters together. Each schedule means one of them, so there are as many targets as schedules.
#: When there are fewer schedules than collections, each means all of its cluster: 200 of them make 20,000 targets, too.
COLLECTIONS = int(os.environ.get("PROVE_COLLECTIONS", "2000"))
CLUSTERS = 20
#: Of each schedule: runs whose items are told one by one, and backups that are still there, each with its job.
TOLD, KEPT = 20, 5
INCIDENTS, DELIVERIES = 20_000, 100_000


def make_schedules(now: datetime) -> None:
    """Clusters with collections, and schedules that are all due at the next full hour."""
    from apps.clusters.models import Cluster, ClusterObservation, ObservedCollection
    from apps.jobs.models import Worker
    from apps.schedules.models import Schedule
    from apps.storage.models import StorageConfig

    storage = StorageConfig.objects.create(name="folder", type="local", path="/nowhere")
    Worker.objects.create(host="prove", pid=1, processes=2, started_at=now, seen_at=now + timedelta(days=1))
    clusters = [Cluster.objects.create(name=f"cluster {n:02}", url="http://127.0.0.1:9") for n in range(CLUSTERS)]
    later = now + timedelta(days=1)
    ClusterObservation.objects.bulk_create(
        ClusterObservation(cluster=cluster, next_check_at=later, tried_at=later, seen_at=later) for cluster in clusters
    )
    ObservedCollection.objects.bulk_create(
        (
            ObservedCollection(
                cluster=clusters[n % CLUSTERS], name=f"collection {n:05}", first_seen_at=now - timedelta(days=400)
            )
            for n in range(COLLECTIONS)
        ),
        batch_size=2000,
    )
    at = now.replace(minute=0, second=0) + timedelta(hours=1)
    schedules = [
        Schedule(
            id=uuid.uuid4(), name=f"schedule {n:05}", cluster=clusters[n % COLLECTIONS % CLUSTERS], kind="cron",
            cron="0 * * * *", cron_resolved="0 * * * *",
            include=["*"] if SCHEDULES < COLLECTIONS else [f"collection {n % COLLECTIONS:05}"],
            enabled_at=now - timedelta(days=400), next_fire_at=at, next_run_at=at,
        )
        for n in range(SCHEDULES)
    ]  # fmt: skip
    Schedule.objects.bulk_create(schedules, batch_size=2000)
    through = Schedule.storages.through
    through.objects.bulk_create(
        (through(schedule_id=one.pk, storageconfig_id=storage.pk) for one in schedules), batch_size=2000
    )


def make_history(now: datetime) -> Any:
    """What these schedules left behind: runs, items, jobs, backups, incidents, messages; return the busiest one."""
    from django.db import connection

    from apps.schedules.models import RunStatus, Schedule, ScheduleRun

    ScheduleRun.objects.filter(missed_count__gt=0).delete()
    ScheduleRun.objects.update(status=RunStatus.OK, started_at=now, completed_at=now, counts={"ok": 1})
    there = Schedule.objects.count()
    # Half of the runs spread over all schedules, half of them those of a thousand: hourly runs of many weeks.
    each, thousand = max(TOLD, RUNS // 2 // there), max(1, RUNS // 2 // 1000)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE seed AS SELECT id, schedule_id FROM schedules_schedulerun")
        for limit, count, offset in ((there, each, 0), (1000, thousand, each)):
            multiply(
                ScheduleRun,
                f"seed JOIN ({numbers(offset + 1, count)}) ON seed.rowid <= {limit}",
                "o.id = seed.id",
                slot=ago("o.slot"),
                created_at=ago("o.created_at"),
                completed_at=ago("o.completed_at", seconds=90),
            )
        make_backups(now)
        make_messages(now)
        cursor.execute("ANALYZE")
        cursor.execute("SELECT schedule_id FROM seed WHERE rowid = 1")
        busiest = Schedule.objects.get(pk=uuid.UUID(cursor.fetchone()[0]))
    return busiest


def make_backups(now: datetime) -> None:
    """For every schedule: items of its last runs, and the backups and jobs of the newest of them."""
    from apps.backups.models import Backup
    from apps.jobs.models import Job
    from apps.schedules.models import RunItem, ScheduleRun
    from apps.storage.models import StorageConfig

    run = ScheduleRun.objects.select_related("schedule__cluster").order_by("-slot")[0]
    storage, cluster = StorageConfig.objects.get(), run.schedule.cluster
    item = RunItem.objects.create(run=run, collection_name="a", storage=storage, status="ok", settled_at=now)
    recent = (
        "(SELECT r.id AS run, r.created_at AS begun, r.completed_at AS done, r.schedule_id AS schedule, "
        "s.cluster_id AS cluster, "
        "json_extract(s.include, '$[0]') AS wanted, "
        "row_number() OVER (PARTITION BY r.schedule_id ORDER BY r.slot DESC) AS n "
        "FROM schedules_schedulerun AS r JOIN schedules_schedule AS s ON s.id = r.schedule_id)"
    )
    source = {"collection_name": "recent.name", "storage_id": f"'{storage.pk.hex}'"}
    of_each = (
        f"(SELECT r.*, o.name FROM {recent} AS r JOIN clusters_observedcollection AS o "
        "ON o.cluster_id = r.cluster AND r.wanted IN ('*', o.name) WHERE r.n <= {}) AS recent"
    )
    told = of_each.format(TOLD)
    multiply(RunItem, told, f"o.id = '{item.pk.hex}'", run_id="recent.run", settled_at="done", **source)
    item.delete()
    job = Job.objects.create(
        type="backup", status="completed", cluster=cluster, collection_name="a", storage=storage,
        subject_cluster=cluster, subject_collection="a", not_before=now, created_at=now, started_at=now,
        completed_at=now, bytes_done=10**6, schedule_id=run.schedule_id,
    )  # fmt: skip
    backup = Backup.objects.create(
        storage=storage, cluster=cluster, cluster_name=cluster.name, collection_name="a", snapshot_name="a", path="a",
        size_bytes=10**6, points_count=1000, shard_count=2, manifest={}, manifest_sha256="0" * 64, started_at=now,
        created_at=now, checked_at=now, schedule_id=run.schedule_id,
    )  # fmt: skip
    kept = of_each.format(KEPT)
    source |= {"cluster_id": "recent.cluster", "schedule_id": "recent.schedule", "created_at": "done"}
    multiply(
        Job, kept, f"o.id = '{job.pk.hex}'", subject_cluster_id="recent.cluster", subject_collection="recent.name",
        started_at="begun", not_before="begun", completed_at="done", **source,
    )  # fmt: skip
    multiply(
        Backup, kept, f"o.id = '{backup.pk.hex}'", checked_at="done", started_at="begun",
        snapshot_name="recent.run || recent.name", path="recent.run || recent.name", **source,
    )  # fmt: skip
    job.delete()
    backup.delete()


def make_messages(now: datetime) -> None:
    from apps.alerts.models import Channel, Delivery, Incident

    channel = Channel.objects.create(name="nobody", kind="webhook", enabled=False)
    incident = Incident.objects.create(
        rule="failing", target_key="a", severity="critical", summary="It failed.", opened_at=now, last_seen_at=now,
        resolved_at=now,
    )  # fmt: skip
    delivery = Delivery.objects.create(
        channel=channel, kind="alert", key=uuid.uuid4(), subject="It failed", text="It failed.", state="sent",
        next_try_at=now, created_at=now, sent_at=now,
    )  # fmt: skip
    multiply(Incident, numbers(1, INCIDENTS), f"o.id = '{incident.pk.hex}'", opened_at=ago("o.opened_at"))
    multiply(
        Delivery, numbers(1, DELIVERIES), f"o.id = '{delivery.pk.hex}'", key="lower(hex(randomblob(16)))",
        created_at=ago("o.created_at"),
    )  # fmt: skip


def numbers(first: int, count: int) -> str:
    last = first + count - 1
    return f"WITH RECURSIVE c(n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM c WHERE n < {last}) SELECT n FROM c"


def ago(column: str, seconds: int = 0) -> str:
    return f"strftime('%Y-%m-%d %H:%M:%S', {column}, '-' || n || ' hours', '{seconds} seconds')"


def multiply(model: Any, source: str, which: str, **taken: str) -> None:
    """Write a row for each one of `source`, like the original `o` but for what is `taken` (column → expression)."""
    from django.db import connection

    table = model._meta.db_table
    taken = {"id": "lower(hex(randomblob(16)))"} | taken
    names = [field.column for field in model._meta.concrete_fields]
    columns = ", ".join(f'"{name}"' for name in names)
    values = ", ".join(taken.get(name, f'o."{name}"') for name in names)
    source = f"({source})" if source.startswith("WITH") else source
    with connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO {table} ({columns}) SELECT {values} FROM {source} JOIN {table} AS o ON {which}")
