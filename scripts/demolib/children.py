"""The processes that the demo starts: each in a session of its own, with a log, and gone when the demo is."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from . import die
from .errors import DemoError

REPOSITORY = Path(__file__).resolve().parent.parent.parent
#: How long a process may take to end by itself. The worker's own limit for jobs is longer: here it is the last word.
_STOP_SECONDS = 15.0


class Child:
    """A running process. Start it from the main thread: Linux kills it when the thread that started it ends."""

    def __init__(
        self, name: str, command: list[str], *, log: Path, environment: dict[str, str], fds: tuple[int, ...] = ()
    ) -> None:
        self.name = name
        self.log = log
        parent = os.getpid()
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, *command],
                cwd=REPOSITORY,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=fds,
                preexec_fn=lambda: die.with_parent(parent),
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """Raise DemoError when the process has ended."""
        code = self._process.poll()
        if code is not None:
            lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
            last = f"; its last words: {lines[-1]}" if lines else ""
            raise DemoError(f"The {self.name} ended by itself (exit code {code}, log {self.log}){last}")

    def first_line(self, seconds: float = 30.0) -> str:
        """Wait for the first line of the log and return it. Raises: DemoError."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.check()
            line, newline, _ = self.log.read_text(errors="replace").partition("\n")
            if newline:
                return line
            time.sleep(0.05)
        raise DemoError(f"The {self.name} was not ready within {seconds:.0f} seconds (log {self.log}).")

    def stop(self) -> None:
        """SIGTERM to the whole group, as systemd does; SIGKILL to what is left of it afterwards."""
        if self._process.poll() is None:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_SECONDS)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def kill(self) -> None:
        """SIGKILL to the whole group, now."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def run(name: str, command: list[str], *, environment: dict[str, str], log: Path, seconds: float = 120.0) -> str:
    """Run a process to its end and return its standard output. Raises: DemoError."""
    parent = os.getpid()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=REPOSITORY,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: die.with_parent(parent),
        )
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise DemoError(f"The {name} took longer than {seconds:.0f} seconds (log {log}).") from error
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        raise DemoError(f"The {name} failed (log {log}): {lines[-1] if lines else 'it said nothing'}")
    return output
