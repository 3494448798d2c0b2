"""The program that opens a part in Qdrant's engine: `python -m apps.backups.engine`, one process a part.

A process of its own, since the engine panics, aborts or does not come back on files that are not right, and takes
whoever loaded it with it. It reads one JSON object from its input and writes one JSON object a line:

    in   {"archive", "folder", "points": "none"|"sample"|"all", "sample", "vectors": {name: size|null}|null,
          "memory_bytes", "file_bytes"}
    out  {"opened": {"points", "segments", "engine"}}
         {"points": [[id, SHA-256], …]}       any number of them
         {"done": true} | {"error": {"step", "text"}}

Free of Django. The archive is removed once it is unpacked; the folder belongs to the caller, who clears it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from apps.backups.engine.points import digest, named, size_of

#: Points read from the engine at a time.
PAGE = 256
_PR_SET_PDEATHSIG = 1


class Wrong(Exception):
    """What the engine gives is not what the manifest describes."""


def main() -> int:
    request = json.loads(sys.stdin.readline())
    _confine(request)
    step = "start"
    try:
        import qdrant_edge as edge

        step = "unpack"
        folder = Path(request["folder"])
        edge.EdgeShard.unpack_snapshot(request["archive"], str(folder))
        Path(request["archive"]).unlink()
        step = "open"
        shard = edge.EdgeShard.load(str(folder))
        info = shard.info()
        opened = {
            "points": shard.count(edge.CountRequest(exact=True)),
            "segments": info.segments_count,
            "engine": _version(),
        }
        _say({"opened": opened})
        step = "read"
        for points in _points(edge, shard, request):
            _say({"points": points})
        shard.close()
    except ModuleNotFoundError as error:
        _say({"error": {"step": "missing", "text": str(error)}})
    except MemoryError:
        _say({"error": {"step": "memory", "text": "out of memory"}})
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - a panic of the engine is a BaseException; all of it is reported
        _say({"error": {"step": step, "text": _first_line(error)}})
    else:
        _say({"done": True})
    return 0


def _confine(request: dict[str, Any]) -> None:
    """Set limits, so that a damaged file costs this process and nothing else; and never outlive the caller."""
    # The caller ends us with SIGKILL. A SIGTERM to the worker's group must not look like a crash on the part.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Segments are mapped from files, so the limit is on memory of the process's own, not on its address space.
    for limit, value in (
        (resource.RLIMIT_DATA, request["memory_bytes"]),
        (resource.RLIMIT_FSIZE, request["file_bytes"]),
    ):
        with contextlib.suppress(ValueError, OSError):  # a lower limit is set already
            resource.setrlimit(limit, (value, value))
    os.nice(5)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _points(edge: Any, shard: Any, request: dict[str, Any]) -> Iterator[list[list[Any]]]:
    """Yield id and hash of the points that were asked for, checking their vectors on the way."""
    sizes: dict[str, int | None] | None = request["vectors"]
    for records in _records(edge, shard, request):
        page = []
        for record in records:
            vectors = {name: _plain(edge, vector) for name, vector in named(record.vector).items()}
            _check_vectors(record.id, vectors, sizes)
            point_id = record.id if isinstance(record.id, int) else str(record.id)
            page.append([point_id, digest(point_id, record.payload, vectors)])
        yield page


def _records(edge: Any, shard: Any, request: dict[str, Any]) -> Iterator[list[Any]]:
    if request["points"] == "sample" and request["sample"] > 0:
        chosen = [one.id for one in shard.query(edge.QueryRequest(limit=request["sample"], query=edge.Sample.Random))]
        for start in range(0, len(chosen), PAGE):
            ids = chosen[start : start + PAGE]
            found = shard.retrieve(ids, with_payload=True, with_vector=True)
            if len(found) != len(ids):
                raise Wrong(f"{len(ids) - len(found)} of {len(ids)} points that it lists cannot be read")
            yield found
    if request["points"] == "all":
        offset = None
        while True:
            found, offset = shard.scroll(
                edge.ScrollRequest(limit=PAGE, offset=offset, with_payload=True, with_vector=True)
            )
            if found:
                yield found
            if offset is None:
                return


def _plain(edge: Any, vector: Any) -> Any:
    """Return a vector of the engine as a node would write it."""
    if isinstance(vector, edge.SparseVector):
        return {"indices": list(vector.indices), "values": list(vector.values)}
    return vector


def _check_vectors(point_id: Any, vectors: dict[str, Any], sizes: dict[str, int | None] | None) -> None:
    for name, vector in vectors.items() if sizes is not None else ():
        assert sizes is not None
        if name not in sizes:
            raise Wrong(f"point {point_id} has a vector {name!r} that the configuration lacks")
        if size_of(vector) != sizes[name]:
            raise Wrong(f"the vector {name!r} of point {point_id} has {size_of(vector)} dimensions, not {sizes[name]}")


def _version() -> str:
    from importlib.metadata import version

    return version("qdrant-edge-py")


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0][:300]


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line, ensure_ascii=True) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    status = main()
    # Not through the interpreter's end: a shard that was left open would be flushed, and that may hang or panic.
    sys.stdout.flush()
    os._exit(status)
