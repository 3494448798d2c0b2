"""Rescan: rebuild the catalogue of a storage from the storage alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime

from django.db import transaction

from apps.backups.backup import FinishedBackup, finish, record_backup
from apps.backups.manifest import Manifest, ManifestInvalid, ManifestTooNew, parse_manifest
from apps.backups.models import Backup, BackupStatus, Leftover
from apps.clusters.models import Cluster
from apps.core.errors import NotFound
from apps.storage.errors import ObjectMissing
from apps.storage.keys import MANIFEST_MAX_BYTES, MANIFEST_NAME, manifest_key
from apps.storage.models import StorageConfig
from apps.storage.services import open_store
from apps.storage.stores import Store


@dataclass
class RescanResult:
    """What a rescan found: counts of backups, and a sentence for each problem."""

    found: int = 0
    added: int = 0
    missing: int = 0
    damaged: int = 0
    problems: list[str] = field(default_factory=list)


def rescan(storage: StorageConfig, now: datetime) -> RescanResult:
    """Make the catalogue say what the storage holds; nothing in the storage is changed.

    A manifest without a row becomes a backup; a row without a manifest is marked missing, one whose parts are
    gone or have another size damaged. Sizes are compared, bytes are not read.
    What is being deleted is left out. Raises: StorageError when the storage cannot be listed or read.
    """
    store = open_store(storage)
    sizes = {stored.key: stored.size_bytes for stored in store.list("")}
    result = RescanResult()
    known = {backup.path: backup for backup in Backup.objects.filter(storage=storage)}
    seen: set[str] = set()
    for key in sorted(sizes):
        folder, _, name = key.rpartition("/")
        if name != MANIFEST_NAME or not folder or (folder in known and _is_going(known[folder])):
            continue
        try:
            _take(store, storage, folder, key, sizes, known.get(folder), result)
        except ObjectMissing:  # deleted since it was listed
            continue
        except ManifestInvalid as error:
            result.damaged += 1
            result.problems.append(f"{key}: {error}")
            if folder in known and not isinstance(error, ManifestTooNew):
                mark(known[folder], BackupStatus.DAMAGED, str(error))
        seen.add(folder)
    for path, backup in known.items():
        if path not in seen and not _is_going(backup):
            result.missing += 1
            result.problems.append(f"{path}: the manifest is not in the storage any more")
            mark(backup, BackupStatus.MISSING, "Its manifest is not in the storage any more: it cannot be restored.")
    return result


def _take(
    store: Store,
    storage: StorageConfig,
    folder: str,
    key: str,
    sizes: dict[str, int],
    known: Backup | None,
    result: RescanResult,
) -> None:
    """Enter one manifest into the catalogue, or compare it with what is there."""
    data = store.get(key, MANIFEST_MAX_BYTES)
    manifest = parse_manifest(data)
    digest = hashlib.sha256(data).hexdigest()
    if known is not None and known.manifest_sha256 != digest:
        # Somebody changed it, or put another backup in its place: what is there now is what counts.
        known.delete()
        known = None
    if known is None:
        known = enter(finish(manifest, data, folder, store), storage, store)
        if known is None:
            return
        result.added += 1
    result.found += 1
    problem = _missing_part(manifest, folder, sizes)
    if problem is None and known.status == BackupStatus.MISSING:
        mark(known, BackupStatus.COMPLETED, "")
    elif problem is not None:
        result.damaged += 1
        result.problems.append(f"{folder}: {problem}")
        mark(known, BackupStatus.DAMAGED, problem)


def _is_going(backup: Backup) -> bool:
    return backup.status == BackupStatus.DELETING


def enter(finished: FinishedBackup, storage: StorageConfig, store: Store) -> Backup | None:
    """Enter a backup that was found in a storage; None when it is being removed at this moment."""
    with transaction.atomic():
        # Whoever sets a tombstone for files that no row stands for holds this lock, too.
        StorageConfig.objects.select_for_update().get(pk=storage.pk)
        if Leftover.objects.filter(storage=storage, subject__path=finished.path).exists():
            return None
        backup = record_backup(finished, storage=storage, cluster=_cluster_of(finished.manifest))
    if store.stat(manifest_key(finished.path)) is None:
        # Deleted while it was entered: a row alone would promise what is not there.
        Backup.objects.filter(pk=backup.pk).delete()
        return None
    return backup


def adopt_folder(storage: StorageConfig, path: str) -> Backup:
    """Enter the backup in one folder of the storage into the catalogue, or compare it with its row.

    Raises: ManifestInvalid; NotFound when it is not there any more, or is being removed; StorageError.
    """
    store = open_store(storage)
    sizes = {stored.key: stored.size_bytes for stored in store.list(path)}
    known = Backup.objects.filter(storage=storage, path=path).first()
    result = RescanResult()
    if known is None or not _is_going(known):
        _take(store, storage, path, manifest_key(path), sizes, known, result)
    backup = Backup.objects.filter(storage=storage, path=path).exclude(status=BackupStatus.DELETING).first()
    if backup is None:
        raise NotFound(f"The backup in {path} is being removed, or gone already.")
    return backup


def _missing_part(manifest: Manifest, folder: str, sizes: dict[str, int]) -> str | None:
    problems = (missing_part(part.file, part.size_bytes, sizes.get(f"{folder}/{part.file}")) for part in manifest.parts)
    return next((problem for problem in problems if problem is not None), None)


def missing_part(file: str, expected: int, found: int | None) -> str | None:
    """Say what is wrong with the size of a part, None when nothing is. `found` None: it is not there."""
    if found is None:
        return f"{file} is not in the storage any more: restore from another backup."
    if found != expected:
        return f"{file} has {found:,} bytes and should have {expected:,}: restore from another backup."
    return None


def manifest_problem(backup: Backup, data: bytes) -> str | None:
    """Say what is wrong with the manifest that the storage holds, None when it is the one that was written."""
    if hashlib.sha256(data).hexdigest() == backup.manifest_sha256:
        return None
    return (
        "The manifest in the storage is not the one that was written. Run a rescan if somebody changed it on purpose."
    )


def _cluster_of(manifest: Manifest) -> Cluster | None:
    return Cluster.objects.named(manifest.cluster_id) or Cluster.objects.named(manifest.cluster_name)


def mark(backup: Backup, status: BackupStatus, reason: str) -> None:
    """Change what the catalogue says of a backup; one that is being deleted stays that."""
    Backup.objects.filter(pk=backup.pk).exclude(status=BackupStatus.DELETING).update(
        status=status, status_reason=reason
    )
