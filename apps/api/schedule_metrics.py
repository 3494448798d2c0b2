"""Figures of schedules, retention and alerts for Prometheus: the same verdict that pages and API show."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db.models import Count, Max, Min, Q
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily

from apps.alerts.models import AlertClock, Channel, DeliveryState
from apps.alerts.outbox import DEAD_DELIVERIES
from apps.alerts.target_states import TargetStanding, TargetState, read_targets
from apps.backups.leftovers import DELETE_FAILURES
from apps.backups.models import Backup, BackupStatus
from apps.backups.policies import RetentionPolicy
from apps.core.tally import all_tallies
from apps.protection.judge import Verdict
from apps.schedules.models import Clock, RetentionStatus, Schedule
from apps.schedules.tallies import RUN_COUNT, RUN_MILLISECONDS, RUNS
from apps.storage.observed import StorageObservation

_TARGET = ["schedule", "cluster", "collection"]
#: By name and (about, result): apps/core/tally.py.
Figures = dict[str, dict[tuple[str, str], int]]


def schedule_metrics(verdict: Verdict, *, now: datetime) -> Iterator[Metric]:
    """Everything that the verdict alone does not tell. A fixed number of queries."""
    live = Schedule.objects.live().select_related("cluster").order_by("name", "id")
    schedules = list(live.only("name", "error", "enabled", "paused_at", "next_run_at", "cluster__name"))
    yield from _schedules(schedules)
    yield from _targets(verdict, schedules, now)
    figures = all_tallies()
    yield from _runs(schedules, figures)
    yield from _retention(figures)
    yield from _deliveries(figures)
    yield _storages()
    yield from _tick(schedules, now)


def _schedules(schedules: list[Schedule]) -> Iterator[Metric]:
    info = GaugeMetricFamily(
        "backupmgr_schedule_info", "1 for the state that the schedule is in", labels=["schedule", "cluster", "state"]
    )
    paused = GaugeMetricFamily(
        "backupmgr_schedule_paused_timestamp_seconds",
        "Since when the schedule is paused",
        labels=["schedule", "cluster"],
    )
    for row in schedules:
        state = "broken" if row.error else "off" if not row.enabled else "paused" if row.is_paused else "on"
        info.add_metric([row.name, row.cluster.name, state], 1)
        if row.paused_at is not None:
            paused.add_metric([row.name, row.cluster.name], row.paused_at.timestamp())
    yield from (info, paused)


def _targets(verdict: Verdict, schedules: list[Schedule], now: datetime) -> Iterator[Metric]:
    """By collection; above BACKUPMGR_METRICS_MAX_TARGETS by schedule, the worst standing for all of its collections."""
    targets = read_targets(verdict, now=now)
    by_schedule = len(targets) > settings.BACKUPMGR_METRICS_MAX_TARGETS
    deadline = GaugeMetricFamily(
        "backupmgr_target_deadline_timestamp_seconds", "By when the next backup has to be there", labels=_TARGET
    )
    verified = GaugeMetricFamily(
        "backupmgr_target_last_verified_timestamp_seconds", "When a backup was last tested", labels=_TARGET
    )
    states = GaugeMetricFamily(
        "backupmgr_target_state", "1 for the state that the target is in", labels=[*_TARGET, "state"]
    )
    counts = GaugeMetricFamily(
        "backupmgr_targets", "Targets by schedule and state", labels=["schedule", "cluster", "state"]
    )
    groups: dict[tuple[str, ...], list[TargetStanding]] = defaultdict(list)
    for one in targets:
        groups[(one.schedule, one.cluster, "" if by_schedule else one.collection)].append(one)
        if not by_schedule:
            states.add_metric([one.schedule, one.cluster, one.collection, one.state], 1)
    for labels, group in groups.items():
        deadlines = [one.deadline_at for one in group if one.deadline_at is not None]
        tests = [one.tested_at for one in group if one.tested_at is not None]
        if deadlines:
            deadline.add_metric(labels, min(deadlines).timestamp())
        if len(tests) == len(group):
            verified.add_metric(labels, min(tests).timestamp())
    numbers = Counter((one.schedule_id, one.state) for one in targets)
    many = len(schedules) > settings.BACKUPMGR_METRICS_MAX_TARGETS
    for row in schedules:
        for state in TargetState:
            if many and not numbers[(str(row.pk), state)]:
                continue  # of thousands of schedules only what there is
            counts.add_metric([row.name, row.cluster.name, state], numbers[(str(row.pk), state)])
    yield from (deadline, verified, states, counts)
    yield _last_success(schedules, by_schedule)


def _last_success(schedules: list[Schedule], by_schedule: bool) -> Metric:
    family = GaugeMetricFamily(
        "backupmgr_target_last_success_timestamp_seconds",
        "When the data of the newest good backup by the schedule was read",
        labels=[*_TARGET, "storage"],
    )
    names = {row.pk: (row.name, row.cluster.name) for row in schedules}
    good = Backup.objects.filter(
        schedule_id__isnull=False, shard_id=None, expired_at=None, status=BackupStatus.COMPLETED
    ).order_by()
    newest: dict[tuple[str, ...], list[datetime]] = defaultdict(list)
    rows = good.values_list("schedule_id", "collection_name", "storage__name").annotate(at=Max("started_at"))
    for schedule_id, collection, storage, at in rows:
        if schedule_id in names:
            newest[(*names[schedule_id], "" if by_schedule else collection, storage)].append(at)
    for labels, moments in newest.items():
        family.add_metric(labels, min(moments).timestamp())
    return family


def _runs(schedules: list[Schedule], figures: Figures) -> Iterator[Metric]:
    names = {str(row.pk): [row.name, row.cluster.name] for row in schedules}
    runs = CounterMetricFamily("backupmgr_runs", "Runs by what came of them", labels=["schedule", "cluster", "result"])
    for (about, result), number in sorted(figures[RUNS].items()):
        if about in names:
            runs.add_metric([*names[about], result], number)
    took = SummaryMetricFamily(
        "backupmgr_run_duration_seconds", "How long runs took, from firing to end", labels=["schedule", "cluster"]
    )
    counts, milliseconds = figures[RUN_COUNT], figures[RUN_MILLISECONDS]
    for about, labels in names.items():
        took.add_metric(labels, counts.get((about, ""), 0), milliseconds.get((about, ""), 0) / 1000)
    yield from (runs, took)


def _retention(figures: Figures) -> Iterator[Metric]:
    last = GaugeMetricFamily(
        "backupmgr_retention_last_run_timestamp_seconds", "When retention last looked at the policy", labels=["policy"]
    )
    # Nobody looks at a policy that holds no backup: it must not seem forgotten.
    held = Backup.objects.filter(policy__isnull=False, expired_at=None).exclude(status=BackupStatus.DELETING)
    policies = RetentionPolicy.objects.filter(pk__in=held.order_by().values("policy").distinct())
    looked = Max("runs__created_at", filter=~Q(runs__status=RetentionStatus.FAILED))
    for policy, at, updated_at in policies.annotate(at=looked).values_list("name", "at", "updated_at"):
        # Where no look ever succeeded the time counts from when the policy was written: it must not seem to be well.
        last.add_metric([policy], (at or updated_at).timestamp())
    yield last
    pending = Backup.objects.filter(Q(expired_at__isnull=False) | Q(status=BackupStatus.DELETING)).count()
    yield GaugeMetricFamily(
        "backupmgr_retention_pending_deletes", "Backups that have been let go and are not deleted yet", pending
    )
    yield CounterMetricFamily(
        "backupmgr_retention_delete_failures",
        "Fruitless tries to delete a backup",
        sum(figures[DELETE_FAILURES].values()),
    )


def _deliveries(figures: Figures) -> Iterator[Metric]:
    pending = GaugeMetricFamily(
        "backupmgr_deliveries_pending", "Messages that wait to be delivered", labels=["channel"]
    )
    dead = CounterMetricFamily("backupmgr_deliveries_dead", "Messages that were given up", labels=["channel"])
    waits = Q(deliveries__state__in=(DeliveryState.PENDING, DeliveryState.SENDING))
    given_up = figures[DEAD_DELIVERIES]
    for channel in Channel.objects.annotate(waiting=Count("deliveries", filter=waits)).order_by("name"):
        waiting: Any = channel.waiting
        pending.add_metric([channel.name], waiting)
        dead.add_metric([channel.name], given_up.get((str(channel.pk), ""), 0))
    yield from (pending, dead)


def _storages() -> Metric:
    family = GaugeMetricFamily(
        "backupmgr_storage_last_contact_timestamp_seconds",
        "When the storage last answered (0: never)",
        labels=["storage"],
    )
    looks = StorageObservation.objects.filter(tried_at__isnull=False).order_by("storage__name")
    for name, at in looks.values_list("storage__name", "seen_at"):
        family.add_metric([name], at.timestamp() if at else 0)
    return family


def _tick(schedules: list[Schedule], now: datetime) -> Iterator[Metric]:
    tick = Clock.objects.aggregate(at=Min("last_tick_at"))["at"]
    family = GaugeMetricFamily("backupmgr_tick_last_timestamp_seconds", "When a worker last looked for what is due")
    # Never is as bad as long ago: a figure, so that no rule has to ask whether there is one.
    family.add_metric([], tick.timestamp() if tick else 0)
    yield family
    due = [row.next_run_at for row in schedules if row.enabled and row.next_run_at and row.next_run_at <= now]
    lag = (now - min(due)).total_seconds() if due else 0.0
    yield GaugeMetricFamily("backupmgr_tick_lag_seconds", "How late the run is that should have fired first", lag)
    looked = AlertClock.objects.aggregate(at=Min("looked_at"))["at"]
    family = GaugeMetricFamily("backupmgr_alerts_last_look_timestamp_seconds", "When what is wrong was last looked for")
    family.add_metric([], looked.timestamp() if looked else 0)
    yield family
