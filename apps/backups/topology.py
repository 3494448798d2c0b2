"""Where the replicas of a collection are in a cluster, put together from what each node says of it. Pure functions.

Every node tells the placement from its side (`GET /collections/{c}/cluster`): its own replicas as they are, those of
others as it last heard of them. What a node says of its own replica goes before what others say of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from apps.clusters.qdrant import ACTIVE, Placement

ShardKey = str | int
#: Prefix of shard keys that exist only while a restore reproduces ids; no backup ever holds one.
FILLER = "backupmgr-filler-"


@dataclass(frozen=True)
class Replica:
    """One replica of a shard. `told_by_owner`: the node that holds it was asked itself."""

    shard_id: int
    shard_key: ShardKey | None
    peer_id: int
    state: str
    told_by_owner: bool

    @property
    def is_active(self) -> bool:
        return self.state == ACTIVE


@dataclass(frozen=True)
class Topology:
    """All replicas of a collection, ordered by shard and peer."""

    replicas: tuple[Replica, ...]
    #: Shards that are being moved, copied or resharded.
    moving: tuple[int, ...]

    @property
    def shard_ids(self) -> tuple[int, ...]:
        return tuple(sorted({replica.shard_id for replica in self.replicas}))

    def of(self, shard_id: int) -> tuple[Replica, ...]:
        """Return the replicas of a shard."""
        return tuple(replica for replica in self.replicas if replica.shard_id == shard_id)

    def key_of(self, shard_id: int) -> ShardKey | None:
        """Return the key of a shard, None without custom sharding."""
        return next(replica.shard_key for replica in self.replicas if replica.shard_id == shard_id)

    @property
    def keys(self) -> dict[int, ShardKey | None]:
        """Shard id → its key."""
        return {shard_id: self.key_of(shard_id) for shard_id in self.shard_ids}


def merge(placements: Iterable[Placement]) -> Topology:
    """Put together what some nodes say."""
    own: dict[tuple[int, int], Replica] = {}
    heard: dict[tuple[int, int], Replica] = {}
    moving: set[int] = set()
    for placement in placements:
        for local in placement.local_shards:
            replica = Replica(local.shard_id, local.shard_key, placement.peer_id, local.state, told_by_owner=True)
            own[local.shard_id, placement.peer_id] = replica
        for remote in placement.remote_shards:
            at = (remote.shard_id, remote.peer_id)
            known = heard.get(at)
            # Two that disagree: the worse news counts.
            if known is None or known.is_active:
                heard[at] = Replica(
                    remote.shard_id, remote.shard_key, remote.peer_id, remote.state, told_by_owner=False
                )
        moving |= {int(transfer["shard_id"]) for transfer in placement.transfers}
        moving |= {int(entry["shard_id"]) for entry in placement.resharding}
    every = {**heard, **own}
    return Topology(tuple(every[at] for at in sorted(every)), tuple(sorted(moving)))


@dataclass(frozen=True)
class KeyStep:
    """One call to Qdrant on the way to the ids of a backup: create `key` with `shards` shards, or delete it (0)."""

    key: ShardKey
    shards: int

    @property
    def is_filler(self) -> bool:
        return isinstance(self.key, str) and self.key.startswith(FILLER)


class KeysImpossible(ValueError):
    """No order of calls gives these keys these ids; the message says why."""


def key_steps(keys: Mapping[int, ShardKey | None], first: int = 1) -> tuple[KeyStep, ...]:
    """Return the calls that give every key the same shard ids as in `keys` (id → key), on a collection without keys.

    A new key gets the ids behind the highest one that exists, from 1 on; so keys are created in the order of their
    ids, and a gap is filled with a key that is deleted in the end. Raises: KeysImpossible.
    """
    steps: list[KeyStep] = []
    following = first
    done: set[ShardKey] = set()
    ids = sorted(keys)
    while ids:
        shard_id, key = ids[0], keys[ids[0]]
        if key is None:
            raise KeysImpossible(f"shard {shard_id} has no key")
        if key in done:
            raise KeysImpossible(
                f"the shards of key {key!r} do not lie side by side ({_ids(keys, key)}), and Qdrant makes those of a "
                f"key in one go"
            )
        if shard_id < following:
            raise KeysImpossible(f"shard {shard_id} has a key, and Qdrant gives keys ids from {first} on")
        if shard_id > following:
            steps.append(KeyStep(f"{FILLER}{following}", shard_id - following))
        run = _run(ids, keys, key)
        steps.append(KeyStep(key, len(run)))
        done.add(key)
        following = run[-1] + 1
        ids = ids[len(run) :]
    return (*steps, *(KeyStep(step.key, 0) for step in steps if step.is_filler))


def _run(ids: Sequence[int], keys: Mapping[int, ShardKey | None], key: ShardKey) -> list[int]:
    """Return the ids at the start of `ids` that follow one another and belong to the key."""
    run = [ids[0]]
    for shard_id in ids[1:]:
        if shard_id != run[-1] + 1 or keys[shard_id] != key or type(keys[shard_id]) is not type(key):
            break
        run.append(shard_id)
    return run


def _ids(keys: Mapping[int, ShardKey | None], key: ShardKey) -> str:
    return ", ".join(str(shard_id) for shard_id in sorted(keys) if keys[shard_id] == key)
