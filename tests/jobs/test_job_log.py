"""The story of a job: each step with its time and its bytes, what lies behind an error, what was cleaned up."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from apps.backups.models import Backup, Leftover
from apps.jobs.cleaning import clean_leftovers
from apps.jobs.jobrun import JobRun
from apps.jobs.lease import claim_next
from apps.jobs.models import Job
from apps.jobs.services import JobRequest, create_job
from apps.sandbox import SandboxNode
from apps.storage.models import StorageConfig
from tests.support import Collections, RunJob, story

pytestmark = pytest.mark.usefixtures("cluster", "storage")

DOWNLOAD = "/collections/[^/]+/shards/[0-9]+/snapshots/[^/]+[.]snapshot"
DELETE = DOWNLOAD


@pytest.fixture
def films(collections: Collections) -> Collections:
    collections.create("films", points=100)
    return collections


def steps(job: Job) -> dict[str, dict[str, Any]]:
    return {event.data["step"]: event.data for event in job.events.order_by("id") if "step" in event.data}


def test_each_step_of_a_backup_and_of_a_restore_is_told_with_time_and_bytes(run: RunJob, films: Collections) -> None:
    backup = run("backup", "films")
    restore = run("restore", "films", snapshot_name=backup.snapshot_name, target_collection="copy")

    told = steps(backup)
    assert list(told) == [
        "planning",
        "snapshot of shard 0",
        "copying shard 0",
        "snapshot of shard 1",
        "copying shard 1",
        "finishing",
    ]
    sizes = {part.shard_id: part.size_bytes for part in Backup.objects.get().parts.all()}
    assert [told[f"copying shard {shard}"]["bytes"] for shard in (0, 1)] == [sizes[0], sizes[1]]
    assert all(isinstance(data["seconds"], float) and data["seconds"] >= 0 for data in told.values())
    told = steps(restore)
    for step in (
        "planning",
        "verifying the backup",
        "creating the collection",
        "restoring shard 0",
        "proving the result",
    ):
        assert step in told, step
    assert told["verifying the backup"]["bytes"] == sum(sizes.values())
    assert told["restoring shard 1"]["bytes"] == sizes[1]
    last = restore.events.order_by("id").last()
    assert last is not None
    assert last.data["bytes"] == 3 * sum(sizes.values())  # hashed, sent, and read for the comparison of points
    assert last.data["seconds"] > 0


def test_what_was_removed_from_the_node_is_told(run: RunJob, films: Collections) -> None:
    job = run("backup", "films")

    assert story(job).count("Removed films-shard-0-") == 1
    assert story(job).count("Removed films-shard-1-") == 1


def test_a_step_that_broke_off_and_the_causes_are_told(
    run: RunJob, films: Collections, storage: StorageConfig, folder: Path
) -> None:
    storage.type, storage.s3_bucket, storage.s3_region = "s3", "bucket", "us-east-1"
    storage.s3_endpoint, storage.s3_access_key, storage.s3_secret_key = "http://127.0.0.1:9", "AK", "CANARY"
    storage.save()

    job = run("backup", "films")

    assert job.status == "failed"
    assert "Planning broke off after" in story(job)
    end = job.events.order_by("id").last()
    assert end is not None and end.level == "error"
    assert end.data["category"] == "storage_unreachable"
    assert end.data["causes"][-1] == "connection refused"
    assert "CANARY" not in repr(list(job.events.values()))


def test_what_could_not_be_removed_is_told_and_so_is_its_end(
    run: RunJob, films: Collections, node: SandboxNode
) -> None:
    node.faults.add(action="status", method="DELETE", path=DELETE, status=500, body="disk", times=1)

    job = run("backup", "films")

    assert job.status == "completed", story(job)
    assert "yet (" in story(job) and "it will be tried again" in story(job)
    assert Leftover.objects.count() == 1
    assert clean_leftovers(now=timezone.now() + timedelta(minutes=1)) == 1
    assert "which could not be removed before (try 1)" in story(job)
    assert films.snapshots("films") == []


@pytest.mark.django_db(transaction=True)
def test_a_download_that_went_on_is_told(run: RunJob, films: Collections, node: SandboxNode) -> None:
    node.faults.add(action="truncate", method="GET", path=DOWNLOAD, bytes=1000, times=1)

    job = run("backup", "films")

    event = job.events.get(message__contains="going on from there")
    assert event.level == "warning"


def test_steps_of_nodes_that_are_worked_on_at_the_same_time_are_kept_apart(
    db: None, cluster: Any, storage: Any
) -> None:
    create_job(request=JobRequest(type="backup", collection_name="films"), now=timezone.now())
    job = claim_next(worker="w", pid=1, now=timezone.now())
    assert job is not None
    run = JobRun(job)
    both = threading.Barrier(2)

    def node(number: int) -> None:
        run.phase(f"copying shard {number}")
        both.wait(5)
        run.advance(1000)
        run.end_step()

    run.phase("planning")
    threads = [threading.Thread(target=node, args=[number]) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run.phase("finishing")
    run.end_step()

    told = steps(job)
    assert set(told) == {"planning", "copying shard 0", "copying shard 1", "finishing"}
    assert [event.data["step"] for event in job.events.filter(message__contains="took")].count("planning") == 1
    assert "bytes" not in told["copying shard 0"] or "bytes" not in told["copying shard 1"]
    assert told["finishing"]["bytes"] == 0
