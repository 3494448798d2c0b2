"""A backup of many collections: one job each, and a batch that tells the truth about them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from apps.backups.models import Backup
from apps.clusters.models import Cluster
from apps.core.errors import Unprocessable
from apps.jobs.batches import check_patterns, matching, settle_batch
from apps.jobs.models import Job, Rank
from apps.jobs.runner import run_job
from apps.jobs.services import (
    JobHasEnded,
    JobNotRetryable,
    JobRequest,
    UnableToCreateJob,
    cancel_job,
    create_job,
    look_after_batches,
    retry_job,
)
from apps.jobs.tick import tick
from apps.sandbox import SandboxCluster, SandboxNode
from apps.storage.models import StorageConfig
from tests.support import Collections, WorkerProcess, story, wait_until

NAMES = ["films", "films_old", "users"]


@pytest.fixture
def three(transactional_db: None, cluster: Cluster, storage: StorageConfig, collections: Collections) -> Collections:
    """Three small collections, a cluster and a storage."""
    for name in NAMES:
        collections.create(name, points=10, shards=1)
    return collections


def ask(*patterns: str, **fields: Any) -> Job:
    """Create a batch, and run what lists the collections."""
    request = JobRequest(type="backup", collection_name="*", collections=patterns, **fields)
    batch = create_job(request=request, now=timezone.now())
    run_job(str(batch.pk))
    batch.refresh_from_db()
    return batch


def work_off() -> None:
    """Run everything that waits, one after another."""
    while run_job("whatever is next"):
        pass


def children(batch: Job) -> dict[str, str]:
    """Collection → status of its job."""
    return dict(batch.children.values_list("collection_name", "status"))


# --- what is meant -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("patterns", "excluded", "chosen"),
    [
        (["*"], [], ["a", "ab", "a[1]", "b"]),
        (["a*"], [], ["a", "ab", "a[1]"]),
        (["a", "b"], [], ["a", "b"]),
        (["?"], [], ["a", "b"]),
        (["A*"], [], []),
        (["*"], ["a*"], ["b"]),
        (["a[1]"], [], ["a[1]"]),
        (["*", "a"], ["b"], ["a", "ab", "a[1]"]),
        (["x"], [], []),
    ],
)
def test_patterns(patterns: list[str], excluded: list[str], chosen: list[str]) -> None:
    assert matching(["b", "ab", "a", "a[1]"], patterns, excluded) == sorted(chosen)


@pytest.mark.parametrize("patterns", [[""], ["x" * 256], ["a/b"], ["a\nb"], ["x"] * 101, ['"']])
def test_patterns_that_cannot_be(patterns: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^[A-Z].*\.$"):
        check_patterns(patterns)


# --- the whole way -------------------------------------------------------------------------------------------
def test_every_collection_gets_its_backup_and_the_batch_completes_last(three: Collections) -> None:
    batch = ask("*")
    assert (batch.status, batch.lease_token, batch.phase) == ("running", None, "0 of 3 collections done")
    assert children(batch) == dict.fromkeys(NAMES, "pending")

    run_job("next")
    batch.refresh_from_db()
    assert (batch.status, batch.phase, batch.progress) == ("running", "1 of 3 collections done", 33)
    work_off()

    batch.refresh_from_db()
    assert (batch.status, batch.error, batch.progress) == ("completed", "", 100)
    assert batch.completed_at >= max(child.completed_at for child in batch.children.all())
    assert sorted(Backup.objects.values_list("collection_name", flat=True)) == NAMES
    assert batch.bytes_done == sum(child.bytes_done for child in batch.children.all()) > 0
    assert "3 collections to back up." in story(batch)
    assert "Completed: 3 of 3 collections done." in story(batch)


def test_only_what_matches_when_it_runs_is_backed_up(three: Collections) -> None:
    request = JobRequest(type="backup", collection_name="*", collections=("films*",), exclude_collections=("*_old",))
    batch = create_job(request=request, now=timezone.now())
    three.create("films_new", points=5, shards=1)

    run_job(str(batch.pk))

    assert sorted(children(batch)) == ["films", "films_new"]


def test_pattern_as_the_name_is_enough(three: Collections) -> None:
    batch = create_job(request=JobRequest(type="backup", collection_name="films*"), now=timezone.now())
    run_job(str(batch.pk))

    assert batch.is_batch
    assert sorted(children(batch)) == ["films", "films_old"]


def test_nothing_that_matches_is_a_failure_with_the_reason(three: Collections) -> None:
    batch = ask("nothing*")

    assert batch.status == "failed"
    assert batch.error == "None of the 3 collections of main matches nothing*: nothing was backed up."
    assert not batch.children.exists()


def test_one_bad_collection_does_not_stop_the_others(three: Collections, node: SandboxNode) -> None:
    node.faults.add("status", method="POST", path=".*/collections/films_old/shards/0/snapshots", status=403, body="no")

    batch = ask("*")
    work_off()

    batch.refresh_from_db()
    assert children(batch) == {"films": "completed", "films_old": "failed", "users": "completed"}
    assert batch.status == "failed"
    assert batch.error.startswith("1 of 3 collections was not backed up: films_old (")
    assert "\n" not in batch.error
    assert batch.children_summary["completed"] == 2


def test_collection_whose_name_is_too_long_is_named(three: Collections) -> None:
    long = "x" * 200
    three.create(long, points=1, shards=1)

    batch = ask("*")
    work_off()

    batch.refresh_from_db()
    assert children(batch)[long] == "failed"
    assert batch.status == "failed"
    assert "Qdrant cannot make a snapshot of a collection whose name has 200 bytes" in batch.error
    assert Backup.objects.count() == 3


def test_cluster_that_is_down_fails_the_batch_or_has_it_wait(
    transactional_db: None, storage: StorageConfig, settings: Any
) -> None:
    Cluster.objects.create(name="down", url="http://127.0.0.1:9")
    settings.BACKUPMGR_RETRY_DELAYS_SECONDS = []

    batch = ask("*")

    assert batch.status == "failed"
    assert "cannot be reached" in batch.error


def test_cluster_that_is_registered_wrongly_is_not_backed_up(three: Collections, tmp_path: Path) -> None:
    with SandboxNode(tmp_path / "other") as other:
        Cluster.objects.update(other_urls=[other.url])
        batch = ask("*")

    assert batch.status == "failed"
    assert "registered wrongly" in batch.error
    assert not Backup.objects.exists()


# --- cancel --------------------------------------------------------------------------------------------------
def test_cancel_cancels_the_children_that_have_not_ended(three: Collections) -> None:
    batch = ask("*")
    run_job("next")

    cancelled = cancel_job(job_id=batch.pk, now=timezone.now())

    assert cancelled.status == "cancelled"
    assert sorted(children(batch).values()) == ["cancelled", "cancelled", "completed"]
    assert "2 of 3 collections were not backed up" in cancelled.error
    assert Backup.objects.count() == 1
    with pytest.raises(JobHasEnded):
        cancel_job(job_id=batch.pk, now=timezone.now())


def test_cancel_before_the_collections_are_listed(three: Collections) -> None:
    batch = create_job(request=JobRequest(type="backup", collection_name="*"), now=timezone.now())

    cancel_job(job_id=batch.pk, now=timezone.now())
    work_off()

    batch.refresh_from_db()
    assert batch.status == "cancelled"
    assert not batch.children.exists()


def test_child_that_is_cancelled_by_itself_leaves_a_failed_batch(three: Collections) -> None:
    batch = ask("*")
    cancel_job(job_id=batch.children.get(collection_name="users").pk, now=timezone.now())
    work_off()

    batch.refresh_from_db()
    assert batch.status == "failed"
    assert batch.error == "1 of 3 collections was not backed up: users (cancelled)."


def test_batch_that_was_cancelled_while_it_made_children_cancels_them_at_the_tick(three: Collections) -> None:
    batch = ask("*")
    Job.objects.filter(pk=batch.pk).update(cancel_requested_at=timezone.now())

    look_after_batches(now=timezone.now())

    batch.refresh_from_db()
    assert batch.status == "cancelled"
    assert set(children(batch).values()) == {"cancelled"}


# --- retry ---------------------------------------------------------------------------------------------------
def test_retry_tries_only_what_has_no_backup(three: Collections, node: SandboxNode) -> None:
    rule = {"method": "POST", "path": ".*/collections/users/shards/0/snapshots", "status": 403, "body": "no"}
    node.faults.add("status", times=1, **rule)
    batch = ask("*")
    work_off()
    attempts = dict(batch.children.values_list("collection_name", "attempt"))

    again = retry_job(job_id=batch.pk, now=timezone.now())
    assert (again.status, again.error, again.completed_at) == ("running", "", None)
    work_off()

    batch.refresh_from_db()
    assert (batch.status, batch.error) == ("completed", "")
    after = dict(batch.children.values_list("collection_name", "attempt"))
    assert {name for name in NAMES if after[name] != attempts[name]} == {"users"}
    assert Backup.objects.count() == 3
    with pytest.raises(JobNotRetryable):
        retry_job(job_id=batch.pk, now=timezone.now())


def test_retry_of_the_child_opens_the_batch_again(three: Collections, node: SandboxNode) -> None:
    node.faults.add(
        "status", times=1, method="POST", path=".*/collections/users/shards/0/snapshots", status=403, body="no"
    )
    batch = ask("*")
    work_off()

    retry_job(job_id=batch.children.get(collection_name="users").pk, now=timezone.now())
    batch.refresh_from_db()
    assert batch.status == "running"
    work_off()

    batch.refresh_from_db()
    assert batch.status == "completed"


def test_batch_without_children_is_listed_anew_when_it_is_retried(three: Collections) -> None:
    batch = ask("later*")
    three.create("later_1", points=3, shards=1)

    retry_job(job_id=batch.pk, now=timezone.now())
    work_off()

    batch.refresh_from_db()
    assert batch.status == "completed"
    assert children(batch) == {"later_1": "completed"}


def test_running_batch_cannot_be_retried(three: Collections) -> None:
    batch = ask("*")

    with pytest.raises(JobNotRetryable):
        retry_job(job_id=batch.pk, now=timezone.now())


# --- what may go wrong on the way ----------------------------------------------------------------------------
def test_tick_ends_a_batch_whose_last_child_ended_unheard(three: Collections) -> None:
    batch = ask("users")
    batch.children.update(status="completed", completed_at=timezone.now())

    tick(worker="", now=timezone.now())

    batch.refresh_from_db()
    assert batch.status == "completed"


def test_tick_leaves_a_batch_alone_that_nobody_holds(three: Collections) -> None:
    batch = ask("*")

    tick(worker="", now=timezone.now() + timedelta(hours=5))

    batch.refresh_from_db()
    assert (batch.status, batch.lost_count) == ("running", 0)


def test_child_that_waits_for_another_try_keeps_the_batch_running(three: Collections) -> None:
    batch = ask("*")
    child = batch.children.first()
    batch.children.exclude(pk=child.pk).update(status="completed")
    Job.objects.filter(pk=child.pk).update(not_before=timezone.now() + timedelta(hours=1), wait_reason="x")

    settle_batch(batch_id=batch.pk, now=timezone.now())

    batch.refresh_from_db()
    assert batch.status == "running"


def test_settling_twice_says_it_once(three: Collections) -> None:
    batch = ask("users")
    work_off()
    settle_batch(batch_id=batch.pk, now=timezone.now())

    assert story(batch).count("Completed") == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "restore", "collections": ("a",)},
        {"type": "shard_backup", "shard_id": 0, "collections": ("a",)},
        {"collection_name": "films", "collections": ("a",)},
        {"snapshot_name": "x"},
        {"collection_name": "films", "exclude_collections": ("a",)},
    ],
)
def test_what_does_not_belong_together_is_refused(three: Collections, fields: dict[str, Any]) -> None:
    request = JobRequest(**({"type": "backup", "collection_name": "*"} | fields))

    with pytest.raises(UnableToCreateJob):
        create_job(request=request, now=timezone.now())


@pytest.mark.parametrize("kind", ["restore", "shard_backup"])
def test_a_pattern_is_a_name_that_cannot_be_for_other_jobs(three: Collections, kind: str) -> None:
    with pytest.raises(Unprocessable):
        create_job(request=JobRequest(type=kind, collection_name="a*", shard_id=0), now=timezone.now())


def test_a_batch_has_no_parent(three: Collections) -> None:
    batch = ask("*")
    other = ask("*")

    with pytest.raises(IntegrityError), transaction.atomic():
        Job.objects.filter(pk=other.pk).update(parent=batch)


def test_two_batches_of_the_same_collections_do_not_disturb_each_other(three: Collections) -> None:
    first, second = ask("users"), ask("users")
    work_off()

    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.status, second.status) == ("completed", "completed")
    assert Backup.objects.count() == 2


def test_running_batch_takes_no_place_from_its_children(
    three: Collections, cluster: Cluster, storage: StorageConfig
) -> None:
    Cluster.objects.filter(pk=cluster.pk).update(max_jobs=1)
    StorageConfig.objects.filter(pk=storage.pk).update(max_jobs=1)
    batch = create_job(request=JobRequest(type="backup", collection_name="*"), now=timezone.now())
    Job.objects.filter(pk=batch.pk).update(rank=Rank.SCHEDULED)
    work_off()

    batch.refresh_from_db()
    assert batch.status == "completed", children(batch)


# --- real processes ------------------------------------------------------------------------------------------
@pytest.mark.worker
def test_one_worker_process_is_enough(
    three: Collections, start_worker: Callable[..., WorkerProcess], settings: Any
) -> None:
    start_worker(BACKUPMGR_WORKERS="1")
    batch = create_job(request=JobRequest(type="backup", collection_name="*"), now=timezone.now())

    wait_until(lambda: Job.objects.get(pk=batch.pk).is_ended, 90, "the end of the batch")

    batch.refresh_from_db()
    assert batch.status == "completed", story(batch)
    assert Backup.objects.count() == 3


# --- many nodes ----------------------------------------------------------------------------------------------
@pytest.fixture
def nodes(transactional_db: None, storage: StorageConfig, sandbox_cluster: SandboxCluster) -> SandboxCluster:
    """A registered cluster of three nodes: `twice` has two replicas of each shard, `once` only one."""
    Cluster.objects.create(name="three", url=sandbox_cluster.urls[0], other_urls=sandbox_cluster.urls[1:])
    collections = Collections(sandbox_cluster.urls[0])
    for name, factor in (("twice", 2), ("once", 1)):
        body = {"vectors": {"size": 2, "distance": "Dot"}, "shard_number": 3, "replication_factor": factor}
        collections.put(f"/collections/{name}", body)
        points = [{"id": i, "vector": [i, 1]} for i in range(30)]
        collections.put(f"/collections/{name}/points?wait=true", {"points": points})
    return sandbox_cluster


def test_whole_cluster_of_many_nodes_is_backed_up(nodes: SandboxCluster) -> None:
    batch = ask("*")
    work_off()

    batch.refresh_from_db()
    assert batch.status == "completed", batch.error
    assert dict(Backup.objects.values_list("collection_name", "points_count")) == {"once": 30, "twice": 30}


def test_node_that_is_down_fails_only_what_lies_on_it_alone(nodes: SandboxCluster, settings: Any) -> None:
    settings.BACKUPMGR_RETRY_DELAYS_SECONDS = []
    nodes.stop(2, grace_seconds=0)

    batch = ask("*")
    work_off()

    batch.refresh_from_db()
    assert children(batch) == {"once": "failed", "twice": "completed"}
    assert batch.error.startswith("1 of 2 collections was not backed up: once (")
    nodes.start(2)
    retry_job(job_id=batch.pk, now=timezone.now())
    work_off()
    batch.refresh_from_db()
    assert batch.status == "completed", batch.error


def test_cancel_and_retry_of_many_children_count_them_once(
    three: Collections, cluster: Cluster, storage: StorageConfig
) -> None:
    batch = ask("*")
    more = [
        Job(
            type="backup", parent=batch, cluster=cluster, storage=storage, collection_name=f"c{i}",
            subject_cluster=cluster, subject_collection=f"c{i}", created_at=batch.created_at, not_before=timezone.now(),
        )
        for i in range(100)
    ]  # fmt: skip
    Job.objects.bulk_create(more)

    with CaptureQueriesContext(connection) as queries:
        cancel_job(job_id=batch.pk, now=timezone.now())
        retry_job(job_id=batch.pk, now=timezone.now())

    counted = [query["sql"] for query in queries if "SUM(" in query["sql"].upper()]
    assert len(counted) == 2
    assert set(children(batch).values()) == {"pending"}
    batch.refresh_from_db()
    assert batch.status == "running"
