"""ScheduleRun: one firing of a schedule, what it was to do and what came of it. RunItem: one collection of it."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q

from apps.core.models import UuidModel
from apps.jobs.models import Job
from apps.schedules.models.schedule import Schedule
from apps.storage.models import StorageConfig


class Trigger(models.TextChoices):
    SCHEDULE = "schedule", "by the schedule"
    MANUAL = "manual", "asked for"


class RunStatus(models.TextChoices):
    EXPANDING = "expanding", "looking up collections"
    RUNNING = "running", "running"
    OK = "ok", "succeeded"
    PARTIAL = "partial", "partly failed"
    FAILED = "failed", "failed"
    SKIPPED_OVERLAP = "skipped_overlap", "skipped: the one before still ran"
    FRESH_ENOUGH = "fresh_enough", "skipped: there are fresh backups"
    BLACKOUT = "blackout", "skipped: blackout"
    EXPIRED = "expired", "expired: could not start in time"
    MISSED = "missed", "missed: nothing ran then"


#: Runs that the ticker still has to look after.
OPEN = (RunStatus.EXPANDING, RunStatus.RUNNING)


class ItemStatus(models.TextChoices):
    QUEUED = "queued", "queued or running"
    OK = "ok", "succeeded"
    FAILED = "failed", "failed"
    CANCELLED = "cancelled", "cancelled"
    EXPIRED = "expired", "could not start in time"
    SKIPPED_OVERLAP = "skipped_overlap", "the one before still ran"
    FRESH_ENOUGH = "fresh_enough", "has a fresh backup"


class RunQuerySet(models.QuerySet["ScheduleRun"]):
    def open(self) -> RunQuerySet:
        return self.filter(status__in=OPEN)

    def held_by(self, run_id: uuid.UUID, token: uuid.UUID) -> RunQuerySet:
        """The run that this process is expanding: the filter of everything that it writes."""
        return self.filter(pk=run_id, status=RunStatus.EXPANDING, claim_token=token)


class ScheduleRun(UuidModel):
    """A firing. Written in the transaction that advances the schedule, and unique by (schedule, slot)."""

    schedule = models.ForeignKey(Schedule, on_delete=models.PROTECT, related_name="runs")
    trigger = models.CharField(max_length=8, choices=Trigger, default=Trigger.SCHEDULE)
    #: By the rule. Of `missed` and `blackout` rows that stand for several slots: the last of them.
    slot = models.DateTimeField()
    status = models.CharField(max_length=16, choices=RunStatus, default=RunStatus.EXPANDING)
    #: How many slots this row stands for, and the first of them; null and 0 for a run of its own.
    missed_count = models.PositiveIntegerField(default=0)
    missed_from = models.DateTimeField(null=True, blank=True)
    #: The slot had passed when it was found due.
    is_catch_up = models.BooleanField(default=False)

    created_at = models.DateTimeField()
    #: When the collections had been looked up.
    started_at = models.DateTimeField(null=True, blank=True)
    completed_at = models.DateTimeField(null=True, blank=True)
    matched: models.JSONField[Any, Any] = models.JSONField(default=list, blank=True)
    excluded: models.JSONField[Any, Any] = models.JSONField(default=list, blank=True)
    #: Matched by the run before, and not on the cluster any more.
    vanished: models.JSONField[Any, Any] = models.JSONField(default=list, blank=True)
    #: Items by status, when it has ended.
    counts: models.JSONField[Any, Any] = models.JSONField(default=dict, blank=True)
    error = models.TextField(blank=True, default="")

    # Who looks its collections up
    claim_token = models.UUIDField(null=True, blank=True)
    claimed_until = models.DateTimeField(null=True, blank=True)
    expand_count = models.PositiveSmallIntegerField(default=0)

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    idempotency_key = models.CharField(max_length=200, null=True, blank=True, unique=True)

    objects = RunQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["schedule", "slot"], condition=Q(trigger=Trigger.SCHEDULE), name="one_run_a_slot"
            ),
            models.CheckConstraint(condition=Q(status__in=RunStatus.values), name="run_status_known"),
            models.CheckConstraint(
                condition=Q(missed_count=0, missed_from=None) | Q(missed_count__gt=0, missed_from__isnull=False),
                name="run_stands_for_slots",
            ),
        ]
        indexes = [
            models.Index(fields=["schedule", "-slot"], name="run_by_schedule"),
            models.Index(fields=["schedule", "-created_at", "-id"], name="run_newest_of_schedule"),
            models.Index(fields=["-created_at", "-id"], name="run_newest"),
            models.Index(fields=["status", "-created_at", "-id"], name="run_newest_by_status"),
            models.Index(fields=["created_at"], condition=Q(status__in=OPEN), name="run_open"),
        ]

    def __str__(self) -> str:
        return f"{self.schedule.name} {self.slot:%Y-%m-%d %H:%M} UTC"

    @property
    def is_open(self) -> bool:
        return self.status in OPEN

    def duration_seconds(self, now: datetime) -> float:
        """Seconds from the firing to its end, or to `now`."""
        return ((self.completed_at or now) - self.created_at).total_seconds()


class RunItem(UuidModel):
    """One collection of a run, into one storage: made once, together with its job."""

    run = models.ForeignKey(ScheduleRun, on_delete=models.CASCADE, related_name="items")
    collection_name = models.CharField(max_length=255)
    storage = models.ForeignKey(StorageConfig, on_delete=models.PROTECT, related_name="+")
    job = models.OneToOneField(Job, on_delete=models.SET_NULL, null=True, blank=True, related_name="run_item")
    status = models.CharField(max_length=16, choices=ItemStatus, default=ItemStatus.QUEUED)
    #: Skipped ones: what stood in the way.
    blocker = models.ForeignKey(Job, on_delete=models.SET_NULL, null=True, blank=True, related_name="+")
    message = models.TextField(blank=True, default="")
    settled_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["run", "collection_name", "storage"], name="one_item_a_collection"),
            models.CheckConstraint(condition=Q(status__in=ItemStatus.values), name="item_status_known"),
        ]
        indexes = [
            models.Index(fields=["collection_name"], name="item_by_collection"),
            # Not partial: SQLite does not see that a bound value meets a condition.
            models.Index(fields=["status", "run"], name="item_by_status"),
            models.Index(fields=["status", "settled_at"], name="item_settled"),
        ]

    def __str__(self) -> str:
        return f"{self.collection_name} to {self.storage_id}"
