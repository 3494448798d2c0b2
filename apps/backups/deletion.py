"""Deleting a backup: first said, then done, and done to the end whatever happens in between.

    mark_deleting   one transaction: the row says "being deleted" and a tombstone (Leftover) stands
    erase           manifest first, then the parts, then what was begun and never ended; the same again after a kill
    forget          one transaction: the row goes, its tombstone with it, and a record of it begins (DeletedBackup)

From the first step on the backup cannot be restored; from the moment its manifest is gone the folder is no backup to
anybody, another installation or a lost catalogue included.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction

from apps.backups.deleted import DeletedBackup
from apps.backups.models import Backup, BackupStatus, Leftover, LeftoverKind
from apps.core.errors import Conflict, Unavailable
from apps.core.text import format_size
from apps.storage.keys import manifest_key
from apps.storage.stores import WITHOUT_END, Store

#: What the row says until it is gone.
DELETING_REASON = "It is being deleted."


class StillListed(Unavailable):
    """The storage took the deletion and shows the object all the same."""


class StillLocked(Conflict):
    """The storage itself keeps what is to be deleted; `not_before` is when to try again."""

    def __init__(self, sentence: str, not_before: datetime) -> None:
        super().__init__(sentence)
        self.not_before = not_before


#: A lock without an end (a legal hold) is looked at again after this.
LOOK_AGAIN = timedelta(days=1)


@dataclass(frozen=True)
class BackupTrace:
    """A backup that is being deleted."""

    backup_id: str
    storage_id: str
    path: str


def mark_deleting(
    backup: Backup, *, first_try_at: datetime, reason: str = "", user: AbstractBaseUser | None = None
) -> Leftover | None:
    """Mark the backup as being deleted and set its tombstone; None when somebody else has done so already.

    The tick leaves it alone until `first_try_at`. Call it in a transaction that holds the row's lock. Nothing in the
    storage is touched.
    """
    changed = (
        Backup.objects.filter(pk=backup.pk)
        .exclude(status=BackupStatus.DELETING)
        .update(status=BackupStatus.DELETING, status_reason=DELETING_REASON)
    )
    if not changed:
        return None
    trace = BackupTrace(backup_id=str(backup.pk), storage_id=str(backup.storage_id), path=backup.path)
    return Leftover.objects.create(
        kind=LeftoverKind.BACKUP,
        storage_id=backup.storage_id,
        backup=backup,
        job_id=backup.job_id,
        subject={"kind": str(LeftoverKind.BACKUP), **asdict(trace)},
        reason=reason,
        created_by=user,  # type: ignore[misc]
        next_try_at=first_try_at,
    )


def erase(backup: Backup, store: Store) -> None:
    """Remove what the storage holds of the backup; what somebody else put into its folder stays.

    Nothing of it goes as long as the storage keeps any of it locked. Raises: StorageError, StillListed, StillLocked;
    call it again then.
    """
    manifest = manifest_key(backup.path)
    parts = list(backup.parts.order_by("shard_id").values_list("key", flat=True))
    _refuse_while_locked(backup, lock_of(store, [manifest, *parts]))
    store.delete(manifest)
    if store.stat(manifest) is not None:
        # Nothing else may go before it: that would leave half a backup that looks whole.
        raise StillListed(f"{manifest} is still there although the storage took its deletion: check its rules.")
    for key in parts:
        store.delete(key)
    for item in list(store.unfinished(backup.path)):
        if item.key == manifest or item.key in parts:
            store.discard(item)
    for key in parts:
        if store.stat(key) is not None:
            raise StillListed(f"{key} is still there although the storage took its deletion: check its rules.")


def lock_of(store: Store, keys: Iterable[str]) -> datetime | None:
    """Return until when the storage keeps the last of these objects, None when it keeps none. Raises: StorageError."""
    return max(filter(None, (store.locked_until(key) for key in keys)), default=None)


def refresh_lock(backup: Backup, store: Store) -> datetime | None:
    """Ask the storage until when it keeps the backup locked, and write that down. Raises: StorageError.

    A storage that names no date may only hide it from our keys: then the one that it named before counts.
    """
    until = lock_of(store, [manifest_key(backup.path), *backup.parts.values_list("key", flat=True)])
    if until is None and backup.locked_until is not None and backup.locked_until < WITHOUT_END:
        return backup.locked_until
    Backup.objects.filter(pk=backup.pk).update(locked_until=until)
    return until


def lock_words(until: datetime) -> str:
    """'locked until 2026-01-02 12:00 UTC', 'locked by a legal hold'"""
    return "locked by a legal hold" if until >= WITHOUT_END else f"locked until {until:%Y-%m-%d %H:%M} UTC"


def _refuse_while_locked(backup: Backup, until: datetime | None) -> None:
    """Raises: StillLocked."""
    now = datetime.now(UTC)
    if until is None or until <= now:
        return
    Backup.objects.filter(pk=backup.pk).update(locked_until=until)
    then = now + LOOK_AGAIN if until >= WITHOUT_END else until
    raise StillLocked(
        f"The storage keeps it {lock_words(until)}: it is deleted then, nothing of it is gone yet "
        f"({format_size(backup.size_bytes)} are still held).",
        then,
    )


def forget(backup: Backup, *, erased_at: datetime) -> None:
    """Remove the row and its tombstone, and write down what is gone. Of several callers one does; a kill undoes both.

    `erased_at` is when the storage was seen to hold nothing of it any more.
    """
    with transaction.atomic():
        rows = Backup.objects.select_for_update(of=("self",)).select_related("storage", "policy").defer("manifest")
        there = rows.filter(pk=backup.pk).first()
        if there is None:
            return
        DeletedBackup.objects.create(**_record_of(there), erased_at=erased_at, created_at=erased_at)
        there.delete()


def _record_of(backup: Backup) -> dict[str, Any]:
    """Return what is kept of a backup that goes, and of why it goes."""
    tombstone = Leftover.objects.filter(backup=backup).select_related("created_by").first()
    asker = tombstone.created_by if tombstone is not None else None
    # By a policy it went only when one had let it go; else it was somebody, whatever policy it was under.
    facts = backup.expire_facts if backup.is_expired else {}
    policy = backup.policy
    return {
        "backup_id": backup.pk,
        "snapshot_name": backup.snapshot_name,
        "collection_name": backup.collection_name,
        "shard_id": backup.shard_id,
        "cluster_id": backup.cluster_id,
        "cluster_name": backup.cluster_name,
        "storage_id": backup.storage_id,
        "storage_name": backup.storage.name,
        "path": backup.path,
        "taken_at": backup.started_at,
        "size_bytes": backup.size_bytes,
        "points_count": backup.points_count,
        "parts_count": backup.parts.count(),
        "manifest_sha256": backup.manifest_sha256,
        "job_id": backup.job_id,
        "schedule_id": backup.schedule_id,
        "reason": (tombstone.reason if tombstone is not None else "") or backup.expire_reason,
        "let_go_at": backup.expired_at,
        "retention_run_id": facts.get("run"),
        "policy_id": facts.get("policy", policy.pk if policy else None),
        "policy_name": facts.get("name", policy.name if policy else ""),
        "policy_version": facts.get("version", policy.version if policy else None),
        "policy_rules": facts.get("rules", {}),
        "deleted_by": asker.get_username() if asker is not None else facts.get("by", ""),
        "asked_at": tombstone.created_at if tombstone is not None else None,
    }
