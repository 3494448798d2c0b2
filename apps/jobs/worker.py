"""The worker: a supervisor process, and below it a django-q2 cluster that runs the jobs.

    supervisor ── ticks, watches, restarts (never runs a job)
       └─ queue (django-q2's main process)
            └─ sentinel ── pusher, monitor, one process per job that may run at once

What django-q2 alone does not do (docs/decisions.md says how each was found):
  * SIGTERM to the whole process group, which is what systemd sends, kills its workers in the middle of a job and
    hangs its main process: here the children ignore SIGTERM and are told to stop through the drain flag.
  * kill -9 of a parent leaves the children running: here each child dies with its parent (PR_SET_PDEATHSIG).
  * an idle worker killed while it waits on the queue blocks all others for ever: here jobs that wait although a
    process is free are noticed, and the queue is replaced; one that still runs a job ends when that has ended.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from types import FrameType
from typing import Any

from django.conf import settings
from django.db import DatabaseError, connections
from django.utils import timezone
from django.utils.module_loading import import_string

from apps.clusters.observations import observe_due
from apps.jobs import drain
from apps.jobs.cleaning import clean_leftovers
from apps.jobs.health import moved_since
from apps.jobs.lease import startable
from apps.jobs.models import Job, Worker
from apps.jobs.operations import running_operations
from apps.jobs.reconciler_process import ReconcilerProcess
from apps.jobs.runner import WORKER_ENV
from apps.jobs.states import JobStatus
from apps.jobs.tick import tick
from apps.storage.observations import observe_storages_due

logger = logging.getLogger(__name__)

#: How long jobs may take to stop on SIGTERM before they are killed (they are taken up again elsewhere).
DRAIN_SECONDS = 60.0
#: How long the queue processes may take to end once no job runs.
STOP_SECONDS = 15.0
_PR_SET_PDEATHSIG = 1


class Supervisor:
    """Runs until SIGTERM or SIGINT; `run` returns the exit code."""

    def __init__(self) -> None:
        self.id = str(uuid.uuid4())
        self._stopping = threading.Event()
        self._queue: multiprocessing.process.BaseProcess | None = None
        #: Stuck queues that still run jobs, and those jobs: each is ended once they have.
        self._retired: list[tuple[multiprocessing.process.BaseProcess, set[uuid.UUID]]] = []
        #: Since when jobs have waited at every tick although a process was free.
        self._waiting_since: datetime | None = None
        self._cleaner: threading.Thread | None = None
        self._observer: threading.Thread | None = None
        self._storage_observer: threading.Thread | None = None
        self._reconciler = ReconcilerProcess()

    def run(self) -> int:
        os.environ[WORKER_ENV] = self.id
        drain.prepare()
        die_with_parent_after_fork()
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        now = timezone.now()
        row = Worker.objects.create(
            id=self.id,
            host=socket.gethostname(),
            pid=os.getpid(),
            processes=settings.BACKUPMGR_WORKERS,
            started_at=now,
            seen_at=now,
        )
        self._start_queue()
        try:
            while not self._stopping.wait(settings.BACKUPMGR_TICK_SECONDS):
                self._guarded(self._round)
        finally:
            self._reconciler.stop()
            self._stop_queue()
            self._guarded(lambda: Worker.objects.filter(pk=row.pk).update(stopped_at=timezone.now()))
        return 0

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        drain.request()
        self._stopping.set()

    def _round(self) -> None:
        now = timezone.now()
        if self._queue is None or not self._queue.is_alive():
            self._restart_queue("its main process had ended")
        Worker.objects.filter(pk=self.id).update(seen_at=now)
        tick(worker=self.id, now=now)
        for path in settings.TICKERS:
            # One room's trouble must not keep the others from their round.
            self._guarded(partial(_call, path))
        self._watch_queue(now)
        self._clean_leftovers()
        self._observe_clusters()
        self._observe_storages()
        self._reconciler.look(now)

    def _clean_leftovers(self) -> None:
        self._cleaner = self._aside(self._cleaner, "clean-up", lambda: clean_leftovers(now=timezone.now()))

    def _observe_clusters(self) -> None:
        self._observer = self._aside(self._observer, "checks", lambda: observe_due(now=timezone.now()))

    def _observe_storages(self) -> None:
        self._storage_observer = self._aside(
            self._storage_observer, "storage checks", lambda: observe_storages_due(now=timezone.now())
        )

    def _aside(self, last: threading.Thread | None, name: str, action: Callable[[], object]) -> threading.Thread:
        """In a thread of its own, one at a time: a node that does not answer must not hold up the leases."""
        if last is not None and last.is_alive():
            return last

        def work() -> None:
            try:
                self._guarded(action)
            finally:
                connections.close_all()

        thread = threading.Thread(target=work, name=name, daemon=True)
        thread.start()
        return thread

    def _guarded(self, action: Callable[[], object]) -> None:
        """One failed round must not end the supervisor: the next one tries again."""
        try:
            action()
        except DatabaseError:
            logger.exception("The database did not answer; trying again at the next tick")
            connections.close_all()
        except Exception:
            logger.exception("A round of the worker's supervisor failed")

    # --- the queue ------------------------------------------------------------------------------------------
    def _start_queue(self) -> None:
        connections.close_all()  # a forked connection would be shared by two processes
        context = multiprocessing.get_context("fork")
        self._queue = context.Process(target=_run_queue, name="queue")
        self._queue.start()
        self._waiting_since = None
        logger.info("Worker %s: queue started with %s processes", self.id, settings.BACKUPMGR_WORKERS)

    def _restart_queue(self, reason: str) -> None:
        logger.error("Worker %s: replacing the queue, %s", self.id, reason)
        if self._queue is not None:
            _kill(self._queue)
        self._replace_queue(reason)

    def _replace_queue(self, reason: str) -> None:
        Worker.objects.filter(pk=self.id).update(
            note=f"{timezone.now():%Y-%m-%d %H:%M:%S} UTC queue replaced: {reason}"
        )
        self._start_queue()

    def _watch_queue(self, now: datetime) -> None:
        """Replace the queue when jobs have waited for too long, at every tick, although a process was free."""
        self._end_retired()
        busy = self._busy()
        waits = len(busy) < settings.BACKUPMGR_WORKERS and startable(now).exists()
        if (
            not waits
            or self._waiting_since is None
            or self._waiting_since > now  # the clock was set back
            or moved_since(self._waiting_since, worker=self.id)
        ):
            self._waiting_since = now if waits else None
            return
        if now - self._waiting_since < timedelta(seconds=settings.BACKUPMGR_STUCK_SECONDS):
            return
        reason = "jobs waited although a process was free"
        if self._queue is None or self._queue.pid is None or not busy:
            self._restart_queue(reason)
            return
        # What it runs may take hours yet and shall not be lost: it ends that, and takes no more.
        logger.error("Worker %s: replacing the queue, %s; the old one ends what it runs", self.id, reason)
        os.kill(self._queue.pid, signal.SIGUSR1)
        self._retired.append((self._queue, busy))
        self._replace_queue(reason)

    def _busy(self) -> set[uuid.UUID]:
        """The jobs and operations that processes of this worker run."""
        jobs = Job.objects.filter(status=JobStatus.RUNNING, worker=self.id).values_list("pk", flat=True)
        return {*jobs, *running_operations(self.id)}

    def _end_retired(self) -> None:
        if not self._retired:
            return
        busy = self._busy()
        for queue, jobs in list(self._retired):
            if not jobs & busy:
                _kill(queue)
                self._retired.remove((queue, jobs))

    def _stop_queue(self) -> None:
        """Let running jobs go back to the queue, then end the processes; kill what does not end."""
        queue = self._queue
        if queue is None or queue.pid is None:
            return
        drain.request()
        deadline = time.monotonic() + DRAIN_SECONDS
        while time.monotonic() < deadline and self._runs_jobs():
            time.sleep(0.2)
        if queue.is_alive():
            os.kill(queue.pid, signal.SIGUSR1)
            queue.join(STOP_SECONDS)
        if queue.is_alive():
            logger.error("Worker %s: the queue did not stop in time and is killed", self.id)
            _kill(queue)
        for retired, _ in self._retired:
            _kill(retired)

    def _runs_jobs(self) -> bool:
        try:
            return Job.objects.filter(status=JobStatus.RUNNING, worker=self.id).exists()
        except DatabaseError:
            connections.close_all()
            return False


def _kill(queue: multiprocessing.process.BaseProcess) -> None:
    """End a queue at once; its children die with it."""
    queue.kill()
    queue.join(5)


def _call(path: str) -> None:
    import_string(path)(now=timezone.now())


def _run_queue() -> None:
    """Run django-q2's cluster in this process until SIGUSR1."""
    from django_q import cluster as q

    class QuietSentinel(q.Sentinel):
        """Ignores SIGTERM, and so do the processes it forks: they are stopped through the drain flag."""

        def spawn_cluster(self) -> None:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            super().spawn_cluster()

    q.Sentinel = QuietSentinel
    queue = q.Cluster()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop = threading.Event()
    signal.signal(signal.SIGUSR1, lambda signum, frame: stop.set())
    queue.start()
    while not stop.wait(0.5):
        if not queue.sentinel.is_alive():
            raise SystemExit(1)  # the supervisor starts a new one
    queue.stop()


def die_with_parent_after_fork() -> None:
    """From now on every process forked here, and its children in turn, is killed when its parent dies.

    Linux only (prctl); elsewhere orphans have to be found by their lease.
    """
    prctl = _prctl()
    if prctl is not None:
        os.register_at_fork(after_in_child=lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGKILL))


def die_with_parent(parent: int) -> None:
    """Have this process killed when its parent dies, as above; for one that was started and not forked."""
    prctl = _prctl()
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before that
            raise SystemExit(1)


def _prctl() -> Any:
    try:
        return ctypes.CDLL(None, use_errno=True).prctl
    except (OSError, AttributeError):
        return None
