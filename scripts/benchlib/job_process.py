"""What a process of backupmgr's worker does, alone: claim a job, run it to its end, say what it took.

job_process.py prepare             migrate, and make the rows in BENCH_ROWS
job_process.py backup COLLECTION STORAGE    one backup job; prints a line of JSON
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import django


def prepare() -> None:
    from django.core.management import call_command

    from apps.clusters.models import Cluster
    from apps.storage.services import create_storage

    rows = json.loads(os.environ["BENCH_ROWS"])
    call_command("migrate", verbosity=0)
    Cluster.objects.create(name="bench", url=rows["node"])
    for storage in rows["storages"]:
        create_storage(data=storage)


def backup(collection: str, storage: str) -> dict[str, Any]:
    """Create a backup job and run it as the queue would."""
    from django.utils import timezone

    from apps.jobs.models import Job
    from apps.jobs.runner import run_job
    from apps.jobs.services import JobRequest, create_job
    from apps.jobs.states import JobStatus
    from apps.storage.models import StorageConfig

    row = StorageConfig.objects.get(name=storage)
    job = create_job(request=JobRequest(type="backup", collection_name=collection, storage=row), now=timezone.now())
    # From here on this is a worker's process that has waited: Django loaded, database open, no job yet.
    idle = _reset_peak()
    busy = time.process_time()
    run_job(str(job.pk))
    busy = time.process_time() - busy
    peak = _status("VmHWM")
    job = Job.objects.get(pk=job.pk)
    if job.status != JobStatus.COMPLETED or job.started_at is None or job.completed_at is None:
        raise SystemExit(f"The job is {job.status}: {job.error}")
    copied = [event.data for event in job.events.all() if "sha256" in event.data]
    return {
        "job_seconds": (job.completed_at - job.started_at).total_seconds(),
        "transfer_seconds": sum(data["seconds"] for data in copied),
        "size_bytes": sum(data["bytes"] for data in copied),
        "cpu_seconds": busy,
        "idle_bytes": idle,
        "peak_bytes": peak,
    }


def _reset_peak() -> int:
    """Make the kernel forget the highest memory so far; returns the memory now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(name: str) -> int:
    """Return a line of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(name)


if __name__ == "__main__":
    django.setup()
    if sys.argv[1] == "prepare":
        prepare()
    else:
        print(json.dumps(backup(sys.argv[2], sys.argv[3])))
