"""The reconciler at work: one run at a time over all places, and what people decide about what it found."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser
from django.db import IntegrityError, transaction
from django.utils import timezone

from apps.backups.leftovers import try_leftover
from apps.backups.models import Orphan, OrphanState, Reconciliation, ReconciliationStatus
from apps.backups.reconcile.findings import BrokenRestore, Finding, JobFacts, Limits
from apps.backups.reconcile.node_scan import NodeScan
from apps.backups.reconcile.recording import bury_orphan, end_unseen, record_finding
from apps.backups.reconcile.storage_scan import StorageScan
from apps.clusters.models import Cluster
from apps.core.errors import BackupmgrError, Conflict
from apps.jobs.cleaning import is_active, is_busy
from apps.jobs.models import Job
from apps.jobs.states import ACTIVE, BACKUP_TYPES, RESTORE_TYPES, JobStatus, JobType
from apps.storage.backends import Patience
from apps.storage.models import StorageConfig
from apps.storage.services import open_store

logger = logging.getLogger(__name__)

#: A run that has given no sign of life for so long has died. Longer than any one call to a storage may take.
LEASE = timedelta(minutes=10)
BEAT_SECONDS = 5.0
#: Nobody waits for it, but one storage that hangs must not hold it up for ever.
PATIENCE = Patience(connect_seconds=5, read_seconds=30, attempts=2)
#: How long runs can be looked up.
KEPT = timedelta(days=90)


class ReconciliationRunning(Conflict):
    """Another run is under way."""


class RunLost(Exception):
    """This run was given up for dead, and another one has begun: stop."""


class Jobs:
    """The jobs as the scans see them (reconcile.findings.JobBook): asked anew each time."""

    def facts(self, job_id: uuid.UUID) -> JobFacts | None:
        return self.facts_of([job_id]).get(job_id)

    def facts_of(self, job_ids: list[uuid.UUID]) -> dict[uuid.UUID, JobFacts]:
        jobs = Job.objects.filter(pk__in=job_ids).only(
            "status", "type", "completed_at", "attempt", "storage_id", "collection_name"
        )
        return {
            job.pk: JobFacts(
                is_active=job.status in ACTIVE,
                is_backup=job.type in BACKUP_TYPES,
                ended_at=job.completed_at,
                attempt=job.attempt,
                storage_id=job.storage_id,
                collection_name=job.collection_name,
            )
            for job in jobs
        }

    def broken_restores(self, cluster_id: uuid.UUID, since: datetime) -> list[BrokenRestore]:
        broke = Job.objects.filter(
            subject_cluster_id=cluster_id,
            type__in=RESTORE_TYPES,
            status__in=(JobStatus.FAILED, JobStatus.CANCELLED),
            completed_at__gt=since,
            events__data__replacing=True,
        ).distinct()
        newest: dict[str, Job] = {}
        for job in broke.order_by("-completed_at"):
            newest.setdefault(job.subject_collection, job)
        good = Job.objects.filter(
            subject_cluster_id=cluster_id, type=JobType.RESTORE, status=JobStatus.COMPLETED, completed_at__gt=since
        )
        return [
            BrokenRestore(name, job.shard_id, job.pk, job.error)
            for name, job in newest.items()
            if not good.filter(subject_collection=name, completed_at__gt=job.completed_at).exists()
        ]

    def is_busy(self, cluster_id: str, collection: str) -> bool:
        return is_busy(cluster_id, collection)


@dataclass
class Place:
    """What came of looking at one storage or cluster."""

    kind: str
    id: str
    name: str
    error: str = ""
    looked_at: int = 0
    orphans: int = 0
    cleaned: int = 0

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass
class Outcome:
    """What came of a run."""

    places: list[Place] = field(default_factory=list)

    @property
    def found(self) -> int:
        return sum(place.orphans for place in self.places)

    @property
    def cleaned(self) -> int:
        return sum(place.cleaned for place in self.places)

    @property
    def failed(self) -> list[Place]:
        return [place for place in self.places if place.error]


Tell = Callable[[Finding, str], None]


def reconcile(
    *,
    trigger: str,
    now: datetime,
    clusters: list[Cluster] | None = None,
    storages: list[StorageConfig] | None = None,
    dry_run: bool = False,
    tell: Tell = lambda finding, state: None,
    run: Reconciliation | None = None,
) -> Outcome:
    """Look at all storages and clusters (or at the given ones), write down what is out of place, remove what is ours.

    A place that cannot be looked at is told in the outcome and stops nothing. With `dry_run` nothing is written
    anywhere, the database included. `tell` receives each finding, and "cleaned", "open" or "dismissed". `run` is one
    that was claimed already. Raises: ReconciliationRunning.
    """
    if not dry_run and run is None:
        run = claim_run(trigger=trigger, now=now, whole=clusters is None and storages is None)
    outcome = Outcome()
    reconciler = _Reconciler(run, outcome, tell, Limits(now=now, age=age()))
    try:
        if clusters is None and storages is None:
            clusters, storages = list(Cluster.objects.all()), list(StorageConfig.objects.all())
            if run is not None:
                _remove_stale_files(now)
        for storage in storages or ():
            reconciler.look_at_storage(storage)
        for cluster in clusters or ():
            reconciler.look_at_cluster(cluster)
    except RunLost:
        logger.warning("The reconciliation was given up for dead and stops")
        return outcome
    except BaseException as error:
        if run is not None:
            _end(run, outcome, f"It was broken off ({type(error).__name__}).")
        raise
    if run is not None:
        _end(run, outcome, "")
    return outcome


def age() -> timedelta:
    """How old something must be before it is taken for an orphan."""
    return timedelta(hours=settings.BACKUPMGR_RECONCILE_AGE_HOURS)


class _Reconciler:
    """One run over all places."""

    def __init__(self, run: Reconciliation | None, outcome: Outcome, tell: Tell, limits: Limits) -> None:
        self._run = run
        self._outcome = outcome
        self._tell = tell
        self.limits = limits
        self._book = Jobs()
        self._beaten = time.monotonic()

    def look_at_storage(self, storage: StorageConfig) -> None:
        def scan(place: Place) -> Iterator[Finding]:
            store = open_store(storage, patience=PATIENCE)
            looking = StorageScan(storage, store, self._book, self.limits, self.beat, save=self._run is not None)
            yield from looking.run()
            place.looked_at = looking.looked_at

        place = Place("storage", str(storage.pk), storage.name)
        started = timezone.now()
        if self.look(place, scan) and self._run is not None:
            end_unseen(storage_id=storage.pk, cluster_id=None, since=started, now=timezone.now())

    def look_at_cluster(self, cluster: Cluster) -> None:
        def scan(place: Place) -> Iterator[Finding]:
            looking = NodeScan(cluster, self._book, self.limits, self.beat, save=self._run is not None)
            yield from looking.run()
            place.looked_at = looking.looked_at
            place.error = " ".join(looking.problems)

        place = Place("cluster", str(cluster.pk), cluster.name)
        started = timezone.now()
        if self.look(place, scan) and self._run is not None:
            end_unseen(storage_id=None, cluster_id=cluster.pk, since=started, now=timezone.now())

    def look(self, place: Place, scan: Callable[[Place], Iterator[Finding]]) -> bool:
        """Look at one place; True when that was possible to the end."""
        self._outcome.places.append(place)
        try:
            for finding in scan(place):
                place.orphans += 1
                state = self._take(finding)
                place.cleaned += state == OrphanState.CLEANED
                self._tell(finding, state)
        except BackupmgrError as error:
            place.error = str(error)
        except RunLost:
            raise
        except Exception as error:  # the outer edge: one place must not keep us from the others
            logger.exception("Looking at %s %s failed in a way nobody foresaw", place.kind, place.name)
            place.error = f"An internal error ({type(error).__name__}): the log has the details."
        if self._run is not None:
            self.beat(always=True)
        return not place.error

    def _take(self, finding: Finding) -> str:
        """Write a finding down and, when it is ours, remove it; return its state."""
        if self._run is None:
            return "would be cleaned" if finding.is_ours and finding.trace else OrphanState.OPEN
        now = timezone.now()
        orphan = record_finding(finding, now=now)
        if orphan.state == OrphanState.OPEN and finding.is_ours and finding.trace is not None:
            with suppress(BackupmgrError):
                remove_orphan(orphan, now=now, reason="It is provably ours and old.", book=self._book)
            orphan.refresh_from_db()
        return str(orphan.state)

    def beat(self, always: bool = False) -> None:
        """Say that the run is alive. Raises: RunLost."""
        if self._run is None or (not always and time.monotonic() - self._beaten < BEAT_SECONDS):
            return
        self._beaten = time.monotonic()
        kept = Reconciliation.objects.filter(pk=self._run.pk, status=ReconciliationStatus.RUNNING).update(
            seen_at=timezone.now(),
            places=[place.as_json() for place in self._outcome.places],
            found=self._outcome.found,
            cleaned=self._outcome.cleaned,
        )
        if not kept:
            raise RunLost


def remove_orphan(
    orphan: Orphan, *, now: datetime, reason: str, book: Jobs, user: AbstractBaseUser | None = None
) -> bool:
    """Set a tombstone and try at once; tell whether it is gone. Raises: OrphanInUse."""
    user_id = user.pk if user is not None else None
    tombstone = bury_orphan(orphan, now=now, book=book, reason=reason, user_id=user_id)
    with suppress(BackupmgrError):  # written down with the tombstone; it is tried again
        return try_leftover(tombstone, now=now, is_busy=is_busy, is_active=is_active)
    return False


def _remove_stale_files(now: datetime) -> None:
    """Remove temporary files of ours on this host (storage/backends.py): they hold nothing that is not elsewhere."""
    for path in (Path(settings.DATA_DIR) / "ca").glob("*.part"):
        with suppress(OSError):
            if now.timestamp() - path.stat().st_mtime >= age().total_seconds():
                path.unlink()


# --- runs ------------------------------------------------------------------------------------------------------
def is_due(*, now: datetime) -> bool:
    """Tell whether a run should begin: somebody asked for one, or the last one was long enough ago."""
    runs = Reconciliation.objects.all()
    if runs.filter(status=ReconciliationStatus.RUNNING, seen_at__gt=now - LEASE).exists():
        return False
    if runs.filter(status=ReconciliationStatus.PENDING).exists():
        return True
    every = timedelta(hours=settings.BACKUPMGR_RECONCILE_HOURS)
    # What people look at by hand may be a part only, and does not put off the whole.
    return bool(every) and not runs.exclude(trigger="command").filter(started_at__gt=now - every).exists()


def ask_for_run(*, now: datetime, user: AbstractBaseUser | None = None) -> Reconciliation:
    """Have a worker look soon; the run that waits already, when there is one."""
    try:
        with transaction.atomic():
            return Reconciliation.objects.create(
                trigger="request",
                created_at=now,
                created_by=user,  # type: ignore[misc]
            )
    except IntegrityError:
        waiting = Reconciliation.objects.filter(status=ReconciliationStatus.PENDING).first()
        return waiting if waiting is not None else ask_for_run(now=now, user=user)


def claim_run(*, trigger: str, now: datetime, whole: bool = True) -> Reconciliation:
    """Begin a run; of several callers one does. One that looks at everything takes the one that was asked for, if any.

    Raises: ReconciliationRunning.
    """
    Reconciliation.objects.filter(status=ReconciliationStatus.RUNNING, seen_at__lte=now - LEASE).update(
        status=ReconciliationStatus.FAILED, completed_at=now, error="Its process vanished."
    )
    Reconciliation.objects.filter(created_at__lt=now - KEPT).exclude(status=ReconciliationStatus.RUNNING).delete()
    started = {"status": ReconciliationStatus.RUNNING, "started_at": now, "seen_at": now}
    try:
        with transaction.atomic():
            waiting = Reconciliation.objects.filter(status=ReconciliationStatus.PENDING).first() if whole else None
            if waiting is not None and Reconciliation.objects.filter(
                pk=waiting.pk, status=ReconciliationStatus.PENDING
            ).update(**started):
                waiting.refresh_from_db()
                return waiting
            return Reconciliation.objects.create(trigger=trigger, created_at=now, **started)
    except IntegrityError as error:
        raise ReconciliationRunning("Another reconciliation is under way: wait for its end.") from error


def _end(run: Reconciliation, outcome: Outcome, error: str) -> None:
    Reconciliation.objects.filter(pk=run.pk, status=ReconciliationStatus.RUNNING).update(
        status=ReconciliationStatus.FAILED if error else ReconciliationStatus.COMPLETED,
        completed_at=timezone.now(),
        places=[place.as_json() for place in outcome.places],
        found=outcome.found,
        cleaned=outcome.cleaned,
        error=error,
    )
