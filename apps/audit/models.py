"""AuditEntry: who did what, when, from where, to which object. Written once, never changed."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import PermissionDenied
from django.db import models
from django.db.models import Q


class Via(models.TextChoices):
    ADMIN = "admin", "admin"
    API = "api", "API"
    SYSTEM = "system", "system"  # a worker, a schedule, a command on the host


class Outcome(models.TextChoices):
    DONE = "done", "done"
    REFUSED = "refused", "refused"  # the person or token may not do this


class AuditQuerySet(models.QuerySet["AuditEntry"]):
    """Rows can be read and added."""

    def update(self, **kwargs: Any) -> int:
        raise PermissionDenied("The audit trail is append-only: its entries are never changed.")

    def delete(self) -> tuple[int, dict[str, int]]:
        raise PermissionDenied("The audit trail is append-only: its entries are never deleted.")


class AuditEntry(models.Model):
    """One thing that somebody did, or was refused.

    Names are kept as they were, without foreign keys: an entry outlives the person and the object it tells of. The
    database itself refuses to change a row (a trigger, see the first migration).
    """

    created_at = models.DateTimeField()
    via = models.CharField(max_length=8, choices=Via)
    outcome = models.CharField(max_length=8, choices=Outcome, default=Outcome.DONE)
    #: User name; empty for the system, and for a stranger.
    actor = models.CharField(max_length=150, blank=True, default="")
    actor_id = models.CharField(max_length=40, blank=True, default="")
    #: Name and beginning of the API token that was used.
    token = models.CharField(max_length=140, blank=True, default="")
    #: IP address the request came from; empty for the system.
    address = models.CharField(max_length=64, blank=True, default="")
    #: What was done, as programs filter for it: "job.create", "createCluster".
    action = models.CharField(max_length=80)
    #: The same in words.
    summary = models.TextField()
    #: Model name ("job", "cluster", "storage", …), empty when no single object is meant.
    object_type = models.CharField(max_length=60, blank=True, default="")
    object_id = models.CharField(max_length=255, blank=True, default="")
    object_name = models.CharField(max_length=300, blank=True, default="")

    objects = AuditQuerySet.as_manager()

    class Meta:
        verbose_name = "audit entry"
        verbose_name_plural = "audit trail"
        constraints = [
            models.CheckConstraint(condition=Q(via__in=Via.values), name="audit_via_known"),
            models.CheckConstraint(condition=Q(outcome__in=Outcome.values), name="audit_outcome_known"),
        ]
        indexes = [
            models.Index(fields=["-created_at", "-id"], name="audit_newest"),
            models.Index(fields=["actor", "-created_at"], name="audit_by_actor"),
            models.Index(fields=["object_type", "object_id", "-created_at"], name="audit_by_object"),
        ]

    def __str__(self) -> str:
        return self.summary

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Add the entry. Raises: PermissionDenied for one that is there already."""
        if self.pk is not None:
            raise PermissionDenied("The audit trail is append-only: its entries are never changed.")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        raise PermissionDenied("The audit trail is append-only: its entries are never deleted.")
