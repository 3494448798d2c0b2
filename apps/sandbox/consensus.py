"""What the nodes of a cluster agree on: peers, collections with their placement, aliases.

One object in one process stands in for raft: every change is one call of `propose`, made while a majority of the
peers runs, and every running node then follows. A node that comes back follows what it missed.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

from .collection import write_json
from .config import Config
from .errors import QdrantError, already_exists, bad_request, internal, no_collection
from .locks import ReadWriteLock
from .placement import Placement, ShardKey, Transfer, even_placement, worded_key
from .schema import FieldSchema
from .shard import Shard

T = TypeVar("T")
_NO_MAJORITY = "Waiting for consensus operation commit failed. Timeout set at: 10 seconds"
_UNREACHABLE = "Error in closure supplied to transport channel pool: code: 'The service is currently unavailable'"


class Follower(Protocol):
    """The data of one node, as far as consensus changes it."""

    def follow(self, name: str, agreed: Agreed | None) -> None:
        """Make the local part of a collection what was agreed; None is no collection."""

    def follow_all(self, agreed: dict[str, Agreed]) -> None:
        """Make all collections what was agreed, and drop the others."""

    def replica(self, name: str, shard_id: int) -> Shard | None:
        """Return the replica on this node, None when there is none."""


@dataclass
class Agreed:
    """One collection as all nodes know it. `gate` is read by who writes points, and written by who copies them."""

    name: str
    uuid: str
    config: Config
    schema: dict[str, FieldSchema]
    placement: Placement
    # Points of a restored snapshot may lie in other shards than our own rule would choose.
    placed_elsewhere: bool = False
    gate: ReadWriteLock = field(default_factory=ReadWriteLock)

    def to_json(self) -> dict[str, Any]:
        """Return a form for a file."""
        return {
            "name": self.name,
            "uuid": self.uuid,
            "config": self.config,
            "schema": self.schema,
            "placement": self.placement.to_json(),
            "placed_elsewhere": self.placed_elsewhere,
        }


@dataclass
class Peer:
    """A node as the others know it; `store` is None while it is away.

    raft_info      replaces keys of its own report in GET /cluster, for tests of trouble
    thread_status  replaces its `consensus_thread_status`
    """

    peer_id: int
    uri: str
    store: Follower | None = None
    failures: int = 0
    raft_info: dict[str, Any] = field(default_factory=dict)
    thread_status: dict[str, Any] | None = None


class Consensus:
    """The agreement. Safe to use from many threads; `lock` is held during a change."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.lock = threading.RLock()
        self.peers: dict[int, Peer] = {}
        self.collections: dict[str, Agreed] = {}
        self.aliases: dict[str, str] = {}
        self._term = 1
        self._commit = 0
        self._leader: int | None = None
        self._waiting: list[Callable[[], object]] = []
        self.seed: object = 0
        # Where replicas of shards that are still to be made shall go, by collection and key (None without).
        self.planned: dict[tuple[str, ShardKey | None], list[list[int]]] = {}
        # Called after every change, in the order of the changes.
        self.watchers: list[Callable[[], object]] = []
        if path.is_file():
            self._load(json.loads(path.read_text()))

    def _load(self, facts: dict[str, Any]) -> None:
        self.aliases, self._term, self._commit = facts["aliases"], facts["term"] + 1, facts["commit"]
        self.peers = {int(peer_id): Peer(int(peer_id), uri) for peer_id, uri in facts["peers"].items()}
        for one in facts["collections"]:
            placement = Placement.from_json(one.pop("placement"))
            self.collections[one["name"]] = Agreed(placement=placement, **one)

    def _save(self) -> None:
        facts = {
            "aliases": self.aliases,
            "term": self._term,
            "commit": self._commit,
            "peers": {str(peer.peer_id): peer.uri for peer in self.peers.values()},
            "collections": [one.to_json() for one in self.collections.values()],
        }
        write_json(self._path, facts)

    # Members

    def join(self, peer_id: int, uri: str, store: Follower) -> None:
        """Take a node in, or back; it follows what it missed."""
        with self.lock:
            peer = self.peers.setdefault(peer_id, Peer(peer_id, uri))
            peer.uri, peer.store, peer.failures = uri, store, 0
            self._elect()
            for agreed in self.collections.values():
                for one in agreed.placement.shards.values():
                    if one.states.get(peer_id) == "Initializing":
                        one.states[peer_id] = "Active"
            store.follow_all(self.collections)
            self._commit += 1
            waiting, self._waiting = (self._waiting, []) if self.has_majority() else ([], self._waiting)
            for operation in waiting:
                self._apply_late(operation)
            self._save()

    def _apply_late(self, operation: Callable[[], object]) -> None:
        try:
            operation()
            self._commit += 1
        except QdrantError:
            return  # who asked was told long ago that it failed

    def leave(self, peer_id: int) -> None:
        """Note that a node does not run any more; transfers from and to it end."""
        with self.lock:
            peer = self.peers.get(peer_id)
            if peer is None:
                return
            peer.store = None
            self._elect()
            for agreed in self.collections.values():
                for transfer in list(agreed.placement.transfers):
                    if peer_id in (transfer.source, transfer.target):
                        agreed.placement.abort(transfer)

    def remove(self, peer_id: int, *, force: bool) -> None:
        """Forget a peer. Raises: QdrantError (400) when it has replicas and this is not forced."""

        def operation() -> None:
            held = [one for one in self.collections.values() if one.placement.local(peer_id)]
            if held and not force:
                raise bad_request(f"Cannot remove peer {peer_id} as there are shards on it")
            for agreed in held:
                for one in agreed.placement.shards.values():
                    one.states.pop(peer_id, None)
            self.peers.pop(peer_id, None)
            self._elect()

        self.propose(operation)

    def live(self) -> list[Peer]:
        """Return the peers that run."""
        with self.lock:
            return [peer for peer in self.peers.values() if peer.store is not None]

    def has_majority(self) -> bool:
        """Say whether changes can be agreed on."""
        return 2 * len(self.live()) > len(self.peers)

    def _elect(self) -> None:
        running = [peer.peer_id for peer in self.live()]
        # Without a majority nobody is elected, and the old leader stays what it was for those that are left.
        if self._leader not in running and running and self.has_majority():
            self._term += self._leader is not None
            self._leader = running[0]

    # Changes

    def propose(self, operation: Callable[[], T]) -> T:
        """Make a change on all nodes. Raises: QdrantError.

        Without a majority it is refused, as a server refuses it after ten seconds; and, as there, it is made all the
        same when the majority is back.
        """
        with self.lock:
            if not self.has_majority():
                self._waiting.append(operation)
                raise internal(_NO_MAJORITY)
            result = operation()
            self._commit += 1
            self._save()
            for watcher in self.watchers:
                watcher()
            return result

    def agreed(self, name: str) -> Agreed:
        """Return a collection by name or alias. Raises: QdrantError (404)."""
        with self.lock:
            found = self.collections.get(self.aliases.get(name, name))
        if found is None:
            raise no_collection(name)
        return found

    @contextmanager
    def change(self, name: str) -> Iterator[Agreed]:
        """Change a collection; when the block ends every node follows. Call it within `propose`."""
        agreed = self.agreed(name)
        yield agreed
        self._follow(agreed.name)

    def _follow(self, name: str) -> None:
        for peer in self.live():
            assert peer.store is not None
            peer.store.follow(name, self.collections.get(name))

    def create(self, name: str, config: Config, schema: dict[str, FieldSchema]) -> None:
        """Make an empty collection. Raises: QdrantError (409)."""

        def operation() -> None:
            if name in self.collections or name in self.aliases:
                raise already_exists(name)
            params = config["params"]
            placement = Placement()
            if params.get("sharding_method") != "custom":
                replicas = self._place(name, None, params["shard_number"], params["replication_factor"], None)
                placement.add_shards(None, replicas, "Active")
                self._await_absent(placement)
            self.collections[name] = Agreed(name, str(uuid.uuid4()), config, dict(schema), placement)
            try:
                self._follow(name)
            except BaseException:
                del self.collections[name]
                self._follow(name)
                raise

        self.propose(operation)

    def _place(
        self, name: str, key: ShardKey | None, shards: int, replication_factor: int, peers: list[int] | None
    ) -> list[list[int]]:
        planned = self.planned.pop((name, key), None)
        if planned is not None and len(planned) == shards:
            return planned
        return even_placement(shards, replication_factor, peers or list(self.peers), (self.seed, name, key))

    def _await_absent(self, placement: Placement) -> bool:
        """Leave the replicas of peers that are away unfinished; return whether there are any."""
        running = {peer.peer_id for peer in self.live()}
        absent = False
        for one in placement.shards.values():
            for peer_id, state in one.states.items():
                if peer_id not in running and state == "Active":
                    one.states[peer_id], absent = "Initializing", True
        return absent

    def delete(self, name: str) -> bool:
        """Delete a collection and its aliases. Return whether it was there."""

        def operation() -> bool:
            found = self.collections.pop(self.aliases.get(name, name), None)
            if found is None:
                return False
            self.aliases = {alias: target for alias, target in self.aliases.items() if target != found.name}
            self._follow(found.name)
            return True

        return self.propose(operation)

    def create_key(
        self,
        name: str,
        key: ShardKey,
        *,
        shards: int | None = None,
        replication_factor: int | None = None,
        peers: list[int] | None = None,
        state: str = "Active",
    ) -> None:
        """Create a shard key. Raises: QdrantError: 400, and 408 when a peer that shall hold a part is away."""

        def operation() -> bool:
            with self.change(name) as agreed:
                params = agreed.config["params"]
                for peer in peers or []:
                    if peer not in self.peers:
                        raise bad_request(f"Peer {peer} does not exist")
                if params.get("sharding_method") != "custom":
                    raise bad_request("Shard Key cannot be created with Auto sharding method")
                if agreed.placement.shards_of(key):
                    raise bad_request(f"Sharding key {worded_key(key)} already exists for collection {name}")
                count, factor = shards or params["shard_number"], replication_factor or params["replication_factor"]
                replicas = self._place(name, key, count, factor, peers)
                agreed.placement.add_shards(key, replicas, state)
                return self._await_absent(agreed.placement)

        if self.propose(operation):
            raise QdrantError(408, "Timeout: Timeout error: Operation 'wait for replica set state' timed out after 10s")

    def drop_key(self, name: str, key: ShardKey) -> None:
        """Delete a shard key with its shards. Raises: QdrantError (400)."""

        def operation() -> None:
            with self.change(name) as agreed:
                if agreed.config["params"].get("sharding_method") != "custom":
                    raise bad_request("Shard Key cannot be created with Auto sharding method")
                if not agreed.placement.shards_of(key):
                    raise bad_request(f"Sharding key {worded_key(key)} does not exist for collection {name}")
                agreed.placement.drop_key(key)

        self.propose(operation)

    def set_state(self, name: str, shard_id: int, peer: int, state: str, expected: str | None = None) -> None:
        """Set the state of a replica. Raises: QdrantError (400, 404)."""

        def operation() -> None:
            with self.change(name) as agreed:
                agreed.placement.set_state(shard_id, peer, state, expected)

        self.propose(operation)

    def begin_transfer(self, name: str, transfer: Transfer) -> None:
        """Begin to copy or move a replica. Raises: QdrantError (400)."""

        def operation() -> None:
            with self.change(name) as agreed:
                if transfer.shard_id not in agreed.placement.shards:
                    raise bad_request(f"Shard {transfer.shard_id} of {name} does not exist")
                agreed.placement.begin(transfer, self.peers)

        self.propose(operation)

    # Views

    def describe(self, peer_id: int) -> dict[str, Any]:
        """Return GET /cluster as one node sees it."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        with self.lock:
            me = self.peers[peer_id]
            raft = {
                "term": self._term,
                "commit": self._commit,
                "pending_operations": len(self._waiting),
                "leader": self._leader,
                "role": "Leader" if self._leader == peer_id else "Follower",
                "is_voter": True,
                **me.raft_info,
            }
            failures = {}
            for peer in self.peers.values():
                if peer.store is None:
                    peer.failures += 1
                    failures[peer.uri] = {
                        "count": peer.failures,
                        "latest_error": _UNREACHABLE,
                        "latest_error_timestamp": now,
                    }
            return {
                "status": "enabled",
                "peer_id": peer_id,
                "peers": {str(peer.peer_id): {"uri": peer.uri} for peer in self.peers.values()},
                "raft_info": raft,
                "consensus_thread_status": me.thread_status
                or {"consensus_thread_status": "working", "last_update": now},
                "message_send_failures": failures,
            }
