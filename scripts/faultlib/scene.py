"""One cell while it runs: the bed, the job, and the place where it is held."""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager, suppress
from typing import Any

from .api import Refused
from .bed import LARGE, SMALL, Bed
from .errors import FaultsError, NotReached
from .points import NODE, S3, Point
from .proxy import Proxy
from .rules import Action, Rule, Where
from .wire_faults import Hold
from .workers import WorkerGroup

_REACH_SECONDS = 45.0
_COPY = "copy"


class Scene:
    """What a fault may use. Everything that it starts or locks is ended by `close`."""

    def __init__(self, bed: Bed, point: Point, base: dict[str, dict[str, Any]], settings: dict[str, str]) -> None:
        self.bed = bed
        self.settings = settings
        self.collection = LARGE if point.table == "backup-s3" else SMALL
        #: The collection that the job works on.
        self.subject = self.collection if point.kind == "backup" else _COPY
        self.point = point.aimed(self.subject)
        self.storage = point.storage
        self._base = base
        self.job_id = ""
        #: What a fault itself found to be wrong.
        self.problems: list[str] = []
        self.notes: list[str] = []
        #: What happens by itself, when the fault is one of the wire.
        self.rule: Rule | None = None
        #: A row of the queue, to be put there again.
        self.delivery: tuple[Any, ...] = ()
        self._hold: Hold | None = None
        self._lock: AbstractContextManager[None] | None = None
        self._threads: list[threading.Thread] = []

    # --- the job ------------------------------------------------------------------------------------------------
    def create_job(self) -> str:
        """Ask for the job of this cell."""
        return self.bed.api.create_job(**self.request())

    def request(self, *, overwrite: bool = False) -> dict[str, Any]:
        if self.point.kind == "backup":
            storage = self.bed.storage_ids[self.storage]
            return {"type": "backup", "collection_name": self.collection, "storage_id": storage}
        return {
            "type": "restore",
            "collection_name": self.collection,
            "backup_id": self._base[self.storage]["id"],
            "target_collection": self.subject,
            "restore_aliases": True,
            "overwrite": overwrite,
        }

    @property
    def job(self) -> dict[str, Any]:
        return self.bed.api.job(self.job_id)

    def facts(self) -> tuple[str, int, int]:
        """Return the job's status, attempt and process id, from the database itself."""
        rows = self.bed.database.rows(
            "SELECT status, attempt, pid FROM jobs_job WHERE id = ?", self.bed.database.key(self.job_id)
        )
        status, attempt, pid = rows[0]
        return str(status), int(attempt), int(pid or 0)

    # --- the place ----------------------------------------------------------------------------------------------
    @property
    def proxy(self) -> Proxy:
        return self.side(self.point.side)

    def side(self, side: str) -> Proxy:
        if side == NODE:
            return self.bed.node_proxy
        if side != S3 or self.bed.s3_proxy is None:
            raise FaultsError("This bed has no S3 server.")
        return self.bed.s3_proxy

    def arm(self, action: Action, where: Where | None = None, times: int | None = 1) -> Rule:
        """Have something happen at the point (or elsewhere) by itself."""
        place = where or self.point.where
        if place is None:
            raise FaultsError(f"No proxy sees {self.point.key}.")
        return self.proxy.add(place, action, times)

    def hold(self) -> None:
        """Have the job held at the point once it comes there."""
        if self.point.where is not None:
            self._hold = Hold()
            self.arm(self._hold)

    def reach(self) -> None:
        """Wait until the job is held at the point. Raises: NotReached."""
        if self._hold is None:
            return
        if not self._hold.reached.wait(_REACH_SECONDS):
            status, attempt, _ = self.facts()
            raise NotReached(f"{self.point.key} was never reached (the job is {status}, attempt {attempt})")
        if self.point.before_last_write:
            self._stand_before_last_write()

    def _stand_before_last_write(self) -> None:
        """Lock the database so that the job waits for it with everything else done. Raises: NotReached."""
        folder = self.bed.storages.get(self.storage)
        if self.point.kind == "backup" and folder is not None:
            # The manifest's file appears, is flushed, and gets its name: time enough to lock before the job's end.
            known = set(folder.rglob("manifest.json"))
            self.let_go()
            deadline = time.monotonic() + _REACH_SECONDS
            place = folder / "main" / self.collection
            while not any(path not in known for path in place.glob("*/manifest.json*")):
                if time.monotonic() > deadline:
                    raise NotReached("the manifest was never written")
            self.lock()
            while not set(folder.rglob("manifest.json")) - known and time.monotonic() < deadline:
                time.sleep(0.01)
        else:
            self.lock()
            self.let_go()
        time.sleep(0.3)
        if self.facts()[0] != "running":
            raise NotReached("the job was faster than the lock")

    def let_go(self, then: Action | None = None) -> None:
        """Let the held request go on, or end as `then` says."""
        if self._hold is not None:
            self._hold.release(then)

    # --- the database ---------------------------------------------------------------------------------------------
    def lock(self) -> None:
        """Take the lock that every write needs."""
        if self._lock is None:
            lock = self.bed.database.locked()
            lock.__enter__()
            self._lock = lock

    def unlock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            with suppress(Exception):  # the server may have gone with it
                lock.__exit__(None, None, None)

    # --- the worker -------------------------------------------------------------------------------------------------
    @property
    def worker(self) -> WorkerGroup:
        """The (first) worker of the bed."""
        return self.bed.workers[0]

    def replace_worker(self) -> None:
        """Start a worker in place of one that has gone, as a service manager does."""
        worker = self.bed.workers.pop(0)
        worker.stop()
        self.bed.workers.insert(0, self.bed.start_worker(self.settings))
        self.bed.workers.pop()

    def job_process(self) -> int:
        """Return the process that runs the job. Raises: NotReached."""
        status, _, pid = self.facts()
        if status != "running" or pid not in self.worker.family():
            raise NotReached(f"no process of the worker runs the job (it is {status})")
        return pid

    def later(self, seconds: float, call: Any) -> None:
        """Do something after a while, in a thread of its own."""

        def work() -> None:
            time.sleep(seconds)
            with suppress(FaultsError, Refused):
                call()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        self._threads.append(thread)

    def close(self) -> None:
        self.unlock()
        self.let_go()
        for thread in self._threads:
            thread.join(30)
