"""Settle: look after runs that have not ended: their items follow their jobs, and the last one ends the run."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Exists, OuterRef, Q
from django_q.models import OrmQ
from django_q.tasks import async_task

from apps.jobs.models import Job
from apps.jobs.services import JobHasEnded, JobNotFound, cancel_job
from apps.jobs.states import ENDED, JobStatus
from apps.schedules.advance import windows_of
from apps.schedules.fire import poke
from apps.schedules.models import Blackout, ItemStatus, OnRunning, RunItem, RunStatus, Schedule, ScheduleRun
from apps.schedules.tallies import count_ended
from apps.schedules.timing.slots import covered_at
from apps.schedules.timing.spec import TimingInvalid

#: A run that nobody has begun to expand after this gets another delivery.
POKE_AGAIN = timedelta(seconds=10)
#: Dotted, so that the queue holds a name: retention of the backups of a policy, after new ones have come.
RETAIN = "apps.schedules.retention.work.after_backups"


def settle_runs(*, now: datetime) -> int:
    """Look after all open runs; return how many ended. One query when there is none. Raises: DatabaseError."""
    if not ScheduleRun.objects.open().exists():
        return 0
    _deliver_again(now)
    _cancel_in_blackouts(now)
    _settle_items(now)
    waits = RunItem.objects.filter(run=OuterRef("pk"), status=ItemStatus.QUEUED)
    over = ScheduleRun.objects.filter(~Exists(waits), status=RunStatus.RUNNING)
    return sum(_close(run, now) for run in over.select_related("schedule"))


def _settle_items(now: datetime) -> None:
    """Each change is one conditional UPDATE: any number of tickers may do the same."""
    queued = RunItem.objects.filter(status=ItemStatus.QUEUED, run__status=RunStatus.RUNNING)
    ended = queued.filter(Q(job__status__in=ENDED) | Q(job=None)).select_related("job")
    for item in ended:
        status, message = _outcome(item.job)
        RunItem.objects.filter(pk=item.pk, status=ItemStatus.QUEUED).update(
            status=status, message=message, settled_at=now
        )


def _outcome(job: Job | None) -> tuple[ItemStatus, str]:
    if job is None:
        return ItemStatus.FAILED, "Its job is gone."
    if job.status == JobStatus.COMPLETED:
        return ItemStatus.OK, ""
    if job.status == JobStatus.CANCELLED:
        return ItemStatus.CANCELLED, job.error or "Cancelled."
    if job.attempt == 0:
        return ItemStatus.EXPIRED, job.error
    return ItemStatus.FAILED, job.error


def _close(run: ScheduleRun, now: datetime) -> bool:
    counts = Counter(run.items.values_list("status", flat=True))
    status = verdict(counts)
    with transaction.atomic():
        changed = ScheduleRun.objects.filter(pk=run.pk, status=RunStatus.RUNNING).update(
            status=status, completed_at=now, counts=dict(counts), error=_sentence(run, status)
        )
        if changed:
            run.status, run.completed_at = status, now
            count_ended([run])
        if changed and counts[ItemStatus.OK] and run.schedule.policy_id:
            async_task(RETAIN, str(run.schedule.policy_id), task_name=f"retention after {run.pk}")
    return bool(changed)


def verdict(counts: Counter[str]) -> RunStatus:
    """What a run is called whose items ended like this. A collection that was left out is no success."""
    bad = counts[ItemStatus.FAILED] + counts[ItemStatus.CANCELLED] + counts[ItemStatus.EXPIRED]
    good = counts[ItemStatus.OK] + counts[ItemStatus.FRESH_ENOUGH]
    skipped = counts[ItemStatus.SKIPPED_OVERLAP]
    if bad and not good:
        return RunStatus.EXPIRED if bad == counts[ItemStatus.EXPIRED] else RunStatus.FAILED
    if bad or (skipped and good):
        return RunStatus.PARTIAL
    if skipped:
        return RunStatus.SKIPPED_OVERLAP
    return RunStatus.OK if counts[ItemStatus.OK] else RunStatus.FRESH_ENOUGH


def _sentence(run: ScheduleRun, status: RunStatus) -> str:
    """Name the first collections that failed, and why."""
    if status in (RunStatus.OK, RunStatus.FRESH_ENOUGH):
        return ""
    bad = run.items.filter(status__in=(ItemStatus.FAILED, ItemStatus.EXPIRED, ItemStatus.CANCELLED))
    first = list(bad.order_by("collection_name", "id")[:3])
    if not first:
        return ""
    return " ".join(f"{item.collection_name}: {item.message}" for item in first)


def _deliver_again(now: datetime) -> None:
    """A delivery may have died with its worker."""
    stale = ScheduleRun.objects.filter(status=RunStatus.EXPANDING, created_at__lte=now - POKE_AGAIN).filter(
        Q(claimed_until=None) | Q(claimed_until__lte=now)
    )
    if stale.exists() and not OrmQ.objects.filter(lock__lte=now).exists():
        poke()


def _cancel_in_blackouts(now: datetime) -> None:
    """Cancel backups of schedules that stand in a blackout which wants that."""
    strict = Blackout.objects.filter(on_running=OnRunning.CANCEL)
    owners = list(strict.values_list("schedule", "cluster"))
    if not owners:
        return
    schedules = list(
        Schedule.objects.filter(Q(pk__in=[s for s, _ in owners if s]) | Q(cluster__in=[c for _, c in owners if c]))
    )
    windows = windows_of(schedules)
    for schedule in schedules:
        try:
            covered = covered_at(schedule.timing(windows[schedule.pk]), now)
        except TimingInvalid:
            continue
        if covered is None or not covered.cancels:
            continue
        jobs = Job.objects.filter(schedule_id=schedule.pk, status=JobStatus.RUNNING, cancel_requested_at=None)
        for job_id in list(jobs.values_list("pk", flat=True)):
            try:
                cancel_job(job_id=job_id, now=now)
            except (JobHasEnded, JobNotFound):
                continue
