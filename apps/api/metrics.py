"""Figures for Prometheus, read from the database when they are asked for: no state in the web processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime

from django.db.models import Avg, Count, Max, Min, Sum
from django.http import HttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector
from rest_framework.request import Request

from apps.api.envelope import AnyAccept
from apps.api.schedule_metrics import schedule_metrics
from apps.api.schema import operation
from apps.api.views import ApiView
from apps.backups.models import Backup, Leftover, Orphan, OrphanState
from apps.core.db_time import EpochSeconds
from apps.core.permissions import Scope
from apps.jobs.models import Job
from apps.jobs.states import BACKUP_TYPES, JobStatus, JobType
from apps.protection.facts import read_facts
from apps.protection.judge import WORST_FIRST, Facts, State, Verdict, judge

_TEXT = OpenApiResponse(OpenApiTypes.STR, description="Prometheus text exposition format")


class MetricsView(ApiView):
    scopes = {"GET": Scope.READ}
    content_negotiation_class = AnyAccept

    @operation("getMetrics", "Figures for Prometheus", tag="metrics", also={(200, "text/plain"): _TEXT})
    def get(self, request: Request) -> HttpResponse:
        registry = CollectorRegistry()
        registry.register(DatabaseCollector(timezone.now()))
        return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_PLAIN_0_0_4)


class RootMetricsView(MetricsView):
    """The same where scrapers look first."""

    schema = None


class DatabaseCollector(Collector):
    """Jobs, backups, queue and workers as they are now."""

    def __init__(self, now: datetime) -> None:
        self._now = now

    def describe(self) -> list[Metric]:
        return []  # registering must not read the database

    def collect(self) -> Iterator[Metric]:
        yield from self._jobs()
        yield from self._finished_jobs()
        yield from self._backups()
        verdict = judge(facts := read_facts(self._now))
        yield from self._protection(facts, verdict)
        yield from schedule_metrics(verdict, now=self._now)
        oldest = Job.objects.due(self._now).aggregate(oldest=Min("not_before"))["oldest"]
        waited = (self._now - oldest).total_seconds() if oldest else 0.0
        yield GaugeMetricFamily("backupmgr_queue_age_seconds", "How long the oldest due job has waited", waited)
        yield GaugeMetricFamily("backupmgr_workers_alive", "Workers seen lately", facts.workers_alive)

    def _protection(self, facts: Facts, verdict: Verdict) -> Iterator[Metric]:
        """The verdict of the overview: the same function on the same facts."""
        overall = GaugeMetricFamily(
            "backupmgr_protection_state", "1 for the state that everything together is in", labels=["state"]
        )
        for state in State:
            overall.add_metric([state], state == verdict.state)
        yield overall
        collections = GaugeMetricFamily(
            "backupmgr_collections", "Collections by cluster and protection state", labels=["cluster", "state"]
        )
        counts = Counter((standing.facts.cluster, standing.state) for standing in verdict.standings)
        contact = GaugeMetricFamily(
            "backupmgr_cluster_last_contact_timestamp_seconds", "When the cluster last answered", labels=["cluster"]
        )
        for cluster in facts.clusters:
            for state in WORST_FIRST:
                collections.add_metric([cluster.name, state], counts[(cluster.name, state)])
            if cluster.seen_at is not None:
                contact.add_metric([cluster.name], cluster.seen_at.timestamp())
        yield from (collections, contact)
        good = GaugeMetricFamily(
            "backupmgr_collection_last_good_timestamp_seconds",
            "When the data of the newest good backup was read",
            labels=["cluster", "collection"],
        )
        rpo = GaugeMetricFamily(
            "backupmgr_collection_rpo_seconds",
            "How old the newest good backup may be, where not only a schedule's deadline says so",
            labels=["cluster", "collection"],
        )
        for standing in verdict.standings:
            labels = [standing.facts.cluster, standing.facts.name]
            if standing.facts.newest is not None:
                good.add_metric(labels, standing.facts.newest.data_at.timestamp())
            if standing.facts.max_age is not None:
                rpo.add_metric(labels, standing.facts.max_age.total_seconds())
        yield from (good, rpo)
        unprotected = GaugeMetricFamily(
            "backupmgr_collections_unprotected", "Collections that have never been backed up", labels=["cluster"]
        )
        untested = GaugeMetricFamily(
            "backupmgr_collections_never_verified", "Backed up, and no backup was ever tested", labels=["cluster"]
        )
        never = Counter(
            standing.facts.cluster
            for standing in verdict.standings
            if standing.facts.newest and not (standing.facts.tested_at or standing.facts.proven_at)
        )
        for cluster in facts.clusters:
            unprotected.add_metric([cluster.name], counts[(cluster.name, State.UNPROTECTED)])
            untested.add_metric([cluster.name], never[cluster.name])
        yield from (unprotected, untested)

    def _jobs(self) -> Iterator[Metric]:
        jobs = GaugeMetricFamily("backupmgr_jobs", "Jobs by type and status", labels=["type", "status"])
        counts = Job.objects.order_by().values_list("type", "status").annotate(Count("pk"))
        known = {(job_type, status): count for job_type, status, count in counts}
        for job_type in JobType.values:
            for status in JobStatus.values:
                jobs.add_metric([job_type, status], known.get((job_type, status), 0))
        yield jobs

    def _finished_jobs(self) -> Iterator[Metric]:
        duration = GaugeMetricFamily(
            "backupmgr_job_duration_seconds_avg", "Mean duration of completed jobs", labels=["type"]
        )
        moved = GaugeMetricFamily("backupmgr_job_bytes", "Bytes moved by completed jobs", labels=["type"])
        # A batch moves nothing itself: its children are counted.
        completed = Job.objects.filter(status=JobStatus.COMPLETED, is_batch=False).order_by()
        figures = completed.values_list("type").annotate(
            mean=Avg(EpochSeconds("completed_at") - EpochSeconds("started_at")), size=Sum("bytes_done")
        )
        for job_type, mean, size in figures:
            if mean is not None:
                duration.add_metric([job_type], round(mean, 3))
            moved.add_metric([job_type], size or 0)
        yield from (duration, moved)
        last = GaugeMetricFamily(
            "backupmgr_last_success_timestamp_seconds",
            "When a backup of the collection last completed",
            labels=["cluster", "collection"],
        )
        backups = completed.filter(type__in=BACKUP_TYPES)
        for cluster, collection, at in backups.values_list("cluster__name", "collection_name").annotate(
            Max("completed_at")
        ):
            if at is not None:
                last.add_metric([cluster, collection], at.timestamp())
        yield last

    def _backups(self) -> Iterator[Metric]:
        labels = ["storage", "status"]
        count = GaugeMetricFamily("backupmgr_backups", "Backups by storage and status", labels=labels)
        size = GaugeMetricFamily("backupmgr_backup_bytes", "Bytes of backups by storage and status", labels=labels)
        figures = Backup.objects.order_by().values_list("storage__name", "status")
        for storage, status, number, total in figures.annotate(Count("pk"), Sum("size_bytes")):
            count.add_metric([storage, status], number)
            size.add_metric([storage, status], total or 0)
        yield from (count, size)
        orphans = Orphan.objects.filter(state=OrphanState.OPEN).count()
        yield GaugeMetricFamily(
            "backupmgr_orphans", "What was left behind or got lost and waits for a decision", orphans
        )
        waiting = Leftover.objects.count()
        yield GaugeMetricFamily("backupmgr_leftovers", "What has to be removed and is not gone yet", waiting)
