"""What is kept of a verification: a row with the verdict, and the dates on the backup that lists are made of."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import transaction

from apps.backups.models import Backup, BackupStatus, Verification, VerificationKind, VerificationResult


@dataclass(frozen=True, kw_only=True)
class Proof:
    """A verification that found everything as it should be."""

    kind: VerificationKind
    #: A sentence: what was compared with what.
    method: str
    points_compared: int = 0
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Asker:
    """Who asked for a verification, and in which job."""

    by: str = ""
    user_id: int | None = None
    job_id: uuid.UUID | None = None


def record_proof(*, backup_id: uuid.UUID, proof: Proof, asker: Asker, now: datetime) -> Verification:
    """Keep a verification that went well. A backup that was marked damaged or missing before is whole again.

    Dates on the backup only ever move forward.
    """
    dates = {"checked_at": now}
    if proof.kind == VerificationKind.OPENED:
        dates["opened_at"] = now
    if proof.kind == VerificationKind.RESTORED:
        dates["restored_at"] = now
    with transaction.atomic():
        verification = Verification.objects.create(
            backup_id=backup_id,
            kind=proof.kind,
            result=VerificationResult.OK,
            created_at=now,
            by=asker.by,
            user_id=asker.user_id,
            job_id=asker.job_id,
            method=proof.method,
            points_compared=proof.points_compared,
            details=proof.details,
        )
        Backup.objects.filter(pk=backup_id).update(**dates)
        Backup.objects.filter(pk=backup_id, status__in=[BackupStatus.DAMAGED, BackupStatus.MISSING]).update(
            status=BackupStatus.COMPLETED, status_reason=""
        )
    return verification


def record_failure(
    *,
    backup_id: uuid.UUID,
    kind: VerificationKind,
    reason: str,
    asker: Asker,
    now: datetime,
    status: BackupStatus | None = BackupStatus.DAMAGED,
    method: str = "",
    details: dict[str, Any] | None = None,
) -> Verification:
    """Keep a verification that found the backup wanting, and mark the backup with `status`, None for no mark.

    At once and not when the job ends: what was found must not get lost with the job's lease.
    """
    with transaction.atomic():
        verification = Verification.objects.create(
            backup_id=backup_id,
            kind=kind,
            result=VerificationResult.FAILED,
            created_at=now,
            by=asker.by,
            user_id=asker.user_id,
            job_id=asker.job_id,
            method=method,
            reason=reason,
            details=details or {},
        )
        if status is not None:
            Backup.objects.filter(pk=backup_id).exclude(status=BackupStatus.DELETING).update(
                status=status, status_reason=reason
            )
    return verification
