"""Qdrant's own engine as a witness: open a part outside of any node, count it, and read its points.

The engine (qdrant-edge-py) runs in a process of its own (__main__.py), since files that are not right make it panic,
crash or hang. What it says about a part is either a fact (Opened, points), a verdict (PartUnreadable), or that nobody
can tell (EngineUnavailable): a host without room or memory must not make a backup look bad.
"""

from __future__ import annotations

import importlib.util
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import IO, Any, Literal

from django.conf import settings

from apps.core.abort import Abort
from apps.core.errors import BackupmgrError, Unavailable
from apps.core.text import format_size

Wanted = Literal["none", "sample", "all"]

#: Files in a snapshot have holes: their sizes add up to much more than the archive has, one alone hardly does.
_FILE_BYTES_AT_LEAST = 8 * 1024**3
#: A scratch folder with less room than this explains a crash: the engine writes through mapped memory.
_NO_ROOM_BYTES = 64 * 1024**2
_POLL_SECONDS = 0.5
_MAX_LINE_BYTES = 64 * 1024**2
#: What of our environment the engine gets: nothing that is secret.
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "HOME", "TZ")


class PartUnreadable(BackupmgrError):
    """The engine does not open the part, or cannot read its points: a verdict."""


class EngineUnavailable(Unavailable):
    """The part could not be opened here for a reason that says nothing about it."""

    transient = False


@dataclass(frozen=True)
class Opened:
    """A part as the engine sees it. `points` is an exact count."""

    points: int
    segments: int
    engine: str


class OpenPart:
    """A part that the engine has opened."""

    def __init__(self, opened: Opened, lines: Iterator[dict[str, Any]]) -> None:
        self.opened = opened
        self._lines = lines

    def points(self) -> Iterator[list[tuple[int | str, str]]]:
        """Yield the points that were asked for, a page at a time: id, and the hash that points.py makes of it.

        To be read to its end, once. Raises: PartUnreadable, EngineUnavailable; the reason of the abort.
        """
        for line in self._lines:
            yield [(point_id, digest) for point_id, digest in line["points"]]


def check_engine() -> None:
    """Make sure that parts can be opened on this host at all. Raises: EngineUnavailable."""
    if importlib.util.find_spec("qdrant_edge") is None:
        raise EngineUnavailable(
            "Qdrant's engine is not installed on this worker: install the Python package qdrant-edge-py, "
            "or verify hashes only."
        )


@contextmanager
def open_part(
    archive: Path,
    folder: Path,
    *,
    wanted: Wanted = "none",
    sample: int = 0,
    vectors: dict[str, int | None] | None = None,
    abort: Abort,
) -> Iterator[OpenPart]:
    """Open a part (a shard snapshot) in the engine, in a process that ends with the block.

    `archive` is removed once it has been unpacked into `folder`, which must not exist yet; the caller removes that.
    `vectors` are the sizes by name to compare points with (None as a size: sparse).
    Raises: PartUnreadable, EngineUnavailable; the reason of the abort.
    """
    check_engine()
    request = {
        "archive": str(archive),
        "folder": str(folder),
        "points": wanted,
        "sample": sample,
        "vectors": vectors,
        "memory_bytes": settings.BACKUPMGR_ENGINE_MEMORY_MB * 1024**2,
        "file_bytes": max(_FILE_BYTES_AT_LEAST, 4 * archive.stat().st_size),
    }
    with tempfile.TemporaryFile() as errors:
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        process = subprocess.Popen(
            [sys.executable, "-m", "apps.backups.engine"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=settings.BASE_DIR,
            env=environment | {"RUST_BACKTRACE": "0", "TMPDIR": str(folder.parent)},
        )
        try:
            with abort.breaking(process.kill):
                assert process.stdin is not None
                try:
                    process.stdin.write(json.dumps(request).encode() + b"\n")
                    process.stdin.close()
                except BrokenPipeError:
                    pass  # how it ended says more
                lines = _lines(process, errors, folder.parent, abort)
                first = next(lines)
                yield OpenPart(Opened(**first["opened"]), lines)
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def _lines(
    process: subprocess.Popen[bytes], errors: IO[bytes], scratch: Path, abort: Abort
) -> Iterator[dict[str, Any]]:
    """Yield what the engine's process says until it is done. Raises: as open_part."""
    for raw in _raw_lines(process, abort):
        line = json.loads(raw)
        if "error" in line:
            raise _error(line["error"], scratch)
        if line.get("done"):
            return
        yield line
    abort.check()
    raise _died(process.wait(), errors, scratch)


def _raw_lines(process: subprocess.Popen[bytes], abort: Abort) -> Iterator[bytes]:
    assert process.stdout is not None
    waited_since, pending = monotonic(), b""
    limit = settings.BACKUPMGR_ENGINE_TIMEOUT_SECONDS
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            abort.check()
            if not selector.select(_POLL_SECONDS):
                if monotonic() - waited_since > limit:
                    raise EngineUnavailable(
                        f"Qdrant's engine said nothing for {limit} seconds while it opened a part: the host may be "
                        f"too slow (BACKUPMGR_ENGINE_TIMEOUT_SECONDS), or the part makes it hang."
                    )
                continue
            data = os.read(process.stdout.fileno(), 1 << 16)
            if not data:
                return
            pending += data
            *lines, pending = pending.split(b"\n")
            yield from lines
            if len(pending) > _MAX_LINE_BYTES:
                raise EngineUnavailable("Qdrant's engine answered with more than was asked for.")
            # The time that the reader takes for a page is not the engine's.
            waited_since = monotonic()


def _error(error: dict[str, str], scratch: Path) -> BackupmgrError:
    step, text = error["step"], error["text"]
    if step == "missing":
        return EngineUnavailable(
            "Qdrant's engine is not installed on this worker: install the Python package qdrant-edge-py."
        )
    if step in ("memory", "start") or "annot allocate memory" in text:
        return _no_memory()
    if "o space left" in text or _is_full(scratch):
        return _no_room(scratch)
    what = {"unpack": "cannot be unpacked", "open": "cannot be opened", "read": "opens, but its points cannot be read"}
    return PartUnreadable(f"It {what[step]} by Qdrant's engine: {text.rstrip('.')}.")


def _died(status: int, errors: IO[bytes], scratch: Path) -> BackupmgrError:
    """Tell why the process ended without a word."""
    errors.seek(0)
    said = errors.read(1 << 16).decode("utf-8", "replace")
    if "memory allocation of" in said or "MemoryError" in said:
        return _no_memory()
    if _is_full(scratch):
        return _no_room(scratch)
    if status == -signal.SIGKILL:
        return EngineUnavailable(
            "The process of Qdrant's engine was killed while it opened a part: probably the host ran out of memory."
        )
    if status < 0:
        return PartUnreadable(f"Qdrant's engine crashed on it ({signal.Signals(-status).name}).")
    return EngineUnavailable(f"Qdrant's engine could not be started (exit code {status}); the worker's log has more.")


def _is_full(scratch: Path) -> bool:
    found = os.statvfs(scratch)
    return found.f_bavail * found.f_frsize < _NO_ROOM_BYTES


def _no_room(scratch: Path) -> EngineUnavailable:
    return EngineUnavailable(
        f"There is no room left in {scratch.parent} to open a part: free some, or set BACKUPMGR_SCRATCH_DIR."
    )


def _no_memory() -> EngineUnavailable:
    limit = format_size(settings.BACKUPMGR_ENGINE_MEMORY_MB * 1024**2)
    return EngineUnavailable(
        f"Qdrant's engine needs more than {limit} of memory to open a part: raise BACKUPMGR_ENGINE_MEMORY_MB."
    )
