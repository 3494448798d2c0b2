"""Make the collection that a restore fills, and take it back when the restore fails."""

from __future__ import annotations

from dataclasses import replace

from apps.backups.compare import create_body, fan_out_patch
from apps.backups.leftovers import clean_up
from apps.backups.plan import PlanBlocked
from apps.backups.proving import POLL_SECONDS, RestoreDiffers
from apps.backups.restore_order import Restoration
from apps.backups.run import Run
from apps.backups.topology import ShardKey, merge
from apps.backups.traces import CollectionTrace, Traces
from apps.clusters.qdrant import QdrantRejected
from apps.core.text import plural

#: How long nodes may take until all of them tell the same shard keys.
KEYS_WITHIN_SECONDS = 60.0


def create_target(restoration: Restoration) -> CollectionTrace:
    """Create the collection with its shard keys, and return its trace, which is written down before the request.

    Raises: PlanBlocked when somebody else was faster; RestoreDiffers, QdrantError, the reason of the abort: nothing is
    left of it then.
    """
    run, collection, order = restoration.run, restoration.collection, restoration.order
    node = restoration.fleet.first
    run.phase("creating the collection")
    trace = CollectionTrace(cluster_id=str(order.cluster.pk), collection=collection, asked_at=run.now().isoformat())
    run.traces.add(trace)
    run.save_traces()
    try:
        node.create_collection(collection, create_body(restoration.manifest, order.replication_factor))
    except QdrantRejected as error:
        run.traces.drop(trace)  # refused: nothing was made
        if error.status == 409:
            raise PlanBlocked(
                f"A collection {collection!r} appeared on the target meanwhile: it was left alone."
            ) from error
        raise
    except BaseException:
        take_back(run, trace)
        raise
    created = replace(trace, created=True)
    run.traces.replace(trace, created)
    try:
        run.save_traces()
        patch = fan_out_patch(restoration.manifest)
        if patch:
            node.patch_collection(collection, {"params": patch})
        _create_keys(restoration)
    except BaseException:
        take_back(run, created)
        raise
    run.tell(f"Created {collection!r} with the configuration of the backup.")
    return created


def take_back(run: Run, trace: CollectionTrace) -> None:
    """Remove the collection that this restore created; a run that has lost its job leaves that to its successor."""
    if not run.owns():
        return
    run.traces.drop(trace)
    clean_up(
        Traces([trace]),
        job_id=run.job_id,
        tell=lambda sentence, gone: run.tell(sentence) if gone else run.warn(sentence),
    )


def _create_keys(restoration: Restoration) -> None:
    """Create the shard keys so that every shard has the id it had. Raises: RestoreDiffers when it has not."""
    collection, steps, run = restoration.collection, restoration.plan.key_steps, restoration.run
    for step in steps:
        run.abort.check()
        if step.shards:
            restoration.fleet.first.create_shard_key(
                collection, step.key, step.shards, replicas=1 if step.is_filler else None
            )
        else:
            restoration.fleet.first.delete_shard_key(collection, step.key)
    if not steps:
        return
    wanted = {shard.shard_id: shard.shard_key for shard in restoration.manifest.shards}
    found: dict[int, ShardKey | None] = {}
    # A node that is busy hears of keys, and of fillers that are gone, later than the one that was told.
    for _ in run.abort.until(KEYS_WITHIN_SECONDS):
        found = merge(restoration.fleet.placements(collection)).keys
        if found == wanted:
            break
        run.abort.sleep(POLL_SECONDS)
    if found != wanted:
        raise RestoreDiffers(
            f"Qdrant gave the shards of the keys other ids ({found}) than they had ({wanted}): somebody else "
            f"creates shard keys in {collection!r} at the same time."
        )
    names = dict.fromkeys(repr(step.key) for step in steps if not step.is_filler)
    run.tell(f"Created the {plural(len(names), 'shard key')} {', '.join(names)} with the same shard ids.")
