"""A real `manage.py worker` with its family of processes, to be watched and killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from demolib import die
from demolib.children import REPOSITORY

from .errors import FaultsError


class WorkerGroup:
    """A worker in a process group of its own."""

    def __init__(self, log: Path, environment: dict[str, str]) -> None:
        parent = os.getpid()
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, str(REPOSITORY / "manage.py"), "worker"],
                cwd=REPOSITORY,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=lambda: die.with_parent(parent),
            )

    @property
    def pid(self) -> int:
        """Of the supervisor, which is also the group's id."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def family(self) -> dict[int, int]:
        """Return pid → parent of all live processes of the worker."""
        found = {}
        for pid, (state, parent, session) in _processes().items():
            if session == self.pid and state != "Z":
                found[pid] = parent
        return found

    def signal_group(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def signal_main(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait_gone(self, seconds: float) -> None:
        """Wait until no process of the worker is left. Raises: FaultsError."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._process.poll()
            if not self.family():
                return
            time.sleep(0.02)
        raise FaultsError(f"{len(self.family())} processes of a worker were still there after {seconds:.0f} s.")

    def stop(self, seconds: float = 30) -> None:
        """End it and everything below it, gently first."""
        if self.is_running:
            self.signal_group(signal.SIGCONT)
            self.signal_group(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
        self.signal_group(signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        with suppress(FaultsError):
            self.wait_gone(5)

    def waits_on_the_queue(self) -> list[int]:
        """Return the processes that are idle: each sits in a read of the queue's pipe or of the lock in front of it."""
        children = self.family()
        idle = []
        for pid in children:
            with suppress(OSError):
                if pid not in children.values() and "pipe" in Path(f"/proc/{pid}/wchan").read_text():
                    idle.append(pid)
        return idle

    def cpu_seconds(self) -> float:
        """Return the CPU time of all its live processes together."""
        ticks = 0
        for pid in self.family():
            with suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


def _processes() -> dict[int, tuple[str, int, int]]:
    """Return pid → (state, parent, session)."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                found[int(entry.name)] = (fields[0], int(fields[1]), int(fields[3]))
    return found
