"""Deleting a backup: first said, then done, and done to the end whatever happens in between.

    mark_deleting   one transaction: the row says "being deleted" and a tombstone (Leftover) stands
    erase           manifest first, then the parts, then what was begun and never ended; the same again after a kill
    forget          one transaction: the row goes, and its tombstone with it

From the first step on the backup cannot be restored; from the moment its manifest is gone the folder is no backup to
anybody, another installation or a lost catalogue included.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime

from django.contrib.auth.models import AbstractBaseUser

from apps.backups.models import Backup, BackupStatus, Leftover, LeftoverKind
from apps.core.errors import Unavailable
from apps.storage.keys import manifest_key
from apps.storage.stores import Store

#: What the row says until it is gone.
DELETING_REASON = "It is being deleted."


class StillListed(Unavailable):
    """The storage took the deletion and shows the object all the same."""


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

    Raises: StorageError, StillListed; call it again then.
    """
    manifest = manifest_key(backup.path)
    parts = list(backup.parts.order_by("shard_id").values_list("key", flat=True))
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


def forget(backup: Backup) -> None:
    """Remove the row; its tombstone goes with it."""
    Backup.objects.filter(pk=backup.pk).delete()
