"""Room on this host for a part while it is open: a folder per use, cleared afterwards, also after a kill."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings

from apps.backups.engine import EngineUnavailable
from apps.core.abort import Abort
from apps.core.text import format_size
from apps.storage.stores import StoredObject

_PREFIX = "part-"
_NEW_PREFIX = "new-"
_LOCK = "in-use"
#: The engine writes a little of its own beside what it unpacks.
_SPARE_BYTES = 256 * 1024**2


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a folder that is removed with everything in it when the block ends.

    Folders whose process was killed are removed on the way: a lock in each tells whether somebody still has it.
    Raises: EngineUnavailable when the folder for scratch cannot be used.
    """
    root = Path(settings.BACKUPMGR_SCRATCH_DIR)
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sweep(root)
        # Under a name that nobody sweeps until it is locked.
        made = Path(tempfile.mkdtemp(prefix=_NEW_PREFIX, dir=root))
        lock = os.open(made / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = made.rename(root / made.name.replace(_NEW_PREFIX, _PREFIX, 1))
    except OSError as error:
        raise EngineUnavailable(
            f"Parts cannot be opened: the folder {root} cannot be written to ({error.strerror}). Set "
            f"BACKUPMGR_SCRATCH_DIR."
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _sweep(root: Path) -> None:
    for folder in root.glob(f"{_PREFIX}*"):
        try:
            lock = os.open(folder / _LOCK, os.O_RDWR)
        except OSError:
            continue  # being made, or being removed, by somebody else
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pass
        else:
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


def check_room(folder: Path, size_bytes: int) -> None:
    """Make sure that a part of this size can be fetched and unpacked. Raises: EngineUnavailable."""
    needed, free = 2 * size_bytes + _SPARE_BYTES, shutil.disk_usage(folder).free
    if free < needed:
        raise EngineUnavailable(
            f"To open a part of {format_size(size_bytes)}, {format_size(needed)} are needed in {folder.parent}, and "
            f"{format_size(free)} are free: free some, or set BACKUPMGR_SCRATCH_DIR."
        )


class FileSink:
    """A Sink that writes a plain file; for `pump`."""

    part_size = 1024 * 1024
    concurrency = 1
    on_break: Callable[[str], None] | None = None

    def __init__(self, path: Path, size_bytes: int, abort: Abort) -> None:
        self._path = path
        self._size = size_bytes
        self._abort = abort
        # A write may still be under way when the transfer gives up; its file must not be closed under it.
        self._lock = threading.Lock()
        self._file = path.open("xb", buffering=0)

    def write(self, number: int, data: bytearray, length: int) -> None:
        self._abort.check()
        view, at = memoryview(data)[:length], number * self.part_size
        with self._lock:
            try:
                while view:
                    done = os.pwrite(self._file.fileno(), view, at)
                    view, at = view[done:], at + done
            except OSError as error:
                raise EngineUnavailable(
                    f"A part could not be written to {self._path.parent.parent} ({error.strerror}): free some room, "
                    f"or set BACKUPMGR_SCRATCH_DIR."
                ) from error

    def commit(self) -> StoredObject:
        with self._lock:
            self._file.close()
        return StoredObject(key=self._path.name, size_bytes=self._size)

    def abort(self) -> None:
        with self._lock:
            self._file.close()
        self._path.unlink(missing_ok=True)
