"""Runs cells on a bed, one after another."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from .api import ENDED, Refused
from .bed import QUICK, SMALL, Bed
from .cells import Cell
from .checker import Checker, Verdict
from .errors import FaultsError, NotReached
from .faults_more import empty
from .scene import Scene

#: The job may be faster than we are at a point that no proxy sees; so often it is tried again.
_TRIES = 4
_IDLE_SECONDS = 60.0


class Runner:
    """A bed with a worker, and with a backup in every storage for the restores."""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self._settings: dict[str, str] = {}
        self.make_ready(QUICK)
        self.base = {storage: self._base_backup(storage) for storage in bed.storage_ids if storage != "tight"}
        bed.world.call("POST", "/collections/aliases", {"actions": [{"delete_alias": {"alias_name": f"{SMALL}-live"}}]})
        self.pristine = bed.world.state()

    def run(self, cell: Cell) -> Verdict:
        """Run one cell. Never raises for what it finds; whatever goes wrong is in the verdict."""
        started = time.monotonic()
        for left in range(_TRIES - 1, -1, -1):
            try:
                verdict = self._run(cell)
            except NotReached as error:
                self.calm()
                if left and cell.point.before_last_write:
                    continue
                verdict = Verdict([f"not reached: {error}"])
            except (FaultsError, Refused, OSError) as error:
                verdict = Verdict([f"the cell itself failed: {error}"])
            break
        if not verdict.is_green:
            self.calm()
        verdict.seconds = time.monotonic() - started
        return verdict

    def _run(self, cell: Cell) -> Verdict:
        bed, fault = self.bed, cell.fault
        self.make_ready(fault.settings)
        before = bed.world.state()
        scene = Scene(bed, cell.point, self.base, fault.settings)
        try:
            fault.arm(scene)
            scene.job_id = scene.create_job()
            fault.created(scene)
            scene.reach()
            fault.strike(scene)
            if cell.point.before_last_write:
                scene.unlock()
            scene.let_go()
            fault.after(scene)
            bed.api.wait(scene.job_id, 75)
            fault.heal(scene)
            for proxy in bed.proxies():
                proxy.clear()
            return Checker(bed, before).judge(scene, fault.expects(cell.point))
        finally:
            with suppress(FaultsError):
                scene.close()
            with suppress(FaultsError, OSError):
                fault.heal(scene)

    def make_ready(self, settings: dict[str, str] = QUICK) -> None:
        """Have one worker with these settings, no fault anywhere, the clock right."""
        for proxy in self.bed.proxies():
            proxy.clear()
        self.bed.clock.set(0)
        while len(self.bed.workers) > 1:
            self.bed.workers.pop().stop()
        running = [worker for worker in self.bed.workers if worker.is_running]
        if self._settings != settings or not running:
            self.bed.stop_workers()
            self.bed.start_worker(settings)
            self._settings = settings
        deadline = time.monotonic() + _IDLE_SECONDS
        while self._active() or self.bed.database.rows("SELECT id FROM backups_leftover"):
            if time.monotonic() > deadline:
                raise FaultsError("a job of an earlier cell does not end, or what it left does not go")
            time.sleep(0.1)

    def calm(self) -> None:
        """After a red cell: end what still runs and remove what is there: the next cell starts like any other."""
        self._end_jobs()
        self.bed.stop_workers()
        with suppress(FaultsError):
            self.bed.wipe(self.pristine)
        self._settings = {}

    def tidy(self) -> None:
        """As `calm`, and the worker stays."""
        self._end_jobs()
        self.bed.wipe(self.pristine)

    def _end_jobs(self) -> None:
        bed = self.bed
        for proxy in bed.proxies():
            proxy.clear()
        for folder in (bed.data, *bed.storages.values()):
            empty(folder)
        with suppress(FaultsError, Refused):
            for job in self._active():
                with suppress(Refused):
                    bed.api.cancel_job(job)
            deadline = time.monotonic() + 20
            while self._active() and time.monotonic() < deadline:
                time.sleep(0.2)

    def _active(self) -> list[str]:
        found = []
        for status in ("pending", "running"):
            found += [job["id"] for job in self.bed.api.call("GET", f"/jobs?status={status}&limit=100")["items"]]
        return found

    def _base_backup(self, storage: str) -> dict[str, Any]:
        """Make the backup that restores start from; it knows an alias."""
        bed = self.bed
        action = {"create_alias": {"collection_name": SMALL, "alias_name": f"{SMALL}-live"}}
        bed.world.call("POST", "/collections/aliases", {"actions": [action]})
        job_id = bed.api.create_job(type="backup", collection_name=SMALL, storage_id=bed.storage_ids[storage])
        job = bed.api.wait(job_id, 60)
        if job["status"] not in ENDED or job["status"] != "completed":
            raise FaultsError(f"The first backup to {storage} did not complete: {job['status']}, {job['error']}")
        return next(backup for backup in bed.api.backups() if backup["job_id"] == job_id)
