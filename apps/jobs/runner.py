"""run_job: what the queue calls. Takes the next job, runs it, and writes down how it ended.

Nothing is caught elsewhere: whatever happens in a run ends here as one of
completed, failed (with a sentence), cancelled, or pending again (the worker is being stopped, or the cause of the
failure may pass: retry.py).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from django.conf import settings
from django.db import DatabaseError, transaction
from django.utils import timezone

from apps.backups.backup import FinishedBackup, find_finished, make_backup, record_backup
from apps.backups.leftovers import take_over_leftovers
from apps.backups.models import Backup, Leftover, LeftoverKind
from apps.backups.opening import VerifyOrder, verify_backup
from apps.backups.restore import restore_backup
from apps.backups.traces import FolderTrace
from apps.backups.verifications import Proof, record_proof
from apps.core.errors import BackupmgrError, Unavailable
from apps.core.text import format_duration, format_size
from apps.jobs import drain
from apps.jobs.attempts import AttemptOutcome, end_attempt
from apps.jobs.batches import settle_batch
from apps.jobs.ending import end_of, write_end
from apps.jobs.events import record
from apps.jobs.fanout import fan_out
from apps.jobs.forecasting import backup_order, restore_order
from apps.jobs.jobrun import JobRun
from apps.jobs.lease import LeaseLost, claim_next, release, startable
from apps.jobs.models import Job
from apps.jobs.persist import persist
from apps.jobs.services import poke
from apps.jobs.states import BACKUP_TYPES, JobStatus, JobType
from apps.storage.models import StorageConfig

logger = logging.getLogger(__name__)

#: Set by the supervisor; names the worker that a job runs on.
WORKER_ENV = "BACKUPMGR_WORKER_ID"
#: How long the end of a run waits for a database that is away. Longer than the lease, another worker sees to it.
_PATIENCE_LEASES = 2


class LeftoverInTheWay(Unavailable):
    """What an earlier attempt made has to go first, and could not be removed yet."""


def run_job(job_id: str, **unknown: Any) -> str | None:
    """Run the job that is next in turn; returns its id, None when there was nothing to do.

    `job_id` says which job the delivery was made for; it may be another's turn (lease.claim_next).
    """
    if drain.requested():
        return None
    job = claim_next(worker=os.environ.get(WORKER_ENV, ""), pid=os.getpid(), now=timezone.now())
    if job is None:
        return None
    run_claimed(job)
    _wake_next()
    return str(job.pk)


def run_claimed(job: Job) -> None:
    """Run a job that this process has claimed, to its end."""
    with JobRun(job) as run:
        try:
            run.tell(f"Attempt {job.attempt} started.")
            if job.is_batch:
                fan_out(run)
            else:
                finished = _work(run)
                run.end_step()
                _persist(lambda: _finish(run, finished))
        except LeaseLost:
            # Whoever has it now knows our traces from the row and cleans up after us.
            logger.warning("Job %s: the lease was lost, stopping", job.pk)
        except BaseException as error:  # noqa: BLE001 - the outer edge: every end is written down
            _fail(run, error)
    if job.parent_id is not None:
        with suppress(DatabaseError):  # the tick does it then
            settle_batch(batch_id=job.parent_id, now=timezone.now())


def _work(run: JobRun) -> FinishedBackup | Proof:
    """Do what the job is for; a backup returns what it made, the others what they have proved."""
    job = run.job
    _take_over_leftovers(run)
    if job.type in BACKUP_TYPES:
        finished = _adopt(run)
        if finished is not None:
            return finished
    if run.traces:
        run.tell("Cleaning up after the attempt before.")
        run.clean_up()
        run.save_traces()
    if job.type in BACKUP_TYPES:
        return make_backup(backup_order(job), run)
    if job.backup is None:
        raise BackupmgrError("The backup that this job reads has been deleted.")
    if job.type == JobType.VERIFY:
        return verify_backup(VerifyOrder(backup=job.backup, hashes_only=job.options.get("hashes_only", False)), run)
    assert job.target_cluster is not None
    if Leftover.objects.filter(job_id=job.pk, kind=LeftoverKind.COLLECTION).exists():
        raise LeftoverInTheWay(
            f"What an earlier attempt restored into {job.target_collection!r} cannot be removed yet: is the node there?"
        )
    return restore_backup(restore_order(job), run)


def _take_over_leftovers(run: JobRun) -> None:
    """See to what earlier attempts could not remove: half a collection would stand in the way of this one."""
    with transaction.atomic():
        left = take_over_leftovers(run.job_id)
        if left:
            run.traces.items += left
            run.save_traces()


def _adopt(run: JobRun) -> FinishedBackup | None:
    """Take over a backup that was finished just before the worker of an earlier attempt vanished."""
    for trace in run.traces.items:
        if not isinstance(trace, FolderTrace):
            continue
        storage = StorageConfig.objects.filter(pk=trace.storage_id).first()
        finished = find_finished(storage, trace.path, run.job_id, run.abort) if storage else None
        if finished is not None:
            run.traces.drop(trace)
            run.tell("The attempt before had finished the backup; taking it over.")
            run.clean_up()
            return finished
    return None


def _finish(run: JobRun, outcome: FinishedBackup | Proof) -> None:
    job, now = run.job, run.now()
    finished = outcome if isinstance(outcome, FinishedBackup) else None
    size = finished.manifest.size_bytes if finished else run.bytes_done
    what = "stored" if finished else "read and compared" if job.type == JobType.VERIFY else "read and sent"
    with transaction.atomic():
        changes: dict[str, object] = {
            "phase": "",
            "bytes_done": size,
            "bytes_total": size,
            "checkpoint": {},
            "error": "",
        }
        if finished is not None:
            backup = record_backup(finished, storage=job.storage, cluster=job.cluster)
            Backup.objects.filter(pk=backup.pk).update(
                policy=job.policy,
                schedule_id=job.schedule_id,
                keep_until=None if job.policy else job.keep_until,
            )
            changes |= {"backup_id": backup.pk, "snapshot_name": backup.snapshot_name}
        elif job.backup is not None and isinstance(outcome, Proof):
            record_proof(backup_id=job.backup.pk, proof=outcome, asker=run.asker, now=now)
        release(job_id=job.pk, token=run.token, status=JobStatus.COMPLETED, now=now, **changes)
        end_attempt(
            job_id=job.pk,
            number=job.attempt,
            outcome=AttemptOutcome.COMPLETED,
            at=now,
            bytes_moved=run.bytes_moved,
        )
        seconds = run.seconds
        record(
            job,
            f"Completed: {format_size(size)} {what} in {format_duration(seconds)}.",
            at=now,
            data={"seconds": round(seconds, 3), "bytes": size},
        )


def _fail(run: JobRun, error: BaseException) -> None:
    """Clean up, then say how it ended: in this order, so that an ended job has nothing left lying about."""
    job = run.job
    with suppress(DatabaseError):  # a line of the story is not worth the rest
        run.end_step(broke_off=True)
    _persist(run.clean_up)
    end = end_of(job, error, timezone.now())
    try:
        _persist(lambda: write_end(run, end))
    except LeaseLost:
        logger.warning("Job %s: the lease was lost before its end could be written", job.pk)


def _persist(action: Callable[[], None]) -> None:
    persist(action, patience_seconds=_PATIENCE_LEASES * settings.BACKUPMGR_LEASE_SECONDS)


def _wake_next() -> None:
    """Deliver again when others wait: the delivery that was theirs may have been used up while they could not start."""
    now = timezone.now()
    waiting = startable(now).first()
    if waiting is not None:
        poke(waiting, now=now)
