"""What a cluster looked like when it was last asked: kept, so that no page has to wait for a cluster that is gone.

Workers ask every cluster once in BACKUPMGR_CHECK_SECONDS, whoever comes first (a conditional UPDATE decides). The
names of all collections are asked for every time; the figures of some of them, those that were asked for longest ago
first.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q

from apps.clusters.models import Cluster
from apps.clusters.nodes import resolve_nodes
from apps.clusters.observed import ClusterObservation, ObservedCollection
from apps.clusters.qdrant import ACTIVE, QdrantNode
from apps.clusters.registry import ClusterReport
from apps.core.errors import BackupmgrError

logger = logging.getLogger(__name__)

#: For one small request of a check.
REQUEST_SECONDS = 5.0
#: So many collections are asked for their figures in one check, and for so long at most.
FIGURES_PER_CHECK = 200
FIGURES_SECONDS = 10.0
_CHUNK = 500


@dataclass(frozen=True)
class Figures:
    """A collection in numbers; `inactive_replicas` counts replicas in any state but Active."""

    points_count: int | None
    shard_count: int
    inactive_replicas: int
    status: str


@dataclass(frozen=True)
class Sight:
    """What was seen, or (then `problem` is set) why nothing was."""

    problem: str = ""
    version: str = ""
    nodes: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[dict[str, Any]] = field(default_factory=list)
    raft: dict[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    aliases: dict[str, list[str]] = field(default_factory=dict)
    figures: dict[str, Figures] = field(default_factory=dict)


def observe_due(*, now: datetime) -> int:
    """Check every cluster whose turn it is; return how many. Talks to Qdrant."""
    if not settings.BACKUPMGR_CHECK_SECONDS:
        return 0
    missing = Cluster.objects.filter(observation=None)
    ClusterObservation.objects.bulk_create(
        [ClusterObservation(cluster=cluster, next_check_at=now) for cluster in missing], ignore_conflicts=True
    )
    checked = 0
    # What lies further ahead than a check can was written before the clock was set back.
    too_far = now + 2 * timedelta(seconds=settings.BACKUPMGR_CHECK_SECONDS)
    due = Q(next_check_at__lte=now) | Q(next_check_at__gt=too_far)
    for row in ClusterObservation.objects.filter(due).select_related("cluster"):
        mine = ClusterObservation.objects.filter(pk=row.pk, next_check_at=row.next_check_at).update(
            next_check_at=now + timedelta(seconds=settings.BACKUPMGR_CHECK_SECONDS)
        )
        if mine:
            checked += 1
            try:
                observe_cluster(row.cluster, now=now)
            except Exception:
                logger.exception("The check of cluster %s failed", row.cluster.name)
    return checked


def observe_cluster(cluster: Cluster, *, now: datetime) -> ClusterObservation:
    """Ask the cluster and keep what it says; not being able to is kept as well. Raises: DatabaseError."""
    stale = ObservedCollection.objects.filter(cluster=cluster, gone_at=None).order_by(
        F("asked_at").asc(nulls_first=True), "name"
    )
    sight = look_at(cluster, list(stale.values_list("name", flat=True)[:FIGURES_PER_CHECK]))
    return keep(cluster, sight, now=now)


def look_at(cluster: Cluster, first: list[str]) -> Sight:
    """Ask the cluster; figures of new collections and of those in `first`. Nothing is written."""
    try:
        nodes = resolve_nodes(cluster, asks=1, timeout_seconds=REQUEST_SECONDS)
        nodes.demand_one_cluster()
        end = time.monotonic() + FIGURES_SECONDS
        with QdrantNode(replace(nodes.first, timeout_seconds=REQUEST_SECONDS)) as node:
            info = node.info()
            names = tuple(node.collections())
            aliases: dict[str, list[str]] = {}
            for alias, name in sorted(node.aliases().items()):
                aliases.setdefault(name, []).append(alias)
            there, figures = set(names), {}
            for name in _order(names, first):
                if time.monotonic() > end:
                    break
                if name in there:
                    figures[name] = _figures(node, name)
    except BackupmgrError as error:
        return Sight(problem=str(error))
    return Sight(
        version=info.version,
        nodes=_nodes(nodes.report),
        warnings=[{"message": problem.message, "is_error": problem.is_error} for problem in nodes.problems],
        raft=dict(info.cluster.get("raft_info") or {}),
        names=names,
        aliases=aliases,
        figures={name: found for name, found in figures.items() if found is not None},
    )


def keep(cluster: Cluster, sight: Sight, *, now: datetime) -> ClusterObservation:
    """Write down what was seen. A cluster that did not answer keeps its last known collections."""
    with transaction.atomic():
        row, _ = ClusterObservation.objects.select_for_update().get_or_create(
            cluster=cluster, defaults={"next_check_at": now}
        )
        row.tried_at = now
        if sight.problem:
            row.problem = sight.problem
            row.failing_since = row.failing_since or now
            row.save(update_fields=["tried_at", "problem", "failing_since"])
            return row
        row.seen_at, row.problem, row.failing_since = now, "", None
        row.version, row.nodes, row.warnings, row.raft = sight.version, sight.nodes, sight.warnings, sight.raft
        row.save()
        _keep_collections(cluster, sight, now)
    return row


def _keep_collections(cluster: Cluster, sight: Sight, now: datetime) -> None:
    mine = ObservedCollection.objects.filter(cluster=cluster)
    known = {found.name: found for found in mine}
    there = set(sight.names)
    mine_new = [
        ObservedCollection(cluster=cluster, name=name, first_seen_at=now, **_changes(sight, name, now))
        for name in sight.names
        if name not in known
    ]
    ObservedCollection.objects.bulk_create(mine_new, batch_size=_CHUNK, ignore_conflicts=True)
    for names in _chunks(name for name, row in known.items() if name not in there and row.gone_at is None):
        mine.filter(name__in=names).update(gone_at=now)
    back = [name for name, row in known.items() if name in there and row.gone_at is not None]
    for names in _chunks(back):
        mine.filter(name__in=names).update(gone_at=None, first_seen_at=now)
    changed = []
    for name, row in known.items():
        if name not in there:
            continue
        changes = _changes(sight, name, now)
        if name not in sight.figures and row.aliases == changes["aliases"]:
            continue
        for column, value in changes.items():
            setattr(row, column, value)
        changed.append(row)
    columns = ["points_count", "shard_count", "inactive_replicas", "status", "aliases", "asked_at"]
    ObservedCollection.objects.bulk_update(changed, columns, batch_size=100)


def _changes(sight: Sight, name: str, now: datetime) -> dict[str, Any]:
    changes: dict[str, Any] = {"aliases": sight.aliases.get(name, [])}
    found = sight.figures.get(name)
    if found is not None:
        changes |= {
            "points_count": found.points_count,
            "shard_count": found.shard_count,
            "inactive_replicas": found.inactive_replicas,
            "status": found.status,
            "asked_at": now,
        }
    return changes


def _order(names: tuple[str, ...], first: list[str]) -> list[str]:
    """The names in `first`, before them those that are new to us when there is room, at most FIGURES_PER_CHECK."""
    known = set(first)
    if len(first) < FIGURES_PER_CHECK:  # all known ones are in it: the others are new
        return ([name for name in names if name not in known] + first)[:FIGURES_PER_CHECK]
    return first


def _figures(node: QdrantNode, name: str) -> Figures | None:
    """Ask for one collection; None when it went away meanwhile, or cannot be read."""
    try:
        info, placement = node.collection(name), node.placement(name)
    except BackupmgrError:
        return None
    states = [shard.state for shard in placement.local_shards]
    states += [shard.state for shard in placement.remote_shards]
    return Figures(
        points_count=info.points_count,
        shard_count=placement.shard_count,
        inactive_replicas=sum(state != ACTIVE for state in states),
        status=info.status,
    )


def _nodes(report: ClusterReport) -> list[dict[str, Any]]:
    """The rows of the report; peer ids as text, since some are larger than JavaScript's numbers."""
    return [
        {
            "peer_id": "" if node.peer_id is None else str(node.peer_id),
            "url": node.url,
            "uri": node.uri,
            "version": node.version or "",
            "role": "standalone" if not report.distributed else "leader" if node.is_leader else "follower",
            "is_usable": node.is_usable,
        }
        for node in report.nodes
    ]


def _chunks(names: Iterable[str]) -> Iterable[list[str]]:
    every = list(names)
    return (every[start : start + _CHUNK] for start in range(0, len(every), _CHUNK))


def contact_lost_after() -> timedelta:
    """How old the last contact may be before nobody can vouch for the cluster: three checks, five minutes at least."""
    return timedelta(seconds=max(300.0, 3 * settings.BACKUPMGR_CHECK_SECONDS))
