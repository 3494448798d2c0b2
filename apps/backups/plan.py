"""What a backup or a restore is going to do, decided before anything is done. Pure functions on frozen values.

A plan either stands or is refused with a reason (PlanBlocked); what only deserves attention is a warning in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from apps.backups.compare import config_differences, schema_differences
from apps.backups.manifest import Manifest
from apps.clusters.qdrant import ACTIVE, CollectionInfo, NodeInfo, Placement
from apps.core.errors import Conflict


class PlanBlocked(Conflict):
    """Something stands in the way; the message says what, and what to do."""


class PlanBlockedForNow(PlanBlocked):
    """What stands in the way goes by: a shard on its way, a replica that recovers, a change under way."""

    transient = True


@dataclass(frozen=True)
class ShardSource:
    """The replica that a shard is backed up from."""

    shard_id: int
    shard_key: str | int | None
    peer_id: int


@dataclass(frozen=True)
class BackupPlan:
    collection: str
    shards: tuple[ShardSource, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class RestorePlan:
    """`create`: the target collection does not exist and is made from the manifest's config."""

    collection: str
    create: bool
    shard_ids: tuple[int, ...]
    #: Indexes of an existing target that differ from the backup's and are dropped before the restore.
    drop_indexes: tuple[str, ...]
    create_indexes: tuple[str, ...]
    warnings: tuple[str, ...]


def plan_backup(
    *, collection: str, info: CollectionInfo, placement: Placement, shard_id: int | None = None
) -> BackupPlan:
    """Choose one Active replica for each shard (or for the one asked for).

    Raises: PlanBlocked.
    """
    if placement.transfers or placement.resharding:
        raise PlanBlockedForNow(
            f"Shards of {collection!r} are being moved or resharded: back up again when the transfer has ended."
        )
    local = {shard.shard_id: shard for shard in placement.local_shards}
    remote = sorted({shard.shard_id for shard in placement.remote_shards} - local.keys())
    if remote:
        raise PlanBlocked(
            f"{_shards(remote)} of {collection!r} live on other nodes of the cluster only, and this cluster is "
            f"registered with one address: backing up a part of the collection would look like all of it."
        )
    if shard_id is not None and shard_id not in local:
        raise PlanBlocked(f"{collection!r} has no shard {shard_id}; it has {_shards(sorted(local))}.")
    chosen = [local[shard_id]] if shard_id is not None else sorted(local.values(), key=lambda shard: shard.shard_id)
    inactive = [f"shard {shard.shard_id} is {shard.state}" for shard in chosen if shard.state != ACTIVE]
    if inactive:
        raise PlanBlockedForNow(
            f"No Active replica to back up {collection!r} from ({', '.join(inactive)}): a replica in another state "
            f"may lack points. Wait until it has recovered, or repair it."
        )
    if not chosen:
        raise PlanBlocked(f"{collection!r} has no shards: there is nothing to back up.")
    warnings = []
    if info.status == "red":
        warnings.append(f"Qdrant calls the collection {info.status}; its points are backed up as they are.")
    if isinstance(info.optimizer_status, dict):
        warnings.append(f"Qdrant's optimizer reports: {info.optimizer_status.get('error', 'an error')}")
    sources = tuple(ShardSource(shard.shard_id, shard.shard_key, placement.peer_id) for shard in chosen)
    return BackupPlan(collection=collection, shards=sources, warnings=tuple(warnings))


def plan_restore(
    *,
    manifest: Manifest,
    collection: str,
    target: NodeInfo,
    existing: CollectionInfo | None,
    placement: Placement | None,
    existing_points: int,
    aliased_to: str | None,
    overwrite: bool,
    shard_id: int | None = None,
) -> RestorePlan:
    """Decide how the backup gets into `collection`; `shard_id` for one shard of an existing collection.

    `existing_points` counts what would be replaced: all points, or those of the one shard.
    Raises: PlanBlocked.
    """
    warnings = check_versions(manifest.qdrant_version, target.version)
    if aliased_to is not None:
        raise PlanBlocked(
            f"{collection!r} is an alias of {aliased_to!r}: Qdrant would overwrite that collection. "
            f"Name the collection itself, or restore into another name."
        )
    if manifest.config["params"].get("sharding_method") == "custom" and target.peer_id is None:
        raise PlanBlocked("The backup has custom shard keys, and the target is a standalone node: it cannot have them.")
    if existing is None:
        if shard_id is not None:
            raise PlanBlocked(
                f"The target has no collection {collection!r}: a single shard is restored into an existing one."
            )
        return RestorePlan(
            collection=collection,
            create=True,
            shard_ids=tuple(part.shard_id for part in manifest.parts),
            drop_indexes=(),
            create_indexes=tuple(sorted(manifest.payload_schema)),
            warnings=tuple(warnings),
        )
    return _plan_into_existing(
        manifest, collection, target, existing, placement, existing_points, overwrite, shard_id, warnings
    )


def _plan_into_existing(
    manifest: Manifest,
    collection: str,
    target: NodeInfo,
    existing: CollectionInfo,
    placement: Placement | None,
    existing_points: int,
    overwrite: bool,
    shard_id: int | None,
    warnings: list[str],
) -> RestorePlan:
    same_version = manifest.qdrant_version == target.version
    differences = config_differences(manifest.config, existing.config, same_version=same_version)
    if differences:
        more = f" (and {len(differences) - 3} more)" if len(differences) > 3 else ""
        raise PlanBlocked(
            f"The collection {collection!r} exists with another configuration: {'; '.join(differences[:3])}{more}. "
            f"Restore into another name, or delete the collection first."
        )
    wanted = [shard_id] if shard_id is not None else [part.shard_id for part in manifest.parts]
    if not overwrite and (shard_id is None or existing_points):
        what = f"Shard {shard_id} of the collection" if shard_id is not None else "The collection"
        raise PlanBlocked(
            f"{what} {collection!r} exists with {existing_points:,} points: "
            f"set overwrite to replace them, or restore into another name."
        )
    local = {shard.shard_id for shard in placement.local_shards} if placement else set()
    missing = [wanted_id for wanted_id in wanted if wanted_id not in local]
    if missing:
        raise PlanBlocked(f"The collection {collection!r} on the target has no {_shards(missing)}.")
    drop, create = _index_changes(manifest, existing) if shard_id is None else ((), ())
    return RestorePlan(
        collection=collection,
        create=False,
        shard_ids=tuple(wanted),
        drop_indexes=drop,
        create_indexes=create,
        warnings=tuple(warnings),
    )


def _index_changes(manifest: Manifest, existing: CollectionInfo) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the indexes to drop and those to create so that the target's payload schema becomes the backup's."""
    wanted, found = manifest.payload_schema, existing.payload_schema
    fields = [
        field
        for field in sorted(wanted.keys() | found.keys())
        if schema_differences(_only(wanted, field), _only(found, field))
    ]
    return tuple(field for field in fields if field in found), tuple(field for field in fields if field in wanted)


def _only(schema: dict[str, Any], field: str) -> dict[str, Any]:
    return {field: schema[field]} if field in schema else {}


def check_versions(source: str, target: str) -> list[str]:
    """Apply Qdrant's rule: a snapshot fits the same minor version or the next one. Returns warnings.

    Raises: PlanBlocked.
    """
    before, after = _minor(source), _minor(target)
    if before is None or after is None:
        return [f"Versions {source!r} and {target!r} cannot be compared; Qdrant promises the same or the next minor."]
    if before[0] != after[0] or not 0 <= after[1] - before[1] <= 1:
        raise PlanBlocked(
            f"The backup was made by Qdrant {source}, the target is {target}: Qdrant restores snapshots of the same "
            f"minor version or the one before. Restore into {before[0]}.{before[1]} or {before[0]}.{before[1] + 1}, "
            f"then upgrade step by step."
        )
    return []


def _minor(version: str) -> tuple[int, int] | None:
    pieces = version.split("-")[0].split(".")
    try:
        return int(pieces[0]), int(pieces[1])
    except (IndexError, ValueError):
        return None


def _shards(ids: list[int]) -> str:
    return f"shard{'s' if len(ids) != 1 else ''} {', '.join(map(str, ids))}" if ids else "no shards"
