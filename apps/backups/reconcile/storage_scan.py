"""What a storage holds and should not, and what it should hold and does not."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

from apps.backups.catalogue import manifest_problem, mark, missing_part
from apps.backups.manifest import ManifestInvalid, parse_manifest
from apps.backups.models import Backup, BackupStatus, Leftover
from apps.backups.orphans import OrphanKind
from apps.backups.reconcile.findings import Beat, Finding, JobBook, JobFacts, Limits, is_over
from apps.backups.reconcile.folders import StoredFolder, stored_folders
from apps.backups.traces import FolderTrace, UploadTrace
from apps.storage.errors import ObjectMissing
from apps.storage.keys import (
    MANIFEST_MAX_BYTES,
    MANIFEST_NAME,
    escape,
    is_part_name,
    is_probe_key,
    manifest_key,
    parse_folder,
)
from apps.storage.models import StorageConfig
from apps.storage.places import is_same_place, nested_prefixes
from apps.storage.stores import Store, Unfinished

#: So many folders are looked up in the database at once.
_BATCH = 200


def _batches(folders: Iterator[StoredFolder]) -> Iterator[list[StoredFolder]]:
    while batch := list(itertools.islice(folders, _BATCH)):
        yield batch


@dataclass
class StorageScan:
    """One look at one storage. `save` False leaves the status of backups as it is."""

    storage: StorageConfig
    store: Store
    book: JobBook
    limits: Limits
    beat: Beat
    save: bool = True
    looked_at: int = 0
    #: Other rows that lead to the same place: what belongs to them is looked at there.
    _twins: list[uuid.UUID] = field(default_factory=list)
    # What the database knows of the folders at hand: backups by path, paths with a tombstone, jobs.
    _rows: dict[str, Backup] = field(default_factory=dict)
    _going: set[str] = field(default_factory=set)
    _facts: dict[uuid.UUID, JobFacts] = field(default_factory=dict)

    def run(self) -> Iterator[Finding]:
        """Yield what is out of place. Raises: StorageError when the storage cannot be listed or read."""
        others = list(StorageConfig.objects.exclude(pk=self.storage.pk))
        inner = nested_prefixes(self.storage, others)
        self._twins = [other.pk for other in others if is_same_place(self.storage, other)]
        seen: set[int] = set()
        for batch in _batches(stored_folders(self.store)):
            # What is another storage's is looked at there.
            own = [f for f in batch if not any(f.path == p or f.path.startswith(f"{p}/") for p in inner)]
            self._known_of(own)
            for folder in own:
                self.beat()
                self.looked_at += 1
                yield from self._folder(folder, seen)
        self._known_of([])
        for item in self.store.unfinished(""):
            self.beat()
            finding = self._unfinished(item)
            if finding is not None:
                yield finding
        yield from self._rows_without_folder(seen)

    def _known_of(self, folders: list[StoredFolder]) -> None:
        """Ask the database once for what is known of these folders."""
        paths = [folder.path for folder in folders]
        rows = Backup.objects.defer("manifest").filter(storage=self.storage, path__in=paths).prefetch_related("parts")
        self._rows = {row.path: row for row in rows}
        subjects = Leftover.objects.filter(storage=self.storage).values_list("subject", flat=True)
        self._going = {str(subject.get("path", "")) for subject in subjects}
        names = [name for name in map(parse_folder, paths) if name is not None]
        self._facts = self.book.facts_of([name.job_id for name in names])

    # --- folders -------------------------------------------------------------------------------------------
    def _folder(self, folder: StoredFolder, seen: set[int]) -> Iterator[Finding]:
        yield from self._probes(folder)
        if not folder.path or not folder.has_ours:
            return
        row = self._rows.get(folder.path)
        if row is not None:
            seen.add(row.pk.int)
            finding = self._known(row, folder)
        elif self._twins and Backup.objects.filter(storage__in=self._twins, path=folder.path).exists():
            return
        elif folder.manifest is not None:
            finding = self._unknown(folder)
        else:
            finding = self._unfinished_files(folder)
        if finding is not None:
            yield finding

    def _known(self, row: Backup, folder: StoredFolder) -> Finding | None:
        """Compare a backup with what the storage holds of it: sizes, and the manifest byte for byte."""
        if row.status == BackupStatus.DELETING:
            return None
        status, reason = self._state_of(row, folder)
        if status != BackupStatus.COMPLETED and self._has_gone(row):
            return None  # it was deleted while we looked
        if self.save and (status, reason) != (row.status, row.status_reason):
            mark(row, status, reason)
        if status == BackupStatus.COMPLETED:
            return None
        return Finding(
            kind=OrphanKind.ROW,
            name=row.path,
            reason=reason,
            storage_id=self.storage.pk,
            collection_name=row.collection_name,
            shard_id=row.shard_id,
            job_id=row.job_id,
            backup_id=row.pk,
            size_bytes=folder.size_bytes,
        )

    def _has_gone(self, row: Backup) -> bool:
        return not Backup.objects.filter(pk=row.pk).exclude(status=BackupStatus.DELETING).exists()

    def _state_of(self, row: Backup, folder: StoredFolder) -> tuple[BackupStatus, str]:
        try:
            data = self.store.get(manifest_key(row.path), MANIFEST_MAX_BYTES)
        except ObjectMissing:
            return BackupStatus.MISSING, "Its manifest is not in the storage any more: it cannot be restored."
        problem = manifest_problem(row, data)
        if problem is not None:
            return BackupStatus.DAMAGED, problem
        sizes = {f"{folder.path}/{name}": stored.size_bytes for name, stored in folder.parts.items()}
        for part in row.parts.all():
            if sizes.get(part.key) != part.size_bytes:
                found = self.store.stat(part.key)
                size = None if found is None else found.size_bytes
                problem = missing_part(part.key.rpartition("/")[2], part.size_bytes, size)
                if problem is not None:
                    return BackupStatus.DAMAGED, problem
        if row.status == BackupStatus.DAMAGED:
            return (
                BackupStatus.DAMAGED,
                row.status_reason,
            )  # bytes were found altered: sizes prove nothing to the contrary
        return BackupStatus.COMPLETED, ""

    def _unknown(self, folder: StoredFolder) -> Finding | None:
        """A manifest without a row: somebody may want that backup."""
        if not self.limits.is_old(folder.modified_at) or self._is_going(folder.path):
            return None
        job_id, collection, shard_id = None, "", None
        try:
            manifest = parse_manifest(self.store.get(manifest_key(folder.path), MANIFEST_MAX_BYTES))
            job_id, collection, shard_id = uuid.UUID(manifest.job_id), manifest.collection_name, manifest.shard_id
            reason = "The storage holds this backup and the catalogue does not know it: adopt it to restore from it."
        except ObjectMissing:
            return None
        except (ManifestInvalid, ValueError) as error:
            reason = f"It looks like a backup, but cannot be read: {error}"
        facts = self.book.facts(job_id) if job_id else None
        if facts is not None and facts.is_active:
            return None  # the job is about to enter it
        return self._finding(OrphanKind.BACKUP, folder, reason, False, job_id, collection, shard_id)

    def _unfinished_files(self, folder: StoredFolder) -> Finding | None:
        """Parts without a manifest: an attempt that came to nothing, or one that is still at work."""
        name = parse_folder(folder.path)
        if name is None or not self.limits.is_old(folder.modified_at) or self._is_going(folder.path):
            return None
        facts = self._facts.get(name.job_id)
        if facts is not None and (not is_over(facts, self.limits) or facts.storage_id in self._twins):
            return None
        if self.store.stat(manifest_key(folder.path)) is not None:
            return None  # the listing came in pieces, or the manifest just now
        doubt = self._doubt(facts, name.collection, name.attempt)
        if folder.others:
            doubt = doubt or "Files that are none of ours lie between them."
        reason = doubt or "The job that wrote them has ended without a backup."
        collection = facts.collection_name if facts else ""
        return self._finding(OrphanKind.FILES, folder, reason, not doubt, name.job_id, collection, None)

    def _finding(
        self,
        kind: OrphanKind,
        folder: StoredFolder,
        reason: str,
        is_ours: bool,
        job_id: uuid.UUID | None,
        collection: str,
        shard_id: int | None,
    ) -> Finding:
        # Only what lies where we put it is removed as a folder: another one may hold more than it seems.
        removable = parse_folder(folder.path) is not None and not folder.others
        return Finding(
            kind=kind,
            name=folder.path,
            reason=reason,
            is_ours=is_ours,
            trace=FolderTrace(storage_id=str(self.storage.pk), path=folder.path) if removable else None,
            storage_id=self.storage.pk,
            collection_name=collection,
            shard_id=shard_id,
            job_id=job_id,
            size_bytes=folder.size_bytes,
        )

    def _doubt(self, facts: JobFacts | None, collection: str, attempt: int) -> str:
        """Say why something of that job is not certainly ours to remove; '' when it is."""
        if facts is None:
            return "Nobody here knows the job that wrote it: another installation may share this storage."
        if not facts.is_backup or facts.storage_id != self.storage.pk or escape(facts.collection_name) != collection:
            return "The job of that id was to write something else: it may be a copy."
        if attempt > facts.attempt:
            return "The job is known here with fewer attempts: another installation may be running it."
        return ""

    def _is_going(self, path: str) -> bool:
        """Tell whether a tombstone sees to the folder already."""
        return path in self._going

    # --- single objects ------------------------------------------------------------------------------------
    def _probes(self, folder: StoredFolder) -> Iterator[Finding]:
        for stored in folder.probes:
            if self.limits.is_old(stored.modified_at):
                yield Finding(
                    kind=OrphanKind.TEMPORARY,
                    name=stored.key,
                    reason="A test of the connection wrote it and could not remove it.",
                    is_ours=True,
                    trace=UploadTrace(storage_id=str(self.storage.pk), key=stored.key),
                    storage_id=self.storage.pk,
                    size_bytes=stored.size_bytes,
                )

    def _unfinished(self, item: Unfinished) -> Finding | None:
        path, _, file = item.key.rpartition("/")
        if not self.limits.is_old(item.started_at):
            return None
        if is_probe_key(item.key):
            return self._upload(item, "A test of the connection began it and could not remove it.", True, None)
        name = parse_folder(path)
        if name is None or not (file == MANIFEST_NAME or is_part_name(file)) or self._is_going(path):
            return None
        facts = self.book.facts(name.job_id)
        if facts is not None and (not is_over(facts, self.limits) or facts.storage_id in self._twins):
            return None
        doubt = self._doubt(facts, name.collection, name.attempt)
        reason = doubt or "The job that began it has ended."
        return self._upload(item, reason, not doubt, name.job_id, facts.collection_name if facts else "")

    def _upload(
        self, item: Unfinished, reason: str, is_ours: bool, job_id: uuid.UUID | None, collection: str = ""
    ) -> Finding:
        return Finding(
            kind=OrphanKind.UPLOAD,
            name=item.key,
            token=item.token,
            reason=reason,
            is_ours=is_ours,
            trace=UploadTrace(storage_id=str(self.storage.pk), key=item.key, token=item.token),
            storage_id=self.storage.pk,
            collection_name=collection,
            job_id=job_id,
            size_bytes=item.size_bytes,
        )

    # --- rows ----------------------------------------------------------------------------------------------
    def _rows_without_folder(self, seen: set[int]) -> Iterator[Finding]:
        rows = Backup.objects.filter(storage=self.storage).exclude(status=BackupStatus.DELETING)
        for pk in rows.values_list("pk", flat=True).iterator(chunk_size=1000):
            if pk.int in seen:
                continue
            self.beat()
            row = rows.defer("manifest").filter(pk=pk).first()  # it may have gone meanwhile
            if row is None:
                continue
            folder = StoredFolder(row.path)
            finding = self._known(row, folder)
            if finding is not None:
                yield finding
