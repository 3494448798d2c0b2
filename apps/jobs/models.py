"""Job: one run of a piece of work, and the truth about it. JobEvent: its story, line by line."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import F, Q

from apps.backups.models import Backup
from apps.backups.policies import RetentionPolicy
from apps.clusters.models import Cluster
from apps.core.models import UuidModel
from apps.jobs.attempts import JobAttempt as JobAttempt  # Django finds models here
from apps.jobs.operations import NodeOperation as NodeOperation
from apps.jobs.states import ACTIVE, ENDED, RETRYABLE, JobStatus, JobType, may_follow
from apps.storage.models import StorageConfig


class JobQuerySet(models.QuerySet["Job"]):
    def held_by(self, job_id: uuid.UUID, lease_token: uuid.UUID) -> JobQuerySet:
        """The running job that this lease token still owns: the filter of every write that a worker makes."""
        return self.filter(pk=job_id, status=JobStatus.RUNNING, lease_token=lease_token)

    def lost(self, now: datetime) -> JobQuerySet:
        """Running jobs whose worker has not renewed its lease in time."""
        return self.filter(status=JobStatus.RUNNING, lease_until__lt=now)

    def at_work(self) -> JobQuerySet:
        """Running jobs that a process works on. A batch whose children run takes no place from anybody."""
        return self.filter(status=JobStatus.RUNNING).exclude(is_batch=True, lease_token=None)

    def due(self, now: datetime) -> JobQuerySet:
        """Pending jobs that may start now, in the order in which they should."""
        return self.filter(status=JobStatus.PENDING, not_before__lte=now).order_by(
            "rank", F("queue_at").asc(nulls_first=True), "not_before", "created_at", "id"
        )


class Rank(models.IntegerChoices):
    """Whose turn it is first."""

    RESTORE = 0, "restore"
    MANUAL = 1, "asked for by somebody"
    SCHEDULED = 2, "due by a schedule"
    BACKGROUND = 3, "when there is nothing else to do"


class Job(UuidModel):
    """One run of a piece of work. The queue only carries its id; everything that is true of it stands here."""

    type = models.CharField(max_length=16, choices=JobType)
    status = models.CharField(max_length=10, choices=JobStatus, default=JobStatus.PENDING)

    # What was asked
    cluster = models.ForeignKey(Cluster, on_delete=models.PROTECT, related_name="jobs")
    collection_name = models.CharField(max_length=255)
    shard_id = models.PositiveIntegerField(null=True, blank=True)
    storage = models.ForeignKey(StorageConfig, on_delete=models.PROTECT, related_name="jobs")
    backup = models.ForeignKey(Backup, on_delete=models.SET_NULL, null=True, blank=True, related_name="jobs")
    snapshot_name = models.CharField(max_length=120, blank=True, default="")
    #: Restores only: where to; the same cluster and name when not set otherwise at creation.
    target_cluster = models.ForeignKey(
        Cluster, on_delete=models.PROTECT, null=True, blank=True, related_name="restore_jobs"
    )
    target_collection = models.CharField(max_length=255, blank=True, default="")
    overwrite = models.BooleanField(default=False)
    restore_aliases = models.BooleanField(default=False)
    #: What else was asked for, by the names of the API: apps/jobs/options.py reads and writes it.
    options = models.JSONField(default=dict, blank=True)
    metadata = models.JSONField(default=dict, blank=True)
    #: A batch stands for the backups of all collections that match; each of them is a child (batches.py).
    is_batch = models.BooleanField(default=False)
    collections: models.JSONField[Any, Any] = models.JSONField(default=list, blank=True)
    exclude_collections: models.JSONField[Any, Any] = models.JSONField(default=list, blank=True)
    parent = models.ForeignKey("self", on_delete=models.CASCADE, null=True, blank=True, related_name="children")
    #: How many children are in which state, as last counted.
    children_summary: models.JSONField[Any, Any] = models.JSONField(default=dict, blank=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )

    # Whose turn it is, and how long it may take
    rank = models.PositiveSmallIntegerField(choices=Rank, default=Rank.MANUAL)
    #: 0 to 9, within the rank.
    priority = models.PositiveSmallIntegerField(default=5)
    #: Where it stands in the queue of its rank: when it was due, 30 minutes earlier for each point of priority.
    queue_at = models.DateTimeField(null=True, blank=True)
    #: A job that has not started by then is not worth starting any more: it fails.
    start_by = models.DateTimeField(null=True, blank=True)
    #: No automatic retry begins then or later: the next run of its schedule is due.
    retry_by = models.DateTimeField(null=True, blank=True)
    #: An attempt that takes longer is stopped, and the job fails.
    max_runtime_seconds = models.PositiveIntegerField(null=True, blank=True)

    # What becomes of the backup that it makes
    policy = models.ForeignKey(RetentionPolicy, on_delete=models.SET_NULL, null=True, blank=True, related_name="+")
    schedule_id = models.UUIDField(null=True, blank=True)
    keep_until = models.DateTimeField(null=True, blank=True)

    # What it works on: never two running jobs on one collection, whatever their types
    subject_cluster = models.ForeignKey(Cluster, on_delete=models.PROTECT, related_name="+")
    subject_collection = models.CharField(max_length=255)

    # How far it is
    phase = models.CharField(max_length=40, blank=True, default="")
    bytes_done = models.BigIntegerField(default=0)
    bytes_total = models.BigIntegerField(default=0)
    rate_bytes_per_second = models.FloatField(null=True, blank=True)
    error = models.TextField(blank=True, default="")

    # Who holds it
    attempt = models.PositiveIntegerField(default=0)
    #: How often a worker vanished with it since it was created or last retried.
    lost_count = models.PositiveIntegerField(default=0)
    #: How many automatic retries were arranged since then.
    retry_count = models.PositiveIntegerField(default=0)
    #: Pending jobs: why it waits until `not_before`; empty for one that may start at once.
    wait_reason = models.TextField(blank=True, default="")
    not_before = models.DateTimeField()
    lease_token = models.UUIDField(null=True, blank=True)
    lease_until = models.DateTimeField(null=True, blank=True)
    heartbeat_at = models.DateTimeField(null=True, blank=True)
    #: When it last came further: another phase, or other bytes. The heartbeat goes on also while nothing moves.
    progress_at = models.DateTimeField(null=True, blank=True)
    worker = models.CharField(max_length=120, blank=True, default="")
    pid = models.PositiveIntegerField(null=True, blank=True)
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    #: What this job has made outside the database and has not finished with: enough to clean up after a kill.
    checkpoint = models.JSONField(default=dict, blank=True)
    queued_at = models.DateTimeField(null=True, blank=True)

    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True, blank=True)
    completed_at = models.DateTimeField(null=True, blank=True)

    objects = JobQuerySet.as_manager()

    class Meta:
        permissions = [
            ("operate_job", "Can start, cancel and retry backups"),
            ("restore_job", "Can start restores"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["subject_cluster", "subject_collection"],
                condition=Q(status=JobStatus.RUNNING),
                name="one_running_job_per_collection",
            ),
            models.CheckConstraint(condition=Q(status__in=JobStatus.values), name="job_status_known"),
            models.CheckConstraint(condition=Q(type__in=JobType.values), name="job_type_known"),
            models.CheckConstraint(condition=Q(is_batch=False) | Q(parent=None, type=JobType.BACKUP), name="job_batch"),
            models.CheckConstraint(condition=Q(priority__lte=9), name="job_priority_0_to_9"),
        ]
        indexes = [
            models.Index(fields=["-created_at", "-id"], name="job_newest"),
            models.Index(fields=["status", "-created_at", "-id"], name="job_newest_by_status"),
            models.Index(fields=["type", "-created_at", "-id"], name="job_newest_by_type"),
            models.Index(fields=["collection_name", "-created_at"], name="job_newest_by_collection"),
            # Not partial: SQLite does not see that a bound value meets a condition.
            models.Index(fields=["cluster", "collection_name", "-completed_at"], name="job_last_of_collection"),
            models.Index(fields=["schedule_id", "-completed_at"], name="job_last_of_schedule"),
            models.Index(fields=["not_before"], condition=Q(status=JobStatus.PENDING), name="job_waiting"),
            models.Index(fields=["rank", "queue_at"], condition=Q(status=JobStatus.PENDING), name="job_next"),
        ]

    def __str__(self) -> str:
        return f"{self.get_type_display()} of {self.collection_name} ({self.id})"

    @property
    def is_active(self) -> bool:
        return self.status in ACTIVE

    @property
    def is_ended(self) -> bool:
        return self.status in ENDED

    @property
    def can_cancel(self) -> bool:
        return self.is_active and self.cancel_requested_at is None

    @property
    def is_waiting(self) -> bool:
        """Whether it is pending because of what went wrong before, until `next_attempt_at`."""
        return self.status == JobStatus.PENDING and bool(self.wait_reason)

    @property
    def next_attempt_at(self) -> datetime | None:
        """When the next attempt starts by itself; None for a job that does not wait for one."""
        return self.not_before if self.is_waiting else None

    @property
    def can_retry(self) -> bool:
        return self.status in RETRYABLE or self.is_waiting

    @property
    def progress(self) -> int:
        """Percent, 0 to 100; 100 only when the job has completed, so that nobody reads it as done too early."""
        if self.status == JobStatus.COMPLETED:
            return 100
        if self.is_batch:
            ended = sum(self.children_summary.get(status, 0) for status in ENDED)
            return min(99, ended * 100 // max(1, self.children_summary.get("total", 0)))
        if self.bytes_total <= 0:
            return 0
        return max(0, min(99, self.bytes_done * 100 // self.bytes_total))

    @property
    def eta_seconds(self) -> float | None:
        """Seconds that the bytes still to move will take at the present rate; None when nobody can tell."""
        if self.status != JobStatus.RUNNING or not self.rate_bytes_per_second or self.bytes_total <= 0:
            return None
        return max(0, self.bytes_total - self.bytes_done) / self.rate_bytes_per_second

    def duration_seconds(self, now: datetime) -> float | None:
        """Seconds from start to end, or to `now` while it runs; None before it started."""
        return ((self.completed_at or now) - self.started_at).total_seconds() if self.started_at else None

    def allows(self, status: JobStatus) -> bool:
        return may_follow(self.status, status)


class EventLevel(models.TextChoices):
    INFO = "info", "info"
    WARNING = "warning", "warning"
    ERROR = "error", "error"


class JobEvent(models.Model):
    """A line of a job's story: what happened, when, and the figures that go with it."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="events")
    at = models.DateTimeField()
    attempt = models.PositiveIntegerField(default=0)
    level = models.CharField(max_length=8, choices=EventLevel, default=EventLevel.INFO)
    message = models.TextField()
    data: models.JSONField[Any, Any] = models.JSONField(default=dict, blank=True)

    class Meta:
        indexes = [models.Index(fields=["job", "id"], name="event_by_job")]

    def __str__(self) -> str:
        return self.message


class Worker(UuidModel):
    """A worker process group that is, or was, alive: written by its supervisor at every tick."""

    host = models.CharField(max_length=200)
    pid = models.PositiveIntegerField()
    processes = models.PositiveIntegerField()
    started_at = models.DateTimeField()
    seen_at = models.DateTimeField(db_index=True)
    #: Set when it stopped by itself; null for one that runs, or that vanished.
    stopped_at = models.DateTimeField(null=True, blank=True)
    #: Why its queue was last restarted, if it was.
    note = models.TextField(blank=True, default="")

    def __str__(self) -> str:
        return f"{self.host} ({self.pid})"
