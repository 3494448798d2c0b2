"""DeletedBackup: what is known of a backup that is gone: what it was, why it went, and who wanted that."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import models

from apps.core.models import UuidModel


class DeletedBackup(UuidModel):
    """A tombstone that stays. Written in the transaction that removes the backup's row, and never changed.

    Texts and plain ids instead of foreign keys: it outlives the storage, the policy and the person.
    """

    #: The id that the backup had.
    backup_id = models.UUIDField(db_index=True)
    snapshot_name = models.CharField(max_length=120)
    collection_name = models.CharField(max_length=255)
    shard_id = models.PositiveIntegerField(null=True, blank=True)
    cluster_id = models.UUIDField(null=True, blank=True)
    cluster_name = models.CharField(max_length=100)
    storage_id = models.UUIDField()
    storage_name = models.CharField(max_length=100)
    path = models.CharField(max_length=1000)
    #: When its first snapshot was taken.
    taken_at = models.DateTimeField()
    size_bytes = models.BigIntegerField()
    points_count = models.BigIntegerField()
    parts_count = models.PositiveIntegerField()
    manifest_sha256 = models.CharField(max_length=64, blank=True, default="")
    #: The job and the schedule that made it.
    job_id = models.UUIDField(null=True, blank=True)
    schedule_id = models.UUIDField(null=True, blank=True)

    #: A sentence: why it went.
    reason = models.TextField(blank=True, default="")
    #: When retention let it go; null when somebody deleted it.
    let_go_at = models.DateTimeField(null=True, blank=True)
    #: The evaluation that let it go; null when none did.
    retention_run_id = models.UUIDField(null=True, blank=True)
    policy_id = models.UUIDField(null=True, blank=True)
    policy_name = models.CharField(max_length=100, blank=True, default="")
    policy_version = models.PositiveIntegerField(null=True, blank=True)
    #: The rules of the policy as they were when they let it go; empty when no policy did.
    policy_rules: models.JSONField[Any, Any] = models.JSONField(default=dict, blank=True)
    #: Who asked for the deletion, or confirmed what the policy lets go; empty when it went by itself.
    deleted_by = models.CharField(max_length=150, blank=True, default="")
    #: When the deletion began: it could not be restored from then on. Null when nobody wrote it down.
    asked_at = models.DateTimeField(null=True, blank=True)
    #: When the storage, asked for each of its objects, had none any more.
    erased_at = models.DateTimeField()
    created_at = models.DateTimeField()

    class Meta:
        verbose_name = "deleted backup"
        indexes = [
            models.Index(fields=["-created_at", "-id"], name="deleted_newest"),
            models.Index(fields=["collection_name", "-created_at", "-id"], name="deleted_by_collection"),
        ]

    def __str__(self) -> str:
        return f"{self.collection_name} {self.snapshot_name}"


def forget_old_records(*, now: datetime) -> int:
    """Remove the records of backups that are gone for longer than BACKUPMGR_DELETED_DAYS; return how many."""
    edge = now - timedelta(days=settings.BACKUPMGR_DELETED_DAYS)
    return DeletedBackup.objects.filter(created_at__lt=edge).delete()[0]
