"""A shard snapshot on a node for as long as it is needed: made, used, deleted, and never another one touched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import monotonic

from django.conf import settings

from apps.backups.evidence import cross_out, note_made, note_request
from apps.backups.leftovers import clean_up
from apps.backups.run import Run
from apps.backups.stamps import find_new_snapshot, is_fresh
from apps.backups.traces import SnapshotTrace, Traces
from apps.clusters.qdrant import QdrantError, QdrantNode, QdrantUnreachable, create_snapshot
from apps.core.errors import Conflict, NotFound

#: How often we look for a snapshot whose request was not answered.
LOOK_EVERY_SECONDS = 1.0


#: Qdrant names shard snapshots by the second, and a second one within the same second replaces the first.
SAME_NAME_SECONDS = 1.1


class SnapshotNotOurs(Conflict):
    """The node's snapshot cannot be told from somebody else's."""

    transient = True


@dataclass(frozen=True)
class ShardSnapshot:
    """A snapshot of ours on the node. `checksum` None on nodes older than 1.8."""

    name: str
    size_bytes: int
    checksum: str | None


@contextmanager
def make_snapshot(
    node: QdrantNode, cluster_id: str, collection: str, shard_id: int, run: Run
) -> Iterator[ShardSnapshot]:
    """Have the node make a snapshot of the shard; delete it when the block ends, however it ends.

    A deletion that fails becomes a Leftover and does not fail the backup: the copy is good.
    Raises: QdrantError; the reason of the abort.
    """
    known = node.snapshots(collection, shard_id)
    if any(is_fresh(snapshot.creation_time, node.time(run.now()) or run.now()) for snapshot in known):
        run.abort.sleep(SAME_NAME_SECONDS)
    asked_at = run.now()
    node_time = node.time(asked_at)
    trace = SnapshotTrace(
        cluster_id=cluster_id,
        collection=collection,
        shard_id=shard_id,
        requested_at=asked_at.isoformat(),
        node_time=node_time.isoformat() if node_time else "",
        known=tuple(snapshot.name for snapshot in known),
        node_url=node.endpoint.url,
    )
    run.traces.add(trace)
    run.save_traces()
    note_request(trace, run.job_id)
    try:
        snapshot = _create(node, trace, run)
    except (QdrantError, NotFound) as error:
        if _was_refused(error):
            run.traces.drop(trace)
            cross_out(trace)
        else:
            # 502 and 504 are a proxy's, which does not know what the node went on to do.
            answered = isinstance(error, QdrantError) and error.status not in (None, 502, 504)
            told = replace(trace, answered=answered)
            run.traces.replace(trace, told)
            _drop(told, run)
        raise
    except BaseException:
        _drop(trace, run)
        raise
    if snapshot.name in trace.known:
        run.traces.drop(trace)
        cross_out(trace)
        raise SnapshotNotOurs(
            f"Qdrant made a snapshot under the name of one that was there before ({snapshot.name}): somebody else "
            f"makes snapshots of {collection!r} at the same moment. Run the backup again."
        )
    named = replace(trace, name=snapshot.name)
    run.traces.replace(trace, named)
    try:
        run.save_traces()
        note_made(named, snapshot.checksum)
        yield snapshot
    finally:
        _drop(named, run)


def _drop(trace: SnapshotTrace, run: Run) -> None:
    """Delete the snapshot now, without touching the run's other traces."""
    clean_up(
        Traces([trace]), job_id=run.job_id, tell=lambda told, gone: (run.tell if gone else run.warn)(told, removed=gone)
    )
    run.traces.drop(trace)


def _was_refused(error: QdrantError | NotFound) -> bool:
    """Tell whether the node certainly makes no snapshot: it was never asked, or it refused."""
    if not isinstance(error, QdrantError) or isinstance(error, QdrantUnreachable):
        return True
    return error.status is not None and error.status < 500


def _create(node: QdrantNode, trace: SnapshotTrace, run: Run) -> ShardSnapshot:
    try:
        made = create_snapshot(node.endpoint, trace.collection, trace.shard_id, run.abort)
    except QdrantError as error:
        if error.status is not None or _was_refused(error):
            raise
        run.warn("Qdrant did not answer the request for a snapshot; looking whether it makes one all the same.")
        return _look_for(node, trace, run, error)
    return ShardSnapshot(name=made.name, size_bytes=made.size_bytes, checksum=made.checksum)


def _look_for(node: QdrantNode, trace: SnapshotTrace, run: Run, error: QdrantError) -> ShardSnapshot:
    """Find what became of a request whose answer was lost: the node works on. Never asks a second time.

    A proxy that cuts idle connections is enough for that, and the snapshot may take hours yet: so we look for as long
    as the node says that it makes one (metrics, Qdrant 1.16 and later), and BACKUPMGR_LOST_ANSWER_SECONDS beyond.
    """
    quiet_since = monotonic()
    for _ in run.abort.until(node.endpoint.snapshot_timeout_seconds):
        try:
            name = find_new_snapshot(node, trace)
            if name is not None:
                found = next(entry for entry in node.snapshots(trace.collection, trace.shard_id) if entry.name == name)
                # Without a checksum the file may still be growing on nodes before 1.17.1.
                if found.checksum is not None:
                    return ShardSnapshot(name=found.name, size_bytes=found.size_bytes, checksum=found.checksum)
            if node.running_snapshots(trace.collection):
                quiet_since = monotonic()
        except QdrantError:
            pass  # the node may be coming back; the loop's end decides
        if monotonic() - quiet_since > settings.BACKUPMGR_LOST_ANSWER_SECONDS:
            break
        run.abort.sleep(LOOK_EVERY_SECONDS)
    raise error
