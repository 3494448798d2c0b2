"""A cluster of sandbox nodes in one process: one port each, one agreement, replicas that move."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from .caretaker import Caretaker
from .consensus import Agreed, Consensus
from .control_api import RequestLog
from .faults import Faults
from .membership import Membership
from .messages import Nothing, Request, Response
from .node import SandboxNode
from .placement import STATES, ShardKey, Transfer
from .server import Application, Server
from .service_api import VERSION

_IDLE_SECONDS = 0.3
_POLL_SECONDS = 0.01


class SandboxCluster:
    """Several nodes that share their collections, as a Qdrant cluster does. Use it as a context manager.

    `node(i)` is a SandboxNode with its own `url`, `faults`, `log()`, `version` and `set_keys()`. What follows takes
    the place of trouble: `stop` and `start` a node, set the state of a replica, hold what the cluster does by itself.
    """

    def __init__(
        self,
        data_dir: Path | str,
        nodes: int = 3,
        *,
        api_key: str | None = None,
        read_only_api_key: str | None = None,
        version: str = VERSION,
        ports: Sequence[int] = (),
        host: str = "127.0.0.1",
        seed: object = 0,
    ) -> None:
        """Prepare a cluster; nothing is opened yet. `seed` decides where replicas are placed."""
        self._data_dir = Path(data_dir)
        self._data_dir.mkdir(parents=True, exist_ok=True)
        self._temp = self._data_dir / "tmp"
        self.consensus = Consensus(self._data_dir / "cluster.json")
        self.consensus.seed = seed
        self.caretaker = Caretaker(self.consensus, self._temp)
        self.nodes = [
            SandboxNode(
                self._data_dir / f"node-{number}",
                port,
                api_key,
                host=host,
                read_only_api_key=read_only_api_key,
                version=version,
                membership=Membership(self.consensus, self.caretaker),
            )
            for number, port in zip(range(nodes), itertools.chain(ports, itertools.repeat(0)), strict=False)
        ]
        self._peer_ids: list[int] = []

    # Nodes

    def node(self, number: int) -> SandboxNode:
        """Return a node; they are counted from 0."""
        return self.nodes[number]

    @property
    def urls(self) -> list[str]:
        """The base addresses of all nodes."""
        return [node.url for node in self.nodes]

    def peer_id(self, number: int) -> int:
        """Return the id of a node, also while it is away."""
        return self._peer_ids[number]

    def number(self, peer_id: int) -> int:
        """Return the number of the node with this id. Raises: ValueError."""
        return self._peer_ids.index(peer_id)

    def start(self, number: int | None = None) -> SandboxCluster:
        """Start one node (again), or all of them."""
        if number is not None:
            self.nodes[number].start()
            return self
        self._temp.mkdir(exist_ok=True)
        self.caretaker.start()
        for node in self.nodes:
            node.start()
        self._peer_ids = [node.peer_id for node in self.nodes]
        return self

    def stop(self, number: int | None = None, grace_seconds: float = 2.0) -> None:
        """Stop one node, as if it died when the grace is 0, or all of them."""
        if number is not None:
            self.nodes[number].stop(grace_seconds)
            return
        self.caretaker.stop()
        for node in self.nodes:
            node.stop(grace_seconds)

    def __enter__(self) -> SandboxCluster:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(grace_seconds=0.2)

    # What is where

    def agreed(self, collection: str) -> Agreed:
        """Return what the nodes agreed on a collection. Raises: QdrantError (404)."""
        return self.consensus.agreed(collection)

    def states(self, collection: str) -> dict[int, dict[int, str]]:
        """Return the state of every replica: by shard, then by the number of the node."""
        with self.consensus.lock:
            shards = self.agreed(collection).placement.shards
            return {
                shard_id: {self.number(peer): state for peer, state in one.states.items()}
                for shard_id, one in sorted(shards.items())
            }

    @contextmanager
    def watch(self, collection: str, shard_id: int) -> Iterator[list[dict[int, str]]]:
        """Give a list that every set of states of a shard is added to while the block runs, however short it lasts.

        It begins with the states of now, if the shard is there already.
        """
        seen: list[dict[int, str]] = []

        def look() -> None:
            known = self.consensus.collections.get(collection)
            states = self.states(collection).get(shard_id) if known else None
            if states is not None and seen[-1:] != [states]:
                seen.append(states)

        with self.consensus.lock:
            look()
            self.consensus.watchers.append(look)
        try:
            yield seen
        finally:
            with self.consensus.lock:
                self.consensus.watchers.remove(look)

    def holders(self, collection: str, shard_id: int) -> list[int]:
        """Return the numbers of the nodes with a replica of a shard."""
        return sorted(self.states(collection)[shard_id])

    def shards_of(self, collection: str, key: ShardKey) -> list[int]:
        """Return the ids of the shards of a key."""
        return self.agreed(collection).placement.shards_of(key)

    def plan_placement(self, collection: str, nodes: Sequence[Sequence[int]], key: ShardKey | None = None) -> None:
        """Decide where the replicas of shards go that are still to be created: for each shard the nodes."""
        self.consensus.planned[(collection, key)] = [[self.peer_id(number) for number in some] for some in nodes]

    # Trouble

    def set_replica_state(self, collection: str, shard_id: int, number: int, state: str) -> None:
        """Set the state of a replica, against every rule; it stays so until it is set again.

        `Active` lets the cluster look after it again.
        """
        if state not in STATES:
            raise ValueError(f"{state!r} is no state of a replica")
        peer = self.peer_id(number)
        name = self.agreed(collection).name
        pin = (name, shard_id, peer)
        if state == "Active":
            self.caretaker.pinned.discard(pin)
        else:
            self.caretaker.pinned.add(pin)

        def operation() -> None:
            with self.consensus.change(name) as agreed:
                agreed.placement.shard(shard_id).states[peer] = state

        self.consensus.propose(operation)

    def move_replica(self, collection: str, shard_id: int, source: int, target: int, *, sync: bool = False) -> None:
        """Move (or, with `sync`, copy) a replica to another node, and wait until that is done."""
        self.begin_transfer(collection, shard_id, source, target, sync=sync, held=False)
        self.settle()

    def begin_transfer(
        self,
        collection: str,
        shard_id: int,
        source: int,
        target: int,
        *,
        sync: bool = True,
        method: str = "stream_records",
        held: bool = True,
    ) -> Transfer:
        """Begin a transfer between two nodes; a held one goes on until `finish_transfer` or `abort_transfer`."""
        transfer = Transfer(shard_id, self.peer_id(source), self.peer_id(target), sync, method)
        self.caretaker.transfer(self.agreed(collection).name, transfer, held=held)
        return transfer

    def finish_transfer(self, collection: str, transfer: Transfer) -> None:
        """Let a transfer come to its good end, and wait for that."""
        self.caretaker.finish(self.agreed(collection).name, transfer)
        self.settle()

    def abort_transfer(self, collection: str, transfer: Transfer) -> None:
        """End a transfer without success."""
        self.caretaker.abort(self.agreed(collection).name, transfer)

    def hold(self) -> None:
        """Stop the clock of the cluster: states that were asked for do not come, nothing is transferred or healed."""
        self.caretaker.hold()

    def release(self) -> None:
        """Let it go on."""
        self.caretaker.release()

    def settle(self, seconds: float = 10.0) -> None:
        """Wait until the cluster has nothing left to do by itself. Raises: TimeoutError.

        A recovery is answered before its states are asked for: only who is idle for a moment has settled.
        """
        deadline = time.monotonic() + seconds
        idle_since: float | None = None
        while idle_since is None or time.monotonic() - idle_since < _IDLE_SECONDS:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the cluster did not settle within {seconds} s")
            time.sleep(_POLL_SECONDS)
            idle_since = (idle_since or time.monotonic()) if self.caretaker.is_idle() else None

    def report(self, number: int, *, thread_status: dict[str, Any] | None = None, **raft_info: Any) -> None:
        """Have a node's GET /cluster tell something else of raft, until `report` is called without anything.

        Example: report(0, pending_operations=7), report(1, thread_status={"consensus_thread_status": "stopped"}).
        """
        peer = self.consensus.peers[self.peer_id(number)]
        peer.raft_info, peer.thread_status = dict(raft_info), thread_status

    @contextmanager
    def balancer(self) -> Iterator[str]:
        """Serve all running nodes behind one address, which it gives: each request goes to the next node."""
        stopping = threading.Event()
        server = Server(("127.0.0.1", 0), Application(_Balancer(self.nodes), Faults(), RequestLog(), stopping))
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="sandbox-balancer", daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            stopping.set()
            server.shutdown()
            server.server_close()
            server.close_connections(0.2)
            thread.join()


class _Balancer:
    """Hands each request to the next node that runs."""

    def __init__(self, nodes: Sequence[SandboxNode]) -> None:
        self._turns = itertools.cycle(nodes)
        self._count = len(nodes)
        self._lock = threading.Lock()

    def handle(self, request: Request, raw_path: str) -> Response:
        """Answer a request; 502 when no node runs."""
        with self._lock:
            turns = [next(self._turns) for _ in range(1)]
            while turns[-1].router is None and len(turns) < self._count:
                turns.append(next(self._turns))
        router = turns[-1].router
        return Nothing(502) if router is None else router.handle(request, raw_path)
