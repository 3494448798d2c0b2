"""What a cluster does by itself, some time after it was asked: late changes of state, transfers, healing."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from .archive import TarWriter, unpack_shard
from .consensus import Agreed, Consensus
from .errors import QdrantError, internal
from .member_store import MemberStore
from .placement import Transfer
from .recovery import replace_shards

_TICK_SECONDS = 0.02


class Caretaker:
    """One thread for a cluster.

    settle_seconds    from the answer of a recovery to the change of states that it asked for
    transfer_seconds  how long a transfer takes at least
    heal_seconds      how long a replica stays dead before it gets a transfer from an active one
    heals             whether it gets one at all
    """

    def __init__(self, consensus: Consensus, temp: Path) -> None:
        self._consensus = consensus
        self._temp = temp
        self.settle_seconds = 0.05
        self.transfer_seconds = 0.05
        self.heal_seconds = 0.05
        self.heals = True
        # (collection, shard, peer) that nobody heals: a test has set the state, or a recovery is under way.
        self.pinned: set[tuple[str, int, int]] = set()
        self._dead_since: dict[tuple[str, int, int], float] = {}
        self._held = threading.Event()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._working = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look after the cluster."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="sandbox-caretaker", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop; what was still to come is forgotten."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        with self._lock:
            self._due.clear()

    def hold(self) -> None:
        """Let nothing settle, be transferred or heal until `release`."""
        self._held.set()

    def release(self) -> None:
        """Go on."""
        self._held.clear()

    def is_idle(self) -> bool:
        """Say whether nothing is left to do."""
        with self._lock:
            if self._due or self._working:
                return False
        return not self._dead(later=True)

    def soon(self, action: Callable[[], object], seconds: float | None = None) -> None:
        """Do something after `settle_seconds`, in the order of the calls."""
        due = time.monotonic() + (self.settle_seconds if seconds is None else seconds)
        with self._lock:
            heapq.heappush(self._due, (due, next(self._order), action))

    def transfer(self, name: str, transfer: Transfer, *, held: bool = False) -> None:
        """Begin a transfer; it ends by itself unless it is held. Raises: QdrantError (400, 404)."""
        self._consensus.begin_transfer(name, transfer)
        if not held:
            self.soon(lambda: self.finish(name, transfer), self.transfer_seconds)

    def finish(self, name: str, transfer: Transfer) -> None:
        """Copy the data and make the new replica active; a transfer whose node is gone is aborted.

        From the copy on the replica is Partial and takes updates; it is Active some time later.
        """
        try:
            agreed = self._consensus.agreed(name)
            if agreed.placement.find_transfer(transfer.shard_id, transfer.source, transfer.target) is None:
                return
            with agreed.gate.write():
                self._copy(agreed, transfer)
                self._change(name, lambda one: one.placement.set_state(transfer.shard_id, transfer.target, "Partial"))
        except (QdrantError, OSError):
            self.abort(name, transfer)
        else:
            self.soon(lambda: self._activate(name, transfer))

    def _activate(self, name: str, transfer: Transfer) -> None:
        self._change(name, lambda one: one.placement.finish(transfer))

    def abort(self, name: str, transfer: Transfer) -> None:
        """End a transfer without its replica."""
        with contextlib.suppress(QdrantError):
            self._change(name, lambda one: one.placement.abort(transfer))

    def _change(self, name: str, change: Callable[[Agreed], object]) -> None:
        def operation() -> None:
            with self._consensus.change(name) as agreed:
                change(agreed)

        self._consensus.propose(operation)

    def _copy(self, agreed: Agreed, transfer: Transfer) -> None:
        source, target = self._store(transfer.source), self._store(transfer.target)
        shard, collection = source.replica(agreed.name, transfer.shard_id), target.find(agreed.name)
        if shard is None or collection is None:
            raise internal(f"Shard {transfer.shard_id} is not there any more")
        with tempfile.TemporaryDirectory(dir=self._temp) as scratch:
            archive, part = Path(scratch) / "archive", Path(scratch) / "part"
            with archive.open("xb", buffering=0) as file:
                tar = TarWriter(file)  # type: ignore[arg-type]
                shard.pack(tar, "", source.peer_id, {source.peer_id: "Active"})
                tar.finish()
            unpack_shard(archive, part)
            with collection.recovering:
                replace_shards(collection, {transfer.shard_id: part})

    def _store(self, peer_id: int) -> MemberStore:
        peer = self._consensus.peers.get(peer_id)
        if peer is None or not isinstance(peer.store, MemberStore):
            raise internal(f"Peer {peer_id} is away")
        return peer.store

    def _dead(self, *, later: bool = False) -> list[tuple[str, Transfer]]:
        """Return the transfers that heal dead replicas, one for each shard; with `later` those to come, too."""
        found, now, dead = [], time.monotonic(), set()
        with self._consensus.lock:
            running = {peer.peer_id for peer in self._consensus.live()}
            if not self.heals or not self._consensus.has_majority():
                return []
            for agreed in self._consensus.collections.values():
                busy = {one.shard_id for one in agreed.placement.transfers}
                for shard_id, one in agreed.placement.shards.items():
                    sources = [peer for peer in one.active() if peer in running]
                    if shard_id in busy or not sources:
                        continue
                    for peer, state in one.states.items():
                        replica = (agreed.name, shard_id, peer)
                        if state != "Dead" or peer not in running or replica in self.pinned:
                            continue
                        dead.add(replica)
                        if later or now - self._dead_since.setdefault(replica, now) >= self.heal_seconds:
                            transfer = Transfer(shard_id, sources[0], peer, sync=True, method="wal_delta")
                            found.append((agreed.name, transfer))
                            break
            self._dead_since = {one: since for one, since in self._dead_since.items() if one in dead}
        return found

    def _run(self) -> None:
        while not self._stopping.wait(_TICK_SECONDS):
            if self._held.is_set():
                continue
            while (action := self._next()) is not None:
                try:
                    action()
                except QdrantError:
                    pass  # what was to be changed is gone
                finally:
                    self._working = False
            for name, transfer in self._dead():
                with contextlib.suppress(QdrantError):
                    self.transfer(name, transfer)

    def _next(self) -> Callable[[], object] | None:
        with self._lock:
            if self._held.is_set() or not self._due or self._due[0][0] > time.monotonic():
                return None
            self._working = True
            return heapq.heappop(self._due)[2]
