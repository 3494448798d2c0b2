"""Is what the storage holds still what was put there? Read it all, compare, and mark in the catalogue what is not."""

from __future__ import annotations

import hashlib

from apps.backups.manifest import Manifest, ManifestInvalid, PartFacts, parse_manifest
from apps.backups.models import Backup, BackupStatus
from apps.backups.run import Run
from apps.backups.transfer import HashOnly, TransferBroken, pump
from apps.core.errors import BackupmgrError
from apps.storage.errors import ObjectMissing
from apps.storage.keys import MANIFEST_MAX_BYTES, manifest_key
from apps.storage.stores import Store


class BackupDamaged(BackupmgrError):
    """The storage holds something else than the manifest says."""

    http_status = 409


def read_manifest(backup: Backup, store: Store) -> Manifest:
    """Return the manifest as the storage holds it, when it is still the one that the catalogue knows.

    A backup whose manifest is gone or altered is marked so.
    Raises: BackupDamaged, StorageError.
    """
    try:
        data = store.get(manifest_key(backup.path), MANIFEST_MAX_BYTES)
    except ObjectMissing as error:
        raise _marked(
            backup, BackupStatus.MISSING, "Its manifest is not in the storage any more: it cannot be restored."
        ) from error
    try:
        manifest = parse_manifest(data)
    except ManifestInvalid as error:
        raise _marked(backup, BackupStatus.DAMAGED, str(error)) from error
    if hashlib.sha256(data).hexdigest() != backup.manifest_sha256:
        raise _marked(
            backup,
            BackupStatus.DAMAGED,
            "The manifest in the storage is not the one that was written. Run a rescan if somebody changed it on "
            "purpose.",
        )
    return manifest


def check_part(backup: Backup, part: PartFacts, store: Store, run: Run) -> None:
    """Read a stored part and compare size and SHA-256 with the manifest; mark the backup when they differ.

    Raises: BackupDamaged, StorageError; the reason of the abort.
    """
    key = f"{backup.path}/{part.file}"
    try:
        with store.source(key, run.abort) as source:
            if source.size_bytes != part.size_bytes:
                raise _marked(
                    backup,
                    BackupStatus.DAMAGED,
                    f"{part.file} has {source.size_bytes:,} bytes in the storage and should have "
                    f"{part.size_bytes:,}: restore from another backup.",
                )
            sha256 = pump(source, HashOnly(), part.size_bytes, run.abort, run.advance)
    except ObjectMissing as error:
        raise _marked(
            backup, BackupStatus.DAMAGED, f"{part.file} is not in the storage any more: restore from another backup."
        ) from error
    except TransferBroken as error:
        raise _marked(
            backup, BackupStatus.DAMAGED, f"{part.file} ended early in the storage: restore from another backup."
        ) from error
    if sha256 != part.sha256:
        raise _marked(
            backup,
            BackupStatus.DAMAGED,
            f"{part.file} was altered in the storage: its SHA-256 is {sha256[:12]}…, the manifest says "
            f"{part.sha256[:12]}…. Restore from another backup.",
        )


def _marked(backup: Backup, status: BackupStatus, reason: str) -> BackupDamaged:
    """Mark the backup in the catalogue, so that nobody takes it for good, and return the error to raise."""
    backup.status, backup.status_reason = status, reason
    Backup.objects.filter(pk=backup.pk).exclude(status=BackupStatus.DELETING).update(
        status=status, status_reason=reason
    )
    return BackupDamaged(f"The backup {backup.snapshot_name} is {status}: {reason}")
