"""Where the shards of a collection are in a cluster: shard keys, replicas with their states, transfers.

Pure data, as consensus would agree on it; nothing here touches a disk or another node.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .errors import bad_request, not_found, wrong_input

ShardKey = int | str

# Qdrant's words for the state of a replica (1.18).
STATES = (
    "Active",
    "Dead",
    "Partial",
    "Initializing",
    "Listener",
    "PartialSnapshot",
    "Recovery",
    "Resharding",
    "ReshardingScaleDown",
    "ActiveRead",
    "ManualRecovery",
)
ACTIVE = frozenset({"Active", "ReshardingScaleDown"})
READABLE = ACTIVE | {"ActiveRead"}
UPDATABLE = READABLE | {"Partial", "Initializing", "Listener", "Resharding"}
TRANSFER_METHODS = ("stream_records", "snapshot", "wal_delta", "resharding_stream_records")
# What a replica is while data is moved to it.
_RECEIVING = {"snapshot": "Recovery", "wal_delta": "Recovery"}


@dataclass(frozen=True)
class Transfer:
    """A replica on its way from one peer to another; `sync` keeps the source, a move does not."""

    shard_id: int
    source: int
    target: int
    sync: bool
    method: str = "stream_records"
    comment: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the entry of `shard_transfers`."""
        entry: dict[str, Any] = {
            "shard_id": self.shard_id,
            "from": self.source,
            "to": self.target,
            "sync": self.sync,
            "method": self.method,
        }
        if self.comment is not None:
            entry["comment"] = self.comment
        return entry


@dataclass
class ReplicaSet:
    """One shard: its key (None without custom sharding) and the state of the replica on each peer."""

    key: ShardKey | None
    states: dict[int, str]

    def active(self) -> list[int]:
        """Return the peers whose replica holds everything."""
        return [peer for peer, state in self.states.items() if state in ACTIVE]

    def is_last_active(self, peer: int) -> bool:
        """Say whether no other replica could take this one's place."""
        return self.active() == [peer]


@dataclass
class Placement:
    """All shards of a collection. Methods raise QdrantError as a cluster words its refusals."""

    shards: dict[int, ReplicaSet] = field(default_factory=dict)
    transfers: list[Transfer] = field(default_factory=list)

    # Shards and keys

    def shard(self, shard_id: int) -> ReplicaSet:
        """Return a shard. Raises: QdrantError (404)."""
        try:
            return self.shards[shard_id]
        except KeyError:
            raise not_found(f"shard {shard_id} not found") from None

    def keys(self) -> list[ShardKey]:
        """Return the shard keys, in the order of their shards."""
        return list(dict.fromkeys(one.key for one in self.by_id() if one.key is not None))

    def by_id(self) -> list[ReplicaSet]:
        """Return the shards in the order of their ids."""
        return [self.shards[shard_id] for shard_id in sorted(self.shards)]

    def shards_of(self, key: ShardKey) -> list[int]:
        """Return the ids of a key's shards, ascending; none for an unknown key."""
        return sorted(shard_id for shard_id, one in self.shards.items() if _same(one.key, key))

    def local(self, peer: int) -> list[int]:
        """Return the ids of the shards with a replica on a peer, ascending."""
        return sorted(shard_id for shard_id, one in self.shards.items() if peer in one.states)

    def add_shards(self, key: ShardKey | None, replicas: Sequence[Iterable[int]], state: str) -> list[int]:
        """Add shards and return their ids; those of keys begin behind the highest there is, and at 1."""
        first = max(self.shards, default=0 if key is not None else -1) + 1
        for shard_id, peers in enumerate(replicas, first):
            self.shards[shard_id] = ReplicaSet(key, dict.fromkeys(peers, state))
        return list(range(first, first + len(replicas)))

    def drop_key(self, key: ShardKey) -> None:
        """Forget the shards of a key."""
        gone = set(self.shards_of(key))
        self.transfers = [one for one in self.transfers if one.shard_id not in gone]
        for shard_id in gone:
            del self.shards[shard_id]

    # Replicas

    def set_state(self, shard_id: int, peer: int, state: str, expected: str | None = None) -> None:
        """Change a replica's state, or add the replica.

        Raises: QdrantError when another state was expected, or nothing active would be left.
        """
        one = self.shard(shard_id)
        if expected is not None and one.states.get(peer) != expected:
            raise wrong_input(f"Replica {peer} of shard {shard_id} has not the expected state {expected}")
        if one.is_last_active(peer) and state not in ACTIVE:
            raise wrong_input(f"Cannot deactivate the last active replica {peer} of shard {shard_id}")
        one.states[peer] = state
        if state == "Dead":
            self._end_transfers(shard_id, peer)

    def drop_replica(self, shard_id: int, peer: int) -> None:
        """Forget a replica. Raises: QdrantError (400) when it is not there or the last one."""
        one = self.shard(shard_id)
        if peer not in one.states:
            raise bad_request(f"Peer {peer} has no replica of shard {shard_id}")
        if len(one.states) == 1 or one.is_last_active(peer):
            raise bad_request(f"Shard {shard_id} must have at least one active replica after removing {peer}")
        del one.states[peer]
        self._end_transfers(shard_id, peer)

    # Transfers

    def begin(self, transfer: Transfer, peers: Iterable[int]) -> None:
        """Begin to move or copy a replica. Raises: QdrantError (400)."""
        one = self.shard(transfer.shard_id)
        for peer in (transfer.source, transfer.target):
            if peer not in peers:
                raise bad_request(f"Peer {peer} does not exist")
        if one.states.get(transfer.source) not in ACTIVE:
            raise bad_request(f"Shard {transfer.shard_id} is not active on peer {transfer.source}")
        for other in self.transfers:
            if other.shard_id == transfer.shard_id and {other.source, other.target} & {
                transfer.source,
                transfer.target,
            }:
                raise bad_request(
                    f"Shard {other.shard_id} is already involved in transfer {other.source} -> {other.target}"
                )
        one.states[transfer.target] = _RECEIVING.get(transfer.method, "Partial")
        self.transfers.append(transfer)

    def find_transfer(self, shard_id: int, source: int, target: int) -> Transfer | None:
        """Return a transfer that runs, None when there is none."""
        wanted = (shard_id, source, target)
        return next((one for one in self.transfers if (one.shard_id, one.source, one.target) == wanted), None)

    def finish(self, transfer: Transfer) -> bool:
        """Make the new replica active, and end a move's old one. Return whether the transfer still ran."""
        if self.find_transfer(transfer.shard_id, transfer.source, transfer.target) is None:
            return False
        self._forget(transfer)
        states = self.shards[transfer.shard_id].states
        states[transfer.target] = "Active"
        if not transfer.sync:
            del states[transfer.source]
        return True

    def abort(self, transfer: Transfer) -> None:
        """End a transfer; a copy that was to be added is forgotten, one that was to be healed is dead."""
        self._forget(transfer)
        states = self.shards[transfer.shard_id].states
        if transfer.sync:
            states[transfer.target] = "Dead"
        else:
            states.pop(transfer.target, None)

    def _end_transfers(self, shard_id: int, peer: int) -> None:
        for one in list(self.transfers):
            if one.shard_id == shard_id and peer in (one.source, one.target):
                self._forget(one)
                if one.target != peer:
                    self.shards[shard_id].states[one.target] = "Dead"

    def _forget(self, transfer: Transfer) -> None:
        wanted = (transfer.shard_id, transfer.source, transfer.target)
        self.transfers = [one for one in self.transfers if (one.shard_id, one.source, one.target) != wanted]

    # Forms

    def copy(self) -> Placement:
        """Return a copy that changes on its own."""
        shards = {shard_id: ReplicaSet(one.key, dict(one.states)) for shard_id, one in self.shards.items()}
        return Placement(shards, [replace(one) for one in self.transfers])

    def key_mapping(self) -> list[dict[str, Any]]:
        """Return `shard_key_mapping.json` of a snapshot."""
        return [{"key": key, "shard_ids": self.shards_of(key)} for key in self.keys()]

    def to_json(self) -> dict[str, Any]:
        """Return a form for a file; `from_json` reads it."""
        shards = {
            str(shard_id): {"key": one.key, "states": {str(peer): state for peer, state in one.states.items()}}
            for shard_id, one in self.shards.items()
        }
        return {"shards": shards, "transfers": [asdict(one) for one in self.transfers]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Placement:
        """Read what `to_json` gave."""
        shards = {
            int(shard_id): ReplicaSet(one["key"], {int(peer): state for peer, state in one["states"].items()})
            for shard_id, one in data["shards"].items()
        }
        return cls(shards, [Transfer(**one) for one in data["transfers"]])


def _same(one: ShardKey | None, other: ShardKey) -> bool:
    # The key 1 and the key "1" are two keys.
    return type(one) is type(other) and one == other


def even_placement(shards: int, replication_factor: int, peers: Sequence[int], seed: object) -> list[list[int]]:
    """Choose peers for the replicas of new shards: as many on each peer as can be, one replica a peer.

    A cluster does it by chance; here the seed decides, so that a test that fails fails again.
    """
    chance = random.Random(str(seed))  # noqa: S311, no secret
    order = list(peers)
    chance.shuffle(order)
    held = dict.fromkeys(order, 0)
    chosen = []
    for _ in range(shards):
        some = sorted(order, key=lambda peer: held[peer])[: max(1, min(replication_factor, len(order)))]
        for peer in some:
            held[peer] += 1
        chosen.append(some)
    return chosen


def worded_key(key: ShardKey) -> str:
    """Return a shard key as Qdrant's messages show it."""
    return f'"{key}"' if isinstance(key, str) else str(key)
