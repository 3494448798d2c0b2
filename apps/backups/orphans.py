"""What the reconciler writes down: MadeSnapshot (evidence), Orphan (what it found), Reconciliation (when it looked)."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q

from apps.clusters.models import Cluster
from apps.core.models import UuidModel
from apps.storage.models import StorageConfig


class MadeSnapshot(UuidModel):
    """A shard snapshot that a job had a node make and whose end is not certain: proof that it is ours.

    Written before the node is asked, removed when the node has said that it deleted the file. A row that stays is no
    fault by itself: a snapshot vanishes from sight with its collection, and comes back with one of the same name.
    """

    cluster = models.ForeignKey(Cluster, on_delete=models.CASCADE, related_name="+")
    collection_name = models.CharField(max_length=255)
    shard_id = models.PositiveIntegerField()
    job_id = models.UUIDField()
    requested_at = models.DateTimeField()
    #: `requested_at` by the node's clock; null when it did not tell.
    node_time = models.DateTimeField(null=True, blank=True)
    #: The snapshots that were there before.
    known = models.JSONField(default=list, blank=True)
    #: Empty until the node has answered.
    name = models.CharField(max_length=300, blank=True, default="")
    #: SHA-256 as the node told it; empty where it keeps none.
    checksum = models.CharField(max_length=64, blank=True, default="")

    class Meta:
        indexes = [models.Index(fields=["cluster", "collection_name", "shard_id"], name="made_by_shard")]

    def __str__(self) -> str:
        return self.name or f"unanswered request for shard {self.shard_id} of {self.collection_name}"


class OrphanKind(models.TextChoices):
    BACKUP = "backup", "backup that the catalogue does not know"
    FILES = "files", "files of an unfinished backup"
    UPLOAD = "upload", "unfinished upload"
    TEMPORARY = "temporary", "temporary object"
    SNAPSHOT = "snapshot", "snapshot on a node"
    COLLECTION = "collection", "half-restored collection"
    ROW = "row", "backup whose files are gone or changed"


class OrphanState(models.TextChoices):
    OPEN = "open", "open"
    CLEANED = "cleaned", "removed"
    ADOPTED = "adopted", "adopted"
    DISMISSED = "dismissed", "dismissed"
    GONE = "gone", "gone by itself"


class Orphan(UuidModel):
    """Something in a storage or on a node that belongs to no backup and no job; or a backup without its files."""

    kind = models.CharField(max_length=12, choices=OrphanKind)
    state = models.CharField(max_length=10, choices=OrphanState, default=OrphanState.OPEN)
    #: Hash of kind, place and name: the same thing found again is the same row.
    identity = models.CharField(max_length=64, unique=True)
    storage = models.ForeignKey(StorageConfig, on_delete=models.CASCADE, null=True, blank=True, related_name="orphans")
    cluster = models.ForeignKey(Cluster, on_delete=models.CASCADE, null=True, blank=True, related_name="orphans")
    #: Address of the node that a snapshot lies on.
    node_url = models.CharField(max_length=500, blank=True, default="")
    #: Folder or key in the storage, name of the snapshot or collection on the node.
    name = models.CharField(max_length=1200)
    collection_name = models.CharField(max_length=255, blank=True, default="")
    shard_id = models.PositiveIntegerField(null=True, blank=True)
    #: The job that made it, as far as its name tells.
    job_id = models.UUIDField(null=True, blank=True)
    backup = models.ForeignKey("backups.Backup", on_delete=models.SET_NULL, null=True, blank=True, related_name="+")
    #: None where the storage does not tell.
    size_bytes = models.BigIntegerField(null=True, blank=True)
    #: Whether there is proof that it is ours; what is not proved is never removed without a person's word.
    is_ours = models.BooleanField(default=False)
    reason = models.TextField()
    #: What removes it (removing.py); null when nothing here can.
    subject: models.JSONField[Any, Any] = models.JSONField(null=True, blank=True)
    created_at = models.DateTimeField(help_text="When it was first seen")
    last_seen_at = models.DateTimeField()
    #: When it was removed, adopted, dismissed or found to be gone, and by whom (null: by itself).
    ended_at = models.DateTimeField(null=True, blank=True)
    decided_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(state__in=OrphanState.values), name="orphan_state_known"),
            models.CheckConstraint(condition=Q(kind__in=OrphanKind.values), name="orphan_kind_known"),
        ]
        indexes = [
            models.Index(fields=["-created_at", "-id"], name="orphan_newest"),
            models.Index(fields=["state", "-created_at"], name="orphan_by_state"),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} {self.name}"

    @property
    def place(self) -> str:
        """Where it is, in words."""
        if self.storage is not None:
            return self.storage.name
        return self.cluster.name if self.cluster is not None else ""


class ReconciliationStatus(models.TextChoices):
    PENDING = "pending", "pending"
    RUNNING = "running", "running"
    COMPLETED = "completed", "completed"
    FAILED = "failed", "failed"


class Reconciliation(UuidModel):
    """One look at all storages and clusters, or at some; at most one is under way."""

    status = models.CharField(max_length=10, choices=ReconciliationStatus, default=ReconciliationStatus.PENDING)
    #: Why: "schedule", "command" or "request".
    trigger = models.CharField(max_length=10)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True, blank=True)
    #: Renewed while it runs; one that is not has died.
    seen_at = models.DateTimeField(null=True, blank=True)
    completed_at = models.DateTimeField(null=True, blank=True)
    #: [{"kind": "storage" | "cluster", "id", "name", "error", "looked_at", "orphans", "cleaned"}]
    places: models.JSONField[Any, Any] = models.JSONField(default=list, blank=True)
    found = models.PositiveIntegerField(default=0)
    cleaned = models.PositiveIntegerField(default=0)
    error = models.TextField(blank=True, default="")

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["status"], condition=Q(status=ReconciliationStatus.RUNNING), name="one_running_reconciliation"
            ),
            models.UniqueConstraint(
                fields=["status"], condition=Q(status=ReconciliationStatus.PENDING), name="one_pending_reconciliation"
            ),
            models.CheckConstraint(
                condition=Q(status__in=ReconciliationStatus.values), name="reconciliation_status_known"
            ),
        ]
        indexes = [models.Index(fields=["-created_at", "-id"], name="reconciliation_newest")]

    def __str__(self) -> str:
        return f"{self.trigger} {self.created_at:%Y-%m-%d %H:%M}"
