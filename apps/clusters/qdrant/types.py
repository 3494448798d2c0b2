"""What Qdrant answers, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

#: A replica in any other state may lack points; snapshots of it are taken without a word.
ACTIVE = "Active"


@dataclass(frozen=True)
class SnapshotDescription:
    """A snapshot file on a node. `checksum` is the SHA-256 in lower-case hex, None on nodes that keep none."""

    name: str
    size_bytes: int
    checksum: str | None
    creation_time: str | None

    @classmethod
    def from_answer(cls, answer: dict[str, Any]) -> SnapshotDescription:
        checksum = answer.get("checksum")
        return cls(
            name=str(answer["name"]),
            size_bytes=int(answer["size"]),
            checksum=str(checksum).strip().lower() if checksum else None,
            creation_time=answer.get("creation_time"),
        )


@dataclass(frozen=True)
class NodeInfo:
    """Who answers: version, and peer id and raft facts when the node is part of a cluster."""

    version: str
    #: None on a standalone node (`GET /cluster` says disabled).
    peer_id: int | None
    cluster: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LocalShard:
    """A replica on the node that was asked. `points_count` is approximate."""

    shard_id: int
    state: str
    points_count: int
    shard_key: str | int | None = None


@dataclass(frozen=True)
class RemoteShard:
    """A replica on another node."""

    shard_id: int
    peer_id: int
    state: str
    shard_key: str | int | None = None


@dataclass(frozen=True)
class Placement:
    """Where a collection's shards live, as one node sees it (`GET /collections/{c}/cluster`)."""

    peer_id: int
    shard_count: int
    local_shards: tuple[LocalShard, ...]
    remote_shards: tuple[RemoteShard, ...]
    transfers: tuple[dict[str, Any], ...]
    resharding: tuple[dict[str, Any], ...]

    @classmethod
    def from_answer(cls, answer: dict[str, Any]) -> Placement:
        return cls(
            peer_id=int(answer["peer_id"]),
            shard_count=int(answer["shard_count"]),
            local_shards=tuple(
                LocalShard(int(s["shard_id"]), str(s["state"]), int(s.get("points_count") or 0), s.get("shard_key"))
                for s in answer.get("local_shards") or ()
            ),
            remote_shards=tuple(
                RemoteShard(int(s["shard_id"]), int(s["peer_id"]), str(s["state"]), s.get("shard_key"))
                for s in answer.get("remote_shards") or ()
            ),
            transfers=tuple(answer.get("shard_transfers") or ()),
            resharding=tuple(answer.get("resharding_operations") or ()),
        )


@dataclass(frozen=True)
class CollectionInfo:
    """`GET /collections/{c}`: config and payload schema as Qdrant gives them."""

    status: str
    optimizer_status: Any
    points_count: int | None
    config: dict[str, Any]
    payload_schema: dict[str, Any]
    raw: dict[str, Any] = field(repr=False)

    @classmethod
    def from_answer(cls, answer: dict[str, Any]) -> CollectionInfo:
        return cls(
            status=str(answer.get("status", "")),
            optimizer_status=answer.get("optimizer_status"),
            points_count=answer.get("points_count"),
            config=answer["config"],
            payload_schema=answer.get("payload_schema") or {},
            raw=answer,
        )
