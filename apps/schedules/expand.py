"""Expand: turn a run into jobs. Called by the queue; the only part of firing that talks to Qdrant.

Repeatable: a run is taken under a token, every collection gets one item, and an item and its job are written together.
A kill leaves a run that is taken up again where it stood.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from apps.backups.models import Backup, BackupStatus
from apps.clusters.models import Cluster
from apps.clusters.qdrant import QdrantNode
from apps.core.errors import BackupmgrError
from apps.jobs import drain
from apps.jobs.models import Job, Rank
from apps.jobs.services import JobHasEnded, JobNotFound, JobRequest, Terms, cancel_job, create_job
from apps.jobs.states import ACTIVE, JobStatus, JobType
from apps.schedules.models import (
    CollectionTag,
    ItemStatus,
    NothingMatched,
    Overlap,
    RunItem,
    RunStatus,
    Schedule,
    ScheduleRun,
    Trigger,
)
from apps.schedules.models.run import RunQuerySet
from apps.schedules.selection import Selection, select
from apps.schedules.tallies import count_ended
from apps.schedules.timing.slots import gap_after
from apps.schedules.timing.spec import TimingInvalid
from apps.storage.models import StorageConfig

logger = logging.getLogger(__name__)

#: Who takes a run has this long for it before another process may.
CLAIM = timedelta(minutes=2)
#: Runs that are looked for at once. One of a higher priority that comes meanwhile waits for no more than these.
TAKEN_AT_ONCE = 50
#: Items written in one transaction.
CHUNK = 100
#: One delivery goes on for no longer than this; the next one goes on.
BUDGET_SECONDS = 60.0
LIST_TIMEOUT_SECONDS = 20.0
#: A cluster that cannot be asked is asked again after these; then the run fails.
RETRY_AFTER = (timedelta(minutes=1), timedelta(minutes=5), timedelta(minutes=30))
#: A run that was taken so often without getting anywhere kills its processes.
MAX_TAKEN = 20
LONGEST_START_DEADLINE = timedelta(hours=6)


class ClaimLost(Exception):
    """Another process has the run now."""


def expand_runs(*unused: Any, **unknown: Any) -> int:
    """Expand runs until none is left to take; return how many were. What the queue calls."""
    done = 0
    started = time.monotonic()
    while waiting := runs_waiting(now=timezone.now()):
        before = done
        for run_id in waiting:
            if time.monotonic() - started > BUDGET_SECONDS or drain.requested():
                return done
            run = claim_run(run_id, now=timezone.now())
            if run is not None:
                _expand_apart(run)
                done += 1
        if done == before:
            break  # others are at it
    return done


def _expand_apart(run: ScheduleRun) -> None:
    """What is wrong with one run stops no other."""
    try:
        expand(run)
    except ClaimLost:
        logger.warning("Run %s: another process has taken it", run.pk)
    except Exception as error:
        logger.exception("Run %s could not be expanded", run.pk)
        _end(run, RunStatus.FAILED, f"An internal error stopped it ({type(error).__name__}); see the worker's log.")


def runs_waiting(*, now: datetime) -> list[uuid.UUID]:
    """Return the runs whose collections are to be looked up next: a few at once, since thousands may wait."""
    waiting = _claimable(now).order_by("-schedule__priority", "created_at", "id")
    return list(waiting.values_list("pk", flat=True)[:TAKEN_AT_ONCE])


def claim_run(run_id: uuid.UUID, *, now: datetime) -> ScheduleRun | None:
    """Take the run; None when another process has it."""
    taken = (
        _claimable(now)
        .filter(pk=run_id)
        .update(claim_token=uuid.uuid4(), claimed_until=now + CLAIM, expand_count=F("expand_count") + 1)
    )
    if not taken:
        return None
    return ScheduleRun.objects.select_related("schedule__cluster", "schedule__policy").get(pk=run_id)


def _claimable(now: datetime) -> RunQuerySet:
    free = Q(claimed_until=None) | Q(claimed_until__lte=now)
    return ScheduleRun.objects.filter(free, status=RunStatus.EXPANDING)


def expand(run: ScheduleRun) -> None:
    """List the collections, write an item and a job for each, then let the run go on. Raises: ClaimLost."""
    schedule = run.schedule
    if run.expand_count > MAX_TAKEN:
        _end(run, RunStatus.FAILED, f"It was begun {MAX_TAKEN} times and never got on: see the workers' logs.")
        return
    try:
        selection = current_selection(schedule)
    except BackupmgrError as error:
        _not_listed(run, error)
        return
    storages = list(schedule.storages.order_by("name"))
    if not storages:
        _end(run, RunStatus.FAILED, "It has no storage to back up to: give it one.")
        return
    if not selection.matched:
        words = "It matches no collection: change what it selects, or let it be fine with that."
        fine = schedule.nothing_matched == NothingMatched.WARN
        _end(run, RunStatus.OK if fine else RunStatus.FAILED, words, selection)
        return
    terms = _terms(run, schedule)
    for names in _chunks(selection.matched):
        with transaction.atomic():
            _keep(run)
            _add_items(run, schedule, names, storages, terms)
    with transaction.atomic():
        now = timezone.now()
        changed = _mine(run).update(
            status=RunStatus.RUNNING, started_at=now, claim_token=None, claimed_until=None, **_names(run, selection)
        )
        if not changed:
            raise ClaimLost


def current_selection(schedule: Schedule) -> Selection:
    """Ask the cluster for its collections and select. Raises: BackupmgrError; never an empty list for a failure."""
    names = list_collections(schedule.cluster)
    return select(
        names,
        include=schedule.include,
        exclude=schedule.exclude,
        tags=schedule.tags,
        tags_of=tags_of(schedule.cluster) if schedule.tags else None,
    )


def list_collections(cluster: Cluster) -> list[str]:
    """Return the names of all collections. Raises: BackupmgrError."""
    with QdrantNode(cluster.quick_endpoint(LIST_TIMEOUT_SECONDS)) as node:
        return node.collections()


def tags_of(cluster: Cluster) -> dict[str, set[str]]:
    """Return the tags of each collection that has any."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, tag in CollectionTag.objects.filter(cluster=cluster).values_list("collection_name", "tag"):
        found[name].add(tag)
    return found


def start_deadline(schedule: Schedule, run: ScheduleRun) -> timedelta:
    """How long after its firing a backup of this run may still start: as set, or 6 h, or half the gap if less."""
    if schedule.start_deadline_seconds is not None:
        return timedelta(seconds=schedule.start_deadline_seconds)
    try:
        gap = gap_after(schedule.timing(()), run.slot)
    except TimingInvalid:
        gap = None
    return LONGEST_START_DEADLINE if gap is None else min(LONGEST_START_DEADLINE, gap / 2)


def _terms(run: ScheduleRun, schedule: Schedule) -> Terms:
    return Terms(
        schedule_id=schedule.pk,
        due_at=run.created_at,
        priority=schedule.priority,
        start_by=run.created_at + start_deadline(schedule, run),
        retry_by=_following(run),
        max_runtime_seconds=schedule.max_runtime_seconds,
        rank=Rank.MANUAL if run.trigger == Trigger.MANUAL else Rank.SCHEDULED,
    )


def _following(run: ScheduleRun) -> datetime | None:
    """When the next run of the schedule is due, as it stands now; None when there is none to come."""
    return Schedule.objects.filter(pk=run.schedule_id).values_list("next_run_at", flat=True).first()


# --- items --------------------------------------------------------------------------------------------------------
def _add_items(
    run: ScheduleRun, schedule: Schedule, names: list[str], storages: list[StorageConfig], terms: Terms
) -> None:
    now = timezone.now()
    known = set(run.items.filter(collection_name__in=names).values_list("collection_name", "storage_id"))
    blockers = _blockers(run, schedule, names)
    fresh = _fresh(schedule, names, now)
    for name in names:
        waits = [job for job in blockers[name] if job.status == JobStatus.PENDING]
        for storage in storages:
            if (name, storage.pk) in known:
                continue
            item = RunItem(run=run, collection_name=name, storage=storage)
            if (name, storage.pk) in fresh:
                item.status, item.settled_at = ItemStatus.FRESH_ENOUGH, now
                item.message = f"Its backup of {fresh[name, storage.pk]:%Y-%m-%d %H:%M} UTC is fresh enough."
            elif blockers[name] and (
                schedule.overlap == Overlap.SKIP or (schedule.overlap == Overlap.QUEUE_ONE and waits)
            ):
                item.status, item.settled_at = ItemStatus.SKIPPED_OVERLAP, now
                item.blocker = (waits or blockers[name])[0]
                item.message = "Another one already waits." if waits else "The backup before it has not ended yet."
            else:
                if schedule.overlap == Overlap.CANCEL_RUNNING:
                    _cancel(blockers[name], now)
                _ask_for(item, run, schedule, terms, now)
            item.save(force_insert=True)


def _ask_for(item: RunItem, run: ScheduleRun, schedule: Schedule, terms: Terms, now: datetime) -> None:
    """Create the item's job. What is wrong with one collection is said there and stops no other."""
    try:
        with transaction.atomic():
            item.job = create_job(
                request=JobRequest(
                    type=JobType.BACKUP,
                    collection_name=item.collection_name,
                    cluster=schedule.cluster,
                    storage=item.storage,
                    policy=schedule.policy,
                    terms=terms,
                ),
                now=now,
                user=run.user,
            )
    except BackupmgrError as error:
        item.status, item.settled_at, item.message = ItemStatus.FAILED, now, str(error)


def _blockers(run: ScheduleRun, schedule: Schedule, names: list[str]) -> dict[str, list[Job]]:
    """Jobs of earlier runs of this schedule that have not ended, by collection."""
    found: dict[str, list[Job]] = defaultdict(list)
    active = Job.objects.filter(schedule_id=schedule.pk, status__in=ACTIVE, collection_name__in=names)
    for job in active.exclude(run_item__run=run).order_by("created_at"):
        found[job.collection_name].append(job)
    return found


def _fresh(schedule: Schedule, names: list[str], now: datetime) -> dict[tuple[str, uuid.UUID], datetime]:
    """When the newest good backup was started, of the collections that have one younger than the least interval."""
    if not schedule.min_interval_seconds:
        return {}
    rows = Backup.objects.filter(
        cluster=schedule.cluster,
        collection_name__in=names,
        shard_id=None,
        status=BackupStatus.COMPLETED,
        expired_at=None,
        started_at__gt=now - timedelta(seconds=schedule.min_interval_seconds),
    )
    return {
        (name, storage): started
        for name, storage, started in rows.order_by("started_at").values_list(
            "collection_name", "storage_id", "started_at"
        )
    }


def _cancel(jobs: list[Job], now: datetime) -> None:
    for job in jobs:
        try:
            cancel_job(job_id=job.pk, now=now)
        except (JobHasEnded, JobNotFound):
            continue


# --- the run --------------------------------------------------------------------------------------------------------
def _mine(run: ScheduleRun) -> Any:
    return ScheduleRun.objects.held_by(run.pk, run.claim_token or uuid.uuid4())


def _keep(run: ScheduleRun) -> None:
    if not _mine(run).update(claimed_until=timezone.now() + CLAIM):
        raise ClaimLost


def _end(run: ScheduleRun, status: RunStatus, error: str, selection: Selection | None = None) -> None:
    """End a run that comes to no job."""
    now = timezone.now()
    names = _names(run, selection) if selection else {}
    with transaction.atomic():
        ended = _mine(run).update(
            status=status, error=error, started_at=now, completed_at=now, claim_token=None, claimed_until=None, **names
        )
        if ended:
            run.status, run.completed_at = status, now
            count_ended([run])


def _not_listed(run: ScheduleRun, error: BackupmgrError) -> None:
    """The cluster did not tell its collections: ask again later, as long as that makes sense, or fail."""
    sentence = f"The collections of {run.schedule.cluster.name!r} could not be listed: {error}"
    now = timezone.now()
    tries = run.expand_count
    if error.transient and tries <= len(RETRY_AFTER):
        again = now + RETRY_AFTER[tries - 1]
        following = _following(run)
        if again < run.created_at + start_deadline(run.schedule, run) and (following is None or again < following):
            _mine(run).update(error=sentence, claimed_until=again)
            return
    _end(run, RunStatus.FAILED, sentence)


def _names(run: ScheduleRun, selection: Selection) -> dict[str, Any]:
    """What the run remembers of its selection; `vanished` against the run before."""
    earlier = (
        ScheduleRun.objects.filter(schedule=run.schedule_id, created_at__lt=run.created_at)
        .exclude(matched=[])
        .order_by("-created_at")
        .values_list("matched", flat=True)
        .first()
    )
    here = {*selection.matched, *selection.excluded, *selection.unmatched}
    return {
        "matched": list(selection.matched),
        "excluded": list(selection.excluded),
        "vanished": sorted(set(earlier or []) - here),
    }


def _chunks(names: tuple[str, ...]) -> Iterator[list[str]]:
    for start in range(0, len(names), CHUNK):
        yield list(names[start : start + CHUNK])
