"""Restore a backup: plan, verify every stored part, and only then touch the target; prove the result afterwards."""

from __future__ import annotations

from dataclasses import replace

from apps.backups.comparing import check_comparable, parts_to_open
from apps.backups.fleet import Fleet, open_fleet
from apps.backups.manifest import Manifest, PartFacts
from apps.backups.plan import PlanBlocked, PlanBlockedForNow, RestorePlan, plan_restore
from apps.backups.restoring import RestoreOrder, Restorer, Switch, aliases_to_set
from apps.backups.run import Run
from apps.backups.safety import describe_moment, make_safety_backup, with_way_back
from apps.backups.topology import merge
from apps.backups.verifications import Proof
from apps.backups.verify import PartDamaged, check_part, found_damaged, load_manifest, read_manifest
from apps.clusters.models import Purpose
from apps.core.errors import BackupmgrError
from apps.core.text import format_size, plural
from apps.storage.services import open_store


def restore_backup(order: RestoreOrder, run: Run) -> Proof:
    """Restore a backup. When this returns, counts, config and payload schema equal the manifest.

    Until every part of the backup has been read and compared with its SHA-256 nothing on the target is touched.
    A collection that this restore created is removed again when it fails. One that it replaces is backed up first, and
    an error names that backup. Where the target is an alias, the restore goes beside the collection behind it, and
    the alias is switched in the end.
    Raises: BackupmgrError with a sentence for the operator; the reason of `run.abort`.
    """
    store = open_store(order.backup.storage, abort=run.abort)
    run.phase("planning")
    manifest = read_manifest(order.backup, store, run)
    with open_fleet(order.cluster, Purpose.RESTORE, run.abort) as fleet:
        order, switch = _beside(order, fleet)
        plan, same_version = _plan(order, manifest, fleet, switch)
        for warning in plan.warnings:
            run.warn(warning)
        parts = [manifest.part(shard_id) for shard_id in plan.shard_ids]
        size = sum(part.size_bytes for part in parts)
        # Every part is read once to compare it, and once for each replica that it is sent to.
        factor = order.replication_factor or int(manifest.config["params"].get("replication_factor") or 1)
        opened = sum(part.size_bytes for part in parts_to_open(parts, order.verify_points))
        total = size * (1 + min(factor, fleet.size)) + opened
        run.expect(total)
        check_comparable(parts, order.verify_points)
        run.phase("verifying the backup")
        for part in parts:
            try:
                check_part(order.backup, part, store, run)
            except PartDamaged as error:
                raise found_damaged(order.backup, f"{error} Restore from another backup.", run) from error
        run.tell(f"All {plural(len(parts), 'part')} ({format_size(size)}) match the SHA-256 in the manifest.")
        restorer = Restorer(order, manifest, plan, store, fleet, run)
        if plan.create:
            restorer.restore(parts, same_version=same_version, switch=switch)
        else:
            _replace(order, restorer, parts, fleet, run, same_version=same_version, total=total)
        return restorer.proof(parts)


def outlook(order: RestoreOrder) -> tuple[list[str], list[str]]:
    """Plan the restore without touching anything: return what it would do, and warnings, as sentences.

    The manifest is read from the storage. Raises: PlanBlocked and all that keeps a restore from beginning.
    """
    store = open_store(order.backup.storage)
    manifest = load_manifest(order.backup, store)
    with open_fleet(order.cluster, Purpose.RESTORE) as fleet:
        order, switch = _beside(order, fleet)
        plan, _ = _plan(order, manifest, fleet, switch)
        parts = [manifest.part(shard_id) for shard_id in plan.shard_ids]
        check_comparable(parts, order.verify_points)
        where = f"on {order.cluster.name!r} ({plural(fleet.size, 'node')}, Qdrant {fleet.info.version})"
    size = format_size(sum(part.size_bytes for part in parts))
    steps = [f"Every byte of {plural(len(parts), 'part')} ({size}) is read and compared with the manifest."]
    if plan.create:
        steps.append(f"The collection {order.collection!r} is created {where}; nothing that exists is touched.")
    else:
        if order.safety_backup:
            steps.append(f"What {order.collection!r} holds now is backed up to {order.backup.storage.name!r}.")
        shards = "" if order.shard_id is None else f"shard {order.shard_id} of "
        steps.append(
            f"The points of {shards}{order.collection!r} {where} are replaced; what was written since is lost."
        )
    keys = [repr(step.key) for step in plan.key_steps if step.shards and not step.is_filler]
    if keys:
        steps.append(f"Its shard keys are created with the ids they had: {', '.join(keys)}.")
    steps.append("Every replica of each shard gets the same part; then all are counted and compared.")
    if switch is not None:
        steps.append(
            f"The alias {switch.alias!r} is switched from {switch.old!r} to the new collection in one call; "
            f"{switch.old!r} is kept."
        )
    return steps, list(plan.warnings)


def _beside(order: RestoreOrder, fleet: Fleet) -> tuple[RestoreOrder, Switch | None]:
    """Where an alias is to be overwritten, restore beside the collection behind it, under a name of its own."""
    old = fleet.first.aliases().get(order.collection) if order.overwrite and order.shard_id is None else None
    if old is None:
        return order, None
    name = f"{order.collection[:180]}-{describe_moment()}"
    return replace(order, collection=name, overwrite=False), Switch(order.collection, old)


def _replace(
    order: RestoreOrder,
    restorer: Restorer,
    parts: list[PartFacts],
    fleet: Fleet,
    run: Run,
    *,
    same_version: bool,
    total: int,
) -> None:
    """Restore into a collection that exists, after a safety backup of what it holds, unless that was declined."""
    safety = None
    collection = order.collection
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
        restorer.restore(parts, same_version=same_version, switch=None)
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


def _plan(order: RestoreOrder, manifest: Manifest, fleet: Fleet, switch: Switch | None) -> tuple[RestorePlan, bool]:
    info, node = fleet.info, fleet.first
    if fleet.unreachable:
        raise PlanBlockedForNow(
            f"Not every node of the cluster {order.cluster.name!r} can be reached (missing: peer "
            f"{', '.join(map(str, fleet.unreachable))}): replicas there could not be restored. Start them, or register "
            f"their addresses."
        )
    aliases = node.aliases()
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
        target=info,
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
        _check_aliases(aliases_to_set(manifest, switch), order.collection, aliases, node.collections())
    return plan, info.version == manifest.qdrant_version


def _check_aliases(wanted: list[str], collection: str, aliases: dict[str, str], collections: list[str]) -> None:
    """Refuse to take an alias away from another collection, before anything is touched."""
    for alias in wanted:
        owner = aliases.get(alias)
        if alias in collections or (owner is not None and owner != collection):
            raise PlanBlocked(
                f"The alias {alias!r} of the backup is in use ({owner or 'a collection of that name'}): "
                f"restore without aliases and switch it yourself."
            )
