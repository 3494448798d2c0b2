"""The data of one node of a cluster: its replicas, and the way to those of the other nodes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import qdrant_edge as edge

from .aliases import changed_aliases
from .collection import Collection
from .config import Config
from .consensus import Agreed, Consensus
from .errors import QdrantError, bad_request, internal, wrong_input
from .placement import READABLE, UPDATABLE, ReplicaSet, ShardKey, worded_key
from .reach import Target
from .schema import FieldSchema
from .shard import Shard
from .store import Store

T = TypeVar("T")


class MemberStore(Store):
    """A node's collections, which follow what the cluster agreed on."""

    def __init__(self, data_dir: Path, consensus: Consensus) -> None:
        super().__init__(data_dir)
        self.consensus = consensus

    # Following

    def follow_all(self, agreed: Mapping[str, Agreed]) -> None:
        """Make all collections what was agreed, and drop the others. Raises: QdrantError."""
        for name in {collection.name for collection in self.collections()} | set(agreed):
            self.follow(name, agreed.get(name))

    def follow(self, name: str, agreed: Agreed | None) -> None:
        """Make the local part of a collection what was agreed; None is no collection. Raises: QdrantError."""
        with self._lock:
            collection = self._collections.get(name)
            if collection is not None and (agreed is None or collection.identity != agreed.uuid):
                del self._collections[name]
                collection.discard()
                collection = None
            if agreed is None:
                return
            wanted = agreed.placement.local(self.peer_id)
            if collection is None:
                self._collections[name] = Collection.create(
                    self.new_collection_path(), name, agreed.config, wanted, schema=agreed.schema, identity=agreed.uuid
                )
                return
            collection.placed_elsewhere = agreed.placed_elsewhere
            if collection.config != agreed.config:
                collection.set_config(agreed.config)
            for field in set(collection.schema) - set(agreed.schema):
                collection.delete_index(field)
            for field, schema in agreed.schema.items():
                if collection.schema.get(field) != schema:
                    collection.create_index(field, schema)
            if sorted(collection.shards) != wanted:
                collection.set_shards(wanted)

    def replica(self, name: str, shard_id: int) -> Shard | None:
        """Return the replica on this node, None when there is none."""
        with self._lock:
            collection = self._collections.get(name)
            return None if collection is None else collection.shards.get(shard_id)

    # Collections

    def find(self, name: str) -> Collection | None:
        """Return the collection with this name or alias, None when there is none."""
        with self._lock:
            return self._collections.get(self.consensus.aliases.get(name, name))

    def create(self, name: str, config: Config) -> None:
        """Make an empty collection on all nodes. Raises: QdrantError (409, 500)."""
        self.consensus.create(name, config, {})

    def add(self, collection: Collection) -> None:
        """Not for a cluster, whose collections come of an agreement."""
        raise internal("a cluster takes in no collection that was made outside of it")

    def delete(self, name: str) -> bool:
        """Delete a collection and its aliases on all nodes. Return whether it was there."""
        return self.consensus.delete(name)

    def aliases(self, collection: str | None = None) -> list[dict[str, str]]:
        """Return all aliases, or those of one collection, sorted by name."""
        with self.consensus.lock:
            return [
                {"alias_name": alias, "collection_name": target}
                for alias, target in sorted(self.consensus.aliases.items())
                if collection is None or target == collection
            ]

    def change_aliases(self, actions: list[dict[str, Any]]) -> None:
        """Apply create, delete and rename actions: all of them, or none. Raises: QdrantError."""

        def operation() -> None:
            agreed = self.consensus
            agreed.aliases = changed_aliases(agreed.aliases, agreed.collections, actions)

        self.consensus.propose(operation)

    def set_config(self, collection: Collection, config: Config) -> None:
        """Change the configuration of a collection on all nodes."""

        def operation() -> None:
            with self.consensus.change(collection.name) as agreed:
                agreed.config = config

        self.consensus.propose(operation)

    def create_index(self, collection: Collection, field: str, schema: FieldSchema) -> int:
        """Index a payload field on all nodes and return the operation's id. Raises: QdrantError."""

        def operation() -> None:
            with self.consensus.change(collection.name) as agreed:
                agreed.schema = {**agreed.schema, field: schema}

        self.consensus.propose(operation)
        return collection.next_operation(0) - 1

    def delete_index(self, collection: Collection, field: str) -> int:
        """Drop the index of a payload field on all nodes, and return the operation's id."""

        def operation() -> None:
            with self.consensus.change(collection.name) as agreed:
                agreed.schema = {name: schema for name, schema in agreed.schema.items() if name != field}

        self.consensus.propose(operation)
        return collection.next_operation(0) - 1

    # Placement

    def agreed(self, collection: Collection) -> Agreed:
        """Return what was agreed on a collection. Raises: QdrantError (404)."""
        return self.consensus.agreed(collection.name)

    def placement(self, collection: Collection) -> dict[str, Any]:
        """Return GET /collections/{name}/cluster as this node sees it."""
        with self.consensus.lock:
            placement = self.agreed(collection).placement.copy()
        local, remote = [], []
        for shard_id in sorted(placement.shards):
            one = placement.shards[shard_id]
            head: dict[str, Any] = {"shard_id": shard_id}
            if one.key is not None:
                head["shard_key"] = one.key
            for peer, state in one.states.items():
                if peer != self.peer_id:
                    remote.append({**head, "peer_id": peer, "state": state})
                    continue
                shard = self.replica(collection.name, shard_id)
                points = 0 if shard is None else shard.info().points_count
                local.append({**head, "points_count": points, "state": state})
        return {
            "peer_id": self.peer_id,
            "shard_count": len(placement.shards),
            "local_shards": local,
            "remote_shards": remote,
            "shard_transfers": [one.to_json() for one in placement.transfers],
        }

    def keys(self, collection: Collection) -> list[ShardKey] | None:
        """Return the shard keys, None without custom sharding."""
        agreed = self.agreed(collection)
        return agreed.placement.keys() if _is_custom(agreed) else None

    def replicas(self, collection: Collection) -> dict[int, dict[int, str]]:
        """Return the states of all replicas by shard and peer."""
        with self.consensus.lock:
            shards = self.agreed(collection).placement.shards
            return {shard_id: dict(one.states) for shard_id, one in sorted(shards.items())}

    def key_mapping(self, collection: Collection) -> list[dict[str, Any]]:
        """Return `shard_key_mapping.json` of a snapshot."""
        return self.agreed(collection).placement.key_mapping()

    def local_shard(self, collection: Collection, shard_id: int, refused: str = "") -> Shard:
        """Return a replica on this node.

        Raises: QdrantError: 404 for an unknown shard; for one that is elsewhere 400 with the words of `refused`, or
        500 without them.
        """
        self.agreed(collection).placement.shard(shard_id)
        shard = self.replica(collection.name, shard_id)
        if shard is None:
            if refused:
                raise wrong_input(f"Shard {shard_id} is not a {refused}")
            raise internal(f"Local shard {shard_id} not found")
        return shard

    def peers(self) -> list[int] | None:
        """Return the ids of all peers."""
        return sorted(self.consensus.peers)

    # Points

    def targets(self, collection: Collection, keys: Sequence[ShardKey] | None) -> list[Target]:
        """Return the shards to read, those of some shard keys when given. Raises: QdrantError (400)."""
        with self.consensus.lock:
            agreed = self.agreed(collection)
            for key in keys or ():
                if not agreed.placement.shards_of(key):
                    raise bad_request(f"Shard key {worded_key(key)} not found")
            chosen: list[Target] = []
            for shard_id, one in sorted(agreed.placement.shards.items()):
                # As a server: what no replica can answer is left out, of custom sharding and without a key.
                if keys is None and _is_custom(agreed) and not one.active():
                    continue
                if keys is None or one.key in keys:
                    chosen.append(ReplicatedTarget(self, agreed, shard_id, one))
            return chosen

    def written_targets(self, collection: Collection, keys: Sequence[ShardKey] | None) -> list[list[Target]]:
        """Return the shards points go to: a list for each key, within which a point has one home.

        Raises: QdrantError (400).
        """
        with self.consensus.lock:
            agreed = self.agreed(collection)
            if _is_custom(agreed) and not keys:
                raise wrong_input("Shard key not specified")
            for key in keys or ():
                if not agreed.placement.shards_of(key):
                    raise wrong_input(f"Shard key {worded_key(key)} not found")
            return [self.targets(collection, [key]) for key in keys] if keys else [self.targets(collection, None)]

    def writing(self, collection: Collection) -> AbstractContextManager[None]:
        """Hold this while points are written: no replica is copied meanwhile."""
        return self.agreed(collection).gate.read()


class ReplicatedTarget:
    """One shard of a collection, seen from one node."""

    def __init__(self, store: MemberStore, agreed: Agreed, shard_id: int, replicas: ReplicaSet) -> None:
        self.shard_id = shard_id
        self.key = replicas.key
        self._store = store
        self._agreed = agreed
        # Our own replica first: it costs no way.
        self._states = sorted(replicas.states.items(), key=lambda one: one[0] != store.peer_id)

    def _reached(self, peer_id: int) -> Shard | None:
        peer = self._store.consensus.peers.get(peer_id)
        store = None if peer is None else peer.store
        return None if store is None else store.replica(self._agreed.name, self.shard_id)

    def read(self, query: Callable[[edge.EdgeShard], T]) -> T:
        """Run a query on a replica that has everything. Raises: QdrantError (500) when none can be reached."""
        unreached = None
        for peer_id, state in self._states:
            if state not in READABLE and not (state == "Initializing" and len(self._states) == 1):
                continue
            shard = self._reached(peer_id)
            if shard is not None:
                return shard.read(query)
            unreached = self._store.consensus.peers[peer_id].uri
        if unreached is not None:
            raise _unreachable(unreached, reading=True)
        me = self._store.peer_id
        raise internal(f"The replica set for shard {self.shard_id} on peer {me} does not have enough active replicas")

    def update(self, *operations: edge.UpdateOperation) -> None:
        """Apply operations to all replicas; one that cannot be reached is dead from then on, unless it is the last.

        Raises: QdrantError.
        """
        done, absent = 0, []
        for peer_id, state in self._states:
            if state not in UPDATABLE:
                continue
            shard = self._reached(peer_id)
            if shard is None:
                absent.append(peer_id)
                continue
            shard.update(*operations)
            done += 1
        if not done and not absent:
            me = self._store.peer_id
            raise internal(f"The replica set for shard {self.shard_id} on peer {me} has no active replica")
        if not done:
            raise _unreachable(self._store.consensus.peers[absent[0]].uri, reading=False)
        for peer_id in absent:
            with contextlib.suppress(QdrantError):
                self._store.consensus.set_state(self._agreed.name, self.shard_id, peer_id, "Dead")


def _unreachable(uri: str, *, reading: bool) -> QdrantError:
    text = (
        "Tonic status error: code: 'The service is currently unavailable', "
        f'message: "Failed to connect to {uri}, error: transport error"'
    )
    if reading:
        return internal(f"1 of 1 read operations failed:\n  Service internal error: {text}")
    return internal(text)


def _is_custom(agreed: Agreed) -> bool:
    return agreed.config["params"].get("sharding_method") == "custom"
