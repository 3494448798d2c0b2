"""RetentionRun: one look at one set of backups: what it found should go, who confirmed it, and what became of it."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q

from apps.backups.policies import RetentionPolicy
from apps.clusters.models import Cluster
from apps.core.models import UuidModel
from apps.storage.models import StorageConfig


class RetentionTrigger(models.TextChoices):
    BACKUP = "backup", "after a backup"
    SWEEP = "sweep", "regularly"
    MANUAL = "manual", "asked for"


class RetentionStatus(models.TextChoices):
    NOTHING = "nothing", "nothing to do"
    WAITING = "waiting", "waits for a confirmation"
    APPLIED = "applied", "applied"
    SUPERSEDED = "superseded", "another plan took its place"
    HELD = "held", "held back"
    FAILED = "failed", "failed"
    UNDONE = "undone", "undone"


class RetentionRun(UuidModel):
    """A plan for one set, and its fate. The digest names the plan: only what was seen is carried out."""

    policy = models.ForeignKey(RetentionPolicy, on_delete=models.PROTECT, related_name="runs")
    policy_version = models.PositiveIntegerField()
    # The set
    cluster = models.ForeignKey(Cluster, on_delete=models.SET_NULL, null=True, blank=True, related_name="+")
    cluster_name = models.CharField(max_length=100)
    collection_name = models.CharField(max_length=255)
    shard_id = models.PositiveIntegerField(null=True, blank=True)
    storage = models.ForeignKey(StorageConfig, on_delete=models.PROTECT, related_name="+")
    #: Backups made by schedules and those asked for are counted apart.
    is_scheduled = models.BooleanField()

    trigger = models.CharField(max_length=8, choices=RetentionTrigger)
    status = models.CharField(max_length=12, choices=RetentionStatus)
    #: Why it waits or was held back, in a sentence.
    reason = models.TextField(blank=True, default="")
    digest = models.CharField(max_length=64)
    #: {"kept", "expired", "locked", "bytes_expired", "bytes_locked", "over_cap_bytes"}
    counts: models.JSONField[Any, Any] = models.JSONField(default=dict, blank=True)
    #: What was to go, in order: [{"id", "name", "taken_at", "size_bytes", "reasons"}]; empty when nothing was.
    plan: models.JSONField[Any, Any] = models.JSONField(default=list, blank=True)
    error = models.TextField(blank=True, default="")
    created_at = models.DateTimeField()
    completed_at = models.DateTimeField(null=True, blank=True)
    confirmed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    confirmed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(status__in=RetentionStatus.values), name="retention_status_known"),
            models.UniqueConstraint(
                fields=["policy", "cluster_name", "collection_name", "storage", "is_scheduled"],
                condition=Q(status=RetentionStatus.WAITING, shard_id=None),
                name="one_waiting_plan_a_set",
            ),
        ]
        indexes = [
            models.Index(fields=["-created_at", "-id"], name="retention_newest"),
            models.Index(fields=["policy", "-created_at"], name="retention_by_policy"),
            models.Index(fields=["status", "-created_at"], name="retention_by_status"),
        ]

    def __str__(self) -> str:
        return f"{self.policy_id} {self.collection_name} {self.created_at:%Y-%m-%d %H:%M} UTC"
