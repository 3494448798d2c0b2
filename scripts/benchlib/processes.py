"""Processes of the bench: bounded in time, on loopback only, and gone when the bench is."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from demolib import die

REPOSITORY = Path(__file__).resolve().parent.parent.parent


class BenchError(Exception):
    """Why there is no result, in a sentence."""


def clean_environment() -> dict[str, str]:
    """Return our environment without what could lead elsewhere: proxies, and settings of AWS or of an installation."""
    dropped = ("AWS_", "S3_", "BACKUPMGR_", "DATABASE_URL", "QDRANT_")
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(dropped) and not name.lower().endswith("_proxy")
    }


def run(command: Sequence[str], environment: dict[str, str], seconds: float) -> str:
    """Run a command to its end and return what it printed. Raises: BenchError."""
    parent = os.getpid()
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: die.with_parent(parent),
    )
    name = Path(command[1] if command[0] == sys.executable else command[0]).name
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{name} took longer than {seconds:.0f} seconds.") from error
    finally:
        with contextlib.suppress(ProcessLookupError):  # a pipeline may leave its other half
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode:
        raise BenchError(f"{name} failed with code {process.returncode}:\n{errors.strip()[-2000:]}")
    return output


def run_python(module: str, arguments: Sequence[str], environment: dict[str, str], seconds: float) -> str:
    """Run a program of this folder. Raises: BenchError."""
    program = Path(__file__).resolve().parent / f"{module}.py"
    return run([sys.executable, str(program), *arguments], environment, seconds)
