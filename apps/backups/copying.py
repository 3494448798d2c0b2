"""Copying shards into a backup: nodes at the same time, each one shard after another; and from another replica when a
node goes away.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from time import monotonic

from django.db import connection

from apps.backups.fleet import Fleet
from apps.backups.manifest import PartFacts, ShardFacts
from apps.backups.plan import BackupPlan, ShardSource
from apps.backups.run import Run
from apps.backups.snapshots import ShardSnapshot, make_snapshot
from apps.backups.transfer import pump
from apps.clusters.qdrant import QdrantDenied, QdrantError, QdrantNode, SnapshotChanged, SnapshotDownload
from apps.core.errors import Unavailable
from apps.core.text import format_rate, format_size
from apps.storage.keys import part_key
from apps.storage.stores import Store, StoredObject
from apps.storage.whole import give_up

#: A snapshot that vanished or arrived other than announced is made and fetched anew this often.
SHARD_TRIES = 2
#: At most so many nodes at the same time.
NODES_AT_ONCE = 8

logger = logging.getLogger(__name__)


class ChecksumMismatch(Unavailable):
    """What arrived is not what Qdrant says it made, twice in a row: network, memory or disk need a look."""

    transient = False


class ShardNotCopied(Unavailable):
    """No node that holds a shard could give it."""


#: A shard as it was, and the file that holds it.
Copy = tuple[ShardFacts, PartFacts]


@dataclass(frozen=True)
class _Failed:
    source: ShardSource
    error: QdrantError


class Expectation:
    """How many bytes there will be in all: shards whose size is not known yet are taken to be like the last one."""

    def __init__(self, shards: int, run: Run) -> None:
        self._shards = shards
        self._run = run
        self._sizes: dict[int, int] = {}
        self._lock = threading.Lock()

    def learn(self, shard_id: int, size_bytes: int) -> None:
        """Take note of the size of one shard."""
        with self._lock:
            self._sizes[shard_id] = size_bytes
            unknown = max(0, self._shards - len(self._sizes))
            self._run.expect(sum(self._sizes.values()) + unknown * size_bytes)


def copy_shards(plan: BackupPlan, fleet: Fleet, cluster_id: str, store: Store, folder: str, run: Run) -> list[Copy]:
    """Copy every shard of the plan into the folder; return the copies in the order of the plan.

    A node makes one snapshot at a time, and holds one at a time on its disk. A shard whose node fails is taken from
    another node with a replica as good, while there is one.
    Raises: BackupmgrError; the reason of the abort.
    """
    expectation = Expectation(len(plan.shards), run)
    done: dict[int, Copy] = {}
    sources = list(plan.shards)
    while sources:
        failed = []
        for outcome in _round(sources, plan, fleet, cluster_id, store, folder, run, expectation):
            if isinstance(outcome, _Failed):
                failed.append(outcome)
            else:
                done[outcome[0].shard_id] = outcome
        lost = {one.source.peer_id for one in failed}
        sources = [_elsewhere(one, lost, plan, fleet, run) for one in failed]
    return [done[source.shard_id] for source in plan.shards]


def _elsewhere(failed: _Failed, lost: set[int], plan: BackupPlan, fleet: Fleet, run: Run) -> ShardSource:
    """Return the next replica of a shard. Raises: the error of the last one, or ShardNotCopied."""
    source, error = failed.source, failed.error
    rest = [peer for peer in source.others if peer not in lost]
    if rest:
        run.warn(
            f"Shard {source.shard_id} could not be copied from peer {source.peer_id} ({error}); taking the replica of "
            f"peer {rest[0]}."
        )
        why = f"peer {source.peer_id} could not give it, and this one has an Active replica, too"
        return replace(source, peer_id=rest[0], others=tuple(rest[1:]), why=why)
    if fleet.size == 1:
        raise error
    raise ShardNotCopied(
        f"Shard {source.shard_id} of {plan.collection!r} could not be copied from any node that holds it: {error}"
    ) from error


def _round(
    sources: Sequence[ShardSource],
    plan: BackupPlan,
    fleet: Fleet,
    cluster_id: str,
    store: Store,
    folder: str,
    run: Run,
    expectation: Expectation,
) -> list[Copy | _Failed]:
    by_peer: dict[int, list[ShardSource]] = {}
    for source in sources:
        by_peer.setdefault(source.peer_id, []).append(source)
    stopped = threading.Event()

    def copier(peer_id: int) -> ShardCopier:
        return ShardCopier(fleet.node(peer_id), cluster_id, plan.collection, store, folder, run, expectation)

    def work(peer_id: int) -> list[Copy | _Failed]:
        outcomes: list[Copy | _Failed] = []
        try:
            for number, source in enumerate(by_peer[peer_id]):
                if stopped.is_set():
                    break
                try:
                    outcomes.append(copier(peer_id).copy(source))
                except QdrantDenied:
                    raise
                except QdrantError as error:
                    # The others of this node would fail alike, and cost their time-outs first.
                    return outcomes + [_Failed(one, error) for one in by_peer[peer_id][number:]]
        except BaseException:
            stopped.set()
            raise
        return outcomes

    if len(by_peer) == 1:
        return work(next(iter(by_peer)))

    def work_in_thread(peer_id: int) -> list[Copy | _Failed]:
        try:
            outcomes = work(peer_id)
            run.end_step(broke_off=any(isinstance(outcome, _Failed) for outcome in outcomes))
        except BaseException:
            run.end_step(broke_off=True)
            raise
        finally:
            connection.close()
        return outcomes

    with ThreadPoolExecutor(max_workers=NODES_AT_ONCE, thread_name_prefix="node") as pool:
        futures = [pool.submit(work_in_thread, peer_id) for peer_id in by_peer]
    return [outcome for future in futures for outcome in future.result()]


class ShardCopier:
    """Copies shards of one collection from one node into one folder."""

    def __init__(
        self,
        node: QdrantNode,
        cluster_id: str,
        collection: str,
        store: Store,
        folder: str,
        run: Run,
        expectation: Expectation,
    ) -> None:
        self._node = node
        self._endpoint = node.endpoint
        self._cluster_id = cluster_id
        self._collection = collection
        self._store = store
        self._folder = folder
        self._run = run
        self._expectation = expectation

    def copy(self, source: ShardSource) -> Copy:
        """Copy one shard. Raises: BackupmgrError; the reason of the abort."""
        for tries_left in range(SHARD_TRIES - 1, -1, -1):
            try:
                return self._copy_once(source)
            except (SnapshotChanged, ChecksumMismatch) as error:
                if not tries_left:
                    raise
                self._run.warn(f"Shard {source.shard_id}: {error} Making and fetching it once more.")
        raise AssertionError("unreachable")

    def _copy_once(self, source: ShardSource) -> Copy:
        run, shard_id = self._run, source.shard_id
        run.phase(f"snapshot of shard {shard_id}")
        points_before = self._node.count(self._collection, shard_id)
        with make_snapshot(self._node, self._cluster_id, self._collection, shard_id, run) as snapshot:
            points_after = self._node.count(self._collection, shard_id)
            run.phase(f"copying shard {shard_id}")
            self._expectation.learn(shard_id, snapshot.size_bytes)
            stored, sha256 = self._fetch(snapshot, shard_id)
        facts = ShardFacts(
            shard_id=shard_id,
            shard_key=source.shard_key,
            points_min=min(points_before, points_after),
            points_max=max(points_before, points_after),
        )
        if facts.points_min != facts.points_max:
            run.warn(
                f"Shard {shard_id} was written to during its snapshot: it holds between {facts.points_min:,} and "
                f"{facts.points_max:,} points."
            )
        part = PartFacts(
            shard_id=shard_id,
            file=stored.key.rpartition("/")[2],
            size_bytes=stored.size_bytes,
            sha256=sha256,
            etag=stored.etag,
            snapshot=snapshot.name,
            peer_id=source.peer_id,
            why=source.why,
        )
        return facts, part

    def _fetch(self, snapshot: ShardSnapshot, shard_id: int) -> tuple[StoredObject, str]:
        run, started, moved = self._run, monotonic(), 0

        def count(size: int) -> None:
            nonlocal moved
            moved += size
            run.advance(size)

        with SnapshotDownload(
            self._endpoint, self._collection, shard_id, snapshot.name, run.abort, on_break=run.warn
        ) as download:
            if download.size_bytes != snapshot.size_bytes:
                raise ChecksumMismatch(
                    f"Qdrant says that {snapshot.name} has {snapshot.size_bytes:,} bytes and sends "
                    f"{download.size_bytes:,}."
                )
            sink = self._store.sink(part_key(self._folder, shard_id), download.size_bytes, run.abort)
            sink.on_break = run.warn
            try:
                sha256 = pump(download, sink, download.size_bytes, run.abort, count)
                if snapshot.checksum is not None and sha256 != snapshot.checksum:
                    raise ChecksumMismatch(
                        f"The bytes of {snapshot.name} that arrived have another SHA-256 ({sha256[:12]}…) than Qdrant "
                        f"says ({snapshot.checksum[:12]}…): they were altered on the way, or on the node's disk."
                    )
                stored = sink.commit()
            except BaseException:
                give_up(sink)
                run.advance(-moved)
                raise
        if snapshot.checksum is None:
            run.warn(f"This Qdrant keeps no checksum of {snapshot.name}: only its length could be compared.")
        seconds = max(monotonic() - started, 1e-3)
        run.tell(
            f"Shard {shard_id}: {format_size(stored.size_bytes)} stored and compared with Qdrant's checksum, "
            f"{format_rate(stored.size_bytes / seconds)}.",
            shard_id=shard_id,
            bytes=stored.size_bytes,
            seconds=round(seconds, 3),
            sha256=sha256,
        )
        return stored, sha256
