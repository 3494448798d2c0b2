"""The part of a restore that changes the target: create, fill every replica, prove, and let clients find it."""

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
    with_factor,
)
from apps.backups.comparing import Compared, PointsWanted, compare_points
from apps.backups.fleet import Fleet
from apps.backups.leftovers import clean_up
from apps.backups.manifest import Manifest, PartFacts
from apps.backups.models import Backup, VerificationKind
from apps.backups.plan import PlanBlocked, RestorePlan
from apps.backups.run import Run
from apps.backups.topology import merge
from apps.backups.traces import CollectionTrace, Traces
from apps.backups.transfer import chunks
from apps.backups.verifications import Proof
from apps.clusters.models import Cluster
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
    #: Of a collection that is created; None for that of the backup.
    replication_factor: int | None = None
    #: Whether what is replaced is backed up first.
    safety_backup: bool = True
    verify_points: PointsWanted = ""


@dataclass(frozen=True)
class Switch:
    """The alias that clients come through, and the collection behind it until the switch."""

    alias: str
    old: str


def aliases_to_set(manifest: Manifest, switch: Switch | None) -> list[str]:
    """Return the aliases of the backup, without the one that is switched anyway."""
    return [alias for alias in manifest.aliases if switch is None or alias != switch.alias]


class Restorer:
    """Carries out one plan."""

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
        self._compared = Compared()
        self._counted = ""

    def restore(self, parts: list[PartFacts], *, same_version: bool, switch: Switch | None) -> None:
        """Do it. Raises: RestoreDiffers, PointsDiffer, RestoreNotReady, QdrantError; the reason of the abort."""
        run, collection = self._run, self._plan.collection
        run.confirm()
        if not self._plan.create:
            run.warn(
                f"Replacing what {collection!r} holds; from here on a failure leaves it incomplete.", replacing=True
            )
            self._fill(parts, same_version=same_version)
            self._set_aliases(None)
            return
        trace = self._create()
        try:
            self._fill(parts, same_version=same_version)
            if switch is None:
                self._set_aliases(None)
        except BaseException:
            # Half a collection under a real name would be taken for the whole one.
            self._take_back(trace)
            raise
        # The trace stays until the job's last write, which forgets it: a worker that vanished in between would leave a
        # collection that is in the way of the next attempt.
        if switch is not None:
            run.traces.drop(trace)
            run.save_traces()
            self._switch(switch, trace)

    def _switch(self, switch: Switch, trace: CollectionTrace) -> None:
        """Let clients find the restored collection, all at once. It is proved, and no trace of ours any more: from
        here on it must not be removed, whatever happens, unless clients certainly do not use it.
        """
        run, collection = self._run, self._plan.collection
        try:
            run.confirm()
            self._node.switch_alias(switch.alias, collection)
        except QdrantError:
            now = self._node.aliases().get(switch.alias)
            if now != collection:
                self._take_back(trace)
                raise
        self._set_aliases(switch)
        run.tell(
            f"The alias {switch.alias!r} points to {collection!r} now. {switch.old!r}, to which it pointed, was kept: "
            f"delete it when you need it no longer, or point the alias back to undo this."
        )

    def _set_aliases(self, switch: Switch | None) -> None:
        if not self._order.restore_aliases:
            return
        aliases = aliases_to_set(self._manifest, switch)
        self._node.create_aliases(self._plan.collection, aliases)
        self._run.tell(f"Aliases set: {', '.join(aliases) or 'the backup has none'}.")

    def proof(self, parts: list[PartFacts]) -> Proof:
        """Return what was proved, once `restore` is through."""
        compared = self._compared
        shards = plural(len(compared.shards), "shard")
        points = f"{plural(compared.points, 'point')} of {shards} compared one by one"
        if compared.left_out:
            points += f" ({compared.left_out})"
        return Proof(
            kind=VerificationKind.RESTORED,
            method=(
                f"Restored into {self._plan.collection!r} on {self._order.cluster.name!r}; {self._counted}; {points}."
            ),
            points_compared=compared.points,
            details={
                "cluster": self._order.cluster.name,
                "collection": self._plan.collection,
                "shards": [part.shard_id for part in parts],
                "compared_shards": compared.shards,
                "left_out": compared.left_out,
            },
        )

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
            self._node.create_collection(collection, create_body(self._manifest, self._order.replication_factor))
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
        self._compared = compare_points(
            backup=self._order.backup,
            manifest=self._manifest,
            parts=parts,
            wanted=self._order.verify_points,
            store=self._store,
            fleet=self._fleet,
            topology=merge(self._fleet.placements(collection)),
            collection=collection,
            run=run,
        )

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
        expected = with_factor(self._manifest.config, self._order.replication_factor)
        differences += config_differences(expected, found.config, same_version=same_version)
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
        self._counted = (
            f"{plural(points, 'point')} in {plural(len(parts), 'shard')}{replicas}, configuration and "
            f"{plural(len(self._manifest.payload_schema), 'payload index', 'payload indexes')} equal the manifest"
        )
        self._run.tell(f"Proved: {self._counted}.", points=points)
