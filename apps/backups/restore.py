"""Restore a backup: plan, verify every stored part, and only then touch the target; prove the result afterwards."""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import monotonic

from django.conf import settings

from apps.backups.compare import (
    config_differences,
    count_difference,
    create_body,
    fan_out_patch,
    index_schema,
    schema_differences,
)
from apps.backups.fleet import Fleet, open_fleet
from apps.backups.manifest import Manifest, PartFacts
from apps.backups.models import Backup
from apps.backups.plan import PlanBlocked, PlanBlockedForNow, RestorePlan, plan_restore
from apps.backups.run import Run
from apps.backups.topology import merge
from apps.backups.traces import CollectionTrace, Traces, clean_up
from apps.backups.transfer import chunks
from apps.backups.verify import PartDamaged, check_part, found_damaged, read_manifest
from apps.clusters.models import Cluster, Purpose
from apps.clusters.qdrant import (
    Endpoint,
    QdrantDenied,
    QdrantError,
    QdrantRejected,
    recover_snapshot,
    upload_snapshot,
)
from apps.core.errors import BackupmgrError, NotFound, Unavailable
from apps.core.text import format_rate, format_size, plural
from apps.storage.services import open_store
from apps.storage.stores import Store

#: How long a restored collection may take until all its shards are Active.
ACTIVE_WITHIN_SECONDS = 120.0
POLL_SECONDS = 0.5


class RestoreDiffers(BackupmgrError):
    """The restored collection is not what the manifest says."""


class RestoreNotReady(Unavailable):
    """The restored collection did not become ready in time."""


@dataclass(frozen=True, kw_only=True)
class RestoreOrder:
    """What to restore, and where to. `shard_id` for one shard of an existing collection."""

    backup: Backup
    cluster: Cluster
    collection: str
    overwrite: bool
    restore_aliases: bool = False
    shard_id: int | None = None


def restore_backup(order: RestoreOrder, run: Run) -> None:
    """Restore a backup. When this returns, counts, config and payload schema equal the manifest.

    Until every part of the backup has been read and compared with its SHA-256 nothing on the target is touched.
    A collection that this restore created is removed again when it fails.
    Raises: BackupmgrError with a sentence for the operator; the reason of `run.abort`.
    """
    store = open_store(order.backup.storage)
    run.phase("planning")
    manifest = read_manifest(order.backup, store, run)
    with open_fleet(order.cluster, Purpose.RESTORE, run.abort) as fleet:
        plan, same_version = _plan(order, manifest, fleet)
        for warning in plan.warnings:
            run.warn(warning)
        parts = [manifest.part(shard_id) for shard_id in plan.shard_ids]
        size = sum(part.size_bytes for part in parts)
        # Every part is read once to compare it, and once for each replica that it is sent to.
        factor = int(manifest.config["params"].get("replication_factor") or 1)
        run.expect(size * (1 + min(factor, fleet.size)))
        run.phase("verifying the backup")
        for part in parts:
            try:
                check_part(order.backup, part, store, run)
            except PartDamaged as error:
                raise found_damaged(order.backup, f"{error} Restore from another backup.", run) from error
        run.tell(f"All {plural(len(parts), 'part')} ({format_size(size)}) match the SHA-256 in the manifest.")
        _Restorer(order, manifest, plan, store, fleet, run).restore(parts, same_version=same_version)


def _plan(order: RestoreOrder, manifest: Manifest, fleet: Fleet) -> tuple[RestorePlan, bool]:
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
    )
    if order.restore_aliases:
        _check_aliases(manifest, order.collection, aliases, node.collections())
    return plan, info.version == manifest.qdrant_version


def _check_aliases(manifest: Manifest, collection: str, aliases: dict[str, str], collections: list[str]) -> None:
    """Refuse to take an alias away from another collection, before anything is touched."""
    for alias in manifest.aliases:
        owner = aliases.get(alias)
        if alias in collections or (owner is not None and owner != collection):
            raise PlanBlocked(
                f"The alias {alias!r} of the backup is in use ({owner or 'a collection of that name'}): "
                f"restore without aliases and switch it yourself."
            )


class _Restorer:
    """The part of a restore that changes the target."""

    def __init__(
        self,
        order: RestoreOrder,
        manifest: Manifest,
        plan: RestorePlan,
        store: Store,
        fleet: Fleet,
        run: Run,
    ) -> None:
        self._order = order
        self._manifest = manifest
        self._plan = plan
        self._store = store
        self._fleet = fleet
        self._node = fleet.first
        self._run = run
        self._pull_refused = False

    def restore(self, parts: list[PartFacts], *, same_version: bool) -> None:
        run, collection = self._run, self._plan.collection
        run.confirm()
        if not self._plan.create:
            run.warn(
                f"Replacing what {collection!r} holds; from here on a failure leaves it incomplete.", replacing=True
            )
            self._fill(parts, same_version=same_version)
            return
        trace = self._create()
        try:
            self._fill(parts, same_version=same_version)
        except BaseException:
            # Half a collection under a real name would be taken for the whole one.
            self._take_back(trace)
            raise
        # The trace stays until the job's last write, which forgets it: a worker that vanished in between would leave a
        # collection that is in the way of the next attempt.

    def _create(self) -> CollectionTrace:
        """Create the collection and return its trace, which is written down before the request is made."""
        run, collection = self._run, self._plan.collection
        run.phase("creating the collection")
        trace = CollectionTrace(
            cluster_id=str(self._order.cluster.pk), collection=collection, asked_at=run.now().isoformat()
        )
        run.traces.add(trace)
        run.save_traces()
        try:
            self._node.create_collection(collection, create_body(self._manifest))
        except QdrantRejected as error:
            run.traces.drop(trace)  # refused: nothing was made
            if error.status == 409:
                raise PlanBlocked(
                    f"A collection {collection!r} appeared on the target meanwhile: it was left alone."
                ) from error
            raise
        except BaseException:
            self._take_back(trace)
            raise
        created = replace(trace, created=True)
        run.traces.replace(trace, created)
        try:
            run.save_traces()
            patch = fan_out_patch(self._manifest)
            if patch:
                self._node.patch_collection(collection, {"params": patch})
            self._create_keys()
        except BaseException:
            self._take_back(created)
            raise
        run.tell(f"Created {collection!r} with the configuration of the backup.")
        return created

    def _create_keys(self) -> None:
        """Create the shard keys so that every shard has the id it had. Raises: RestoreDiffers when it has not."""
        collection, steps = self._plan.collection, self._plan.key_steps
        for step in steps:
            self._run.abort.check()
            if step.shards:
                self._node.create_shard_key(collection, step.key, step.shards, replicas=1 if step.is_filler else None)
            else:
                self._node.delete_shard_key(collection, step.key)
        if not steps:
            return
        found = merge(self._fleet.placements(collection)).keys
        wanted = {shard.shard_id: shard.shard_key for shard in self._manifest.shards}
        if found != wanted:
            raise RestoreDiffers(
                f"Qdrant gave the shards of the keys other ids ({found}) than they had ({wanted}): somebody else "
                f"creates shard keys in {collection!r} at the same time."
            )
        names = dict.fromkeys(repr(step.key) for step in steps if not step.is_filler)
        self._run.tell(f"Created the {plural(len(names), 'shard key')} {', '.join(names)} with the same shard ids.")

    def _take_back(self, trace: CollectionTrace) -> None:
        """Remove the collection that this restore created."""
        run = self._run
        if not run.owns():
            return
        run.traces.drop(trace)
        clean_up(
            Traces([trace]),
            job_id=run.job_id,
            tell=lambda sentence, gone: run.tell(sentence) if gone else run.warn(sentence),
        )

    def _fill(self, parts: list[PartFacts], *, same_version: bool) -> None:
        run, collection = self._run, self._plan.collection
        if self._plan.drop_indexes or self._plan.create_indexes:
            run.phase("payload indexes")
            for field in self._plan.drop_indexes:
                self._node.delete_index(collection, field)
            for field in self._plan.create_indexes:
                self._node.create_index(collection, field, index_schema(self._manifest.payload_schema[field]))
        holders = self._holders()
        for part in parts:
            for peer_id in holders[part.shard_id]:
                run.abort.check()
                run.phase(f"restoring shard {part.shard_id}")
                self._send(part, peer_id)
        run.phase("proving the result")
        self._wait_until_active()
        self._prove(parts, same_version=same_version)
        if self._order.restore_aliases:
            self._node.create_aliases(collection, self._manifest.aliases)
            run.tell(f"Aliases set: {', '.join(self._manifest.aliases) or 'the backup has none'}.")

    def _holders(self) -> dict[int, list[int]]:
        """Return shard → the peers with a replica of it, once all of them are Active: Qdrant answers before that."""
        self._wait_until_active()
        replicas = merge(self._fleet.placements(self._plan.collection)).replicas
        return {
            shard_id: [one.peer_id for one in replicas if one.shard_id == shard_id] for shard_id in self._plan.shard_ids
        }

    def _send(self, part: PartFacts, peer_id: int) -> None:
        """Restore one replica of a shard: the node pulls a presigned address, or else we send the bytes.

        Every replica gets the same file. Left to Qdrant, the others would be dead until it has copied them itself.
        """
        started = monotonic()
        endpoint = self._fleet.node(peer_id).endpoint
        way = "pulled by the node" if self._pull(part, endpoint) else "sent to the node"
        if way == "sent to the node":
            self._upload(part, endpoint)
        seconds = max(monotonic() - started, 1e-3)
        where = f" on peer {peer_id}" if self._fleet.size > 1 else ""
        self._run.tell(
            f"Shard {part.shard_id} restored{where} ({way}), {format_size(part.size_bytes)}, "
            f"{format_rate(part.size_bytes / seconds)}.",
            shard_id=part.shard_id,
            bytes=part.size_bytes,
            seconds=round(seconds, 3),
            way=way,
        )

    def _pull(self, part: PartFacts, endpoint: Endpoint) -> bool:
        """Let the node fetch the part by itself; False when it cannot, and nothing has been changed then."""
        url = None if self._pull_refused else self._store.presign(self._key(part), settings.BACKUPMGR_PRESIGN_SECONDS)
        if url is None:
            return False
        try:
            recover_snapshot(endpoint, self._plan.collection, part.shard_id, url, part.sha256, self._run.abort)
        except (QdrantError, NotFound) as error:
            status = error.status if isinstance(error, QdrantError) else error.http_status
            if status is None or (isinstance(error, QdrantDenied) and status == 401):
                raise
            # The node cannot reach the storage, or is not allowed to pull. Its words would show the signed
            # address: they stay out of the story.
            self._pull_refused = True
            self._run.warn(
                f"Qdrant could not fetch shard {part.shard_id} from the storage by itself (answer {status}); "
                f"sending it instead."
            )
            return False
        self._run.advance(part.size_bytes)
        return True

    def _upload(self, part: PartFacts, endpoint: Endpoint) -> None:
        with self._store.source(self._key(part), self._run.abort) as source:
            upload_snapshot(
                endpoint,
                self._plan.collection,
                part.shard_id,
                chunks(source, self._run.abort, self._run.advance),
                part.size_bytes,
                part.sha256,
                self._run.abort,
            )

    def _key(self, part: PartFacts) -> str:
        return f"{self._order.backup.path}/{part.file}"

    def _wait_until_active(self) -> None:
        """Qdrant answers 200 before its replicas are Active."""
        waiting: list[str] = []
        for _ in self._run.abort.until(ACTIVE_WITHIN_SECONDS):
            topology = merge(self._fleet.placements(self._plan.collection))
            waiting = [
                f"shard {one.shard_id} is {one.state}" + (f" on peer {one.peer_id}" if self._fleet.size > 1 else "")
                for one in topology.replicas
                if one.shard_id in self._plan.shard_ids and not one.is_active
            ]
            waiting += [f"shard {shard_id} is being copied" for shard_id in topology.moving]
            if not waiting:
                return
            self._run.abort.sleep(POLL_SECONDS)
        raise RestoreDiffers(
            f"The restored collection did not become ready within {ACTIVE_WITHIN_SECONDS:.0f} seconds: "
            f"{', '.join(waiting)}. Look at Qdrant's log."
        )

    def _prove(self, parts: list[PartFacts], *, same_version: bool) -> None:
        """Compare exact counts, config and payload schema with the manifest. Raises: RestoreDiffers."""
        collection = self._plan.collection
        found = self._node.collection(collection)
        holders = merge(self._fleet.placements(collection))
        counts = {
            (part.shard_id, one.peer_id): self._fleet.node(one.peer_id).count(collection, part.shard_id)
            for part in parts
            for one in holders.of(part.shard_id)
        }
        differences = [
            difference + (f" on peer {peer_id}" if self._fleet.size > 1 else "")
            for (shard_id, peer_id), count in counts.items()
            if (difference := count_difference(self._manifest.shard(shard_id), count))
        ]
        differences += [
            f"the replicas of shard {part.shard_id} hold different numbers of points"
            for part in parts
            if len({count for (shard_id, _), count in counts.items() if shard_id == part.shard_id}) > 1
        ]
        differences += config_differences(self._manifest.config, found.config, same_version=same_version)
        if self._order.shard_id is None:
            differences += schema_differences(self._manifest.payload_schema, found.payload_schema)
        if found.status == "red" or isinstance(found.optimizer_status, dict):
            differences.append(f"Qdrant calls the collection {found.status}: {found.optimizer_status}")
        if differences:
            raise RestoreDiffers(
                f"The restored collection {collection!r} differs from the backup: {'; '.join(differences)}."
            )
        points = sum(next(n for (shard_id, _), n in counts.items() if shard_id == part.shard_id) for part in parts)
        replicas = f" ({plural(len(counts), 'replica')})" if len(counts) > len(parts) else ""
        self._run.tell(
            f"Proved: {plural(points, 'point')} in {plural(len(parts), 'shard')}{replicas}, configuration and "
            f"{plural(len(self._manifest.payload_schema), 'payload index', 'payload indexes')} equal the manifest.",
            points=points,
        )
