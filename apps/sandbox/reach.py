"""The shards a request reaches from one node: read from one replica, written to all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

import qdrant_edge as edge

from .errors import QdrantError
from .placement import ShardKey
from .points import PointId
from .shard import Shard

T = TypeVar("T")


class Target(Protocol):
    """One shard, wherever its replicas are. `key` is None without custom sharding."""

    @property
    def shard_id(self) -> int: ...
    @property
    def key(self) -> ShardKey | None: ...

    def read(self, query: Callable[[edge.EdgeShard], T]) -> T:
        """Run a query on one replica that has everything. Raises: QdrantError."""

    def update(self, *operations: edge.UpdateOperation) -> None:
        """Apply operations to all replicas. Raises: QdrantError."""


class LocalTarget:
    """The only copy of a shard, on this node."""

    key: ShardKey | None = None

    def __init__(self, shard: Shard) -> None:
        self.shard_id = shard.shard_id
        self._shard = shard

    def read(self, query: Callable[[edge.EdgeShard], T]) -> T:
        """Run a query. Raises: QdrantError."""
        return self._shard.read(query)

    def update(self, *operations: edge.UpdateOperation) -> None:
        """Apply operations. Raises: QdrantError."""
        self._shard.update(*operations)


def count(target: Target, request: edge.CountRequest | None = None) -> int:
    """Return the exact number of a shard's points, of those that match when a request with a filter is given."""
    asked = request or edge.CountRequest(exact=True)
    return target.read(lambda shard: int(shard.count(asked)))


def info(target: Target) -> Any:
    """Return the engine's ShardInfo."""
    return target.read(lambda shard: shard.info())


def place(targets: Sequence[Target], ids: Iterable[PointId], *, look: bool) -> dict[int, list[PointId]]:
    """Return for every shard the ids to write there: its home, or where the point is now when we have to `look`.

    Raises: QdrantError (400) when there is no shard.
    """
    wanted = list(ids)
    placed: dict[PointId, int] = {}
    if look and len(targets) > 1:
        for target in targets:
            for point_id in target.read(lambda shard: _present(shard, wanted)):
                placed.setdefault(point_id, target.shard_id)
    shard_ids = sorted(target.shard_id for target in targets)
    groups: dict[int, list[PointId]] = {}
    for point_id in wanted:
        shard_id = placed[point_id] if point_id in placed else _home(shard_ids, point_id)
        groups.setdefault(shard_id, []).append(point_id)
    return groups


def _home(shard_ids: list[int], point_id: PointId) -> int:
    # A hash of the id, stable over restarts and nodes.
    if not shard_ids:
        raise QdrantError(400, "Wrong input: Shard key not specified")
    digest = hashlib.blake2b(str(point_id).encode(), digest_size=8).digest()
    return shard_ids[int.from_bytes(digest, "big") % len(shard_ids)]


def _present(shard: edge.EdgeShard, ids: list[PointId]) -> list[PointId]:
    records = shard.retrieve(ids, with_payload=False, with_vector=False)
    return [record.id for record in records]
