"""One collection as its cluster tells it now, from every node that answers: for its page."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

from apps.clusters.models import Cluster
from apps.clusters.nodes import ResolvedCluster, resolve_nodes
from apps.clusters.qdrant import ACTIVE, CollectionNotFound, Endpoint, Placement, QdrantNode, SnapshotDescription
from apps.core.errors import BackupmgrError

#: For one small request, and for all of them together: a page must not hang because a node does.
REQUEST_SECONDS = 5.0
PAGE_SECONDS = 8.0


@dataclass(frozen=True)
class Replica:
    """A copy of a shard. `points_count` is Qdrant's estimate, None when its node was not asked."""

    peer_id: str
    url: str
    state: str
    points_count: int | None

    @property
    def is_active(self) -> bool:
        return self.state == ACTIVE


@dataclass(frozen=True)
class Shard:
    shard_id: int
    key: str
    replicas: tuple[Replica, ...]


@dataclass(frozen=True)
class NodeSnapshot:
    """A snapshot on a node's disk; of the whole collection (this node's part of it) when `shard_id` is None."""

    node: str
    url: str
    shard_id: int | None
    file: SnapshotDescription


@dataclass(frozen=True)
class LiveCollection:
    """What could be read; `problem` says why not more. `is_missing`: the cluster answers, and has none of that name."""

    problem: str = ""
    is_missing: bool = False
    version: str = ""
    status: str = ""
    optimizer: str = ""
    points_count: int | None = None
    vectors: tuple[tuple[str, str], ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    schema: tuple[tuple[str, str, int | None], ...] = ()
    aliases: tuple[str, ...] = ()
    shards: tuple[Shard, ...] = ()
    moving: tuple[str, ...] = ()
    snapshots: tuple[NodeSnapshot, ...] = ()
    #: Why not all snapshots are listed.
    snapshots_problem: str = ""

    @property
    def is_there(self) -> bool:
        return not self.problem and not self.is_missing


def read_collection(cluster: Cluster, name: str) -> LiveCollection:
    """Ask the cluster for everything that its page shows. Never raises for a cluster that does not answer."""
    end = time.monotonic() + PAGE_SECONDS
    try:
        nodes = resolve_nodes(cluster, asks=1, timeout_seconds=REQUEST_SECONDS)
        nodes.demand_one_cluster()
        with QdrantNode(replace(nodes.first, timeout_seconds=REQUEST_SECONDS)) as node:
            info = node.collection(name)
            aliases = tuple(node.collection_aliases(name))
    except CollectionNotFound:
        return LiveCollection(is_missing=True)
    except BackupmgrError as error:
        return LiveCollection(problem=str(error))
    placements, found, problem = _per_node(nodes, name, end)
    params = info.config.get("params") or {}
    return LiveCollection(
        version=", ".join(nodes.report.versions),
        status=info.status,
        optimizer=info.optimizer_status if isinstance(info.optimizer_status, str) else str(info.optimizer_status or ""),
        points_count=info.points_count,
        vectors=_vectors(params),
        settings=_settings(params, info.config),
        config=info.config,
        schema=tuple(
            (column, str((facts or {}).get("data_type", "")), (facts or {}).get("points"))
            for column, facts in sorted(info.payload_schema.items())
        ),
        aliases=aliases,
        shards=_shards(placements),
        moving=_moving(placements),
        snapshots=tuple(found),
        snapshots_problem=problem,
    )


Where = tuple[str, str, Placement]


def _per_node(nodes: ResolvedCluster, name: str, end: float) -> tuple[list[Where], list[NodeSnapshot], str]:
    """Ask each node for its shards and its snapshots, as long as there is time."""
    endpoints: list[tuple[str, Endpoint]] = [(str(peer), endpoint) for peer, endpoint in nodes.endpoints.items()]
    if nodes.standalone is not None:
        endpoints.append(("", nodes.standalone))
    placements: list[Where] = []
    found: list[NodeSnapshot] = []
    problems: list[str] = []
    for peer, endpoint in endpoints:
        if time.monotonic() > end:
            problems.append(f"{endpoint.url} was not asked: the cluster answers slowly.")
            continue
        try:
            with QdrantNode(replace(endpoint, timeout_seconds=REQUEST_SECONDS)) as node:
                placement = node.placement(name)
                placements.append((peer, endpoint.url, placement))
                whose: list[int | None] = [None, *(shard.shard_id for shard in placement.local_shards)]
                for shard in whose:
                    if time.monotonic() > end:
                        problems.append(f"Not all shards of {endpoint.url} were asked: the cluster answers slowly.")
                        break
                    found += [NodeSnapshot(peer, endpoint.url, shard, each) for each in node.snapshots(name, shard)]
        except BackupmgrError as error:
            problems.append(str(error))
    found.sort(key=lambda each: (each.file.creation_time or "", each.file.name), reverse=True)
    return placements, found, " ".join(problems)


def _shards(placements: list[Where]) -> tuple[Shard, ...]:
    """All replicas of all shards: each from its own node where that was asked, from another's view where not."""
    replicas: dict[int, dict[str, Replica]] = {}
    keys: dict[int, str] = {}
    urls = {str(placement.peer_id): url for _, url, placement in placements}
    for _, url, placement in placements:
        for local in placement.local_shards:
            keys[local.shard_id] = "" if local.shard_key is None else str(local.shard_key)
            replicas.setdefault(local.shard_id, {})[str(placement.peer_id)] = Replica(
                str(placement.peer_id), url, local.state, local.points_count
            )
    for _, _, placement in placements:
        for remote in placement.remote_shards:
            keys.setdefault(remote.shard_id, "" if remote.shard_key is None else str(remote.shard_key))
            peer = str(remote.peer_id)
            replicas.setdefault(remote.shard_id, {}).setdefault(
                peer, Replica(peer, urls.get(peer, ""), remote.state, None)
            )
    return tuple(
        Shard(shard, keys[shard], tuple(copies[peer] for peer in sorted(copies)))
        for shard, copies in sorted(replicas.items())
    )


def _moving(placements: list[Where]) -> tuple[str, ...]:
    transfers = {
        f"Shard {move.get('shard_id')} is being moved from peer {move.get('from')} to peer {move.get('to')}."
        for _, _, placement in placements
        for move in placement.transfers
    }
    if any(placement.resharding for _, _, placement in placements):
        transfers.add("Resharding is under way.")
    return tuple(sorted(transfers))


def _vectors(params: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """('text', '64 dimensions, Cosine') for each vector."""
    dense = params.get("vectors") or {}
    named = {"": dense} if "size" in dense else dense
    found = [
        (name or "(unnamed)", f"{facts.get('size')} dimensions, {facts.get('distance')}")
        for name, facts in named.items()
        if isinstance(facts, dict)
    ]
    found += [(name, "sparse") for name in params.get("sparse_vectors") or {}]
    return tuple(found)


def _settings(params: dict[str, Any], config: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    rows = [
        ("Shards", params.get("shard_number")),
        ("Sharding", params.get("sharding_method") or "auto"),
        ("Replication factor", params.get("replication_factor")),
        ("Write consistency", params.get("write_consistency_factor")),
        ("Payload on disk", {True: "yes", False: "no"}.get(params.get("on_disk_payload"))),  # type: ignore[arg-type]
        ("Quantization", "yes" if config.get("quantization_config") else "no"),
        ("Strict mode", "on" if (config.get("strict_mode_config") or {}).get("enabled") else "off"),
    ]
    return tuple((name, str(value)) for name, value in rows if value is not None)
