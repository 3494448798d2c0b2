"""The folder in which a run of the demo keeps everything: fresh at the start, for one run at a time."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path

from .errors import DemoError

#: Only a folder that holds this file is ever removed.
_MARK = ".made-by-demo"


@contextlib.contextmanager
def fresh_folder(folder: Path) -> Iterator[Path]:
    """Remove what the last run left, make the folder anew and hold it until the end. Raises: DemoError."""
    with contextlib.ExitStack() as stack:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(folder.with_name(f"{folder.name}.lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _clear(folder)
        except BlockingIOError as error:
            raise DemoError(f"Another demo runs in {folder}: stop it, or give another folder with --dir.") from error
        except OSError as error:
            raise DemoError(f"{folder} cannot be used: {error.strerror or error}.") from error
        yield folder


def _clear(folder: Path) -> None:
    if folder.exists():
        if not folder.is_dir() or (any(folder.iterdir()) and not (folder / _MARK).exists()):
            raise DemoError(f"{folder} is not a folder of the demo and was left alone: give another one with --dir.")
        shutil.rmtree(folder)
    folder.mkdir(mode=0o700)
    (folder / _MARK).touch()
