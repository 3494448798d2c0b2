"""Faults of what lies below and beside a job: database, disks, clock, other workers, the queue, the web server."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from .bed import QUICK
from .database import Postgres, Sqlite
from .errors import FaultsError
from .faults import Fault
from .scene import Scene


@dataclass(frozen=True)
class DatabaseLocked(Fault):
    """Another process holds the lock that every write needs, for so long."""

    seconds: float = 6.0

    def strike(self, scene: Scene) -> None:
        scene.lock()
        scene.later(self.seconds, scene.unlock)


@dataclass(frozen=True)
class DatabaseRestarted(Fault):
    """PostgreSQL crashes and comes back after so long; every connection breaks."""

    seconds: float = 2.0

    def strike(self, scene: Scene) -> None:
        server = scene.bed.database
        if not isinstance(server, Postgres):
            raise FaultsError("Only PostgreSQL can be restarted.")
        server.stop()
        scene.unlock()
        scene.let_go()
        time.sleep(self.seconds)
        server.start()


@dataclass(frozen=True)
class StorageFull(Fault):
    """The file system of the storage has no byte left, until the job has ended."""

    def strike(self, scene: Scene) -> None:
        fill(scene.bed.storages["tight"])

    def heal(self, scene: Scene) -> None:
        empty(scene.bed.storages["tight"])


@dataclass(frozen=True)
class DataFull(Fault):
    """The file system of the database has no byte left, for so long."""

    seconds: float = 3.0

    def strike(self, scene: Scene) -> None:
        database = scene.bed.database
        if not isinstance(database, Sqlite) or not scene.bed.data_is_small:
            raise FaultsError("The data folder of this bed cannot be filled.")
        # The log's file is written over from its start and needs no room for that: it has to be empty first.
        with closing(sqlite3.connect(database.path, timeout=10)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        fill(scene.bed.data)
        scene.later(self.seconds, lambda: empty(scene.bed.data))

    def heal(self, scene: Scene) -> None:
        empty(scene.bed.data)


@dataclass(frozen=True)
class ClockSet(Fault):
    """The clock of the host jumps by so many seconds, and back when the job has ended."""

    by_seconds: int = -3600
    #: Also kill the worker, so that somebody else has to notice that its job is lost.
    kills: bool = False

    def strike(self, scene: Scene) -> None:
        scene.bed.clock.set(self.by_seconds)
        if self.kills:
            scene.worker.signal_group(signal.SIGKILL)
            scene.worker.wait_gone(10)

    def after(self, scene: Scene) -> None:
        if self.kills:
            scene.replace_worker()


@dataclass(frozen=True)
class LeaseStolen(Fault):
    """The worker stands still for longer than its lease; another takes the job; then the first wakes up."""

    #: Whether the first wakes while the second is at it, or only when that has ended.
    at_once: bool = False

    def strike(self, scene: Scene) -> None:
        first = scene.worker
        _, attempt, _ = scene.facts()
        first.signal_group(signal.SIGSTOP)
        try:
            second = scene.bed.start_worker(QUICK)
            deadline = time.monotonic() + 30
            while scene.facts()[1] <= attempt and time.monotonic() < deadline:
                time.sleep(0.02)
            if scene.facts()[1] <= attempt:
                scene.problems.append("nobody took the job from a worker that stood still")
            scene.let_go()
            if not self.at_once:
                scene.bed.api.wait(scene.job_id, 40)
        finally:
            first.signal_group(signal.SIGCONT)
        scene.bed.api.wait(scene.job_id, 40)
        time.sleep(2)  # what the first still does, it does now
        second.stop()
        scene.bed.workers.remove(second)


@dataclass(frozen=True)
class DeliveredTwice(Fault):
    """The same delivery comes several times at once, to two workers."""

    def arm(self, scene: Scene) -> None:
        super().arm(scene)
        scene.bed.start_worker(scene.settings)
        for worker in scene.bed.workers:  # so that the delivery can be read before it is taken
            worker.signal_group(signal.SIGSTOP)

    def created(self, scene: Scene) -> None:
        sql = "SELECT key, payload, lock FROM django_q_ormq ORDER BY id DESC LIMIT 1"
        scene.delivery = scene.bed.database.rows(sql)[0]
        if scene.point.where is None:
            self._deliver(scene)
        for worker in scene.bed.workers:
            worker.signal_group(signal.SIGCONT)

    def strike(self, scene: Scene) -> None:
        self._deliver(scene)
        time.sleep(1)  # both take what is there

    @staticmethod
    def _deliver(scene: Scene) -> None:
        for _ in range(3):
            sql = "INSERT INTO django_q_ormq (key, payload, lock) VALUES (?, ?, ?)"
            scene.bed.database.change(sql, *scene.delivery)

    def heal(self, scene: Scene) -> None:
        while len(scene.bed.workers) > 1:
            scene.bed.workers.pop().stop()


@dataclass(frozen=True)
class WebRestarted(Fault):
    """The web server is killed or stopped, and started again."""

    kills: bool = False

    def strike(self, scene: Scene) -> None:
        scene.bed.stop_web(kill=self.kills)
        scene.let_go()
        scene.bed.start_web()


@dataclass(frozen=True)
class QueueWedged(Fault):
    """Idle processes of the queue are killed: one may hold the lock that all others wait for."""

    whom: str = "all"

    def arm(self, scene: Scene) -> None:
        deadline = time.monotonic() + 10
        idle: list[int] = []
        while len(idle) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
            idle = scene.worker.waits_on_the_queue()
        if not idle:
            raise FaultsError("No process waits on the queue.")
        chosen = {"all": idle, "first": idle[:1], "last": idle[-1:]}
        family = scene.worker.family()
        if self.whom == "sentinel":
            targets = [family[idle[0]]]
        elif self.whom == "queue":
            targets = [family[family[idle[0]]]]
        else:
            targets = chosen[self.whom]
        for pid in targets:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def fill(folder: Path) -> None:
    """Leave no room on the file system of `folder`."""
    with (folder / "filler").open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            with suppress(OSError):
                while file.write(bytes(size)):
                    pass


def empty(folder: Path) -> None:
    (folder / "filler").unlink(missing_ok=True)
