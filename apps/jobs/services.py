"""The one service that creates, cancels and retries jobs. The API and the admin both come through here."""

from __future__ import annotations

import uuid
from contextlib import suppress
from datetime import datetime, timedelta

from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction
from django.db.models import Q
from django_q.tasks import async_task

from apps.audit.trail import About, record_action
from apps.backups.deletion import lock_words, mark_deleting, refresh_lock
from apps.backups.leftovers import first_retry, leave_behind, try_leftover
from apps.backups.models import Backup, BackupStatus, Hold, Leftover
from apps.backups.traces import Traces
from apps.core.errors import BackupmgrError, Conflict, InvalidRequest, NotFound
from apps.core.text import plural
from apps.jobs.batches import hold_batch, reopen_batch, settle_batch, settle_batches
from apps.jobs.cleaning import is_busy
from apps.jobs.drafting import JobRequest as JobRequest
from apps.jobs.drafting import Terms as Terms
from apps.jobs.drafting import UnableToCreateJob as UnableToCreateJob
from apps.jobs.drafting import backup_job, batch_job, check_keeping, check_name, restore_job, verify_job
from apps.jobs.events import record
from apps.jobs.models import Job, Rank
from apps.jobs.states import (
    ACTIVE,
    BACKUP_TYPES,
    READING_TYPES,
    RESTORE_TYPES,
    RETRYABLE,
    SHARD_TYPES,
    JobStatus,
    JobType,
)
from apps.storage.backends import PROBE_PATIENCE
from apps.storage.opening import open_store

#: Dotted, so that the queue holds a name and this module does not import the runner, which imports it.
RUN_JOB = "apps.jobs.runner.run_job"

MAX_METADATA_BYTES = 16 * 1024

#: A job that waits this long is as urgent as one of the next priority that has just come.
PRIORITY_STEP = timedelta(minutes=30)


class JobNotFound(NotFound):
    """There is no job with that id."""


class JobHasEnded(InvalidRequest):
    """Only a pending or running job can be cancelled."""


class JobNotRetryable(InvalidRequest):
    """Only a failed or cancelled job can be retried."""


def create_job(*, request: JobRequest, now: datetime, user: AbstractBaseUser | None = None) -> Job:
    """Create a job and queue it, in one transaction.

    The cluster defaults to the default cluster (a restore's: to that of the backup), the storage to the default
    storage. Only what the database knows is checked here; what depends on Qdrant or on the storage is checked by
    the job itself, before it changes anything.

    Raises: UnableToCreateJob, Unprocessable (names), NotFound (backup).
    """
    job = draft_job(request=request, now=now, user=user)
    _queue_up(job, request.terms, now)
    with transaction.atomic():
        if job.backup is not None:
            hold_backup(job.backup)
        job.save(force_insert=True)
        record(job, f"Created{_by(user)}.", at=now)
        _tell("job.create", f"Started {_words(job)}.", job, user)
        poke(job, now=now)
    return job


def draft_job(*, request: JobRequest, now: datetime, user: AbstractBaseUser | None = None) -> Job:
    """Return the job that `create_job` would make, checked by all that the database can tell, and save nothing.

    Raises: as create_job.
    """
    if request.type not in JobType.values:
        raise UnableToCreateJob(f"The type must be one of {', '.join(JobType.values)}.")
    job_type = JobType(request.type)
    if request.exclude_collections and not request.is_batch:
        raise UnableToCreateJob("exclude_collections belongs to a backup of many collections.")
    if not request.is_batch:
        check_name(request.collection_name)
    if job_type in SHARD_TYPES and request.shard_id is None:
        raise UnableToCreateJob(f"A {job_type.label} job needs a shard_id.")
    if job_type not in SHARD_TYPES and request.shard_id is not None:
        raise UnableToCreateJob(f"A {job_type} job works on all shards: leave shard_id out or use shard_{job_type}.")
    check_keeping(job_type, request, now)
    if request.is_batch:
        job = batch_job(job_type, request)
    elif job_type in BACKUP_TYPES:
        job = backup_job(job_type, request)
    elif job_type == JobType.VERIFY:
        job = verify_job(request)
    else:
        job = restore_job(job_type, request)
    job.metadata = request.metadata
    job.created_by = user  # type: ignore[assignment]
    job.created_at = job.not_before = now
    return job


def cancel_job(*, job_id: uuid.UUID, now: datetime, user: AbstractBaseUser | None = None, settle: bool = True) -> Job:
    """Cancel: at once when it is pending; a running one is told to stop and does so within seconds.

    The batch that it is a part of is brought up to date, unless `settle` is False: then the caller does that.
    Raises: JobNotFound, JobHasEnded.
    """
    with transaction.atomic():
        hold_batch(Job.objects.filter(pk=job_id).values_list("parent_id", flat=True).first())
        ended = Job.objects.filter(pk=job_id, status=JobStatus.PENDING).update(
            status=JobStatus.CANCELLED, cancel_requested_at=now, completed_at=now, phase="", wait_reason=""
        )
        if ended:
            job = Job.objects.get(pk=job_id)
            _bury(job)
            when = "while it waited for its next attempt" if job.attempt else "before it started"
            record(job, f"Cancelled{_by(user)} {when}.", at=now)
            _tell("job.cancel", f"Cancelled {_words(job)} {when}.", job, user)
            if settle and job.parent_id is not None:
                settle_batch(batch_id=job.parent_id, now=now)
            return job
        told = Job.objects.filter(pk=job_id, status=JobStatus.RUNNING, cancel_requested_at=None).update(
            cancel_requested_at=now
        )
        found = Job.objects.filter(pk=job_id).first()
        if found is None:
            raise JobNotFound("There is no job with this id.")
        if told:
            record(found, f"Asked to stop{_by(user)}.", at=now)
            _tell("job.cancel", f"Cancelled {_words(found)}.", found, user)
            if found.is_batch:
                _cancel_children(found, now, user)
                return Job.objects.get(pk=job_id)
        elif found.status not in ACTIVE:
            raise JobHasEnded(f"The job has already ended ({found.status}): there is nothing to cancel.")
        return found


def retry_job(*, job_id: uuid.UUID, now: datetime, user: AbstractBaseUser | None = None, settle: bool = True) -> Job:
    """Make a failed or cancelled job pending again, or start one at once that waits for its next attempt.

    Its attempts and events keep the story of what was before; automatic retries are counted anew. The batch that it is
    a part of runs again, unless `settle` is False: then the caller sees to that.
    Raises: JobNotFound, JobNotRetryable, NotFound when the backup to restore from is gone.
    """
    with transaction.atomic():
        family = Job.objects.filter(pk=job_id).values_list("is_batch", "parent_id").first()
        if family is None:
            raise JobNotFound("There is no job with this id.")
        hold_batch(job_id if family[0] else family[1])
        found = Job.objects.select_related("backup").get(pk=job_id)
        if found.is_batch and found.children.exists():
            return _retry_children(found, now, user)
        if found.type in READING_TYPES and found.backup is None:
            raise JobNotRetryable("The backup that this job reads has been deleted.")
        if found.type in READING_TYPES and found.backup is not None:
            hold_backup(found.backup)
        waits = Q(status=JobStatus.PENDING) & ~Q(wait_reason="")
        changed = Job.objects.filter(Q(status__in=RETRYABLE) | waits, pk=job_id).update(
            status=JobStatus.PENDING,
            error="",
            phase="",
            bytes_done=0,
            bytes_total=0,
            rate_bytes_per_second=None,
            cancel_requested_at=None,
            started_at=None,
            completed_at=None,
            not_before=now,
            lost_count=0,
            retry_count=0,
            wait_reason="",
        )
        if not changed:
            raise JobNotRetryable(f"Only a failed or cancelled job can be retried; this one is {found.status}.")
        job = Job.objects.get(pk=job_id)
        before = f"{found.status} before{f': {found.error}' if found.error else '.'}"
        if found.is_waiting:
            before = f"it waited until {found.not_before:%H:%M:%S} UTC: {found.wait_reason}"
        record(job, f"Retry asked for{_by(user)}; {before}", at=now)
        _tell("job.retry", f"Retried {_words(job)}.", job, user)
        poke(job, now=now)
        if settle and job.parent_id is not None:
            reopen_batch(batch_id=job.parent_id, now=now)
            settle_batch(batch_id=job.parent_id, now=now)
        return job


def _cancel_children(batch: Job, now: datetime, user: AbstractBaseUser | None) -> None:
    """Cancel what has not ended; the batch ends with the last of them."""
    for child_id in list(batch.children.filter(status__in=ACTIVE).values_list("pk", flat=True)):
        with suppress(JobHasEnded):
            cancel_job(job_id=child_id, now=now, user=user, settle=False)
    settle_batch(batch_id=batch.pk, now=now)


def _retry_children(batch: Job, now: datetime, user: AbstractBaseUser | None) -> Job:
    """Retry the children that have no backup; the batch runs for as long as they do. Raises: JobNotRetryable."""
    again = list(batch.children.filter(status__in=RETRYABLE).order_by("collection_name").values_list("pk", flat=True))
    if batch.status not in RETRYABLE or not again:
        raise JobNotRetryable(f"Only a failed or cancelled job can be retried; this one is {batch.status}.")
    record(batch, f"Retry of {plural(len(again), 'collection')} asked for{_by(user)}.", at=now)
    for child_id in again:
        retry_job(job_id=child_id, now=now, user=user, settle=False)
    reopen_batch(batch_id=batch.pk, now=now)
    settle_batch(batch_id=batch.pk, now=now)
    return Job.objects.get(pk=batch.pk)


def look_after_batches(*, now: datetime) -> None:
    """End batches whose children have ended, and cancel children that came into being while their batch was cancelled.

    What ends a child ends its batch, too; this is for those whose process died in between. Run by the tick.
    """
    settle_batches(now=now)
    told = Job.objects.filter(
        is_batch=True, status=JobStatus.RUNNING, lease_token=None, cancel_requested_at__isnull=False
    )
    for batch in told:
        _cancel_children(batch, now, None)


def delete_backup(
    *,
    backup_id: uuid.UUID,
    now: datetime,
    user: AbstractBaseUser | None = None,
    reason: str = "",
    wait: bool = False,
) -> Leftover | None:
    """Delete a backup from its storage and from the catalogue; None when it is gone, else its tombstone.

    From this call on the backup says "being deleted" and cannot be restored. The workers remove it, and try again
    until it is gone, however long the storage is away; with `wait` this process tries first. Asking twice is
    harmless. `reason` is kept with the tombstone and told in the story of the job that made the backup.
    Raises: NotFound; Conflict while a job restores from it, while it is held, or locked by its storage.
    """
    _look_at_lock(backup_id, now)
    with transaction.atomic():
        # Locked, so that no job that reads it is created at the same moment (hold_backup).
        backup = Backup.objects.select_for_update().defer("manifest").filter(pk=backup_id).first()
        if backup is None:
            raise NotFound("There is no backup with this id.")
        users = Job.objects.filter(backup=backup, type__in=READING_TYPES, status__in=ACTIVE).count()
        if users:
            raise Conflict(
                f"{plural(users, 'job')} that reads this backup is pending or running: wait for it, or cancel it."
            )
        hold = Hold.objects.active(now).filter(backup=backup).select_related("created_by").first()
        if hold is not None:
            owner = f" by {hold.created_by.get_username()}" if hold.created_by else ""
            raise Conflict(f"The backup is held{owner} ({hold.reason}): release the hold first.")
        if backup.locked_until is not None and backup.locked_until > now:
            raise Conflict(f"The storage keeps the backup {lock_words(backup.locked_until)}: delete it then.")
        # With `wait` the tick comes in only when this process has died on the way.
        first = now + first_retry() if wait else now
        tombstone = mark_deleting(backup, first_try_at=first, reason=reason, user=user)
        if tombstone is None:
            return Leftover.objects.get(backup=backup)
        record_action(
            "backup.delete", f"Deleted the backup {backup}{f': {reason}' if reason else '.'}", about=backup, user=user
        )
        maker = Job.objects.filter(pk=backup.job_id).first() if backup.job_id else None
        if maker is not None:
            record(maker, f"Deletion of the backup was asked for{_by(user)}{f': {reason}' if reason else '.'}", at=now)
    if not wait:
        return tombstone
    with suppress(BackupmgrError):  # written down; it is tried again
        if try_leftover(tombstone, now=now, is_busy=is_busy):
            return None
    return Leftover.objects.filter(pk=tombstone.pk).first()


def _look_at_lock(backup_id: uuid.UUID, now: datetime) -> None:
    """Ask the storage again about a lock that is still to last: it may have been lifted since."""
    rows = Backup.objects.select_related("storage").defer("manifest")
    backup = rows.filter(pk=backup_id, locked_until__gt=now).exclude(status=BackupStatus.DELETING).first()
    if backup is not None:
        with suppress(BackupmgrError):  # then what was written down counts
            refresh_lock(backup, open_store(backup.storage, patience=PROBE_PATIENCE))


def hold_backup(backup: Backup) -> None:
    """Lock a backup that a job is about to read, until the transaction ends: no deletion of it begins.

    Raises: NotFound; Conflict when it is being deleted.
    """
    held = Backup.objects.select_for_update().defer("manifest").filter(pk=backup.pk).first()
    if held is None:
        raise NotFound(f"The backup {backup.snapshot_name} has been deleted meanwhile.")
    if held.status == BackupStatus.DELETING:
        raise Conflict(f"The backup {held.snapshot_name} is being deleted: use another one.")


def poke(job: Job, *, now: datetime) -> None:
    """Put "run this job" on the queue. Harmless when it arrives twice, late, or for a job that has ended."""
    async_task(RUN_JOB, str(job.pk), task_name=f"job {job.pk}")
    Job.objects.filter(pk=job.pk).update(queued_at=now)


def _queue_up(job: Job, terms: Terms | None, now: datetime) -> None:
    """Set where the job stands in the queue. A point of priority counts as much as half an hour of waiting."""
    job.rank = Rank.RESTORE if job.type in RESTORE_TYPES else Rank.MANUAL
    due_at = now
    if terms is not None:
        job.rank, job.priority, due_at = terms.rank, terms.priority, terms.due_at
        job.schedule_id, job.start_by, job.retry_by = terms.schedule_id, terms.start_by, terms.retry_by
        job.max_runtime_seconds = terms.max_runtime_seconds
    job.queue_at = due_at - PRIORITY_STEP * job.priority


def _tell(action: str, words: str, job: Job, user: AbstractBaseUser | None) -> None:
    """Enter it in the audit trail, under the name of the collection that the job works on."""
    record_action(action, words, about=About.of(job, _collection_of(job)), user=user)


def _collection_of(job: Job) -> str:
    """Return what a job works on in words: of those that stand in nobody's way the subject is no collection's name."""
    return job.collection_name if job.is_batch or job.type == JobType.VERIFY else job.subject_collection


def _words(job: Job) -> str:
    """backup of films on demo"""
    where = f"{_collection_of(job)} on {job.subject_cluster.name}"
    source = f" from {job.snapshot_name}" if job.snapshot_name else ""
    return f"the {job.get_type_display()} of {where}{source}"


def _by(user: AbstractBaseUser | None) -> str:
    return f" by {user.get_username()}" if user else ""


def _bury(job: Job) -> None:
    """Hand what an earlier attempt left behind to the clean-up of the tick."""
    traces = Traces.from_json(job.checkpoint)
    if traces:
        # At the next tick, in some seconds: whoever cancels wants it gone.
        leave_behind(
            traces, job_id=job.pk, reason="the job was cancelled before it could clean up itself", first_try_seconds=0
        )
        Job.objects.filter(pk=job.pk).update(checkpoint={})
