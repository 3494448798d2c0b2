"""Snapshots of collections and shards: made, listed, deleted, and fetched or uploaded for a recovery."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from .archive import Sink, TarWriter
from .collection import Collection
from .errors import (
    bad_request,
    checksum_mismatch,
    forbidden,
    internal,
    not_found,
)
from .fetch import check_hash, fetch, hash_file
from .names import check_snapshot_name, collection_snapshot_name, shard_snapshot_name
from .shard import pack_state
from .store import Store

# The version of Qdrant's collection format, the same from 1.7 on.
_FORMAT_VERSION = b"0.4.2"


class _HashingFile:
    """A sink that writes a file and hashes it on the way."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._digest = hashlib.sha256()

    def write(self, data: bytes | memoryview) -> None:
        self._digest.update(data)
        self._file.write(data)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


class Snapshots:
    """The snapshot files of a node, and the work on them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self.creating: Counter[str] = Counter()
        self.recovering: Counter[str] = Counter()
        self.created: Counter[str] = Counter()

    # Files

    def directory(self, collection: str, shard_id: int | None = None) -> Path:
        """Return where the snapshots of a collection, or of one shard of it, lie."""
        path = self._store.snapshots_path / collection
        return path if shard_id is None else path / "shards" / str(shard_id)

    def list(self, directory: Path) -> list[dict[str, Any]]:
        """Return the descriptions of the snapshots in a directory, sorted by name."""
        if not directory.is_dir():
            return []
        found = []
        for path in sorted(directory.iterdir()):
            if path.suffix == ".snapshot" and path.is_file():
                try:
                    found.append(describe(path))
                except FileNotFoundError:
                    continue  # deleted since
        return found

    def find(self, directory: Path, name: str) -> Path:
        """Return the path of a snapshot. Raises: QdrantError (404)."""
        path = directory / check_snapshot_name(name)
        if not _is_file(path):
            raise not_found(f"Snapshot {name} not found")
        return path

    def delete(self, directory: Path, name: str) -> None:
        """Delete a snapshot and its checksum. Raises: QdrantError (404)."""
        path = self.find(directory, name)
        path.unlink()
        _checksum_path(path).unlink(missing_ok=True)

    # Creating

    def create_collection(self, collection: Collection) -> dict[str, Any]:
        """Make a snapshot of all shards, one after another, and describe it. Raises: QdrantError."""

        def pack(tar: TarWriter) -> None:
            for shard_id, states in self._store.replicas(collection).items():
                shard = collection.shards.get(shard_id)
                if shard is None:
                    pack_state(tar, f"{shard_id}/", self._store.peer_id, states, is_local=False)
                else:
                    shard.pack(tar, f"{shard_id}/", self._store.peer_id, states)
            config = {**collection.config, "uuid": None}
            tar.add_bytes("version.info", _FORMAT_VERSION)
            tar.add_bytes("config.json", json.dumps(config, separators=(",", ":")).encode())
            mapping = json.dumps(self._store.key_mapping(collection), separators=(",", ":"))
            tar.add_bytes("shard_key_mapping.json", mapping.encode())
            schema = json.dumps({"schema": collection.schema}, separators=(",", ":"))
            tar.add_bytes("payload_index.json", schema.encode())

        name = collection_snapshot_name(collection.name, self._store.peer_id, datetime.now(UTC))
        return self._create(collection, self.directory(collection.name), name, pack)

    def create_shard(self, collection: Collection, shard_id: int) -> dict[str, Any]:
        """Make a snapshot of one shard and describe it. Raises: QdrantError."""
        name = shard_snapshot_name(collection.name, shard_id, datetime.now(UTC))
        directory = self.directory(collection.name, shard_id)
        return self._create(collection, directory, name, self._packing(collection, shard_id))

    def stream_shard(self, collection: Collection, shard_id: int, sink: Sink) -> None:
        """Write a fresh snapshot of one shard to a sink; no file is kept. Raises: QdrantError."""
        with self.running(self.creating, collection.name):
            tar = TarWriter(sink)
            self._packing(collection, shard_id)(tar)
            tar.finish()

    def _packing(self, collection: Collection, shard_id: int) -> Callable[[TarWriter], None]:
        shard = self._store.local_shard(collection, shard_id, "local or queue proxy shard")
        states = self._store.replicas(collection)[shard_id]
        return lambda tar: shard.pack(tar, "", self._store.peer_id, states)

    def _create(
        self, collection: Collection, directory: Path, name: str, pack: Callable[[TarWriter], None]
    ) -> dict[str, Any]:
        with self.running(self.creating, collection.name), self.scratch(f"{name}-arc-") as scratch:
            part = scratch / "archive"
            with part.open("xb", buffering=0) as file:
                sink = _HashingFile(file)
                tar = TarWriter(sink)
                pack(tar)
                tar.finish()
            try:
                directory.mkdir(parents=True, exist_ok=True)
                (scratch / "checksum").write_text(sink.hexdigest())
                # The checksum goes first: a listed snapshot always has one.
                (scratch / "checksum").replace(_checksum_path(directory / name))
                part.replace(directory / name)
            except OSError as error:
                raise internal(f"failed to store snapshot {name}: {_os_error(error)}") from error
        with self._lock:
            self.created[collection.name] += 1
        return describe(directory / name)

    # Sources of recoveries

    @contextmanager
    def located(self, location: str, api_key: str | None, checksum: str | None) -> Iterator[Path]:
        """Give the file a location names: http(s), or file:// in the snapshots directory.

        A download is deleted afterwards. Raises: QdrantError (400, 403, 500; 400 also for a wrong checksum).
        """
        scheme = urlsplit(location).scheme
        if scheme in ("http", "https"):
            with self._fetched(location, api_key, checksum) as path:
                yield path
            return
        if scheme != "file":
            if not scheme:
                raise bad_request(f"Invalid snapshot location {location}: relative URL without a base")
            raise bad_request(f"URL {location} with scheme {scheme} is not supported")
        path = Path(unquote(urlsplit(location).path))
        if not _is_file(path):
            raise bad_request(f'Snapshot file "{path}" does not exist')
        real, root = path.resolve(), self._store.snapshots_path.resolve()
        if not real.is_relative_to(root):
            raise forbidden(f'Snapshot file path must be inside the snapshots directory "{root}"')
        if checksum is not None:
            check_hash(checksum, hash_file(real))
        yield real

    @contextmanager
    def located_for_shard(
        self, directory: Path, location: str, api_key: str | None, checksum: str | None
    ) -> Iterator[Path]:
        """Give the file a location of a shard recovery names: http(s), or a name in the shard's directory.

        Raises: QdrantError, as `located`; 404 for an unknown name.
        """
        scheme = urlsplit(location).scheme
        if scheme in ("http", "https"):
            with self._fetched(location, api_key, checksum) as path:
                yield path
            return
        if scheme:
            raise bad_request(f"URL {location} with scheme {scheme} is not supported")
        path = self.find(directory, location)
        if checksum is not None:
            check_hash(checksum, hash_file(path))
        yield path

    @contextmanager
    def _fetched(self, url: str, api_key: str | None, checksum: str | None) -> Iterator[Path]:
        with self.scratch("download-") as scratch:
            check_hash(checksum, fetch(url, api_key, scratch / "archive"))
            yield scratch / "archive"

    # Uploads

    def check_upload(self, archive: Path, checksum: str | None) -> None:
        """Compare an uploaded file with its promised hash. Raises: QdrantError (400).

        The two words are the wrong way round, as on a server.
        """
        if checksum is not None:
            actual = hash_file(archive)
            if actual != checksum.lower():
                raise checksum_mismatch(f"expected {actual}, actual {checksum}")

    def keep_upload(self, collection: str, name: str, archive: Path) -> Path:
        """Move an uploaded file among the snapshots, where a server leaves it, and return its path."""
        directory = self.directory(collection)
        target = directory / Path(check_snapshot_name(name)).name
        try:
            directory.mkdir(parents=True, exist_ok=True)
            archive.replace(target)
        except OSError as error:
            raise internal(f"failed to store upload {name}: {_os_error(error)}") from error
        return target

    @contextmanager
    def running(self, counter: Counter[str], collection: str) -> Iterator[None]:
        """Count work on a collection while it runs."""
        with self._lock:
            counter[collection] += 1
        try:
            yield
        finally:
            with self._lock:
                counter[collection] -= 1

    @contextmanager
    def scratch(self, prefix: str) -> Iterator[Path]:
        """Give an empty directory that is deleted afterwards. Raises: QdrantError (500)."""
        try:
            path = Path(tempfile.mkdtemp(prefix=prefix, dir=self._store.temp_path))
        except OSError as error:
            where = self._store.temp_path / f"{prefix}XXXX"
            raise internal(
                f'failed to create temporary snapshot directory {where}: {_os_error(error)} at path "{where}"'
            ) from error
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def describe(path: Path) -> dict[str, Any]:
    """Return a SnapshotDescription; `checksum` only when one was stored. Raises: FileNotFoundError."""
    facts = path.stat()
    created = datetime.fromtimestamp(facts.st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    description = {"name": path.name, "creation_time": created, "size": facts.st_size}
    with suppress(FileNotFoundError):  # an uploaded file has none
        description["checksum"] = _checksum_path(path).read_text().strip()
    return description


def _checksum_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.checksum")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _os_error(error: OSError) -> str:
    return f"{error.strerror} (os error {error.errno})"
