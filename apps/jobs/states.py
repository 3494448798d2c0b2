"""The states of a job and the ways between them. Nothing else decides what may follow what.

pending ──claim──▶ running ──▶ completed
   ▲ ▲                │  └──▶ failed ───┐
   │ └──lost, drained─┘                 │ retry (attempt + 1)
   │   pending, running ──▶ cancelled ──┤
   └────────────────────────────────────┘
"""

from __future__ import annotations

from django.db import models


class JobStatus(models.TextChoices):
    PENDING = "pending", "pending"
    RUNNING = "running", "running"
    COMPLETED = "completed", "completed"
    FAILED = "failed", "failed"
    CANCELLED = "cancelled", "cancelled"


class JobType(models.TextChoices):
    BACKUP = "backup", "backup"
    RESTORE = "restore", "restore"
    SHARD_BACKUP = "shard_backup", "shard backup"
    SHARD_RESTORE = "shard_restore", "shard restore"
    VERIFY = "verify", "verification"


BACKUP_TYPES = frozenset({JobType.BACKUP, JobType.SHARD_BACKUP})
RESTORE_TYPES = frozenset({JobType.RESTORE, JobType.SHARD_RESTORE})
#: They read a stored backup: it stays as long as one of them is pending or running.
READING_TYPES = RESTORE_TYPES | {JobType.VERIFY}
SHARD_TYPES = frozenset({JobType.SHARD_BACKUP, JobType.SHARD_RESTORE})

ACTIVE = frozenset({JobStatus.PENDING, JobStatus.RUNNING})
ENDED = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED})
RETRYABLE = frozenset({JobStatus.FAILED, JobStatus.CANCELLED})

_WAYS: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.PENDING: frozenset({JobStatus.RUNNING, JobStatus.CANCELLED, JobStatus.FAILED}),
    JobStatus.RUNNING: frozenset({JobStatus.PENDING, *ENDED}),
    JobStatus.COMPLETED: frozenset(),
    JobStatus.FAILED: frozenset({JobStatus.PENDING}),
    JobStatus.CANCELLED: frozenset({JobStatus.PENDING}),
}


def may_follow(before: str, after: str) -> bool:
    """Tell whether a job in state `before` may go to state `after`."""
    return JobStatus(after) in _WAYS[JobStatus(before)]
