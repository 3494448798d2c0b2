"""Verify a backup without restoring it: SHA-256 of every part, every part opened in Qdrant's engine, and counted."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from apps.backups.compare import count_difference, vector_sizes
from apps.backups.engine import EngineUnavailable, PartUnreadable, open_part
from apps.backups.manifest import Manifest, PartFacts
from apps.backups.models import Backup, VerificationKind
from apps.backups.plan import minor_version
from apps.backups.run import Run
from apps.backups.scratch import FileSink, check_room, scratch_folder
from apps.backups.verifications import Proof, record_proof
from apps.backups.verify import PartDamaged, check_part, found_damaged, read_manifest
from apps.core.text import format_size, plural
from apps.storage.services import open_store
from apps.storage.stores import Store

#: Points of every part that are read with payload and vectors: opening alone reads hardly more than headers.
READ_POINTS = 100
#: The oldest Qdrant whose files the engine reads for certain: those before may hold segments of RocksDB.
_READS_FROM = (1, 18)


@dataclass(frozen=True, kw_only=True)
class VerifyOrder:
    """Which backup, and how far to go."""

    backup: Backup
    hashes_only: bool = False


@dataclass
class _Findings:
    """What came to light, part by part."""

    parts: list[dict[str, Any]] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    engine: str = ""
    #: Why parts could not be opened here; says nothing about the backup.
    not_opened: EngineUnavailable | None = None


def verify_backup(order: VerifyOrder, run: Run) -> Proof:
    """Verify a backup. Every part is looked at, also after one was found wanting, so that all the bad ones are named.

    Raises: BackupDamaged, which is kept with the backup; EngineUnavailable when the hashes are right but the parts
    could not be opened on this host (the hashes are kept as a verification of their own); StorageError; the reason
    of the abort.
    """
    backup = order.backup
    run.phase("planning")
    store = open_store(backup.storage, abort=run.abort)
    manifest = read_manifest(backup, store, run)
    run.expect(manifest.size_bytes)
    findings = _Findings()
    for part in manifest.parts:
        run.phase(f"verifying shard {part.shard_id}")
        started = monotonic()
        facts: dict[str, Any] = {"shard_id": part.shard_id, "size_bytes": part.size_bytes}
        try:
            if order.hashes_only or findings.not_opened:
                check_part(backup, part, store, run)
            else:
                facts |= _open(backup, manifest, part, store, run, findings)
        except PartDamaged as error:
            findings.damaged.append(str(error))
            facts["problem"] = str(error)
        except PartUnreadable as error:
            facts["problem"] = str(error)
            findings.unreadable.append(f"{part.file}: {error}")
        findings.parts.append(facts | {"seconds": round(monotonic() - started, 3)})
    return _verdict(order, manifest, findings, run)


def _open(
    backup: Backup, manifest: Manifest, part: PartFacts, store: Store, run: Run, findings: _Findings
) -> dict[str, Any]:
    """Fetch a part, compare its SHA-256, open and count it; compare the SHA-256 alone when it cannot be opened here.

    Raises: PartDamaged, PartUnreadable.
    """
    hashed = False
    try:
        with scratch_folder() as folder:
            check_room(folder, part.size_bytes)
            archive = folder / part.file
            check_part(backup, part, store, run, FileSink(archive, part.size_bytes, run.abort))
            hashed = True
            with open_part(
                archive,
                folder / "shard",
                wanted="sample",
                sample=READ_POINTS,
                vectors=vector_sizes(manifest.config),
                abort=run.abort,
            ) as opened:
                points, read = opened.opened.points, sum(len(page) for page in opened.points())
                segments, findings.engine = opened.opened.segments, opened.opened.engine
    except EngineUnavailable as error:
        findings.not_opened = error
        if not hashed:
            check_part(backup, part, store, run)
        return {}
    except PartUnreadable as error:
        if _is_too_old(manifest.qdrant_version):
            findings.not_opened = EngineUnavailable(
                f"the engine does not read what Qdrant {manifest.qdrant_version} wrote ({error}) "
                f"Restore the backup to prove it."
            )
            return {}
        raise
    shard = manifest.shard(part.shard_id)
    difference = count_difference(shard, points)
    if difference:
        raise PartUnreadable(f"Qdrant's engine opens it, but {difference}.")
    run.tell(
        f"Shard {part.shard_id}: SHA-256 equals the manifest; opened by Qdrant's engine, {plural(points, 'point')}.",
        shard_id=part.shard_id,
        points=points,
    )
    return {"points": points, "segments": segments, "points_read": read}


def _is_too_old(version: str) -> bool:
    minor = minor_version(version)
    return minor is None or minor < _READS_FROM


def _verdict(order: VerifyOrder, manifest: Manifest, findings: _Findings, run: Run) -> Proof:
    backup, count = order.backup, plural(len(manifest.parts), "part")
    details = {"parts": findings.parts, "engine": findings.engine}
    hashes = f"the SHA-256 of {'all ' if len(manifest.parts) > 1 else ''}{count} ({format_size(manifest.size_bytes)})"
    if findings.damaged or findings.unreadable:
        raise found_damaged(
            backup,
            " ".join([*findings.damaged, *findings.unreadable, "Restore from another backup."]),
            run,
            kind=VerificationKind.CHECKED if findings.damaged else VerificationKind.OPENED,
            details=details,
        )
    if order.hashes_only or findings.not_opened:
        proof = Proof(
            kind=VerificationKind.CHECKED,
            method=f"{hashes[0].upper()}{hashes[1:]} compared with the manifest.",
            details=details,
        )
        if findings.not_opened:
            record_proof(backup_id=backup.pk, proof=proof, asker=run.asker, now=run.now())
            raise EngineUnavailable(
                f"{hashes[0].upper()}{hashes[1:]} equals the manifest, but the parts were not opened: "
                f"{findings.not_opened}"
            )
        return proof
    read = sum(part["points_read"] for part in findings.parts)
    return Proof(
        kind=VerificationKind.OPENED,
        method=(
            f"{hashes[0].upper()}{hashes[1:]} compared with the manifest; each opened in Qdrant's engine (qdrant-edge "
            f"{findings.engine}), {plural(manifest.points_count, 'point')} counted, {plural(read, 'point')} read."
        ),
        details=details,
    )
