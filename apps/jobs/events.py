"""Writing a job's story."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from apps.jobs.models import EventLevel, Job, JobEvent


def record(
    job: Job, message: str, *, at: datetime, level: EventLevel = EventLevel.INFO, data: dict[str, Any] | None = None
) -> None:
    """Add a line to the job's story. Messages are for operators: no secrets, no stack traces."""
    JobEvent.objects.create(job=job, at=at, attempt=job.attempt, level=level, message=message, data=data or {})
