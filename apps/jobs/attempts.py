"""JobAttempt: what became of each attempt at a job. The row is made with the claim and ended with the release."""

from __future__ import annotations

import uuid
from datetime import datetime

from django.db import models
from django.db.models import Q


class AttemptOutcome(models.TextChoices):
    RUNNING = "running", "running"
    COMPLETED = "completed", "completed"
    FAILED = "failed", "failed"
    CANCELLED = "cancelled", "cancelled"
    RETURNED = "returned", "given back"  # the worker was being stopped
    LOST = "lost", "worker vanished"


class JobAttempt(models.Model):
    """One attempt at a job: when, by which worker, how many bytes, and how it ended."""

    job = models.ForeignKey("jobs.Job", on_delete=models.CASCADE, related_name="attempts")
    #: Equals the job's `attempt` while it ran; the first is 1.
    number = models.PositiveIntegerField()
    outcome = models.CharField(max_length=10, choices=AttemptOutcome, default=AttemptOutcome.RUNNING)
    started_at = models.DateTimeField()
    #: Of a lost one: the last sign of life.
    ended_at = models.DateTimeField(null=True, blank=True)
    worker = models.CharField(max_length=120, blank=True, default="")
    pid = models.PositiveIntegerField(null=True, blank=True)
    #: Bytes that moved, those of tries that came to nothing included.
    bytes_moved = models.BigIntegerField(default=0)
    error = models.TextField(blank=True, default="")
    #: Kind of the error, for programs: 'qdrant_timeout', 'storage_full', 'internal' (apps/jobs/retry.py).
    error_category = models.CharField(max_length=60, blank=True, default="")
    #: When the next attempt was to start by itself; null when none was to.
    next_attempt_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["job", "number"], name="one_attempt_per_number"),
            models.CheckConstraint(condition=Q(outcome__in=AttemptOutcome.values), name="attempt_outcome_known"),
        ]

    def __str__(self) -> str:
        return f"attempt {self.number} of {self.job_id}"

    def duration_seconds(self, now: datetime) -> float:
        """Seconds from start to end, or to `now` while it runs."""
        return ((self.ended_at or now) - self.started_at).total_seconds()


def end_attempt(
    *,
    job_id: uuid.UUID,
    number: int,
    outcome: AttemptOutcome,
    at: datetime,
    bytes_moved: int = 0,
    error: str = "",
    error_category: str = "",
    next_attempt_at: datetime | None = None,
) -> None:
    """Write down how an attempt ended, once. Called in the transaction that releases the job."""
    JobAttempt.objects.filter(job_id=job_id, number=number, ended_at=None).update(
        outcome=outcome,
        ended_at=at,
        bytes_moved=max(0, bytes_moved),
        error=error,
        error_category=error_category,
        next_attempt_at=next_attempt_at,
    )
