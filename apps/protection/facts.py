"""What the verdict is made of, read from the database: a fixed number of queries, whatever there is."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from django.db.models import Max, OuterRef, Q, QuerySet, Subquery

from apps.backups.models import Backup, BackupStatus
from apps.clusters.models import Cluster, ObservedCollection
from apps.clusters.observations import contact_lost_after
from apps.jobs.health import worker_state
from apps.jobs.models import Job
from apps.jobs.states import JobStatus, JobType
from apps.protection.expectations import Expectation, by_age, earlier, expectations
from apps.protection.judge import ClusterFacts, CollectionFacts, Facts, Failure, Good, Verdict, judge
from apps.schedules.ages import Age, read_ages
from apps.schedules.clock import tick_problem
from apps.storage.models import StorageConfig

T = TypeVar("T")

BAD = (BackupStatus.DAMAGED, BackupStatus.MISSING)
#: Keys in one statement: fewer than any database takes, and one statement for nearly all installations.
_CHUNK = 10_000
#: The menu's badge and the page's icon may lag that far behind; the first page, the API and /metrics do not.
CACHE_SECONDS = 5.0

_lock = threading.Lock()
_cached: tuple[float, Verdict] | None = None


def verdict_now(now: datetime) -> Verdict:
    """Judge by what the database says now, and remember it for the pages that only show a badge."""
    global _cached
    found = judge(read_facts(now))
    with _lock:
        _cached = (time.monotonic(), found)
    return found


def recent_verdict(now: datetime) -> Verdict:
    """A verdict that is at most CACHE_SECONDS old: for every page's frame."""
    with _lock:
        cached = _cached
    if cached is not None and time.monotonic() - cached[0] < CACHE_SECONDS:
        return cached[1]
    return verdict_now(now)


def verdict_since(since: float, now: datetime) -> Verdict:
    """The verdict that was made at or after `since` (of time.monotonic), else a new one."""
    with _lock:
        cached = _cached
    return cached[1] if cached is not None and cached[0] >= since else verdict_now(now)


def forget_verdict() -> None:
    """Judge anew at the next page: something has changed that its reader will look for."""
    global _cached
    with _lock:
        _cached = None


def read_facts(now: datetime) -> Facts:
    """Read everything. A collection is one that was seen on a cluster; of a cluster that has never answered it is one
    that has a backup."""
    clusters = list(Cluster.objects.select_related("observation").order_by("name"))
    seen = {cluster.pk: _cluster_facts(cluster, now) for cluster in clusters}
    expected = expectations(now)
    own_ages = read_ages()
    workers = worker_state(now)
    ages = {cluster.pk: cluster.max_backup_age_hours for cluster in clusters}
    rows = list(_rows(clusters))
    backups = _backups({row["newest_good"] for row in rows} | {row["newest"] for row in rows})
    jobs = _jobs({row["newest_job"] for row in rows})
    damaged: dict[UUID, int] = defaultdict(int)
    collections = []
    for row in rows:
        good, newest = backups.get(row["newest_good"]), backups.get(row["newest"])
        collections.append(_collection(row, good, newest, jobs.get(row["newest_job"]), seen, expected, ages, own_ages))
        if newest is not None and newest["status"] in BAD:
            damaged[newest["pk"]] = 1
    bad = Backup.objects.filter(status__in=BAD).count() - len(damaged)
    upcoming = [one.next_run_at for one in expected.values() if one.next_run_at and one.next_run_at > now]
    return Facts(
        now=now,
        clusters=tuple(seen.values()),
        storages=StorageConfig.objects.count(),
        collections=tuple(collections),
        workers_alive=workers.alive,
        workers_sentence=workers.sentence,
        waiting_jobs=Job.objects.filter(status=JobStatus.PENDING).count(),
        tick_problem=tick_problem(now) if workers.alive else "",
        damaged_backups=max(0, bad),
        next_backup_at=min(upcoming, default=None),
    )


def annotate_collections(rows: QuerySet[ObservedCollection]) -> QuerySet[ObservedCollection]:
    """Add to each collection the ids of its newest backup, its newest good one, and the job that ended last; and when
    a backup of it was last tested and last proven by a restore. Each is one step into an index."""
    backups = Backup.objects.filter(
        cluster=OuterRef("cluster"), collection_name=OuterRef("name"), shard_id=None, expired_at=None
    )
    newest = backups.order_by("-created_at")
    ended = Job.objects.filter(
        cluster=OuterRef("cluster"), collection_name=OuterRef("name"), type=JobType.BACKUP,
        status__in=(JobStatus.COMPLETED, JobStatus.FAILED),
    ).order_by("-completed_at")  # fmt: skip
    good = newest.filter(status=BackupStatus.COMPLETED)
    tested = backups.filter(checked_at__isnull=False, status=BackupStatus.COMPLETED).order_by("-checked_at")
    proven = backups.filter(restored_at__isnull=False, status=BackupStatus.COMPLETED).order_by("-restored_at")
    return rows.annotate(
        newest=Subquery(newest.exclude(status=BackupStatus.DELETING).values("pk")[:1]),
        newest_good=Subquery(good.values("pk")[:1]),
        newest_job=Subquery(ended.values("pk")[:1]),
        tested_at=Subquery(tested.values("checked_at")[:1]),
        proven_at=Subquery(proven.values("restored_at")[:1]),
    )


_COLUMNS = (
    "cluster_id", "name", "points_count", "shard_count", "first_seen_at", "newest", "newest_good", "newest_job",
    "tested_at", "proven_at",
)  # fmt: skip


def _rows(clusters: list[Cluster]) -> Iterator[dict[str, Any]]:
    seen = ObservedCollection.objects.filter(gone_at=None).order_by("cluster", "name")
    yield from annotate_collections(seen).values(*_COLUMNS)
    yield from _never_seen([cluster.pk for cluster in clusters if _seen_at(cluster) is None])


def _never_seen(clusters: list[UUID]) -> Iterator[dict[str, Any]]:
    """Of clusters that have never told of collections: those that have backups are known to have been there."""
    held = Backup.objects.filter(cluster__in=clusters, shard_id=None, expired_at=None)
    held = held.exclude(status=BackupStatus.DELETING).order_by()
    good = Q(status=BackupStatus.COMPLETED)
    groups = list(
        held.values("cluster_id", "collection_name").annotate(
            last=Max("created_at"),
            last_good=Max("created_at", filter=good),
            tested_at=Max("checked_at", filter=good),
            proven_at=Max("restored_at", filter=good),
        )
        if clusters
        else ()
    )
    moments = {moment for group in groups for moment in (group["last"], group["last_good"])}
    ids = {}
    for chunk in _chunks(moments):
        for row in held.filter(created_at__in=chunk).values_list("cluster_id", "collection_name", "created_at", "pk"):
            ids[row[:3]] = row[3]
    for group in groups:
        key = (group["cluster_id"], group["collection_name"])
        yield {
            "cluster_id": group["cluster_id"], "name": group["collection_name"], "points_count": None,
            "shard_count": None, "first_seen_at": None, "newest": ids.get((*key, group["last"])),
            "newest_good": ids.get((*key, group["last_good"])), "newest_job": None,
            "tested_at": group["tested_at"], "proven_at": group["proven_at"],
        }  # fmt: skip


def _collection(
    row: dict[str, Any],
    good: dict[str, Any] | None,
    newest: dict[str, Any] | None,
    job: dict[str, Any] | None,
    clusters: dict[UUID, ClusterFacts],
    expected: dict[tuple[str, str], Expectation],
    ages: dict[UUID, int],
    own_ages: dict[tuple[UUID, str], Age],
) -> CollectionFacts:
    cluster = clusters[row["cluster_id"]]
    held = None
    if good is not None:
        held = Good(
            str(good["pk"]), good["started_at"], good["created_at"], good["size_bytes"], good["points_count"]
        )  # fmt: skip
    expectation = expected.get((cluster.cluster_id, row["name"]))
    own = own_ages.get((row["cluster_id"], row["name"]))
    max_age = None
    if own is not None:
        # What somebody set for this collection counts whatever schedules do; the earlier of the two is due.
        max_age = timedelta(hours=own.hours)
        aged = Expectation(held.data_at + max_age, own.words) if held else Expectation(None)
        expectation = earlier(aged, expectation)
    elif expectation is None:
        max_age = timedelta(hours=ages[row["cluster_id"]])
        expectation = by_age(held.data_at, ages[row["cluster_id"]]) if held else Expectation(None)
    return CollectionFacts(
        cluster_id=cluster.cluster_id,
        cluster=cluster.name,
        name=row["name"],
        newest=held,
        failure=_failure(held, newest, job),
        expected_by=expectation.expected_by,
        expectation=expectation.words,
        max_age=max_age,
        first_seen_at=row["first_seen_at"],
        tested_at=row["tested_at"],
        proven_at=row["proven_at"],
        points_count=row["points_count"],
        shard_count=row["shard_count"],
    )


def _failure(good: Good | None, newest: dict[str, Any] | None, job: dict[str, Any] | None) -> Failure | None:
    """What went wrong since the newest good backup was made; None when nothing did."""
    if job is not None and job["status"] == JobStatus.FAILED and (good is None or job["completed_at"] > good.made_at):
        return Failure(job["completed_at"], job["error"] or "The last backup failed.", job_id=str(job["pk"]))
    if newest is not None and newest["status"] in BAD:
        reason = newest["status_reason"] or f"It is {newest['status']}."
        return Failure(newest["created_at"], f"The newest backup is no good: {reason}", backup_id=str(newest["pk"]))
    return None


def _cluster_facts(cluster: Cluster, now: datetime) -> ClusterFacts:
    at = _seen_at(cluster)
    return ClusterFacts(
        cluster_id=str(cluster.pk),
        name=cluster.name,
        seen_at=at,
        in_touch=at is not None and now - at <= contact_lost_after(),
        problem=cluster.observation.problem if hasattr(cluster, "observation") else "",
    )


def _seen_at(cluster: Cluster) -> datetime | None:
    return cluster.observation.seen_at if hasattr(cluster, "observation") else None


def _backups(ids: Iterable[UUID | None]) -> dict[UUID | None, dict[str, Any]]:
    columns = ("pk", "status", "status_reason", "started_at", "created_at", "size_bytes", "points_count")
    return {row["pk"]: row for chunk in _chunks(ids) for row in Backup.objects.filter(pk__in=chunk).values(*columns)}


def _jobs(ids: Iterable[UUID | None]) -> dict[UUID | None, dict[str, Any]]:
    columns = ("pk", "status", "completed_at", "error")
    return {row["pk"]: row for chunk in _chunks(ids) for row in Job.objects.filter(pk__in=chunk).values(*columns)}


def _chunks(ids: Iterable[T | None]) -> Iterator[list[T]]:
    every = [one for one in ids if one is not None]
    return (every[start : start + _CHUNK] for start in range(0, len(every), _CHUNK))
