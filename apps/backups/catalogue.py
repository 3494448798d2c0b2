"""Rescan: rebuild the catalogue of a storage from the storage alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime

from django.db import transaction

from apps.backups.backup import FinishedBackup, record_backup
from apps.backups.manifest import Manifest, ManifestInvalid, parse_manifest
from apps.backups.models import Backup, BackupStatus
from apps.clusters.models import Cluster
from apps.storage.errors import ObjectMissing
from apps.storage.keys import MANIFEST_MAX_BYTES, MANIFEST_NAME
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
            if folder in known:
                _mark(known[folder], BackupStatus.DAMAGED, str(error))
        seen.add(folder)
    for path, backup in known.items():
        if path not in seen and not _is_going(backup):
            result.missing += 1
            result.problems.append(f"{path}: the manifest is not in the storage any more")
            _mark(backup, BackupStatus.MISSING, "Its manifest is not in the storage any more: it cannot be restored.")
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
        with transaction.atomic():
            known = record_backup(
                FinishedBackup(manifest=manifest, manifest_sha256=digest, path=folder),
                storage=storage,
                cluster=_cluster_of(manifest),
            )
        if store.stat(key) is None:
            # Somebody deleted the backup while it was entered: a row alone would promise what is not there.
            known.delete()
            return
        result.added += 1
    result.found += 1
    problem = _missing_part(manifest, folder, sizes)
    if problem is None and known.status == BackupStatus.MISSING:
        _mark(known, BackupStatus.COMPLETED, "")
    elif problem is not None:
        result.damaged += 1
        result.problems.append(f"{folder}: {problem}")
        _mark(known, BackupStatus.DAMAGED, problem)


def _is_going(backup: Backup) -> bool:
    return backup.status == BackupStatus.DELETING


def _missing_part(manifest: Manifest, folder: str, sizes: dict[str, int]) -> str | None:
    for part in manifest.parts:
        size = sizes.get(f"{folder}/{part.file}")
        if size is None:
            return f"{part.file} is not in the storage any more: restore from another backup."
        if size != part.size_bytes:
            return f"{part.file} has {size:,} bytes and should have {part.size_bytes:,}: restore from another backup."
    return None


def _cluster_of(manifest: Manifest) -> Cluster | None:
    return Cluster.objects.named(manifest.cluster_id) or Cluster.objects.named(manifest.cluster_name)


def _mark(backup: Backup, status: BackupStatus, reason: str) -> None:
    """Change what the catalogue says of a backup; one that is being deleted stays that."""
    Backup.objects.filter(pk=backup.pk).exclude(status=BackupStatus.DELETING).update(
        status=status, status_reason=reason
    )
