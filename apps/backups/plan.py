"""What a backup or a restore is going to do, decided before anything is done. Pure functions on frozen values.

A plan either stands or is refused with a reason (PlanBlocked); what only deserves attention is a warning in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from apps.backups.compare import config_differences, schema_differences
from apps.backups.manifest import Manifest
from apps.backups.topology import KeysImpossible, KeyStep, Replica, Topology, key_steps, merge
from apps.clusters.qdrant import CollectionInfo, NodeInfo, Placement
from apps.core.errors import Conflict


class PlanBlocked(Conflict):
    """Something stands in the way; the message says what, and what to do."""


class PlanBlockedForNow(PlanBlocked):
    """What stands in the way goes by: a shard on its way, a replica that recovers, a change under way."""

    transient = True


@dataclass(frozen=True)
class ShardSource:
    """The replica that a shard is backed up from, and the peers with others as good; `why` completes "taken since"."""

    shard_id: int
    shard_key: str | int | None
    peer_id: int
    others: tuple[int, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class BackupPlan:
    collection: str
    shards: tuple[ShardSource, ...]
    warnings: tuple[str, ...]
    #: All replicas of those shards, also the ones that nothing is read from.
    replicas: tuple[Replica, ...] = ()


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
    #: What to call for the shard keys to get the ids of the backup; empty without custom sharding.
    key_steps: tuple[KeyStep, ...] = ()
    #: How many points of an existing target are replaced, as far as is known before they are counted.
    replaced_points: int = 0


def plan_backup(
    *,
    collection: str,
    info: CollectionInfo | None,
    placement: Placement,
    others: Sequence[Placement] = (),
    shard_id: int | None = None,
    addresses: int = 1,
) -> BackupPlan:
    """Choose one Active replica for each shard (or for the one asked for), spread over the nodes.

    `placement` and `others` are what the nodes say that can be reached; `addresses` is how many the cluster is
    registered with. `info` None decides on the placement alone: a node does not describe a collection of which a shard
    cannot be reached.
    Raises: PlanBlocked.
    """
    topology = merge([placement, *others])
    if topology.moving:
        raise PlanBlockedForNow(
            f"Shards of {collection!r} are being moved or resharded: back up again when the transfer has ended."
        )
    if shard_id is not None and shard_id not in topology.shard_ids:
        raise PlanBlocked(f"{collection!r} has no shard {shard_id}; it has {_shards(topology.shard_ids)}.")
    wanted = [shard_id] if shard_id is not None else list(topology.shard_ids)
    reachable = {placement.peer_id, *(other.peer_id for other in others)}
    chosen = _choose_replicas(collection, topology, wanted, reachable, addresses)
    if not chosen:
        raise PlanBlocked(f"{collection!r} has no shards: there is nothing to back up.")
    warnings = [
        f"The replica of shard {replica.shard_id} on peer {replica.peer_id} is {replica.state}: nothing is read there."
        for replica in topology.replicas
        if replica.shard_id in wanted and not replica.is_active
    ]
    if info is not None and info.status == "red":
        warnings.append(f"Qdrant calls the collection {info.status}; its points are backed up as they are.")
    if info is not None and isinstance(info.optimizer_status, dict):
        warnings.append(f"Qdrant's optimizer reports: {info.optimizer_status.get('error', 'an error')}")
    return BackupPlan(
        collection=collection,
        shards=tuple(chosen),
        warnings=tuple(warnings),
        replicas=tuple(replica for replica in topology.replicas if replica.shard_id in wanted),
    )


def _choose_replicas(
    collection: str, topology: Topology, wanted: list[int], reachable: set[int], addresses: int
) -> list[ShardSource]:
    candidates: dict[int, list[int]] = {}
    inactive, elsewhere = [], []
    for wanted_id in wanted:
        active = [replica.peer_id for replica in topology.of(wanted_id) if replica.is_active]
        candidates[wanted_id] = [peer for peer in active if peer in reachable]
        if not active:
            states = " and ".join(dict.fromkeys(replica.state for replica in topology.of(wanted_id)))
            inactive.append(f"shard {wanted_id} is {states}")
        elif not candidates[wanted_id]:
            elsewhere.append(wanted_id)
    if elsewhere and addresses == 1:
        raise PlanBlocked(
            f"{_shards(elsewhere)} of {collection!r} live on other nodes of the cluster only, and this cluster is "
            f"registered with one address: backing up a part of the collection would look like all of it."
        )
    if elsewhere:
        # They may be back soon.
        peers = sorted({replica.peer_id for shard in elsewhere for replica in topology.of(shard) if replica.is_active})
        raise PlanBlockedForNow(
            f"{_shards(elsewhere)} of {collection!r} live only on nodes that cannot be reached (peer "
            f"{', '.join(map(str, peers))}): backing up the rest would look like all of it. Start them, or register "
            f"their addresses."
        )
    if inactive:
        raise PlanBlockedForNow(
            f"No Active replica to back up {collection!r} from ({', '.join(inactive)}): a replica in another state "
            f"may lack points. Wait until it has recovered, or repair it."
        )
    return [
        ShardSource(
            wanted_id,
            topology.key_of(wanted_id),
            peer,
            tuple(one for one in candidates[wanted_id] if one != peer),
            _why(topology, wanted_id, candidates[wanted_id]),
        )
        for wanted_id, peer in sorted(_spread(candidates, reachable).items())
    ]


def _why(topology: Topology, shard_id: int, candidates: Sequence[int]) -> str:
    if len(candidates) > 1:
        return f"of {len(candidates)} Active replicas, the one on the node with the least to do"
    if len(topology.of(shard_id)) == 1:
        return "it has the only replica"
    return "it has the only Active replica that can be reached"


def _spread(candidates: dict[int, list[int]], reachable: set[int]) -> dict[int, int]:
    """Choose a peer for each shard so that all have about as much to do."""
    load = dict.fromkeys(sorted(reachable), 0)
    chosen: dict[int, int] = {}
    # Those with the least choice first.
    for shard_id in sorted(candidates, key=lambda one: (len(candidates[one]), one)):
        chosen[shard_id] = min(candidates[shard_id], key=lambda peer: (load[peer], peer))
        load[chosen[shard_id]] += 1
    # What was chosen early may have been better off elsewhere; each move evens the load out, so this ends.
    moved = True
    while moved:
        moved = False
        for shard_id, peer in chosen.items():
            best = min(candidates[shard_id], key=lambda other: (load[other], other))
            if load[peer] - load[best] > 1:
                chosen[shard_id] = best
                load[peer] -= 1
                load[best] += 1
                moved = True
    return chosen


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
    others: Sequence[Placement] = (),
    nodes: int = 1,
    replication_factor: int | None = None,
) -> RestorePlan:
    """Decide how the backup gets into `collection`; `shard_id` for one shard of an existing collection.

    `existing_points` counts what would be replaced: all points, or those of the one shard. `placement` and `others` are
    what the nodes say of an existing target, `nodes` is how many the cluster has.
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
    factor = replication_factor or int(manifest.config["params"].get("replication_factor") or 1)
    if replication_factor and replication_factor > nodes:
        raise PlanBlocked(
            f"{replication_factor} replicas of each shard were asked for, and the target has {nodes} "
            f"{'node' if nodes == 1 else 'nodes'}: ask for {nodes} at most, or leave replication_factor out."
        )
    if factor > nodes:
        warnings.append(
            f"The backup asks for {factor} replicas of each shard, and the target has {nodes} "
            f"{'node' if nodes == 1 else 'nodes'}: Qdrant makes as many replicas as there are nodes."
        )
    if replication_factor and existing is not None:
        raise PlanBlocked(
            f"The collection {collection!r} exists, and its replication factor stays as it is: leave "
            f"replication_factor out, or restore into another name."
        )
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
            key_steps=_key_steps(manifest),
        )
    topology = merge([one for one in (placement, *others) if one is not None])
    return _plan_into_existing(
        manifest, collection, target, existing, topology, existing_points, overwrite, shard_id, warnings
    )


def _key_steps(manifest: Manifest) -> tuple[KeyStep, ...]:
    if manifest.config["params"].get("sharding_method") != "custom":
        return ()
    try:
        return key_steps({shard.shard_id: shard.shard_key for shard in manifest.shards})
    except KeysImpossible as error:
        raise PlanBlocked(f"The shard keys of the backup cannot be made again with their ids: {error}.") from error


def _plan_into_existing(
    manifest: Manifest,
    collection: str,
    target: NodeInfo,
    existing: CollectionInfo,
    topology: Topology,
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
    missing = [wanted_id for wanted_id in wanted if wanted_id not in topology.shard_ids]
    if missing:
        raise PlanBlocked(f"The collection {collection!r} on the target has no {_shards(missing)}.")
    if topology.moving:
        raise PlanBlockedForNow(
            f"Shards of {collection!r} are being moved or resharded: restore again when the transfer has ended."
        )
    sick = [one for one in topology.replicas if one.shard_id in wanted and not one.is_active]
    if sick:
        raise PlanBlockedForNow(
            f"Not every replica of {collection!r} is Active ("
            f"{', '.join(f'shard {one.shard_id} is {one.state} on peer {one.peer_id}' for one in sick)}): wait until "
            f"the cluster has healed it, or repair it."
        )
    for wanted_id in wanted:
        ours, theirs = manifest.shard(wanted_id).shard_key, topology.key_of(wanted_id)
        if ours != theirs or type(ours) is not type(theirs):
            raise PlanBlocked(
                f"Shard {wanted_id} has the key {theirs!r} in {collection!r} and {ours!r} in the backup: its points "
                f"would come under another key. Restore into another name."
            )
    surplus = [] if shard_id is not None else sorted(set(topology.shard_ids) - set(wanted))
    if surplus:
        raise PlanBlocked(
            f"The collection {collection!r} has {_shards(surplus)} that the backup has not: their points would stay. "
            f"Restore into another name, or delete the collection first."
        )
    drop, create = _index_changes(manifest, existing) if shard_id is None else ((), ())
    return RestorePlan(
        collection=collection,
        create=False,
        shard_ids=tuple(wanted),
        drop_indexes=drop,
        create_indexes=create,
        warnings=tuple(warnings),
        replaced_points=existing_points,
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
    before, after = minor_version(source), minor_version(target)
    if before is None or after is None:
        return [f"Versions {source!r} and {target!r} cannot be compared; Qdrant promises the same or the next minor."]
    if before[0] != after[0] or not 0 <= after[1] - before[1] <= 1:
        raise PlanBlocked(
            f"The backup was made by Qdrant {source}, the target is {target}: Qdrant restores snapshots of the same "
            f"minor version or the one before. Restore into {before[0]}.{before[1]} or {before[0]}.{before[1] + 1}, "
            f"then upgrade step by step."
        )
    return []


def minor_version(version: str) -> tuple[int, int] | None:
    """Return major and minor of a Qdrant version, None for a text that is none."""
    pieces = version.split("-")[0].split(".")
    try:
        return int(pieces[0]), int(pieces[1])
    except (IndexError, ValueError):
        return None


def _shards(ids: Sequence[int]) -> str:
    return f"shard{'s' if len(ids) != 1 else ''} {', '.join(map(str, ids))}" if ids else "no shards"
