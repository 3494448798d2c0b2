"""The drain flag: tells every process of a worker that it is being stopped.

A plain shared byte without a lock: a process that is killed while it holds a lock would take the others with it.
The supervisor creates it before it forks; processes that were started otherwise (tests, the shell) have none.
"""

from __future__ import annotations

import ctypes
from multiprocessing.sharedctypes import RawValue

_flag = None


def prepare() -> None:
    """Create the flag; processes forked from now on share it."""
    global _flag
    _flag = RawValue(ctypes.c_bool, False)


def request() -> None:
    """Ask all jobs of this worker to stop and go back to the queue."""
    if _flag is not None:
        _flag.value = True


def requested() -> bool:
    return _flag is not None and bool(_flag.value)
