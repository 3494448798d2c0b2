"""JobRun: one attempt at a job by this process. Keeps the lease, writes progress, hears of cancellation."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from queue import SimpleQueue
from typing import Any

from django.conf import settings
from django.db import DatabaseError, connection
from django.utils import timezone

from apps.backups.leftovers import clean_up
from apps.backups.traces import Traces
from apps.backups.verifications import Asker
from apps.core.abort import Abort
from apps.core.errors import BackupmgrError
from apps.core.text import format_duration, format_size
from apps.jobs import drain
from apps.jobs.events import record
from apps.jobs.lease import LeaseLost, extend
from apps.jobs.models import EventLevel, Job
from apps.jobs.persist import Result, persist

logger = logging.getLogger(__name__)

#: How often a running job looks whether it should stop, and writes its progress when that has changed.
BEAT_SECONDS = 1.0
#: The rate shown is that of the last so many seconds.
RATE_WINDOW_SECONDS = 10.0


class Cancelled(Exception):
    """An operator asked the job to stop."""


class Drained(Exception):
    """The worker is being stopped; the job goes back to the queue."""


class RanTooLong(BackupmgrError):
    """The job took longer than it may."""


@dataclass
class _Step:
    """A phase under way: when it began, what had been moved by then, and whether no other was under way meanwhile."""

    name: str
    began: float
    moved_before: int
    alone: bool


class JobRun:
    """Implements backups.run.Run on a claimed job. Use as a context manager: inside it the heartbeat beats."""

    def __init__(self, job: Job) -> None:
        assert job.lease_token is not None and job.started_at is not None
        self.job = job
        self.job_id: uuid.UUID = job.pk
        self.token: uuid.UUID = job.lease_token
        self.attempt = job.attempt
        self.started_at: datetime = job.started_at
        self._began = time.monotonic()
        self.abort = Abort()
        #: Of the attempts before, until they are cleaned up, and of this one.
        self.traces = Traces.from_json(job.checkpoint)
        by = job.created_by.get_username() if job.created_by else ""
        self.asker = Asker(by=by, user_id=job.created_by_id, job_id=job.pk)
        self._lock = threading.Lock()
        self._telling = threading.Lock()
        self._phase = job.phase
        self._done = 0
        self._moved = 0
        self._total = 0
        self._written: tuple[str, int, int] = ("", 0, 0)
        #: Lines told by other threads, which must not use the database: the heartbeat writes them.
        self._told: SimpleQueue[tuple[str, EventLevel, dict[str, Any], datetime]] = SimpleQueue()
        self._owner = threading.get_ident()
        #: The steps under way, by thread: nodes are worked on at the same time.
        self._steps: dict[int, _Step] = {}
        self._samples: list[tuple[float, int]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat {job.pk}", daemon=True)

    def __enter__(self) -> JobRun:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()
        with suppress(DatabaseError):
            self._write_told()

    # --- backups.run.Run -----------------------------------------------------------------------------------
    def now(self) -> datetime:
        return timezone.now()

    def phase(self, name: str) -> None:
        self.abort.check()
        thread = threading.get_ident()
        self._end_steps({thread, self._owner})  # what the run waits for in other threads is no step of its own
        with self._lock:
            self._phase = name
            for other in self._steps.values():
                other.alone = False
            self._steps[thread] = _Step(name, time.monotonic(), self._moved, alone=not self._steps)

    def end_step(self, *, broke_off: bool = False) -> None:
        """Tell how long the present step of this thread took and how many bytes it moved; of all when the run ends."""
        mine = threading.get_ident()
        self._end_steps(set(self._steps) if mine == self._owner else {mine}, broke_off=broke_off)

    def _end_steps(self, threads: set[int], *, broke_off: bool = False) -> None:
        with self._lock:
            ended = [self._steps.pop(thread) for thread in threads if thread in self._steps]
            moved = self._moved
        for step in ended:
            seconds = time.monotonic() - step.began
            how = f"broke off after {format_duration(seconds)}" if broke_off else f"took {format_duration(seconds)}"
            data: dict[str, Any] = {"step": step.name, "seconds": round(seconds, 3)}
            size = moved - step.moved_before
            if step.alone:  # what moved meanwhile belongs to nobody else
                data["bytes"] = size
            told = f", {format_size(size)} moved" if step.alone and size else ""
            self.tell(f"{step.name[:1].upper()}{step.name[1:]} {how}{told}.", **data)

    def expect(self, bytes_total: int) -> None:
        with self._lock:
            self._total = bytes_total

    def advance(self, count: int) -> None:
        with self._lock:
            self._done += count
            self._moved += max(0, count)

    def tell(self, message: str, **data: Any) -> None:
        self._record(message, EventLevel.INFO, data)

    def warn(self, message: str, **data: Any) -> None:
        self._record(message, EventLevel.WARNING, data)

    def _record(self, message: str, level: EventLevel, data: dict[str, Any]) -> None:
        self._told.put((message, level, data, self.now()))
        if threading.get_ident() == self._owner:
            self._persist(self._write_told)

    def _write_told(self) -> None:
        """Write the lines that were told, in their order. By any one thread at a time that may use the database."""
        with self._telling:
            while not self._told.empty():
                message, level, data, at = self._told.get()
                try:
                    record(self.job, message, at=at, level=level, data=data)
                except DatabaseError:
                    self._told.put((message, level, data, at))
                    raise

    def save_traces(self) -> None:
        self._persist(
            lambda: extend(job_id=self.job_id, token=self.token, now=self.now(), checkpoint=self.traces.to_json())
        )

    def confirm(self) -> None:
        self.abort.check()
        self._persist(lambda: extend(job_id=self.job_id, token=self.token, now=self.now()))

    def owns(self) -> bool:
        return self._persist(lambda: Job.objects.held_by(self.job_id, self.token).exists())

    @property
    def seconds(self) -> float:
        """How long this attempt has run, whatever was done to the clock meanwhile."""
        return time.monotonic() - self._began

    @property
    def bytes_done(self) -> int:
        return self._done

    @property
    def bytes_moved(self) -> int:
        """As `bytes_done`, with what tries moved that came to nothing."""
        return self._moved

    def _persist(self, action: Callable[[], Result]) -> Result:
        """A database that is away for a moment must not end hours of work; the heartbeat says when it is too long."""
        abort = None if self.abort.reason else self.abort
        return persist(action, patience_seconds=settings.BACKUPMGR_LEASE_SECONDS, abort=abort)

    def clean_up(self) -> None:
        """Remove everything that `traces` names; what resists is tried again by the tick."""
        began = time.monotonic()

        def tell(text: str, gone: bool) -> None:
            nonlocal began
            now = time.monotonic()
            (self.tell if gone else self.warn)(text, seconds=round(now - began, 3), removed=gone)
            began = now

        clean_up(self.traces, job_id=self.job_id, tell=tell, abort=self.abort)

    # --- heartbeat -----------------------------------------------------------------------------------------
    def _beat(self) -> None:
        """Every second: look whether to stop, write what has changed, renew the lease in time.

        The database may be away for a while; the lease then decides how long we may go on without it.
        """
        lease = settings.BACKUPMGR_LEASE_SECONDS
        renewed = time.monotonic()
        try:
            while not self._stop.wait(BEAT_SECONDS):
                if drain.requested():
                    self.abort.trip(Drained())
                try:
                    self._look()
                    self._check_runtime()
                    self._write_told()
                    if self._changed() or time.monotonic() - renewed > lease / 4:
                        sent = time.monotonic()
                        self._write()
                        renewed = sent
                except LeaseLost as error:
                    self.abort.trip(error)
                    return
                except DatabaseError:
                    logger.warning("The heartbeat of job %s could not be written; trying again", self.job_id)
                    connection.close()
                if time.monotonic() - renewed > lease * 0.9:
                    self.abort.trip(LeaseLost(f"The lease of job {self.job_id} could not be renewed in time."))
                    return
        finally:
            connection.close()

    def _look(self) -> None:
        row = Job.objects.held_by(self.job_id, self.token).values_list("cancel_requested_at", flat=True)
        asked = list(row)
        if not asked:
            raise LeaseLost(f"The lease of job {self.job_id} was lost.")
        if asked[0] is not None:
            self.abort.trip(Cancelled())

    def _check_runtime(self) -> None:
        longest = self.job.max_runtime_seconds
        if longest is not None and self.seconds > longest:
            self.abort.trip(
                RanTooLong(
                    f"The job ran longer than {format_duration(longest)}, which is what its schedule allows: see what "
                    f"slowed it down, or allow more."
                )
            )

    def _changed(self) -> bool:
        with self._lock:
            return (self._phase, self._done, self._total) != self._written

    def _write(self) -> None:
        with self._lock:
            state = (self._phase, self._done, self._total)
        now = self.now()
        further = {"progress_at": now} if state != self._written else {}
        extend(
            job_id=self.job_id,
            token=self.token,
            now=now,
            phase=state[0],
            bytes_done=max(0, state[1]),
            bytes_total=state[2],
            rate_bytes_per_second=self._rate(state[1]),
            **further,
        )
        self._written = state

    def _rate(self, done: int) -> float | None:
        now = time.monotonic()
        self._samples = [(at, count) for at, count in self._samples if now - at < RATE_WINDOW_SECONDS]
        self._samples.append((now, done))
        first_at, first_done = self._samples[0]
        return max(0.0, (done - first_done) / (now - first_at)) if now - first_at > 0.5 else None
