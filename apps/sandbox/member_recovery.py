"""Recoveries on a node of a cluster: other replicas have a say, and their states change after the answer."""

from __future__ import annotations

import contextlib
from pathlib import Path

from .archive import unpack_collection, unpack_shard
from .caretaker import Caretaker
from .collection import Collection
from .config import config_of_snapshot
from .errors import QdrantError
from .member_store import MemberStore
from .placement import ACTIVE, Transfer
from .recovery import Recovery, check_compatible, read_json, replace_shards, snapshot_schema
from .snapshots import Snapshots


class MemberRecovery(Recovery):
    """As Qdrant 1.18 does it (lib/storage/src/content_manager/snapshots/recover.rs), its traps included."""

    def __init__(self, store: MemberStore, snapshots: Snapshots, caretaker: Caretaker) -> None:
        super().__init__(store, snapshots)
        self._member = store
        self._consensus = store.consensus
        self._caretaker = caretaker

    def recover_collection(self, name: str, archive: Path, priority: str) -> None:
        """Put what an archive holds in the place of a collection's shards; the collection is made when it is missing.

        Shards that the archive has no data of stay as they are. A custom-sharded collection that is made here has no
        keys, so no shards, so nothing is recovered and nothing is said about it. Raises: QdrantError.
        """
        with (
            self._snapshots.running(self._snapshots.recovering, name),
            self._snapshots.scratch("recover-") as scratch,
        ):
            target = scratch / "unpacked"
            held = unpack_collection(archive, target, partly=True)
            config = config_of_snapshot(read_json(target / "config.json"))
            collection = self._store.find(name)
            if collection is None:
                self._consensus.create(name, config, snapshot_schema(target / "payload_index.json"))
                collection = self._store.get(name)
            check_compatible(collection, config)
            me, before = self._store.peer_id, self._store.replicas(collection)
            for shard_id, states in before.items():
                if me in states:
                    self._propose(collection, shard_id, me, "ManualRecovery")
            with collection.recovering:
                for shard_id, states in before.items():
                    if shard_id in held:
                        self._install(collection, shard_id, target / str(shard_id))
                        self._settle_collection(collection, shard_id, states, priority)
                    elif me in states:
                        self._propose(collection, shard_id, me, states[me])

    def recover_shard(self, collection: Collection, shard_id: int, archive: Path, priority: str) -> None:
        """Put an archive in the place of this node's replica of a shard, which is added when there is none.

        Raises: QdrantError.
        """
        states = self._member.agreed(collection).placement.shard(shard_id).states.copy()
        with (
            self._snapshots.running(self._snapshots.recovering, collection.name),
            self._snapshots.scratch("recover-") as scratch,
        ):
            target = scratch / "unpacked"
            unpack_shard(archive, target)
            with collection.recovering:
                self._install(collection, shard_id, target)
            me = self._store.peer_id
            others = [peer for peer, state in states.items() if peer != me and state in ACTIVE]
            if others and priority == "replica":
                self._propose(collection, shard_id, me, "Dead")
                return
            self._propose(collection, shard_id, me, "Active")
            for peer in others if priority == "snapshot" else []:
                self._propose(collection, shard_id, peer, "Dead")

    def _install(self, collection: Collection, shard_id: int, part: Path) -> None:
        me = self._store.peer_id

        def own() -> None:
            with self._consensus.change(collection.name) as agreed:
                agreed.placed_elsewhere = True
                # A replica that was not there is dead until it is activated; nobody may heal it meanwhile.
                self._caretaker.pinned.add((collection.name, shard_id, me))
                agreed.placement.shard(shard_id).states.setdefault(me, "Dead")

        self._consensus.propose(own)
        try:
            replace_shards(collection, {shard_id: part})
        except QdrantError:
            # The server has deleted what was there before; ours is left alone, but it does not serve any more.
            self._propose(collection, shard_id, me, "Dead")
            raise

    def _settle_collection(self, collection: Collection, shard_id: int, states: dict[int, str], priority: str) -> None:
        me = self._store.peer_id
        others = [peer for peer, state in states.items() if peer != me and state in ACTIVE]
        if others and priority == "replica":
            transfer = Transfer(shard_id, others[0], me, sync=True)
            self._caretaker.soon(lambda: self._caretaker.transfer(collection.name, transfer))
            return
        self._propose(collection, shard_id, me, "Active")
        if priority != "snapshot":
            return
        surplus = len(others) - (collection.config["params"]["replication_factor"] - 1)
        for at, peer in enumerate(others):
            if at < surplus:
                self._caretaker.soon(lambda peer=peer: self._drop(collection.name, shard_id, peer))  # type: ignore[misc]
            else:
                self._propose(collection, shard_id, peer, "Dead")

    def _propose(self, collection: Collection, shard_id: int, peer: int, state: str) -> None:
        def set_state() -> None:
            # A refusal (the last active replica) reaches nobody, as on a server.
            self._caretaker.pinned.discard((collection.name, shard_id, peer))
            with contextlib.suppress(QdrantError):
                self._consensus.set_state(collection.name, shard_id, peer, state)

        self._caretaker.soon(set_state)

    def _drop(self, name: str, shard_id: int, peer: int) -> None:
        def operation() -> None:
            with self._consensus.change(name) as agreed:
                agreed.placement.drop_replica(shard_id, peer)

        with contextlib.suppress(QdrantError):
            self._consensus.propose(operation)
