"""A child process that cannot outlive the demo, not even when the demo is killed with -9 (Linux: prctl)."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def with_parent(parent: int) -> None:
    """Have this process killed when the thread that started it ends; at once when `parent` is gone already."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
