"""Restore a backup: plan, verify every stored part, and only then touch the target; prove the result afterwards."""

from __future__ import annotations

from dataclasses import dataclass, replace

from apps.backups.comparing import check_comparable, parts_to_open
from apps.backups.fleet import Fleet, open_fleet
from apps.backups.manifest import Manifest
from apps.backups.plan import PlanBlocked, PlanBlockedForNow, RestorePlan, plan_restore
from apps.backups.restore_order import Restoration, RestoreOrder
from apps.backups.restoring import Restorer
from apps.backups.run import Run
from apps.backups.safety import make_safety_backup, with_way_back
from apps.backups.switching import Way, aliases_to_set, choose_way, take_over_switch
from apps.backups.topology import merge
from apps.backups.verifications import Proof
from apps.backups.verify import PartDamaged, check_part, found_damaged, load_manifest, read_manifest
from apps.clusters.keys import demand_right_to_restore
from apps.clusters.models import Purpose
from apps.core.errors import BackupmgrError
from apps.core.text import format_size, plural
from apps.storage.services import open_store


def restore_backup(order: RestoreOrder, run: Run) -> Proof:
    """Restore a backup. When this returns, counts, config and payload schema equal the manifest.

    Until every part of the backup has been read and compared with its SHA-256 nothing on the target is touched.
    A collection that this restore created is removed again when it fails. One that it replaces in place is backed up
    first, and an error names that backup. Where clients come through an alias, the restore goes beside the collection
    behind it, and the alias is switched in the end (`choose_way`).
    Raises: BackupmgrError with a sentence for the operator; the reason of `run.abort`.
    """
    store = open_store(order.backup.storage, abort=run.abort)
    run.phase("planning")
    manifest = read_manifest(order.backup, store, run)
    with open_fleet(order.cluster, Purpose.RESTORE, run.abort) as fleet:
        done = take_over_switch(fleet, run)
        if done is not None:
            return done
        way, plan = _plan(order, manifest, fleet)
        if way.why:
            run.tell(way.why)
        for warning in plan.warnings:
            run.warn(warning)
        restoration = Restoration(way.order, manifest, plan, store, fleet, run)
        total = _expected_bytes(restoration)
        run.expect(total)
        check_comparable(restoration.parts, order.verify_points)
        _check_parts(restoration)
        restorer = Restorer(restoration)
        if plan.create:
            return restorer.restore(way.switch)
        return _replace(restoration, restorer, total)


def _expected_bytes(restoration: Restoration) -> int:
    """Every part is read once to compare it, once for each replica that it is sent to, and once more to be opened."""
    order, parts = restoration.order, restoration.parts
    params = restoration.manifest.config["params"]
    factor = order.replication_factor or int(params.get("replication_factor") or 1)
    size = sum(part.size_bytes for part in parts)
    opened = sum(part.size_bytes for part in parts_to_open(parts, order.verify_points))
    return size * (1 + min(factor, restoration.fleet.size)) + opened


def _check_parts(restoration: Restoration) -> None:
    """Read all that will be restored and compare it with its SHA-256. Raises: BackupDamaged, StorageError."""
    run, backup, parts = restoration.run, restoration.order.backup, restoration.parts
    run.phase("verifying the backup")
    for part in parts:
        try:
            check_part(backup, part, restoration.store, run)
        except PartDamaged as error:
            raise found_damaged(backup, f"{error} Restore from another backup.", run) from error
    size = format_size(sum(part.size_bytes for part in parts))
    run.tell(f"All {plural(len(parts), 'part')} ({size}) match the SHA-256 in the manifest.")


@dataclass(frozen=True)
class Outlook:
    """What a restore would do and what to beware of, as sentences; whether a collection that exists is overwritten in
    place, and which aliases would be switched.
    """

    steps: tuple[str, ...]
    warnings: tuple[str, ...]
    replaces: bool
    #: Of the target's Qdrant.
    version: str
    switches: tuple[str, ...] = ()


def outlook(order: RestoreOrder, *, manifest: Manifest | None = None, timeout_seconds: float | None = None) -> Outlook:
    """Plan the restore by what every node says, without touching anything.

    The manifest is read from the storage unless it is given. Raises: PlanBlocked and all that keeps a restore from
    beginning.
    """
    manifest = manifest or load_manifest(order.backup, open_store(order.backup.storage))
    with open_fleet(order.cluster, Purpose.RESTORE, timeout_seconds=timeout_seconds) as fleet:
        way, plan = _plan(order, manifest, fleet)
        parts = [manifest.part(shard_id) for shard_id in plan.shard_ids]
        check_comparable(parts, order.verify_points)
        version = fleet.info.version
        where = f"on {order.cluster.name!r} ({plural(fleet.size, 'node')}, Qdrant {fleet.info.version})"
    order, switch = way.order, way.switch
    size = format_size(sum(part.size_bytes for part in parts))
    steps = [f"Every byte of {plural(len(parts), 'part')} ({size}) is read and compared with the manifest."]
    if way.why:
        steps.append(way.why)
    if plan.create:
        steps.append(f"The collection {order.collection!r} is created {where}; nothing that exists is touched.")
    else:
        if order.safety_backup:
            steps.append(f"What {order.collection!r} holds now is backed up to {order.backup.storage.name!r}.")
        shards = "" if order.shard_id is None else f"shard {order.shard_id} of "
        steps.append(
            f"The points of {shards}{order.collection!r} {where}, about {plan.replaced_points:,} now, are replaced; "
            f"what was written since the backup is lost."
        )
        if not order.safety_backup:
            steps.append("No safety backup is taken of what is there.")
    keys = [repr(step.key) for step in plan.key_steps if step.shards and not step.is_filler]
    if keys:
        steps.append(f"Its shard keys are created with the ids they had: {', '.join(keys)}.")
    steps.append("Every replica of each shard gets the same part; then all are counted and compared.")
    if switch is not None:
        steps.append(
            f"{switch.words[:1].upper()}{switch.words[1:]} {switch.verb} switched from {switch.old!r} to the new "
            f"collection in one call; {switch.old!r} is kept until you remove it."
        )
    return Outlook(tuple(steps), plan.warnings, not plan.create, version, switch.aliases if switch else ())


def _replace(restoration: Restoration, restorer: Restorer, total: int) -> Proof:
    """Restore into a collection that exists, after a safety backup of what it holds, unless that was declined."""
    order, run, fleet, collection = restoration.order, restoration.run, restoration.fleet, restoration.collection
    safety = None
    holders = merge(fleet.placements(collection)).replicas
    points = {one.shard_id: fleet.node(one.peer_id).count(collection, one.shard_id) for one in holders}
    doomed = points if order.shard_id is None else {order.shard_id: points.get(order.shard_id, 0)}
    if order.safety_backup and any(doomed.values()):
        safety = make_safety_backup(
            cluster=order.cluster,
            collection=collection,
            storage=order.backup.storage,
            shard_id=order.shard_id,
            run=run,
        )
        run.expect(total + safety.size_bytes)
    try:
        return restorer.restore()
    except BackupmgrError as error:
        if safety is None:
            raise
        raise with_way_back(error, safety, collection) from error
    except BaseException:
        if safety is not None:
            run.warn(
                f"{collection!r} is incomplete now; what it held before is in the backup {safety.snapshot_name}.",
                backup_id=str(safety.pk),
            )
        raise


def _plan(order: RestoreOrder, manifest: Manifest, fleet: Fleet) -> tuple[Way, RestorePlan]:
    """Decide what to do, and whether it can be done, by what every node says now. Raises: PlanBlocked, QdrantError."""
    node = fleet.first
    if fleet.unreachable:
        raise PlanBlockedForNow(
            f"Not every node of the cluster {order.cluster.name!r} can be reached (missing: peer "
            f"{', '.join(map(str, fleet.unreachable))}): replicas there could not be restored. Start them, or register "
            f"their addresses."
        )
    for one in fleet.nodes.values() if fleet.peers else [node]:
        demand_right_to_restore(one.endpoint, is_shared=not order.cluster.restore_api_key)
    aliases = node.aliases()
    way = choose_way(order, aliases, node.collections() if order.overwrite else [])
    order = way.order
    existing = node.find_collection(order.collection) if order.collection not in aliases else None
    points, placements = 0, []
    if existing is not None:
        placements = fleet.placements(order.collection)
        points = existing.points_count or 0
        # Whether one shard is empty decides, so it is counted exactly; of a whole collection the figure is only told.
        holders = [one for one in merge(placements).replicas if one.shard_id == order.shard_id and one.told_by_owner]
        if holders:
            points = fleet.node(holders[0].peer_id).count(order.collection, order.shard_id)
    plan = plan_restore(
        manifest=manifest,
        collection=order.collection,
        target=fleet.info,
        existing=existing,
        placement=placements[0] if placements else None,
        others=placements[1:],
        nodes=fleet.size,
        existing_points=points,
        aliased_to=aliases.get(order.collection),
        overwrite=order.overwrite,
        shard_id=order.shard_id,
        replication_factor=order.replication_factor,
    )
    if order.restore_aliases:
        old = way.switch.old if way.switch else ""
        _check_aliases(aliases_to_set(manifest, way.switch), {order.collection, old}, aliases, node.collections())
    if way.warning:
        plan = replace(plan, warnings=(*plan.warnings, way.warning))
    return way, plan


def _check_aliases(wanted: list[str], ours: set[str], aliases: dict[str, str], collections: list[str]) -> None:
    """Refuse to take an alias away from a collection that is none of `ours`, before anything is touched."""
    for alias in wanted:
        owner = aliases.get(alias)
        if alias in collections or (owner is not None and owner not in ours):
            raise PlanBlocked(
                f"The alias {alias!r} of the backup is in use ({owner or 'a collection of that name'}): "
                f"restore without aliases and switch it yourself."
            )
