"""How long the server takes for the pages that must stay quick, with as many rows as an installation may have.

    .venv/bin/python scripts/bench_pages.py [--collections 100] [--jobs 100000] [--json]

Works on a database of its own in a temporary folder. Exit code 1 when a page takes longer than its target.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import uuid
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

TARGET_MS = 300.0
ROUNDS = 7
_BATCH = 2000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--collections", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-pages-") as folder:
        os.environ |= {
            "BACKUPMGR_DATA_DIR": folder,
            "DATABASE_URL": f"sqlite:///{folder}/bench.sqlite3",
            "BACKUPMGR_LOCAL_ROOTS": folder,
            "DJANGO_SETTINGS_MODULE": "backupmgr.settings",
            "BACKUPMGR_LOG_LEVEL": "ERROR",
        }
        figures = measure(options.collections, options.jobs)
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        print(f"{options.collections:,} collections, {options.jobs:,} jobs; median of {ROUNDS}, first visit apart\n")
        print(f"{'page':<28}{'first':>10}{'median':>10}{'queries':>9}")
        for page, row in figures.items():
            print(f"{page:<28}{row['first_ms']:>7.0f} ms{row['median_ms']:>7.0f} ms{row['queries']:>9}")
    slow = [page for page, row in figures.items() if row["median_ms"] > TARGET_MS and page != "metrics"]
    if slow:
        print(f"Slower than {TARGET_MS:.0f} ms: {', '.join(slow)}", file=sys.stderr)
    return 1 if slow else 0


def measure(collections: int, jobs: int) -> dict[str, dict[str, Any]]:
    import django

    django.setup()
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from django.db import connection
    from django.test import Client
    from django.test.utils import CaptureQueriesContext

    call_command("migrate", verbosity=0)
    pages = fill(collections, jobs)
    client = Client(headers={"host": "localhost"})
    client.force_login(User.objects.create_superuser("bench", password=uuid.uuid4().hex))
    from apps.protection import facts, history

    figures: dict[str, dict[str, Any]] = {}
    for page, address in pages.items():
        times = []
        for number in range(ROUNDS + 1):
            facts.forget_verdict()
            if number == 0:
                history.forget_days()
            started = time.perf_counter()
            with CaptureQueriesContext(connection) as queries:
                response = client.get(address)
            times.append((time.perf_counter() - started) * 1000)
            if response.status_code != 200:
                raise SystemExit(f"{page}: {address} answered {response.status_code}")
        figures[page] = {
            "first_ms": round(times[0], 1),
            "median_ms": round(statistics.median(times[1:]), 1),
            "queries": len(queries),
        }
    return figures


def fill(collections: int, jobs: int) -> dict[str, str]:
    """Make rows as a year of an installation would; return the pages to ask for."""
    from django.urls import reverse
    from django.utils import timezone
    from django.utils.http import urlencode

    from apps.backups.models import Backup, Part
    from apps.clusters.models import Cluster, ClusterObservation, ObservedCollection
    from apps.jobs.models import Job, Worker
    from apps.storage.models import StorageConfig

    random, now = Random(7), timezone.now()
    clusters = [Cluster.objects.create(name=f"cluster-{n}", url="http://127.0.0.1:9") for n in range(4)]
    storage = StorageConfig.objects.create(name="vault", type="local", path=os.environ["BACKUPMGR_DATA_DIR"])
    Worker.objects.create(host="bench", pid=1, processes=2, started_at=now, seen_at=now + timedelta(hours=1))
    for cluster in clusters:
        ClusterObservation.objects.create(
            cluster=cluster, next_check_at=now, tried_at=now, seen_at=now, version="1.18.3"
        )
    names = [(clusters[n % len(clusters)], f"collection-{n:05}") for n in range(collections)]
    ObservedCollection.objects.bulk_create(
        [ObservedCollection(cluster=c, name=name, first_seen_at=now, points_count=10**6) for c, name in names],
        batch_size=_BATCH,
    )
    for start in range(0, jobs, _BATCH):
        rows, backups = [], []
        for number in range(start, min(start + _BATCH, jobs)):
            cluster, name = names[number % collections]
            at = now - timedelta(seconds=number * 365 * 86400 / jobs)
            failed = random.random() < 0.03
            job = Job(
                type="backup", status="failed" if failed else "completed", cluster=cluster, collection_name=name,
                storage=storage, subject_cluster=cluster, subject_collection=name, not_before=at, created_at=at,
                started_at=at, completed_at=at + timedelta(seconds=random.randint(5, 300)),
                bytes_done=random.randint(10**6, 10**9), error="Storage vault is full." if failed else "",
            )  # fmt: skip
            rows.append(job)
            if not failed:
                backups.append(
                    Backup(
                        storage=storage, cluster=cluster, cluster_name=cluster.name, collection_name=name,
                        snapshot_name=f"s-{number}", path=f"{cluster.name}/{name}/s-{number}", job_id=job.pk,
                        size_bytes=job.bytes_done, points_count=10**6, shard_count=2, manifest={},
                        manifest_sha256="0" * 64, started_at=at, created_at=job.completed_at or at,
                        checked_at=job.completed_at if number % 3 == 0 else None,
                    )
                )  # fmt: skip
        Job.objects.bulk_create(rows, batch_size=_BATCH)
        Backup.objects.bulk_create(backups, batch_size=_BATCH)
    first = Backup.objects.order_by("-created_at").first()
    assert first is not None
    Part.objects.create(backup=first, shard_id=0, key="k", size_bytes=1, sha256="0" * 64, points_count=1)
    cluster, name = names[0]
    return {
        "overview": reverse("admin:index"),
        "collections": reverse("admin:clusters_observedcollection_changelist"),
        "cluster": reverse("admin:clusters_cluster_overview", args=[cluster.pk]),
        "collection (cluster down)": f"{reverse('admin:clusters_collection')}?"
        + urlencode({"cluster": str(cluster.pk), "name": name}),
        "jobs": reverse("admin:jobs_job_changelist"),
        "failed jobs": reverse("admin:jobs_job_changelist") + "?state=failed",
        "backups": reverse("admin:backups_backup_changelist"),
        "backup": reverse("admin:backups_backup_change", args=[first.pk]),
        "metrics": "/metrics",
    }


if __name__ == "__main__":
    raise SystemExit(main())
