"""Make a backup: plan, then one shard after another, then the manifest.

Design: a crash at any point before the manifest leaves garbage that `traces` knows of, never a backup.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import uuid
from dataclasses import dataclass
from time import monotonic

from django.db import IntegrityError, transaction

from apps.backups.compare import config_differences, schema_differences
from apps.backups.manifest import Manifest, ManifestInvalid, PartFacts, ShardFacts, parse_manifest
from apps.backups.models import Backup, Part
from apps.backups.plan import BackupPlan, PlanBlocked, PlanBlockedForNow, ShardSource, plan_backup
from apps.backups.run import Run
from apps.backups.snapshots import ShardSnapshot, make_snapshot
from apps.backups.traces import FolderTrace
from apps.backups.transfer import pump
from apps.clusters.models import Cluster
from apps.clusters.qdrant import CollectionInfo, Endpoint, QdrantNode, SnapshotChanged, SnapshotDownload
from apps.core.errors import BackupmgrError, Unavailable
from apps.core.text import format_rate, format_size, plural
from apps.storage.errors import ObjectExists, ObjectMissing
from apps.storage.keys import MANIFEST_MAX_BYTES, backup_folder, manifest_key, part_key, snapshot_name
from apps.storage.models import StorageConfig
from apps.storage.services import open_store
from apps.storage.stores import Sink, Store, StoredObject

#: A snapshot that vanished or arrived other than announced is made and fetched anew this often.
SHARD_TRIES = 2
GIVE_UP_SECONDS = 2.0

logger = logging.getLogger(__name__)


class ChecksumMismatch(Unavailable):
    """What arrived is not what Qdrant says it made, twice in a row: network, memory or disk need a look."""

    transient = False


@dataclass(frozen=True, kw_only=True)
class BackupOrder:
    """What to back up, and where to. `shard_id` for one shard only."""

    cluster: Cluster
    collection: str
    storage: StorageConfig
    shard_id: int | None = None


@dataclass(frozen=True)
class FinishedBackup:
    """A backup whose manifest is in the storage."""

    manifest: Manifest
    manifest_sha256: str
    path: str


def make_backup(order: BackupOrder, run: Run) -> FinishedBackup:
    """Back up a collection. When this returns, manifest and parts are in the storage.

    Raises: BackupmgrError with a sentence for the operator; the reason of `run.abort`.
    """
    endpoint = order.cluster.endpoint
    store = open_store(order.storage)
    name = snapshot_name(run.started_at, run.job_id, run.attempt)
    folder = backup_folder(order.cluster.name, order.collection, name)
    run.phase("planning")
    # A storage that is away or refuses is found out before Qdrant is put to work.
    if store.stat(manifest_key(folder)) is not None:
        raise ObjectExists(f"The storage {order.storage.name!r} already holds {folder}.")
    with QdrantNode(endpoint) as node:
        info = node.info()
        collection = node.collection(order.collection)
        aliases = node.aliases()
        if order.collection in aliases:
            raise PlanBlocked(
                f"{order.collection!r} is an alias of {aliases[order.collection]!r}: back up that collection."
            )
        placement = node.placement(order.collection)
        plan = plan_backup(collection=order.collection, info=collection, placement=placement, shard_id=order.shard_id)
        for warning in plan.warnings:
            run.warn(warning)
        run.tell(
            f"Backing up {plural(len(plan.shards), 'shard')} of {order.collection!r} from Qdrant {info.version} "
            f"to {order.storage.name!r}."
        )
        trace = FolderTrace(storage_id=str(order.storage.pk), path=folder)
        run.traces.add(trace)
        run.save_traces()
        copies = _copy_shards(plan, node, endpoint, str(order.cluster.pk), store, folder, run)
        run.phase("finishing")
        _check_unchanged(node, plan, order, collection)
    manifest = Manifest(
        name=name,
        job_id=str(run.job_id),
        attempt=run.attempt,
        started_at=run.started_at,
        created_at=run.now(),
        cluster_id=str(order.cluster.pk),
        cluster_name=order.cluster.name,
        qdrant_version=info.version,
        peer_id=info.peer_id,
        collection_name=order.collection,
        shard_id=order.shard_id,
        config=collection.config,
        payload_schema=collection.payload_schema,
        aliases=tuple(sorted(alias for alias, name in aliases.items() if name == order.collection)),
        shards=tuple(facts for facts, _ in copies),
        parts=tuple(part for _, part in copies),
    )
    return _commit(manifest, store, folder, trace, run)


def _copy_shards(
    plan: BackupPlan, node: QdrantNode, endpoint: Endpoint, cluster_id: str, store: Store, folder: str, run: Run
) -> list[tuple[ShardFacts, PartFacts]]:
    """Copy one shard after another: a node makes one snapshot at a time, and holds one at a time on its disk."""
    copies: list[tuple[ShardFacts, PartFacts]] = []
    copier = _ShardCopier(node, endpoint, cluster_id, plan.collection, store, folder, run)
    for index, source in enumerate(plan.shards):
        copier.total_before = sum(part.size_bytes for _, part in copies)
        copier.shards_left = len(plan.shards) - index
        copies.append(copier.copy(source))
    return copies


class _ShardCopier:
    """Copies shards of one collection from one node into one folder."""

    def __init__(
        self,
        node: QdrantNode,
        endpoint: Endpoint,
        cluster_id: str,
        collection: str,
        store: Store,
        folder: str,
        run: Run,
    ) -> None:
        self._node = node
        self._endpoint = endpoint
        self._cluster_id = cluster_id
        self._collection = collection
        self._store = store
        self._folder = folder
        self._run = run
        self.total_before = 0
        self.shards_left = 1

    def copy(self, source: ShardSource) -> tuple[ShardFacts, PartFacts]:
        for tries_left in range(SHARD_TRIES - 1, -1, -1):
            try:
                return self._copy_once(source)
            except (SnapshotChanged, ChecksumMismatch) as error:
                if not tries_left:
                    raise
                self._run.warn(f"Shard {source.shard_id}: {error} Making and fetching it once more.")
        raise AssertionError("unreachable")

    def _copy_once(self, source: ShardSource) -> tuple[ShardFacts, PartFacts]:
        run, shard_id = self._run, source.shard_id
        run.phase(f"snapshot of shard {shard_id}")
        points_before = self._node.count(self._collection, shard_id)
        with make_snapshot(self._node, self._cluster_id, self._collection, shard_id, run) as snapshot:
            points_after = self._node.count(self._collection, shard_id)
            run.phase(f"copying shard {shard_id}")
            # The shards to come are taken to be as large as this one, until their own size is known.
            run.expect(self.total_before + snapshot.size_bytes * self.shards_left)
            stored, sha256 = self._fetch(snapshot, shard_id)
        facts = ShardFacts(
            shard_id=shard_id,
            shard_key=source.shard_key,
            points_min=min(points_before, points_after),
            points_max=max(points_before, points_after),
        )
        if facts.points_min != facts.points_max:
            run.warn(
                f"Shard {shard_id} was written to during its snapshot: it holds between {facts.points_min:,} and "
                f"{facts.points_max:,} points."
            )
        part = PartFacts(
            shard_id=shard_id,
            file=stored.key.rpartition("/")[2],
            size_bytes=stored.size_bytes,
            sha256=sha256,
            etag=stored.etag,
            snapshot=snapshot.name,
        )
        return facts, part

    def _fetch(self, snapshot: ShardSnapshot, shard_id: int) -> tuple[StoredObject, str]:
        run, started, moved = self._run, monotonic(), 0

        def count(size: int) -> None:
            nonlocal moved
            moved += size
            run.advance(size)

        with SnapshotDownload(
            self._endpoint, self._collection, shard_id, snapshot.name, run.abort, on_break=run.warn
        ) as download:
            if download.size_bytes != snapshot.size_bytes:
                raise ChecksumMismatch(
                    f"Qdrant says that {snapshot.name} has {snapshot.size_bytes:,} bytes and sends "
                    f"{download.size_bytes:,}."
                )
            sink = self._store.sink(part_key(self._folder, shard_id), download.size_bytes, run.abort)
            sink.on_break = run.warn
            try:
                sha256 = pump(download, sink, download.size_bytes, run.abort, count)
                if snapshot.checksum is not None and sha256 != snapshot.checksum:
                    raise ChecksumMismatch(
                        f"The bytes of {snapshot.name} that arrived have another SHA-256 ({sha256[:12]}…) than Qdrant "
                        f"says ({snapshot.checksum[:12]}…): they were altered on the way, or on the node's disk."
                    )
                stored = sink.commit()
            except BaseException:
                _give_up(sink)
                run.advance(-moved)
                raise
        if snapshot.checksum is None:
            run.warn(f"This Qdrant keeps no checksum of {snapshot.name}: only its length could be compared.")
        seconds = max(monotonic() - started, 1e-3)
        run.tell(
            f"Shard {shard_id}: {format_size(stored.size_bytes)} stored and compared with Qdrant's checksum, "
            f"{format_rate(stored.size_bytes / seconds)}.",
            shard_id=shard_id,
            bytes=stored.size_bytes,
            seconds=round(seconds, 3),
            sha256=sha256,
        )
        return stored, sha256


def _give_up(sink: Sink) -> None:
    """Remove what was written, waiting only a little: a storage that does not answer must not hold up a cancelled job.

    What is left then goes with the folder of the unfinished backup (traces).
    """

    def abort() -> None:
        try:
            sink.abort()
        except BackupmgrError as error:
            logger.warning("An unfinished upload could not be removed yet: %s", error)

    thread = threading.Thread(target=abort, name="give up upload", daemon=True)
    thread.start()
    thread.join(GIVE_UP_SECONDS)


def _check_unchanged(node: QdrantNode, plan: BackupPlan, order: BackupOrder, before: CollectionInfo) -> None:
    """Look again: a shard that moved meanwhile may have left points behind, and parts made under different
    configurations or payload indexes do not make one collection.
    """
    after = node.collection(order.collection)
    now = plan_backup(
        collection=order.collection,
        info=after,
        placement=node.placement(order.collection),
        shard_id=order.shard_id,
    )
    if now.shards != plan.shards:
        raise PlanBlockedForNow(f"Shards of {order.collection!r} moved while it was backed up: run the backup again.")
    changes = config_differences(before.config, after.config, same_version=True)
    changes += schema_differences(before.payload_schema, after.payload_schema)
    if changes:
        raise PlanBlockedForNow(
            f"{order.collection!r} changed while it was backed up ({changes[0]}): run the backup again."
        )


def _commit(manifest: Manifest, store: Store, folder: str, trace: FolderTrace, run: Run) -> FinishedBackup:
    """Look once more at every part, then write the manifest: from here on it is a backup."""
    for part in manifest.parts:
        stored = store.stat(f"{folder}/{part.file}")
        if stored is None or stored.size_bytes != part.size_bytes:
            raise Unavailable(f"The storage does not hold {part.file} as it was written: check the storage.")
    data = manifest.to_bytes()
    run.confirm()
    store.put(manifest_key(folder), data)
    finished = FinishedBackup(manifest=manifest, manifest_sha256=sha256_of(data), path=folder)
    run.traces.drop(trace)
    return finished


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def find_finished(storage: StorageConfig, path: str, job_id: uuid.UUID) -> FinishedBackup | None:
    """Return the backup that an earlier attempt of the job finished just before its worker vanished, if it did.

    Raises: StorageError.
    """
    try:
        data = open_store(storage).get(manifest_key(path), MANIFEST_MAX_BYTES)
        manifest = parse_manifest(data)
    except (ObjectMissing, ManifestInvalid):
        return None
    if manifest.job_id != str(job_id):
        return None
    return FinishedBackup(manifest=manifest, manifest_sha256=sha256_of(data), path=path)


def record_backup(finished: FinishedBackup, *, storage: StorageConfig, cluster: Cluster | None) -> Backup:
    """Enter a finished backup into the catalogue, once: a job and a rescan may both come with it.

    Called in the transaction that completes the job, and by rescan.
    """
    known = Backup.objects.filter(storage=storage, path=finished.path).first()
    if known is not None:
        return known
    try:
        with transaction.atomic():
            return _enter(finished, storage, cluster)
    except IntegrityError:
        return Backup.objects.get(storage=storage, path=finished.path)


def _enter(finished: FinishedBackup, storage: StorageConfig, cluster: Cluster | None) -> Backup:
    manifest = finished.manifest
    backup = Backup.objects.create(
        storage=storage,
        cluster=cluster,
        cluster_name=manifest.cluster_name,
        collection_name=manifest.collection_name,
        shard_id=manifest.shard_id,
        snapshot_name=manifest.name,
        path=finished.path,
        job_id=uuid.UUID(manifest.job_id),
        size_bytes=manifest.size_bytes,
        points_count=manifest.points_count,
        shard_count=len(manifest.shards),
        qdrant_version=manifest.qdrant_version,
        manifest=manifest.to_json(),
        manifest_sha256=finished.manifest_sha256,
        started_at=manifest.started_at,
        created_at=manifest.created_at,
    )
    Part.objects.bulk_create(
        Part(
            backup=backup,
            shard_id=part.shard_id,
            key=f"{finished.path}/{part.file}",
            size_bytes=part.size_bytes,
            sha256=part.sha256,
            etag=part.etag,
            points_count=manifest.shard(part.shard_id).points_max,
        )
        for part in manifest.parts
    )
    return backup
