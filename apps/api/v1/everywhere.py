"""Snapshots on all nodes of a cluster: each node knows its own disk only, so every one is asked."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from apps.clusters.nodes import THREADS, ResolvedCluster
from apps.clusters.qdrant import (
    ACTIVE,
    CollectionNotFound,
    Endpoint,
    QdrantNode,
    QdrantRejected,
    SnapshotDescription,
    SnapshotNotFound,
)
from apps.core.errors import BackupmgrError, Conflict, Unavailable

#: What a node says that has none of it: no such collection, no replica of that shard.
_HAS_NONE = (CollectionNotFound, SnapshotNotFound, QdrantRejected)


class SnapshotAmbiguous(Conflict):
    """Two nodes have different snapshots of that name."""


class SnapshotNotSeen(Unavailable):
    """No node that can be asked has the snapshot, and others could not be asked."""


@dataclass(frozen=True)
class OnNode:
    """A snapshot and the node that has it; `peer_id` is None on a standalone node."""

    peer_id: int | None
    endpoint: Endpoint
    snapshot: SnapshotDescription


@dataclass(frozen=True)
class Listing:
    """The snapshots of all nodes that could be asked. `warnings` says in words which could not."""

    found: tuple[OnNode, ...]
    warnings: tuple[str, ...]


def list_everywhere(nodes: ResolvedCluster, collection: str, shard_id: int | None) -> Listing:
    """List the snapshots of a collection, or of one shard, on every node.

    A node that has none of it adds nothing. Raises: BackupmgrErrors when no node has it, or none can be asked.
    """
    asked: dict[int | None, Endpoint] = dict(zip(nodes.endpoints, nodes.endpoints.values(), strict=True))
    if not asked:
        asked[None] = nodes.first  # a standalone node; raises when there is none at all
    with ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="list") as pool:
        answers = list(pool.map(lambda endpoint: _ask(endpoint, collection, shard_id), asked.values()))
    found: list[OnNode] = []
    warnings = [f"{reason} Its snapshots are not listed." for reason in _silent(nodes)]
    refusals, faults = [], []
    listed = False
    for (peer, endpoint), answer in zip(asked.items(), answers, strict=True):
        if isinstance(answer, _HAS_NONE):
            refusals.append(answer)
        elif isinstance(answer, BackupmgrError):
            faults.append(answer)
            warnings.append(f"Peer {peer} could not be asked ({answer}) Its snapshots are not listed.")
        else:
            listed = True
            found += [OnNode(peer, endpoint, snapshot) for snapshot in answer]
    if not listed:
        raise (refusals or faults)[0]
    return Listing(tuple(found), tuple(warnings))


def find_everywhere(nodes: ResolvedCluster, collection: str, shard_id: int | None, name: str) -> OnNode | None:
    """Return the one node that has the snapshot of that name; None when none has, and all could be asked.

    Raises: SnapshotAmbiguous, SnapshotNotSeen, and as list_everywhere.
    """
    listing = list_everywhere(nodes, collection, shard_id)
    having = [one for one in listing.found if one.snapshot.name == name]
    if not having and listing.warnings:
        raise SnapshotNotSeen(
            f"None of the nodes that answer has a snapshot {name!r}, and not all could be asked: {listing.warnings[0]}"
        )
    # Nodes that keep their snapshots in one bucket all list the same file, without a checksum.
    different = {(one.snapshot.size_bytes, one.snapshot.creation_time, one.snapshot.checksum) for one in having}
    if len(having) > 1 and (len(different) > 1 or having[0].snapshot.checksum is not None):
        peers = " and ".join(str(one.peer_id) for one in having)
        raise SnapshotAmbiguous(
            f"The peers {peers} each have a snapshot {name!r}, and they are not the same: say which one with ?node=."
        )
    return having[0] if having else None


def inactive_replicas(endpoint: Endpoint, collection: str, shard_id: int | None) -> tuple[str, ...]:
    """Say of every replica on the node, or of that of one shard, that it is not Active: Qdrant makes a snapshot of it
    without a word. Nothing where that cannot be asked.
    """
    try:
        with QdrantNode(endpoint) as node:
            placement = node.placement(collection)
    except BackupmgrError:
        return ()
    return tuple(
        f"The replica of shard {shard.shard_id} on peer {placement.peer_id} is {shard.state}: this snapshot may lack "
        f"points of it."
        for shard in placement.local_shards
        if shard.state != ACTIVE and shard_id in (None, shard.shard_id)
    )


def _ask(endpoint: Endpoint, collection: str, shard_id: int | None) -> list[SnapshotDescription] | BackupmgrError:
    try:
        with QdrantNode(endpoint) as node:
            return node.snapshots(collection, shard_id)
    except BackupmgrError as error:
        return error


def _silent(nodes: ResolvedCluster) -> list[str]:
    """Say of every peer that cannot be asked why."""
    told = []
    for peer in nodes.unreachable:
        reasons = [problem.message for problem in nodes.problems if problem.peer_id == peer and problem.is_error]
        told.append(reasons[0] if reasons else f"Peer {peer} has no address here that answers.")
    return told
