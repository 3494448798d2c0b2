"""What the admin reads from a cluster while a page is being made: short time-outs, and words instead of errors."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from apps.clusters.models import Cluster
from apps.clusters.nodes import resolve_nodes
from apps.clusters.qdrant import QdrantNode
from apps.core.errors import BackupmgrError

#: A page must not hang because a node does: each small request, and all of them for one page.
REQUEST_SECONDS = 5.0
PAGE_SECONDS = 8.0


@dataclass(frozen=True)
class LiveCollection:
    """A collection as Qdrant tells it now; only the name when it could not be asked in time."""

    name: str
    points_count: int | None = None
    shard_count: int | None = None
    status: str = ""
    aliases: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class LiveCollections:
    """The names of all collections, and the facts about those that were asked for; or why there are none."""

    names: tuple[str, ...] = ()
    collections: tuple[LiveCollection, ...] = ()
    version: str = ""
    problem: str = ""


def page_node(cluster: Cluster) -> QdrantNode:
    """A client with a page's patience, of the first node that answers.

    Raises: crypto.UndecryptableSecret; BackupmgrErrors when there are many addresses and none answers.
    """
    if len(cluster.addresses) > 1:
        first = resolve_nodes(cluster, asks=1, timeout_seconds=REQUEST_SECONDS).first
        return QdrantNode(replace(first, timeout_seconds=REQUEST_SECONDS))
    return QdrantNode(cluster.quick_endpoint(REQUEST_SECONDS))


def collection_names(cluster: Cluster) -> LiveCollections:
    """List the names of the collections."""
    try:
        with page_node(cluster) as node:
            return LiveCollections(names=tuple(node.collections()))
    except BackupmgrError as error:
        return LiveCollections(problem=str(error))


def read_collections(cluster: Cluster, first: int, count: int) -> LiveCollections:
    """List the names of all collections, and ask about `count` of them from position `first` on.

    Once PAGE_SECONDS are over the rest is named only.
    """
    end = time.monotonic() + PAGE_SECONDS
    try:
        with page_node(cluster) as node:
            version = node.info().version
            names = tuple(node.collections())
            aliases: dict[str, list[str]] = {}
            for alias, name in sorted(node.aliases().items()):
                aliases.setdefault(name, []).append(alias)
            facts = tuple(
                _ask(node, name, tuple(aliases.get(name, ())), late=time.monotonic() > end)
                for name in names[first : first + count]
            )
    except BackupmgrError as error:
        return LiveCollections(problem=str(error))
    return LiveCollections(names=names, collections=facts, version=version)


def _ask(node: QdrantNode, name: str, aliases: tuple[str, ...], *, late: bool) -> LiveCollection:
    if late:
        return LiveCollection(name, aliases=aliases, problem="not asked: the cluster answers slowly")
    try:
        info, placement = node.collection(name), node.placement(name)
    except BackupmgrError as error:
        return LiveCollection(name, aliases=aliases, problem=str(error))
    return LiveCollection(
        name=name,
        points_count=info.points_count,
        shard_count=placement.shard_count,
        status=info.status,
        aliases=aliases,
    )
