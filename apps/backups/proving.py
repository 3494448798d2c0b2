"""Is the restored collection what the manifest says? Asked of every replica, before anybody is told that it is."""

from __future__ import annotations

from collections.abc import Iterable

from apps.backups.compare import (
    config_differences,
    count_difference,
    counts_difference,
    schema_differences,
    with_factor,
)
from apps.backups.restore_order import Restoration
from apps.backups.topology import Topology, merge
from apps.core.errors import BackupmgrError, Unavailable
from apps.core.text import plural

#: How long a restored collection may take until all its shards are Active.
ACTIVE_WITHIN_SECONDS = 120.0
POLL_SECONDS = 0.5


class RestoreDiffers(BackupmgrError):
    """The restored collection is not what the manifest says."""


class RestoreNotReady(Unavailable):
    """The restored collection did not become ready in time."""


def wait_until_active(restoration: Restoration) -> Topology:
    """Wait until all replicas are Active, and return where they are: Qdrant answers 200 before that.

    Raises: RestoreNotReady, QdrantError; the reason of the abort.
    """
    run, waiting = restoration.run, list[str]()
    for _ in run.abort.until(ACTIVE_WITHIN_SECONDS):
        topology = merge(restoration.fleet.placements(restoration.collection))
        waiting = [
            f"shard {one.shard_id} is {one.state}{restoration.on_peer(one.peer_id)}"
            for one in topology.replicas
            if one.shard_id in restoration.plan.shard_ids and not one.is_active
        ]
        waiting += [f"shard {shard_id} is being copied" for shard_id in topology.moving]
        if not waiting:
            return topology
        run.abort.sleep(POLL_SECONDS)
    raise RestoreNotReady(
        f"The restored collection did not become ready within {ACTIVE_WITHIN_SECONDS:.0f} seconds: "
        f"{', '.join(waiting)}. Look at Qdrant's log."
    )


def prove(restoration: Restoration, topology: Topology) -> str:
    """Compare exact counts, config and payload schema with the manifest; return what was compared, in words.

    Counted are every replica by itself, and, of a whole collection, what each node answers for all of it and for each
    shard key. Raises: RestoreDiffers, QdrantError.
    """
    manifest, collection, fleet = restoration.manifest, restoration.collection, restoration.fleet
    parts = restoration.parts
    found = fleet.first.collection(collection)
    counts = {
        (part.shard_id, one.peer_id): fleet.node(one.peer_id).count(collection, part.shard_id)
        for part in parts
        for one in topology.of(part.shard_id)
    }
    differences = [
        difference + restoration.on_peer(peer_id)
        for (shard_id, peer_id), count in counts.items()
        if (difference := count_difference(manifest.shard(shard_id), count))
    ]
    differences += [
        f"the replicas of shard {part.shard_id} hold different numbers of points"
        for part in parts
        if len({count for (shard_id, _), count in counts.items() if shard_id == part.shard_id}) > 1
    ]
    keys: list[str | int] = []
    if restoration.order.shard_id is None:
        keys = list(dict.fromkeys(shard.shard_key for shard in manifest.shards if shard.shard_key is not None))
        differences += list(_total_differences(restoration, keys))
    expected = with_factor(manifest.config, restoration.order.replication_factor)
    differences += config_differences(expected, found.config, same_version=restoration.same_version)
    if restoration.order.shard_id is None:
        differences += schema_differences(manifest.payload_schema, found.payload_schema)
    if found.status == "red" or isinstance(found.optimizer_status, dict):
        differences.append(f"Qdrant calls the collection {found.status}: {found.optimizer_status}")
    if differences:
        raise RestoreDiffers(
            f"The restored collection {collection!r} differs from the backup: {'; '.join(differences)}."
        )
    points = sum(next(n for (shard_id, _), n in counts.items() if shard_id == part.shard_id) for part in parts)
    replicas = f" ({plural(len(counts), 'replica')})" if len(counts) > len(parts) else ""
    by_key = f", {plural(len(keys), 'shard key')}" if keys else ""
    told = (
        f"{plural(points, 'point')} in {plural(len(parts), 'shard')}{replicas}{by_key}, configuration and "
        f"{plural(len(manifest.payload_schema), 'payload index', 'payload indexes')} equal the manifest"
    )
    restoration.run.tell(f"Proved: {told}.", points=points)
    return told


def _total_differences(restoration: Restoration, keys: list[str | int]) -> Iterable[str]:
    """Ask every node how many points the collection has, and one of them about each shard key."""
    fleet, manifest, collection = restoration.fleet, restoration.manifest, restoration.collection
    for peer_id, node in fleet.nodes.items() if fleet.peers else [(0, fleet.first)]:
        difference = counts_difference("the collection", manifest.shards, node.count(collection))
        if difference:
            yield difference + (f" when peer {peer_id} is asked" if fleet.size > 1 else "")
    for key in keys:
        shards = [shard for shard in manifest.shards if shard.shard_key == key and type(shard.shard_key) is type(key)]
        difference = counts_difference(f"shard key {key!r}", shards, fleet.first.count(collection, key=key))
        if difference:
            yield difference
