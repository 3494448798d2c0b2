"""Is what the storage holds still what was put there? Read it all, and compare."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from apps.backups.manifest import Manifest, ManifestInvalid, ManifestTooNew, PartFacts, parse_manifest
from apps.backups.models import Backup, BackupStatus, VerificationKind
from apps.backups.run import Run
from apps.backups.transfer import HashOnly, TransferBroken, pump
from apps.backups.verifications import record_failure
from apps.core.errors import BackupmgrError
from apps.storage.errors import ObjectMissing
from apps.storage.keys import MANIFEST_MAX_BYTES, manifest_key
from apps.storage.stores import Sink, Store


class BackupDamaged(BackupmgrError):
    """The storage holds something else than the manifest says."""

    http_status = 409


class PartDamaged(BackupmgrError):
    """One part is not what the manifest says; the message says in which way."""

    http_status = 409


def read_manifest(backup: Backup, store: Store, run: Run) -> Manifest:
    """Return the manifest as the storage holds it, when it is still the one that the catalogue knows.

    A backup whose manifest is gone or altered is marked so.
    Raises: BackupDamaged, ManifestTooNew, StorageError.
    """
    try:
        data = store.get(manifest_key(backup.path), MANIFEST_MAX_BYTES)
    except ObjectMissing as error:
        reason = "Its manifest is not in the storage any more: it cannot be restored."
        raise found_damaged(backup, reason, run, status=BackupStatus.MISSING) from error
    try:
        manifest = parse_manifest(data)
    except ManifestTooNew:
        raise  # nothing is wrong with the backup: it is this program that is too old
    except ManifestInvalid as error:
        raise found_damaged(backup, str(error), run) from error
    if hashlib.sha256(data).hexdigest() != backup.manifest_sha256:
        raise found_damaged(
            backup,
            "The manifest in the storage is not the one that was written. Run a rescan if somebody changed it on "
            "purpose.",
            run,
        )
    return manifest


def load_manifest(backup: Backup, store: Store) -> Manifest:
    """Return the manifest as the storage holds it, and mark nothing.

    Raises: BackupDamaged, ManifestInvalid, StorageError.
    """
    try:
        data = store.get(manifest_key(backup.path), MANIFEST_MAX_BYTES)
    except ObjectMissing as error:
        raise BackupDamaged(
            f"The manifest of {backup.snapshot_name} is not in the storage any more: it cannot be restored."
        ) from error
    if hashlib.sha256(data).hexdigest() != backup.manifest_sha256:
        raise BackupDamaged(f"The manifest of {backup.snapshot_name} in the storage is not the one that was written.")
    return parse_manifest(data)


def check_part(backup: Backup, part: PartFacts, store: Store, run: Run, sink: Sink | None = None) -> None:
    """Read a stored part, into `sink` when one is given, and compare size and SHA-256 with the manifest.

    Bytes read are counted as progress, and taken back when it fails. The sink is committed or aborted.
    Raises: PartDamaged, StorageError; the reason of the abort.
    """
    target, moved = sink or HashOnly(), 0

    def count(size: int) -> None:
        nonlocal moved
        moved += size
        run.advance(size)

    try:
        _check(f"{backup.path}/{part.file}", part, store, run, target, count)
        target.commit()
    except BaseException:
        target.abort()
        run.advance(-moved)
        raise


def _check(key: str, part: PartFacts, store: Store, run: Run, target: Sink, count: Callable[[int], None]) -> None:
    try:
        with store.source(key, run.abort) as source:
            if source.size_bytes != part.size_bytes:
                raise PartDamaged(
                    f"{part.file} has {source.size_bytes:,} bytes in the storage and should have {part.size_bytes:,}."
                )
            sha256 = pump(source, target, part.size_bytes, run.abort, count)
    except ObjectMissing as error:
        raise PartDamaged(f"{part.file} is not in the storage any more.") from error
    except TransferBroken as error:
        raise PartDamaged(f"{part.file} ended early in the storage.") from error
    if sha256 != part.sha256:
        raise PartDamaged(
            f"{part.file} was altered in the storage: its SHA-256 is {sha256[:12]}…, the manifest says "
            f"{part.sha256[:12]}…."
        )


def found_damaged(
    backup: Backup,
    reason: str,
    run: Run,
    *,
    status: BackupStatus = BackupStatus.DAMAGED,
    kind: VerificationKind = VerificationKind.CHECKED,
    details: dict[str, Any] | None = None,
) -> BackupDamaged:
    """Keep what was found, mark the backup in the catalogue, so that nobody takes it for good, and return the error."""
    backup.status, backup.status_reason = status, reason
    record_failure(
        backup_id=backup.pk, kind=kind, reason=reason, asker=run.asker, now=run.now(), status=status, details=details
    )
    return BackupDamaged(f"The backup {backup.snapshot_name} is {status}: {reason}")
