"""What the queue calls: retention after new backups, and the sweep. Repeatable; a kill is made up for by the sweep."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone

from apps.backups.deleted import forget_old_records
from apps.backups.deletion import refresh_lock
from apps.backups.models import Backup, BackupStatus
from apps.backups.policies import RetentionPolicy
from apps.schedules.clock import may_expire
from apps.schedules.models import RetentionRun, RetentionStatus, RetentionTrigger
from apps.schedules.retention.apply import apply_policy, delete_due, expire_dated
from apps.schedules.retention.facts import all_policies
from apps.storage.backends import PROBE_PATIENCE
from apps.storage.errors import StorageError
from apps.storage.models import StorageConfig
from apps.storage.opening import open_store
from apps.storage.stores import WITHOUT_END

logger = logging.getLogger(__name__)

#: Runs that found nothing to do, or failed, are kept for so long; the others stay.
NOTHING_KEPT = timedelta(days=14)
#: Of a storage, in one sweep.
HOLDS_LOOKED_AT = 200


def after_backups(policy_id: str, **unknown: Any) -> None:
    """Look at the policy's sets: a new backup may have taken the place of an old one."""
    policy = RetentionPolicy.objects.filter(pk=policy_id).first()
    if policy is not None:
        now = timezone.now()
        _apply(policy, RetentionTrigger.BACKUP, now)
        _guard("deletion", lambda: delete_due(now=now))


def sweep(*unused: Any, **unknown: Any) -> None:
    """Go through all policies, through backups with a date of their own, and delete what is due."""
    run_sweep(now=timezone.now())


def run_sweep(*, now: datetime) -> None:
    for policy in all_policies():
        _apply(policy, RetentionTrigger.SWEEP, now)
    _guard("legal holds", look_at_legal_holds)
    _guard("dated backups", lambda: expire_dated(now=now))
    _guard("deletion", lambda: delete_due(now=now))
    if may_expire(now):  # a clock that has jumped makes records look old, too
        forget_old_records(now=now)
    idle = RetentionRun.objects.filter(status__in=(RetentionStatus.NOTHING, RetentionStatus.FAILED))
    idle.filter(created_at__lt=now - NOTHING_KEPT).delete()


def look_at_legal_holds() -> None:
    """Ask storages whether locks without an end still stand: nobody tells when one is lifted."""
    rows = Backup.objects.filter(locked_until__gte=WITHOUT_END).exclude(status=BackupStatus.DELETING)
    # By storage, so that one that is away is tried once; the others have their turn at the next sweep.
    for storage in StorageConfig.objects.filter(backups__in=rows).distinct():
        store = open_store(storage, patience=PROBE_PATIENCE)
        for backup in rows.filter(storage=storage).defer("manifest").order_by("?")[:HOLDS_LOOKED_AT]:
            try:
                refresh_lock(backup, store)
            except StorageError as error:
                logger.info("The locks in %s cannot be looked at: %s", storage, error)
                break


def _apply(policy: RetentionPolicy, trigger: RetentionTrigger, now: datetime) -> None:
    """One policy's trouble must not keep the others from their turn, nor fail a backup."""
    _guard(f"policy {policy.pk}", lambda: apply_policy(policy=policy, trigger=trigger, now=now))


def _guard(what: str, work: Any) -> None:
    try:
        work()
    except Exception:
        logger.exception("Retention failed: %s", what)
