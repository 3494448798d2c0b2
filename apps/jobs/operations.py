"""NodeOperation: what `wait=false` asked of a node, carried out by a worker, with an outcome that can be looked up.

Qdrant's own `wait=false` forgets its outcome: it answers 202 for a collection that does not exist, and whatever goes
wrong later stands in the node's log only. So a worker asks with `wait=true`, and this row says what came of it.
The queue calls apps.api.operations.run_operation, which knows how to reach nodes and sources.
"""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser
from django.db import models, transaction
from django.db.models import Q
from django_q.models import OrmQ
from django_q.tasks import async_task

from apps.clusters.models import Cluster
from apps.core.fields import EncryptedField
from apps.core.models import UuidModel

#: Dotted, so that the queue holds a name and this room does not import the one above it.
RUN_OPERATION = "apps.api.operations.run_operation"

#: A pending operation that has waited this long for a delivery gets another one.
_DELIVER_AGAIN = timedelta(seconds=30)
#: How long ended operations can be looked up.
KEPT = timedelta(days=30)


class OperationKind(models.TextChoices):
    CREATE = "create_snapshot", "create a snapshot"
    DELETE = "delete_snapshot", "delete a snapshot"
    RECOVER = "recover_snapshot", "recover from a snapshot"


class OperationStatus(models.TextChoices):
    PENDING = "pending", "pending"
    RUNNING = "running", "running"
    COMPLETED = "completed", "completed"
    FAILED = "failed", "failed"


class NodeOperation(UuidModel):
    """One call to a node, from the request that asked for it to its outcome. It is tried once and never repeated."""

    kind = models.CharField(max_length=20, choices=OperationKind)
    status = models.CharField(max_length=10, choices=OperationStatus, default=OperationStatus.PENDING)
    cluster = models.ForeignKey(Cluster, on_delete=models.CASCADE, related_name="+")
    #: Peer id; empty when the request left the choice to us.
    node = models.CharField(max_length=20, blank=True, default="")
    collection_name = models.CharField(max_length=255)
    shard_id = models.BigIntegerField(null=True, blank=True)
    #: Of the snapshot to delete, or of the one that was made.
    snapshot_name = models.CharField(max_length=300, blank=True, default="")
    #: Recovering: the validated body as JSON. Its location and key may open the source, hence encrypted; emptied at the
    #: end.
    body = EncryptedField()
    #: What the node answered; null until then.
    result: models.JSONField[Any, Any] = models.JSONField(null=True, blank=True)
    error = models.TextField(blank=True, default="")
    worker = models.CharField(max_length=120, blank=True, default="")
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    created_at = models.DateTimeField()
    queued_at = models.DateTimeField()
    #: The worker that runs it says every second that it is there.
    seen_at = models.DateTimeField(null=True, blank=True)
    started_at = models.DateTimeField(null=True, blank=True)
    completed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(status__in=OperationStatus.values), name="operation_status_known"),
            models.CheckConstraint(condition=Q(kind__in=OperationKind.values), name="operation_kind_known"),
        ]
        indexes = [
            models.Index(fields=["-created_at", "-id"], name="operation_newest"),
            models.Index(fields=["status", "completed_at"], name="operation_by_status"),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} of {self.collection_name} ({self.id})"


def start_operation(*, operation: NodeOperation, now: datetime, user: AbstractBaseUser | None = None) -> NodeOperation:
    """Save an operation and queue it, in one transaction."""
    operation.created_at = operation.queued_at = now
    operation.created_by = user  # type: ignore[assignment]
    with transaction.atomic():
        operation.save(force_insert=True)
        _deliver(operation.pk)
    return operation


def claim_operation(*, operation_id: uuid.UUID, worker: str, now: datetime) -> NodeOperation | None:
    """Take the operation; None when it is taken already, ended or forgotten."""
    taken = NodeOperation.objects.filter(pk=operation_id, status=OperationStatus.PENDING).update(
        status=OperationStatus.RUNNING, worker=worker, started_at=now, seen_at=now
    )
    return NodeOperation.objects.select_related("cluster").get(pk=operation_id) if taken else None


def keep_operation(*, operation_id: uuid.UUID, now: datetime) -> None:
    """Say that its worker is still there."""
    NodeOperation.objects.filter(pk=operation_id, status=OperationStatus.RUNNING).update(seen_at=now)


def end_operation(
    *, operation_id: uuid.UUID, now: datetime, error: str = "", result: Any = None, snapshot_name: str = ""
) -> None:
    """Write down what came of it: failed when there is an `error`. Nothing happens when it has ended already."""
    changes: dict[str, Any] = {"snapshot_name": snapshot_name} if snapshot_name else {}
    NodeOperation.objects.filter(pk=operation_id, status=OperationStatus.RUNNING).update(
        status=OperationStatus.FAILED if error else OperationStatus.COMPLETED,
        completed_at=now,
        error=error,
        result=result,
        body="",
        **changes,
    )


def running_operations(worker: str) -> list[uuid.UUID]:
    """Return the ids of the operations that processes of this worker are busy with."""
    return list(
        NodeOperation.objects.filter(status=OperationStatus.RUNNING, worker=worker).values_list("pk", flat=True)
    )


def look_after_operations(*, now: datetime) -> None:
    """Deliver again what nobody has taken, end what lost its worker, forget what ended long ago. Part of the tick."""
    waiting = NodeOperation.objects.filter(status=OperationStatus.PENDING, queued_at__lt=now - _DELIVER_AGAIN)
    for operation_id in list(waiting.values_list("pk", flat=True)[:100]):
        # While deliveries lie untaken, all processes are busy: this one's may be among them.
        if not OrmQ.objects.filter(lock__lte=now).exists() and waiting.filter(pk=operation_id).update(queued_at=now):
            _deliver(operation_id)
    NodeOperation.objects.filter(
        status=OperationStatus.RUNNING, seen_at__lt=now - timedelta(seconds=settings.BACKUPMGR_LEASE_SECONDS)
    ).update(
        status=OperationStatus.FAILED,
        completed_at=now,
        body="",
        error="The worker vanished before the node answered; the node may have gone on: look there what became of it.",
    )
    NodeOperation.objects.filter(
        status__in=(OperationStatus.COMPLETED, OperationStatus.FAILED), completed_at__lt=now - KEPT
    ).delete()


def _deliver(operation_id: uuid.UUID) -> None:
    async_task(RUN_OPERATION, str(operation_id), task_name=f"operation {operation_id}")
