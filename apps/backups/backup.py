"""Make a backup: plan, then one shard after another, then the manifest.

Design: a crash at any point before the manifest leaves garbage that `traces` knows of, never a backup.
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from dataclasses import dataclass
from datetime import datetime

from django.db import IntegrityError, transaction

from apps.backups.compare import config_differences, schema_differences
from apps.backups.copying import copy_shards
from apps.backups.deletion import lock_of
from apps.backups.fleet import Fleet, demand_health, open_fleet
from apps.backups.manifest import Manifest, ManifestInvalid, ReplicaFacts, parse_manifest
from apps.backups.models import Backup, Part
from apps.backups.plan import BackupPlan, PlanBlocked, PlanBlockedForNow, plan_backup
from apps.backups.room import demand_room, look_at_room, sentences
from apps.backups.run import Run
from apps.backups.traces import FolderTrace, doubt_folders
from apps.clusters.models import Cluster, Purpose
from apps.clusters.qdrant import CollectionInfo, QdrantTimeout, QdrantUnreachable
from apps.core.abort import Abort
from apps.core.errors import Unavailable
from apps.core.text import plural
from apps.storage.errors import ObjectExists, ObjectMissing, StorageError
from apps.storage.keys import MANIFEST_MAX_BYTES, backup_folder, manifest_key, snapshot_name
from apps.storage.models import StorageConfig
from apps.storage.services import open_store
from apps.storage.stores import Store

logger = logging.getLogger(__name__)


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
    #: The storage itself keeps it until then; None when it does not, or did not say.
    locked_until: datetime | None = None


def make_backup(order: BackupOrder, run: Run) -> FinishedBackup:
    """Back up a collection. When this returns, manifest and parts are in the storage.

    Raises: BackupmgrError with a sentence for the operator; the reason of `run.abort`.
    """
    store = open_store(order.storage, abort=run.abort)
    try:
        return _make(order, store, run)
    except BaseException:
        if store.is_unsure:
            doubt_folders(run.traces, run.now())
        raise


def _make(order: BackupOrder, store: Store, run: Run) -> FinishedBackup:
    name = snapshot_name(run.started_at, run.job_id, run.attempt)
    folder = backup_folder(order.cluster.name, order.collection, name)
    run.phase("planning")
    # A storage that is away or refuses is found out before Qdrant is put to work.
    if store.stat(manifest_key(folder)) is not None:
        raise ObjectExists(f"The storage {order.storage.name!r} already holds {folder}.")
    with open_fleet(order.cluster, Purpose.BACKUP, run.abort) as fleet:
        info = fleet.info
        plan, collection, aliases = plan_of(order, fleet)
        for warning in (*plan.warnings, *fleet.cautions()):
            run.warn(warning)
        _check_room(order, plan, collection, fleet, run)
        run.tell(
            f"Backing up {plural(len(plan.shards), 'shard')} of {order.collection!r} from Qdrant {info.version} "
            f"to {order.storage.name!r}."
        )
        trace = FolderTrace(storage_id=str(order.storage.pk), path=folder)
        run.traces.add(trace)
        run.save_traces()
        copies = copy_shards(plan, fleet, str(order.cluster.pk), store, folder, run)
        run.phase("finishing")
        _check_unchanged(fleet, plan, order, collection)
        nodes = fleet.describe()
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
        nodes=nodes,
        placement=tuple(ReplicaFacts(one.shard_id, one.peer_id, one.state) for one in plan.replicas),
    )
    return _commit(manifest, store, folder, trace, run)


def plan_of(order: BackupOrder, fleet: Fleet) -> tuple[BackupPlan, CollectionInfo, dict[str, str]]:
    """Plan the backup from what the nodes say now; return also the collection, and alias → collection of the cluster.

    Raises: PlanBlocked, QdrantError, CollectionNotFound.
    """
    demand_health(fleet)
    aliases = fleet.first.aliases()
    if order.collection in aliases:
        raise PlanBlocked(
            f"{order.collection!r} is an alias of {aliases[order.collection]!r}: back up that collection."
        )
    # The placement first: a collection with a shard out of reach does not describe itself.
    _plan(order, fleet, None)
    collection = fleet.first.collection(order.collection)
    return _plan(order, fleet, collection), collection, aliases


def _plan(order: BackupOrder, fleet: Fleet, collection: CollectionInfo | None, *, again: bool = False) -> BackupPlan:
    first, *others = fleet.placements(order.collection, lenient=again) or fleet.placements(order.collection)
    return plan_backup(
        collection=order.collection,
        info=collection,
        placement=first,
        others=others,
        shard_id=order.shard_id,
        addresses=fleet.addresses,
    )


def _check_room(order: BackupOrder, plan: BackupPlan, info: CollectionInfo, fleet: Fleet, run: Run) -> None:
    """Refuse before anything is made what cannot find room; tell what is known. Raises: StorageFull."""
    rooms = look_at_room(storage=order.storage, cluster=order.cluster, plan=plan, info=info, fleet=fleet)
    demand_room(rooms)
    for sentence, is_warning in sentences(rooms):
        (run.warn if is_warning else run.tell)(sentence)


def _check_unchanged(fleet: Fleet, plan: BackupPlan, order: BackupOrder, before: CollectionInfo) -> None:
    """Look again: a shard that moved meanwhile may have left points behind, and parts made under different
    configurations or payload indexes do not make one collection.
    """
    after = _describe(fleet, order.collection)
    now = _plan(order, fleet, after, again=True)
    if [(one.shard_id, one.shard_key) for one in now.shards] != [(one.shard_id, one.shard_key) for one in plan.shards]:
        raise PlanBlockedForNow(f"Shards of {order.collection!r} moved while it was backed up: run the backup again.")
    for was, found in zip(plan.shards, now.shards, strict=True):
        # Another node may have given the shard in the end; what it was planned from must be as good as then, or gone.
        if not {was.peer_id, *was.others} & {found.peer_id, *found.others}:
            raise PlanBlockedForNow(
                f"Shards of {order.collection!r} moved while it was backed up: run the backup again."
            )
    changes = config_differences(before.config, after.config, same_version=True)
    changes += schema_differences(before.payload_schema, after.payload_schema)
    if changes:
        raise PlanBlockedForNow(
            f"{order.collection!r} changed while it was backed up ({changes[0]}): run the backup again."
        )


def _describe(fleet: Fleet, collection: str) -> CollectionInfo:
    """Ask for the collection's configuration; the node that was asked before may be gone."""
    for node in fleet.nodes.values():
        try:
            return node.collection(collection)
        except (QdrantUnreachable, QdrantTimeout):
            continue
    return fleet.first.collection(collection)


def _commit(manifest: Manifest, store: Store, folder: str, trace: FolderTrace, run: Run) -> FinishedBackup:
    """Look once more at every part, then write the manifest: from here on it is a backup."""
    for part in manifest.parts:
        stored = store.stat(f"{folder}/{part.file}")
        if stored is None or stored.size_bytes != part.size_bytes:
            raise Unavailable(f"The storage does not hold {part.file} as it was written: check the storage.")
    data = manifest.to_bytes()
    run.confirm()
    store.put(manifest_key(folder), data)
    finished = finish(manifest, data, folder, store)
    run.traces.drop(trace)
    return finished


def finish(manifest: Manifest, data: bytes, folder: str, store: Store) -> FinishedBackup:
    """Return the backup whose manifest (`data`) stands in the folder, with what the storage says of its lock."""
    try:
        until = lock_of(store, [manifest_key(folder), *(f"{folder}/{part.file}" for part in manifest.parts)])
    except StorageError as error:
        # It is a backup all the same; its deletion asks again.
        logger.info("Whether %s is locked cannot be told: %s", folder, error)
        until = None
    return FinishedBackup(manifest=manifest, manifest_sha256=sha256_of(data), path=folder, locked_until=until)


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def find_finished(
    storage: StorageConfig, path: str, job_id: uuid.UUID, abort: Abort | None = None
) -> FinishedBackup | None:
    """Return the backup that an earlier attempt of the job finished just before its worker vanished, if it did.

    Raises: StorageError; the reason of `abort`.
    """
    store = open_store(storage, abort=abort)
    try:
        data = store.get(manifest_key(path), MANIFEST_MAX_BYTES)
        manifest = parse_manifest(data)
    except (ObjectMissing, ManifestInvalid):
        return None
    if manifest.job_id != str(job_id):
        return None
    return finish(manifest, data, path, store)


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
        locked_until=finished.locked_until,
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
