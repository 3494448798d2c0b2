"""What a person decides about an orphan: adopt it, dismiss it, delete it."""

from __future__ import annotations

import uuid
from datetime import datetime

from django.contrib.auth.models import AbstractBaseUser

from apps.audit.trail import record_action
from apps.backups.catalogue import adopt_folder
from apps.backups.models import Backup, Leftover, Orphan, OrphanKind, OrphanState
from apps.backups.reconcile.recording import OrphanInUse
from apps.backups.traces import FolderTrace, trace_from
from apps.core.errors import Conflict, NotFound
from apps.jobs.reconciling import Jobs, age, remove_orphan
from apps.jobs.services import delete_backup
from apps.storage.services import open_store


class OrphanNotFound(NotFound):
    """There is no orphan with that id."""


class OrphanDecided(Conflict):
    """Somebody has decided about it already, or it went by itself."""


class NothingToAdopt(Conflict):
    """Only a backup that the catalogue does not know can be adopted."""


def find_orphan(orphan_id: uuid.UUID) -> Orphan:
    """Return the orphan. Raises: OrphanNotFound."""
    found = Orphan.objects.select_related("storage", "cluster", "backup").filter(pk=orphan_id).first()
    if found is None:
        raise OrphanNotFound("There is no orphan with this id.")
    return found


def adopt_orphan(*, orphan_id: uuid.UUID, now: datetime, user: AbstractBaseUser | None = None) -> Orphan:
    """Enter a backup that was found in a storage into the catalogue.

    Raises: OrphanNotFound, NothingToAdopt, OrphanDecided; ManifestInvalid; StorageError.
    """
    orphan = find_orphan(orphan_id)
    if orphan.kind != OrphanKind.BACKUP or orphan.storage is None:
        raise NothingToAdopt(f"This is no backup, but {orphan.get_kind_display()}: dismiss it, or delete it.")
    _demand_undecided(orphan)
    backup = adopt_folder(orphan.storage, orphan.name)
    record_action("orphan.adopt", f"Entered the backup {backup} into the catalogue.", about=orphan, user=user)
    _decide(orphan, OrphanState.ADOPTED, now=now, user=user, backup_id=backup.pk)
    return find_orphan(orphan_id)


def dismiss_orphan(*, orphan_id: uuid.UUID, now: datetime, user: AbstractBaseUser | None = None) -> Orphan:
    """Leave it where it is, and do not bring it up again. Raises: OrphanNotFound, OrphanDecided."""
    orphan = find_orphan(orphan_id)
    _demand_undecided(orphan)
    _decide(orphan, OrphanState.DISMISSED, now=now, user=user)
    record_action("orphan.dismiss", f"Left {orphan} where it is.", about=orphan, user=user)
    return find_orphan(orphan_id)


def delete_orphan(*, orphan_id: uuid.UUID, now: datetime, user: AbstractBaseUser | None = None) -> Orphan:
    """Remove it for good: at once when that is possible, else by a tombstone that is tried until it is gone.

    Returns it as "cleaned", or still "open" while the tombstone stands.
    Raises: OrphanNotFound, OrphanDecided; Conflict when it cannot be removed, or is in use by now; StorageError.
    """
    orphan = find_orphan(orphan_id)
    _demand_undecided(orphan)
    by = f"{user.get_username()} decided so." if user is not None else "Somebody decided so."
    if orphan.kind == OrphanKind.ROW:
        backup = Backup.objects.filter(pk=orphan.backup_id).first() if orphan.backup_id else None
        if backup is not None:
            delete_backup(
                backup_id=backup.pk, now=now, user=user, reason=f"Its files are gone or changed. {by}", wait=True
            )
        _decide(orphan, OrphanState.CLEANED, now=now, user=user)
        return find_orphan(orphan_id)
    if orphan.kind == OrphanKind.COLLECTION:
        raise OrphanInUse("Restore it again, or delete the collection in Qdrant: it may hold what was there before.")
    if orphan.subject is None:
        raise OrphanInUse("Other things lie in the same folder: remove by hand what is not needed.")
    trace = trace_from(orphan.subject)
    if isinstance(trace, FolderTrace) and orphan.storage is not None:
        _demand_quiet(orphan, trace, now)
    Orphan.objects.filter(pk=orphan.pk, state=OrphanState.DISMISSED).update(state=OrphanState.OPEN, ended_at=None)
    Orphan.objects.filter(pk=orphan.pk).update(decided_by=user)
    record_action("orphan.delete", f"Removed {orphan} from {orphan.place}.", about=orphan, user=user)
    remove_orphan(orphan, now=now, reason=by, book=Jobs(), user=user)
    return find_orphan(orphan_id)


def _demand_undecided(orphan: Orphan) -> None:
    if orphan.state not in (OrphanState.OPEN, OrphanState.DISMISSED):
        raise OrphanDecided(f"This has been decided already: it is {orphan.get_state_display()}.")
    if Leftover.objects.filter(orphan=orphan).exists():
        raise OrphanDecided("This is being removed already; GET /leftovers tells how far that is.")


def _demand_quiet(orphan: Orphan, trace: FolderTrace, now: datetime) -> None:
    """Make sure that nobody has written into the folder since: another installation may be at work there."""
    assert orphan.storage is not None
    for stored in open_store(orphan.storage).list(trace.path):
        if stored.modified_at is not None and now - stored.modified_at < age():
            raise OrphanInUse(f"{stored.key} was written lately: somebody may be at work there.")


def _decide(
    orphan: Orphan, state: OrphanState, *, now: datetime, user: AbstractBaseUser | None, **changes: object
) -> None:
    decided = Orphan.objects.filter(pk=orphan.pk, state__in=(OrphanState.OPEN, OrphanState.DISMISSED)).update(
        state=state, ended_at=now, decided_by=user, **changes
    )
    if not decided:
        raise OrphanDecided("Somebody else has decided about it at the same moment.")
