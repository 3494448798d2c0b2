"""What is asked for, and the job that it becomes: checked against what the database knows, and not saved."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db.models import Case, When

from apps.backups.models import Backup, BackupStatus
from apps.backups.policies import RetentionPolicy
from apps.clusters.models import Cluster
from apps.clusters.qdrant import check_collection_name, check_snapshot_possible
from apps.core.errors import Conflict, InvalidRequest, NotFound, Unprocessable
from apps.jobs.batches import check_patterns, is_pattern
from apps.jobs.models import Job, Rank
from apps.jobs.states import BACKUP_TYPES, JobType
from apps.storage.models import StorageConfig


class UnableToCreateJob(InvalidRequest):
    """What was asked for cannot be a job."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Whose turn a backup of a schedule is, and how long it may take. `due_at` is when it was to run."""

    schedule_id: uuid.UUID
    due_at: datetime
    priority: int = 5
    start_by: datetime | None = None
    #: No automatic retry begins then or later: the schedule's next run does the same work.
    retry_by: datetime | None = None
    max_runtime_seconds: int | None = None
    rank: Rank = Rank.SCHEDULED


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """What a caller asks for. None means: not said."""

    type: str
    collection_name: str
    cluster: Cluster | None = None
    storage: StorageConfig | None = None
    shard_id: int | None = None
    snapshot_name: str = ""
    backup: Backup | None = None
    target_cluster: Cluster | None = None
    target_collection: str = ""
    overwrite: bool = False
    restore_aliases: bool = False
    #: Restores: see RestoreOrder; "" and None leave it to the restore.
    replication_factor: int | None = None
    safety_backup: bool = True
    overwrite_method: str = ""
    verify_points: str = ""
    #: Verifications: compare the SHA-256 of the parts, and do not open them.
    hashes_only: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)
    #: What schedules say of the backups they ask for; a backup that somebody asks for may have a policy or a date.
    terms: Terms | None = None
    policy: RetentionPolicy | None = None
    keep_until: datetime | None = None
    #: Names and patterns of the collections to back up, one job each; `collection_name` is then *.
    collections: tuple[str, ...] = ()
    exclude_collections: tuple[str, ...] = ()

    @property
    def is_batch(self) -> bool:
        return bool(self.collections) or (self.type == JobType.BACKUP and is_pattern(self.collection_name))


def backup_job(job_type: JobType, request: JobRequest) -> Job:
    if request.snapshot_name or request.backup or request.target_collection or request.target_cluster:
        raise UnableToCreateJob("A backup takes no snapshot_name, backup_id or target: those belong to a restore.")
    try:
        check_snapshot_possible(request.collection_name)
    except ValueError as error:
        raise Unprocessable(str(error)) from error
    cluster = request.cluster or _default_cluster()
    return Job(
        type=job_type,
        cluster=cluster,
        collection_name=request.collection_name,
        shard_id=request.shard_id,
        storage=request.storage or _default_storage(),
        policy=request.policy,
        keep_until=request.keep_until,
        subject_cluster=cluster,
        subject_collection=request.collection_name,
    )


def batch_job(job_type: JobType, request: JobRequest) -> Job:
    if job_type != JobType.BACKUP:
        raise UnableToCreateJob(f"Only a backup can be asked for of many collections, not a {job_type.label}.")
    if request.snapshot_name or request.backup or request.target_collection or request.target_cluster:
        raise UnableToCreateJob("A backup takes no snapshot_name, backup_id or target: those belong to a restore.")
    if request.collections and request.collection_name != "*":
        raise UnableToCreateJob("With collections, write * as collection_name.")
    patterns = list(dict.fromkeys(request.collections or (request.collection_name,)))
    try:
        check_patterns(patterns)
        check_patterns(request.exclude_collections)
    except ValueError as error:
        raise Unprocessable(str(error)) from error
    cluster, job_id = request.cluster or _default_cluster(), uuid.uuid4()
    return Job(
        pk=job_id,
        type=job_type,
        is_batch=True,
        collections=patterns,
        exclude_collections=list(dict.fromkeys(request.exclude_collections)),
        cluster=cluster,
        collection_name=", ".join(patterns)[:255],
        storage=request.storage or _default_storage(),
        policy=request.policy,
        keep_until=request.keep_until,
        subject_cluster=cluster,
        # No collection's name: a batch stands in nobody's way.
        subject_collection=f"*/{job_id}",
    )


def restore_job(job_type: JobType, request: JobRequest) -> Job:
    backup = _backup_of(request)
    if backup.status != BackupStatus.COMPLETED:
        raise Conflict(f"The backup {backup.snapshot_name} is {backup.get_status_display()}: {backup.status_reason}")
    if job_type == JobType.RESTORE and backup.shard_id is not None:
        raise UnableToCreateJob(
            f"The backup {backup.snapshot_name} holds shard {backup.shard_id} only: use shard_restore."
        )
    if request.shard_id is not None and not backup.parts.filter(shard_id=request.shard_id).exists():
        raise NotFound(f"The backup {backup.snapshot_name} holds no shard {request.shard_id}.")
    if request.overwrite_method and not request.overwrite:
        raise UnableToCreateJob("overwrite_method says how to overwrite: set overwrite, or leave it out.")
    if request.overwrite_method == "switch" and request.shard_id is not None:
        raise UnableToCreateJob("A single shard is always overwritten in place: leave overwrite_method out.")
    target_cluster = request.target_cluster or request.cluster or backup.cluster or _default_cluster()
    target_collection = request.target_collection or request.collection_name
    check_name(target_collection)
    return Job(
        type=job_type,
        cluster=backup.cluster or request.cluster or target_cluster,
        collection_name=request.collection_name,
        shard_id=request.shard_id,
        storage=backup.storage,
        backup=backup,
        snapshot_name=backup.snapshot_name,
        target_cluster=target_cluster,
        target_collection=target_collection,
        overwrite=request.overwrite,
        restore_aliases=request.restore_aliases,
        options={
            "replication_factor": request.replication_factor,
            "safety_backup": request.safety_backup,
            "overwrite_method": request.overwrite_method,
            "verify_points": request.verify_points,
        },
        subject_cluster=target_cluster,
        subject_collection=target_collection,
    )


def verify_job(request: JobRequest) -> Job:
    if request.target_collection or request.target_cluster or request.overwrite or request.restore_aliases:
        raise UnableToCreateJob("A verification takes no target: nothing is restored.")
    backup = _backup_of(request)
    cluster = backup.cluster or request.cluster or _default_cluster()
    return Job(
        type=JobType.VERIFY,
        cluster=cluster,
        collection_name=backup.collection_name,
        storage=backup.storage,
        backup=backup,
        snapshot_name=backup.snapshot_name,
        options={"hashes_only": request.hashes_only},
        subject_cluster=cluster,
        # It reads the storage alone: it must not hold up the backups of the collection. No collection has a / in its
        # name.
        subject_collection=f"backup/{backup.pk}",
    )


def _backup_of(request: JobRequest) -> Backup:
    """Return the backup that the request names, by id or by name and collection."""
    backup = request.backup or _find_backup(request)
    if backup.collection_name != request.collection_name:
        raise UnableToCreateJob(
            f"The backup {backup.snapshot_name} is one of {backup.collection_name!r}: give that as collection_name, "
            f"and the name to restore into as target_collection."
        )
    return backup


def _find_backup(request: JobRequest) -> Backup:
    if not request.snapshot_name:
        raise UnableToCreateJob(f"A {request.type} job needs a snapshot_name (or a backup_id).")
    found = (
        Backup.objects.select_related("storage", "cluster")
        .filter(snapshot_name=request.snapshot_name, collection_name=request.collection_name)
        .order_by("-created_at", "id")
    )
    if request.storage is not None:
        found = found.filter(storage=request.storage)
    if request.cluster is not None:
        # A backup of this cluster before one of the same name from another.
        found = found.order_by(Case(When(cluster=request.cluster, then=0), default=1), "-created_at", "id")
    # PostgreSQL cannot even ask for a text with NUL in it.
    backup = None if "\x00" in request.snapshot_name else found.first()
    if backup is None:
        where = f" in the storage {request.storage.name!r}" if request.storage else ""
        raise NotFound(
            f"There is no backup named {request.snapshot_name!r} of the collection {request.collection_name!r}{where}."
        )
    return backup


def _default_cluster() -> Cluster:
    cluster = Cluster.objects.default()
    if cluster is None:
        raise UnableToCreateJob("No cluster is registered yet: add one first.")
    return cluster


def _default_storage() -> StorageConfig:
    storage = StorageConfig.objects.default()
    if storage is None:
        raise UnableToCreateJob("No storage is set up yet: add one first, or name one with storage_id.")
    return storage


def check_keeping(job_type: JobType, request: JobRequest, now: datetime) -> None:
    """See whether what is said of how long the backup stays makes sense. Raises: UnableToCreateJob."""
    if request.policy is None and request.keep_until is None:
        return
    if job_type not in BACKUP_TYPES:
        raise UnableToCreateJob("policy and keep_until belong to a backup: they say how long it stays.")
    if request.policy is not None and request.keep_until is not None:
        raise UnableToCreateJob("Give a policy or keep_until, not both: the date would stand beside the rules.")
    if request.keep_until is not None and request.keep_until <= now:
        raise UnableToCreateJob("keep_until: Give a moment that is still to come.")


def check_name(name: str) -> None:
    try:
        check_collection_name(name)
    except ValueError as error:
        raise Unprocessable(str(error)) from error
