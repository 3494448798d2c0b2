"""Backup and Part: the catalogue of what exists in the storages. Verification: what was found when one was tested.
Leftover: what still has to be cleaned up.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q

from apps.backups.deleted import DeletedBackup as DeletedBackup  # Django finds models here
from apps.backups.kept import KeptCollection as KeptCollection
from apps.backups.orphans import MadeSnapshot as MadeSnapshot
from apps.backups.orphans import Orphan as Orphan
from apps.backups.orphans import OrphanKind as OrphanKind
from apps.backups.orphans import OrphanState as OrphanState
from apps.backups.orphans import Reconciliation as Reconciliation
from apps.backups.orphans import ReconciliationStatus as ReconciliationStatus
from apps.backups.policies import Hold as Hold  # Django finds models here
from apps.backups.policies import RetentionPolicy
from apps.clusters.models import Cluster
from apps.core.models import UuidModel
from apps.storage.models import StorageConfig


class BackupStatus(models.TextChoices):
    COMPLETED = "completed", "completed"  # the manifest and every part are in the storage
    DAMAGED = "damaged", "damaged"  # a part or the manifest was found altered
    MISSING = "missing", "missing"  # the manifest was not found in the storage any more
    DELETING = "deleting", "being deleted"  # for good: a tombstone (Leftover) removes what the storage holds of it


class Backup(UuidModel):
    """A verified copy of a collection (or of one shard of it) in a storage: parts and, written last, a manifest.

    The storage is the truth: a row is made after the manifest was written, and `rescan` makes the same row from
    the manifest alone.
    """

    storage = models.ForeignKey(StorageConfig, on_delete=models.PROTECT, related_name="backups")
    #: Null when the manifest names a cluster that is not registered here.
    cluster = models.ForeignKey(Cluster, on_delete=models.SET_NULL, null=True, blank=True, related_name="backups")
    cluster_name = models.CharField(max_length=100)
    collection_name = models.CharField(max_length=255)
    #: Null for a backup of the whole collection.
    shard_id = models.PositiveIntegerField(null=True, blank=True)
    #: Names the backup for restores: the last folder of `path`, unique in all storages.
    snapshot_name = models.CharField(max_length=120)
    #: Folder of the parts within the storage, without leading or trailing slash.
    path = models.CharField(max_length=1000)
    job_id = models.UUIDField(null=True, blank=True, db_index=True)
    status = models.CharField(max_length=12, choices=BackupStatus, default=BackupStatus.COMPLETED)
    status_reason = models.TextField(blank=True, default="")
    size_bytes = models.BigIntegerField()
    points_count = models.BigIntegerField()
    shard_count = models.PositiveIntegerField()
    qdrant_version = models.CharField(max_length=40, blank=True, default="")
    manifest = models.JSONField()
    manifest_sha256 = models.CharField(max_length=64)
    started_at = models.DateTimeField()
    created_at = models.DateTimeField(help_text="When the manifest was written")
    #: When the SHA-256 of every stored part was last compared with the manifest.
    checked_at = models.DateTimeField(null=True, blank=True)
    #: When every part was last opened in the engine, and counted.
    opened_at = models.DateTimeField(null=True, blank=True)
    #: When a restore from it was last proved equal to the manifest.
    restored_at = models.DateTimeField(null=True, blank=True)

    # How long it stays (apps/schedules/retention)
    #: Null: no rules, it stays until somebody deletes it, or until `keep_until`.
    policy = models.ForeignKey(RetentionPolicy, on_delete=models.PROTECT, null=True, blank=True, related_name="backups")
    #: The schedule that made it; null for one that somebody asked for.
    schedule_id = models.UUIDField(null=True, blank=True)
    #: A date of its own, instead of a policy.
    keep_until = models.DateTimeField(null=True, blank=True)
    #: The storage itself refuses to delete it before then.
    locked_until = models.DateTimeField(null=True, blank=True)
    #: Set when retention let it go: it can still be restored, and taken back, until `delete_at`.
    expired_at = models.DateTimeField(null=True, blank=True)
    expire_reason = models.CharField(max_length=300, blank=True, default="")
    delete_at = models.DateTimeField(null=True, blank=True)
    #: What let it go, for the record: {"run", "by", "policy", "name", "version", "rules"}; counts with `expired_at`.
    expire_facts: models.JSONField[Any, Any] = models.JSONField(default=dict, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(expired_at=None, delete_at=None) | Q(expired_at__isnull=False, delete_at__isnull=False),
                name="backup_expired_with_a_date",
            ),
            models.CheckConstraint(condition=Q(policy=None) | Q(keep_until=None), name="backup_policy_or_date"),
            models.UniqueConstraint(fields=["storage", "path"], name="one_backup_per_folder"),
            models.CheckConstraint(condition=Q(status__in=BackupStatus.values), name="backup_status_known"),
        ]
        indexes = [
            models.Index(fields=["-created_at", "-id"], name="backup_newest"),
            models.Index(fields=["collection_name", "-created_at"], name="backup_by_collection"),
            models.Index(fields=["snapshot_name"], name="backup_by_snapshot_name"),
            models.Index(fields=["cluster", "collection_name", "-created_at"], name="backup_newest_of_collection"),
            models.Index(
                fields=["cluster", "collection_name", "-checked_at"],
                condition=Q(checked_at__isnull=False),
                name="backup_last_tested",
            ),
            models.Index(
                fields=["cluster", "collection_name", "-restored_at"],
                condition=Q(restored_at__isnull=False),
                name="backup_last_proven",
            ),
            models.Index(fields=["status"], name="backup_by_status"),
            models.Index(fields=["delete_at"], condition=Q(delete_at__isnull=False), name="backup_to_delete"),
            models.Index(fields=["keep_until"], condition=Q(keep_until__isnull=False), name="backup_with_a_date"),
        ]

    def __str__(self) -> str:
        return f"{self.collection_name} {self.snapshot_name}"

    @property
    def is_expired(self) -> bool:
        """Retention let it go; it is still there until `delete_at`."""
        return self.expired_at is not None

    @property
    def proof(self) -> VerificationKind | None:
        """The strongest verification that it has passed so far; None when it was never tested."""
        if self.restored_at:
            return VerificationKind.RESTORED
        if self.opened_at:
            return VerificationKind.OPENED
        return VerificationKind.CHECKED if self.checked_at else None


class Part(UuidModel):
    """One file of a backup: the snapshot of one shard, as Qdrant made it."""

    backup = models.ForeignKey(Backup, on_delete=models.CASCADE, related_name="parts")
    shard_id = models.PositiveIntegerField()
    key = models.CharField(max_length=1200)
    size_bytes = models.BigIntegerField()
    sha256 = models.CharField(max_length=64)
    etag = models.CharField(max_length=200, blank=True, default="")
    points_count = models.BigIntegerField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["backup", "shard_id"], name="one_part_per_shard")]

    def __str__(self) -> str:
        return f"{self.backup_id} shard {self.shard_id}"


class VerificationKind(models.TextChoices):
    """How far a verification went; each goes beyond the one before."""

    CHECKED = "checked", "Checked (hashes only)"
    OPENED = "opened", "Opened (hashes, and opened and counted by the engine)"
    RESTORED = "restored", "Proven (restored and compared)"


class VerificationResult(models.TextChoices):
    OK = "ok", "ok"
    FAILED = "failed", "failed"


class Verification(UuidModel):
    """A verdict on a backup: tested how, when, by whom, and what came of it. Written once, never changed.

    A test that could not be carried out (no room, no engine, a storage that is away) is no verdict and has no row.
    """

    backup = models.ForeignKey(Backup, on_delete=models.CASCADE, related_name="verifications")
    kind = models.CharField(max_length=10, choices=VerificationKind)
    result = models.CharField(max_length=8, choices=VerificationResult)
    created_at = models.DateTimeField()
    #: Who asked for it: a user's name, or a schedule's; empty when nobody in particular did.
    by = models.CharField(max_length=200, blank=True, default="")
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    job_id = models.UUIDField(null=True, blank=True, db_index=True)
    #: A sentence: what was compared with what.
    method = models.TextField(blank=True, default="")
    #: Why it failed; empty when it did not.
    reason = models.TextField(blank=True, default="")
    #: Points whose id, payload and vectors were compared one by one with what the backup holds.
    points_compared = models.BigIntegerField(default=0)
    #: Figures per part, the target of a restore, the differences.
    details: models.JSONField[Any, Any] = models.JSONField(default=dict, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(kind__in=VerificationKind.values), name="verification_kind_known"),
            models.CheckConstraint(condition=Q(result__in=VerificationResult.values), name="verification_result_known"),
        ]
        indexes = [
            models.Index(fields=["backup", "-created_at", "-id"], name="verification_by_backup"),
            models.Index(fields=["-created_at", "-id"], name="verification_newest"),
        ]

    def __str__(self) -> str:
        return f"{self.backup_id} {self.kind}: {self.result}"


class LeftoverKind(models.TextChoices):
    SNAPSHOT = "snapshot", "snapshot on a node"
    FOLDER = "folder", "files of an unfinished backup"
    COLLECTION = "collection", "half-restored collection"
    BACKUP = "backup", "backup being deleted"
    UPLOAD = "upload", "unfinished upload"


class Leftover(UuidModel):
    """A tombstone: something of ours that has to go and is not gone yet. The tick tries until it is."""

    kind = models.CharField(max_length=12, choices=LeftoverKind)
    cluster = models.ForeignKey(Cluster, on_delete=models.CASCADE, null=True, blank=True)
    storage = models.ForeignKey(StorageConfig, on_delete=models.CASCADE, null=True, blank=True)
    #: The backup that is being deleted; its row goes last, and the tombstone with it.
    backup = models.OneToOneField(Backup, on_delete=models.CASCADE, null=True, blank=True, related_name="tombstone")
    #: What the reconciler found, when it is that.
    orphan = models.OneToOneField(Orphan, on_delete=models.SET_NULL, null=True, blank=True, related_name="tombstone")
    #: The job that made it; null for a backup whose manifest names none.
    job_id = models.UUIDField(null=True, blank=True)
    #: What and where: the fields of its trace (traces.py).
    subject = models.JSONField()
    #: Why it has to go, and who asked for it; empty and null for what jobs leave behind.
    reason = models.TextField(blank=True, default="")
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    tries = models.PositiveIntegerField(default=0)
    last_error = models.TextField(blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True)
    next_try_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return f"{self.kind} of job {self.job_id}"
