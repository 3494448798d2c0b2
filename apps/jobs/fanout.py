"""The work of a batch itself: list the collections that are there now, and make a job of each.

It takes a moment and no more: while the children run, the batch holds no process, so that one worker is enough.
"""

from __future__ import annotations

from dataclasses import asdict

from django.db import transaction

from apps.clusters.nodes import resolve_nodes
from apps.clusters.qdrant import QdrantNode, check_snapshot_possible
from apps.core.errors import Conflict, NotFound
from apps.core.text import plural
from apps.jobs.attempts import AttemptOutcome, end_attempt
from apps.jobs.batches import MAX_CHILDREN, Summary, matching, settle_batch
from apps.jobs.events import record
from apps.jobs.jobrun import Cancelled, JobRun
from apps.jobs.lease import LeaseLost
from apps.jobs.models import EventLevel, Job, JobEvent
from apps.jobs.services import poke
from apps.jobs.states import JobStatus, JobType

#: So many deliveries are made at once; every job that ends wakes the next one.
_FIRST_DELIVERIES = 8


class NothingMatched(NotFound):
    """No collection matches what was asked for."""


class TooManyCollections(Conflict):
    """More collections match than one job should have children."""


def fan_out(run: JobRun) -> None:
    """Make a job for each collection that matches now, and let go of the batch. Raises: BackupmgrError, LeaseLost."""
    job = run.job
    run.phase("listing collections")
    resolved = resolve_nodes(job.cluster)
    resolved.demand_one_cluster()
    with QdrantNode(resolved.first) as node:
        names = node.collections()
    chosen = matching(names, job.collections, job.exclude_collections)
    asked = ", ".join(job.collections)
    if not chosen:
        there = plural(len(names), "collection")
        but = f" (without {', '.join(job.exclude_collections)})" if job.exclude_collections else ""
        raise NothingMatched(f"None of the {there} of {job.cluster.name} matches {asked}{but}: nothing was backed up.")
    if len(chosen) > MAX_CHILDREN:
        raise TooManyCollections(
            f"{len(chosen):,} collections match {asked}: back them up in portions of at most {MAX_CHILDREN:,}."
        )
    run.confirm()
    _hand_over(run, chosen)
    settle_batch(batch_id=job.pk, now=run.now())


def _hand_over(run: JobRun, chosen: list[str]) -> None:
    job, now = run.job, run.now()
    with transaction.atomic():
        summary = Summary(total=len(chosen), pending=len(chosen))
        let_go = (
            Job.objects.held_by(job.pk, run.token)
            .filter(cancel_requested_at=None)
            .update(
                lease_token=None,
                lease_until=None,
                heartbeat_at=None,
                worker="",
                pid=None,
                checkpoint={},
                phase=summary.phase,
                children_summary=asdict(summary),
            )
        )
        if not let_go:
            # Either it was told to stop just now, or another worker has it.
            raise Cancelled if Job.objects.held_by(job.pk, run.token).exists() else LeaseLost(str(job.pk))
        end_attempt(job_id=job.pk, number=job.attempt, outcome=AttemptOutcome.COMPLETED, at=now)
        children = [_child(job, name) for name in chosen]
        for child in children:
            child.created_at = child.not_before = now
            if child.status == JobStatus.FAILED:
                child.completed_at = now
        Job.objects.bulk_create(children, batch_size=500)
        JobEvent.objects.bulk_create(
            [
                JobEvent(
                    job=child,
                    at=now,
                    level=EventLevel.ERROR if child.error else EventLevel.INFO,
                    message=child.error or f"Created as a part of the backup of {job.collection_name}.",
                )
                for child in children
            ],
            batch_size=500,
        )
        record(job, f"{plural(len(children), 'collection')} to back up.", at=now, data={"collections": chosen[:1000]})
        for child in children[:_FIRST_DELIVERIES]:
            if child.status == JobStatus.PENDING:
                poke(child, now=now)


def _child(batch: Job, name: str) -> Job:
    child = Job(
        type=JobType.BACKUP,
        parent=batch,
        cluster=batch.cluster,
        collection_name=name,
        storage=batch.storage,
        subject_cluster=batch.cluster,
        subject_collection=name,
        metadata=batch.metadata,
        created_by_id=batch.created_by_id,
        rank=batch.rank,
        priority=batch.priority,
        queue_at=batch.queue_at,
        max_runtime_seconds=batch.max_runtime_seconds,
        policy_id=batch.policy_id,
        schedule_id=batch.schedule_id,
        keep_until=batch.keep_until,
    )
    try:
        check_snapshot_possible(name)
    except ValueError as error:
        # One that cannot be backed up is named, and does not stop the others.
        child.status, child.error = JobStatus.FAILED, str(error)
    return child
