"""Coverage: every collection with the schedules that mean it, what is held of it, and where; and the orphaned ones, of
which only backups are left. Read, never stored."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from django.db.models import Count, Max, Min, Q, Sum

from apps.backups.models import Backup, BackupStatus
from apps.clusters.models import ObservedCollection
from apps.protection.facts import recent_verdict
from apps.protection.judge import Standing, Verdict
from apps.schedules.coverage import Covering, covering_schedules


class Gap(StrEnum):
    """What a collection may lack."""

    UNPROTECTED = "unprotected"  # never backed up
    UNSCHEDULED = "unscheduled"  # no enabled schedule means it
    STALE = "stale"  # older than it may be
    NEVER_VERIFIED = "never_verified"
    PAUSED = "paused"  # all schedules that mean it are paused


#: Asked for beside the gaps: collections that are gone from their clusters, or whose clusters are gone, while backups
#: of them stay.
ORPHANED = "orphaned"


@dataclass(frozen=True)
class Coverage:
    """One collection. `storages` hold a good backup of the whole of it; `expires_at` is when the next one goes."""

    standing: Standing
    schedules: tuple[Covering, ...]
    storages: tuple[str, ...]
    expires_at: datetime | None
    gaps: tuple[Gap, ...]


@dataclass
class Orphaned:
    """A collection that is on no cluster any more, and what is left of it.

    `cluster_id` is None when the cluster is gone as well; `gone_at` is None when nobody saw it go.
    """

    cluster_id: UUID | None
    cluster: str
    name: str
    gone_at: datetime | None = None
    backups: int = 0
    size_bytes: int = 0
    last_good_at: datetime | None = None
    tested_at: datetime | None = None
    proven_at: datetime | None = None
    expires_at: datetime | None = None
    storages: tuple[str, ...] = ()


_lock = threading.Lock()
_kept: tuple[Verdict, list[Coverage]] | None = None


def recent_coverage(now: datetime) -> tuple[Verdict, list[Coverage]]:
    """Return a verdict that may be some seconds old, as every page's frame shows it, and the coverage of that moment:
    who sorts and filters the page does not wait for all collections to be judged at each click."""
    global _kept
    verdict = recent_verdict(now)
    with _lock:
        kept = _kept
    if kept is None or kept[0] is not verdict:
        kept = (verdict, read_coverage(verdict, now))
        with _lock:
            _kept = kept
    return kept


def count_orphaned(verdict: Verdict) -> dict[UUID | None, int]:
    """How many `read_orphaned` returns, by cluster: one query."""
    known = {_key(standing) for standing in verdict.standings}
    rows = Backup.objects.exclude(status=BackupStatus.DELETING).order_by()
    keys = {
        (cluster_id, "" if cluster_id else cluster, name)
        for cluster_id, cluster, name in rows.values_list("cluster", "cluster_name", "collection_name").distinct()
        if (cluster_id, name) not in known
    }
    return Counter(cluster_id for cluster_id, _, _ in keys)


def read_orphaned(verdict: Verdict) -> list[Orphaned]:
    """Return the collections that have backups and are on no cluster, by name: two queries."""
    known = {_key(standing) for standing in verdict.standings}
    gone = ObservedCollection.objects.filter(gone_at__isnull=False).values_list("cluster", "name", "gone_at")
    gone_at = {(cluster_id, name): at for cluster_id, name, at in gone}
    good = Q(status=BackupStatus.COMPLETED)
    rows = (
        Backup.objects.exclude(status=BackupStatus.DELETING)
        .order_by()
        .values_list("cluster", "cluster_name", "collection_name", "storage__name")
        .annotate(
            Count("pk"),
            Sum("size_bytes"),
            last_good=Max("started_at", filter=good & Q(shard_id=None)),
            tested=Max("checked_at", filter=good),
            proven=Max("restored_at", filter=good),
            expires=Min("delete_at"),
        )
    )
    found: dict[tuple[UUID | str, str], Orphaned] = {}
    for cluster_id, cluster, name, storage, count, size, last_good, tested, proven, expires in rows:
        if (cluster_id, name) in known:
            continue
        one = found.setdefault((cluster_id or cluster, name), Orphaned(cluster_id, cluster, name))
        one.gone_at = gone_at.get((cluster_id, name))
        one.backups += count
        one.size_bytes += size or 0
        one.storages = tuple(sorted({*one.storages, storage}))
        one.last_good_at = max(filter(None, (one.last_good_at, last_good)), default=None)
        one.tested_at = max(filter(None, (one.tested_at, tested)), default=None)
        one.proven_at = max(filter(None, (one.proven_at, proven)), default=None)
        one.expires_at = min(filter(None, (one.expires_at, expires)), default=None)
    return sorted(found.values(), key=lambda one: (one.cluster, one.name))


def read_coverage(verdict: Verdict, now: datetime) -> list[Coverage]:
    """Return all collections, those without any backup first, then those without a schedule, then as the verdict has
    them: four queries, whatever there is."""
    keys = [_key(standing) for standing in verdict.standings]
    covered = covering_schedules(keys)
    held = Backup.objects.filter(cluster__isnull=False, shard_id=None).order_by()
    good = held.filter(status=BackupStatus.COMPLETED, expired_at=None)
    storages: dict[tuple[UUID | None, str], list[str]] = defaultdict(list)
    for cluster_id, name, storage in good.values_list("cluster", "collection_name", "storage__name").distinct():
        storages[(cluster_id, name)].append(storage)
    going = held.filter(delete_at__isnull=False).values_list("cluster", "collection_name").annotate(at=Min("delete_at"))
    expires = {(cluster_id, name): at for cluster_id, name, at in going}
    found = []
    for key, standing in zip(keys, verdict.standings, strict=True):
        schedules = covered.get(key, ())
        found.append(
            Coverage(
                standing=standing,
                schedules=schedules,
                storages=tuple(sorted(storages.get(key, ()))),
                expires_at=expires.get(key),
                gaps=tuple(_gaps(standing, schedules, now)),
            )
        )
    order = {Gap.UNPROTECTED: 0, Gap.UNSCHEDULED: 1}
    return sorted(found, key=lambda one: order.get(one.gaps[0], 2) if one.gaps else 2)


def _key(standing: Standing) -> tuple[UUID, str]:
    return UUID(standing.facts.cluster_id), standing.facts.name


def _gaps(standing: Standing, schedules: tuple[Covering, ...], now: datetime) -> Iterable[Gap]:
    facts = standing.facts
    if facts.newest is None:
        yield Gap.UNPROTECTED
    if not schedules:
        yield Gap.UNSCHEDULED
    elif all(one.is_paused for one in schedules):
        yield Gap.PAUSED
    # Not by the state: what fails as well is no less too old.
    if facts.newest is not None and facts.expected_by is not None and now > facts.expected_by:
        yield Gap.STALE
    if facts.newest is not None and not (facts.tested_at or facts.proven_at):
        yield Gap.NEVER_VERIFIED
