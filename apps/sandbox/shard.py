"""One shard: an engine's shard in a directory of its own, behind a lock."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import qdrant_edge as edge

from .archive import TarWriter
from .config import Config, edge_config
from .errors import QdrantError, internal, not_found, wrong_input
from .locks import ReadWriteLock
from .schema import FieldSchema, edge_field_schema

T = TypeVar("T")
# A log segment that holds nothing but its header: magic, version and the seed of its checksums, as in a
# genuine shard snapshot. Its name carries the next operation, so that a server goes on counting from there.
_WAL_HEADER = b"wal\0\0\0\0\0"
_WAL_SEGMENT_BYTES = 32 << 20


def call_engine(call: Callable[[], T]) -> T:
    """Run an engine's call and word its failure as Qdrant does.

    A panic of the engine arrives as a BaseException that `except Exception` misses, and would end the
    thread without an answer. Raises: QdrantError.
    """
    try:
        return call()
    except (QdrantError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise _worded(error) from error


def _worded(error: BaseException) -> QdrantError:
    text = str(error)
    if not isinstance(error, Exception):
        return internal(f"the engine panicked: {text}")
    for prefix in ("Service runtime error: ", "Service internal error: "):
        if text.startswith(prefix):
            return internal(text.removeprefix(prefix))
    if text.startswith("No point with id"):
        return not_found(text)
    return wrong_input(text)


def open_shard(path: Path, config: Config, schema: Mapping[str, FieldSchema]) -> edge.EdgeShard:
    """Open a shard's directory, check that it answers, and add the indexes of `schema` it lacks.

    Raises: QdrantError (500) when the engine refuses the files, or the vectors are not the configured ones.
    """

    def load() -> edge.EdgeShard:
        # A configuration beside the files would come before ours.
        (path / "edge_config.json").unlink(missing_ok=True)
        shard = edge.EdgeShard.load(str(path), edge_config(config))
        try:
            shard.count(edge.CountRequest(exact=True))
            shard.scroll(edge.ScrollRequest(limit=1, with_payload=True, with_vector=True))
            present = shard.info().payload_schema
            for field, wanted in schema.items():
                if field not in present:
                    shard.update(edge.UpdateOperation.create_field_index(field, edge_field_schema(wanted)))
        except BaseException:
            shard.close()
            raise
        return shard

    try:
        return call_engine(load)
    except QdrantError as error:
        raise error if error.status == 500 else internal(error.message) from error


def create_shard(path: Path, config: Config) -> edge.EdgeShard:
    """Make an empty shard in a new directory. Raises: QdrantError."""
    return call_engine(lambda: edge.EdgeShard.create(str(path), edge_config(config)))


def pack_state(tar: TarWriter, prefix: str, peer_id: int, states: Mapping[int, str], *, is_local: bool) -> None:
    """Write the two small files that end a shard's part of a snapshot, and are all of it for a remote shard."""
    peers = {str(peer): state for peer, state in states.items()}
    state = {"is_local": is_local, "this_peer_id": peer_id, "peers": peers}
    tar.add_bytes(f"{prefix}replica_state.json", json.dumps(state, separators=(",", ":")).encode())
    tar.add_bytes(f"{prefix}shard_config.json", b'{"type":"ReplicaSet"}')


class Shard:
    """A shard that serves: reads together, updates one at a time, and can be replaced as a whole."""

    def __init__(self, shard_id: int, path: Path, opened: edge.EdgeShard) -> None:
        self.shard_id = shard_id
        self.path = path
        self._edge = opened
        self._lock = ReadWriteLock()
        self._dirty = False

    def read(self, query: Callable[[edge.EdgeShard], T]) -> T:
        """Run a query on the engine. Raises: QdrantError."""
        with self._lock.read():
            return call_engine(lambda: query(self._edge))

    def update(self, *operations: edge.UpdateOperation) -> None:
        """Apply operations in their order. Raises: QdrantError; what came before the failure stays."""
        with self._lock.write():
            self._dirty = True
            for operation in operations:
                call_engine(lambda one=operation: self._edge.update(one))  # type: ignore[misc]

    def count(self, request: edge.CountRequest | None = None) -> int:
        """Return the exact number of points, of those that match when a request with a filter is given."""
        return self.read(lambda shard: shard.count(request or edge.CountRequest(exact=True)))

    def flush(self) -> None:
        """Write what changed to disk."""
        with self._lock.read():
            if self._dirty:
                self._dirty = False
                call_engine(self._edge.flush)

    def pack(self, tar: TarWriter, prefix: str, peer_id: int, states: Mapping[int, str]) -> None:
        """Write this shard's entries of a snapshot, all names under `prefix`. Updates wait meanwhile.

        `states` are the states of all its replicas by peer.
        """
        with self._lock.read():
            call_engine(self._edge.flush)
            version = 0
            for segment in sorted((self.path / "segments").iterdir()):
                if not (segment / "segment.json").is_file():
                    continue
                version = max(version, json.loads((segment / "segment.json").read_bytes()).get("version") or 0)
                for file in sorted(segment.rglob("*")):
                    if file.is_file():
                        inner = file.relative_to(segment).as_posix()
                        tar.add_file(f"{prefix}segments/{segment.name}/files/{inner}", file)
        tar.add_directory(f"{prefix}wal")
        tar.add_sparse_bytes(f"{prefix}wal/closed-{version + 1}", _WAL_HEADER, _WAL_SEGMENT_BYTES)
        pack_state(tar, prefix, peer_id, states, is_local=True)

    def replace(self, path: Path, opened: edge.EdgeShard, commit: Callable[[], None]) -> None:
        """Serve another directory from now on; `commit` records that, then the old data is deleted."""
        with self._lock.write():
            old_edge, old_path = self._edge, self.path
            self._edge, self.path, self._dirty = opened, path, True
            commit()
            call_engine(old_edge.close)
        shutil.rmtree(old_path, ignore_errors=True)

    def discard(self) -> None:
        """Let go of the files and delete them; what cannot be closed is deleted all the same."""
        try:
            self.close()
        except QdrantError:
            pass  # it is broken, or closed already
        finally:
            shutil.rmtree(self.path, ignore_errors=True)

    def close(self) -> None:
        """Write what changed and let go of the files. Later calls fail."""
        with self._lock.write():
            call_engine(self._edge.close)

    def info(self) -> Any:
        """Return the engine's ShardInfo."""
        return self.read(lambda shard: shard.info())
