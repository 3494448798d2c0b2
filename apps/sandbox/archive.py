"""Snapshot archives: GNU tars with sparse entries, as Qdrant writes and reads them.

Written layout of a shard: `segments/{uuid}/files/...`, `wal/closed-{n}`, `replica_state.json`,
`shard_config.json`. Read besides: nested `segments/{uuid}.tar` with `snapshot/files/...` inside, which a
server writes. Source: tests/recordings/*.snapshot; a server of 1.18 restores the written layout.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, cast

from .errors import QdrantError, internal

_BLOCK = 512
_COPY_BYTES = 1 << 20
_HEADER_EXTENTS = 4
_EXTENSION_EXTENTS = 21
_SHARD_FILES = ("replica_state.json", "shard_config.json")
COLLECTION_FILES = ("config.json", "payload_index.json", "shard_key_mapping.json", "version.info")


class Sink(Protocol):
    """Where an archive goes: a file that hashes, or a connection."""

    def write(self, data: bytes | memoryview) -> None:
        """Take all of `data`."""


class TarWriter:
    """Writes a GNU tar to a sink, holes of sparse files left out."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def add_directory(self, name: str) -> None:
        """Write an entry for an empty directory."""
        info = tarfile.TarInfo(name)
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        self._sink.write(_header(info))

    def add_bytes(self, name: str, data: bytes) -> None:
        """Write a small file."""
        info = tarfile.TarInfo(name)
        info.size = len(data)
        self._sink.write(_header(info) + data + bytes(-len(data) % _BLOCK))

    def add_sparse_bytes(self, name: str, data: bytes, size: int) -> None:
        """Write a file of `size` bytes that holds `data` at its start and zeros after it."""
        data += bytes(-len(data) % _BLOCK)
        self._sink.write(_sparse_header(name, size, [(0, len(data)), (size, 0)]) + data)

    def add_file(self, name: str, path: Path) -> None:
        """Write a file from disk; only the extents that hold data are read."""
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            extents = list(_data_extents(file.fileno(), size))
            held = sum(length for _, length in extents)
            if held == size:
                info = tarfile.TarInfo(name)
                info.size = size
                self._sink.write(_header(info))
            else:
                if not extents or sum(extents[-1]) < size:
                    extents.append((size, 0))
                self._sink.write(_sparse_header(name, size, extents))
            for start, length in extents:
                self._copy(file.fileno(), start, length, path)
            self._sink.write(bytes(-held % _BLOCK))

    def finish(self) -> None:
        """Write the two zero blocks that end an archive."""
        self._sink.write(bytes(2 * _BLOCK))

    def _copy(self, fd: int, start: int, length: int, path: Path) -> None:
        end = start + length
        while start < end:
            data = os.pread(fd, min(_COPY_BYTES, end - start), start)
            if not data:
                raise internal(f"file {path.name} shrank while it was packed")
            self._sink.write(data)
            start += len(data)


def _header(info: tarfile.TarInfo) -> bytes:
    return info.tobuf(tarfile.GNU_FORMAT)


def _sparse_header(name: str, size: int, extents: list[tuple[int, int]]) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = tarfile.GNUTYPE_SPARSE, sum(length for _, length in extents)
    whole = _header(info)
    # A long name comes in blocks of its own before the header, so the header is the last block.
    before, block = whole[:-_BLOCK], bytearray(whole[-_BLOCK:])
    first, rest = extents[:_HEADER_EXTENTS], extents[_HEADER_EXTENTS:]
    block[345:500] = bytes(155)
    block[386 : 386 + 24 * len(first)] = _extents(first)
    block[482] = bool(rest)
    block[483:495] = _number(size)
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    more = bytearray()
    while rest:
        part, rest = rest[:_EXTENSION_EXTENTS], rest[_EXTENSION_EXTENTS:]
        more += _extents(part).ljust(504, b"\0") + bytes([bool(rest)]) + bytes(7)
    return before + bytes(block) + bytes(more)


def _extents(extents: list[tuple[int, int]]) -> bytes:
    return b"".join(_number(start) + _number(length) for start, length in extents)


def _number(value: int) -> bytes:
    return f"{value:011o}\0".encode()


def _data_extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            return  # only a hole is left
        at = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        if at <= start:
            return
        yield start, at - start


def unpack_shard(archive: Path, target: Path) -> None:
    """Unpack a shard snapshot into a directory the engine opens. The target is made here.

    The write-ahead log is left out: the engine does not replay it, and a shard's own holds nothing.
    Raises: QdrantError (500) for anything that is not a whole shard snapshot.
    """
    unpack(archive, lambda name: _shard_member(name, target))
    _check_shard(target)


def unpack_collection(archive: Path, target: Path, *, partly: bool = False) -> list[int]:
    """Unpack a collection snapshot: its JSON files, and every shard into `target/{id}`; return the shard ids.

    Raises: QdrantError (500), also when a shard lacks its data, as on a standalone server. With `partly`, as on a
    node of a cluster, such a shard is only left out of the answer.
    """

    def place(name: str) -> Path | None:
        first, _, rest = name.partition("/")
        if first.isdigit() and rest:
            return _shard_member(rest, target / str(int(first)))
        return target / name if name in COLLECTION_FILES else None

    unpack(archive, place)
    if not (target / "config.json").is_file():
        raise internal("Failed to read collection config: config.json is missing in the snapshot")
    shards = sorted(int(path.name) for path in target.iterdir() if path.is_dir())
    if partly:
        shards = [shard_id for shard_id in shards if (target / str(shard_id) / "segments").is_dir()]
    for shard_id in shards:
        if not (target / str(shard_id) / "segments").is_dir():
            raise internal(f"Can't restore snapshot in local mode with missing data at shard: {shard_id}")
        _check_shard(target / str(shard_id))
    return shards


def _check_shard(target: Path) -> None:
    # They are written last, so an archive cut at an entry's end lacks them.
    for name in _SHARD_FILES:
        if not (target / name).is_file():
            raise internal(f"Failed to unpack snapshot: {name} is missing")
    if not (target / "segments").is_dir():
        raise internal("Failed to unpack snapshot: it holds no segments")


def _shard_member(name: str, target: Path) -> Path | None:
    parts = name.split("/")
    if name in _SHARD_FILES:
        return target / name
    if parts[0] != "segments" or len(parts) < 2:
        return None
    if len(parts) == 2 and parts[1].endswith(".tar"):
        return target / name
    if len(parts) > 3 and parts[2] == "files":
        return target.joinpath("segments", parts[1], *parts[3:])
    return None


def unpack(archive: Path, place: Callable[[str], Path | None]) -> None:
    """Unpack the entries that `place` gives a path; None leaves one out.

    Every entry is checked, also those left out: plain relative names, only directories and regular or
    sparse files. Raises: QdrantError (500) for a broken archive or a forbidden entry.
    """
    name = ""
    with archive.open("rb", buffering=0) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    name = member.name
                    _unpack_member(tar, member, file.fileno(), 0, place)
        except tarfile.TarError as error:
            what = "Malformed tar archive, reached unknown entry"
            if name and "unexpected end" in str(error):
                what = f"failed to unpack `{name}`"
            raise internal(f"Failed to unpack tar archive: {what}") from error
        except OSError as error:
            raise internal(f"Failed to unpack tar archive: {error}") from error


def _unpack_member(
    tar: tarfile.TarFile, member: tarfile.TarInfo, fd: int, base: int, place: Callable[[str], Path | None]
) -> None:
    name = member.name
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "\0" in name or "\\" in name:
        raise internal(f"Failed to unpack tar archive: entry `{name}` climbs out of the target")
    if member.isdir():
        return
    if not (member.isreg() or member.issparse()):
        raise internal(f"Failed to unpack tar archive: entry `{name}` is neither a file nor a directory")
    path = place(name)
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if parts[-1].endswith(".tar") and parts[-2:-1] == ["segments"]:
        _unpack_segment(tar, member, fd, base, path.with_suffix(""))
        return
    extents: list[tuple[int, int]] = [(0, member.size)]
    if member.sparse is not None:
        extents = cast("list[tuple[int, int]]", member.sparse)
    _write_file(fd, base + member.offset_data, path, extents, member.size)


def _unpack_segment(tar: tarfile.TarFile, member: tarfile.TarInfo, fd: int, base: int, target: Path) -> None:
    def place(name: str) -> Path | None:
        rest = name.removeprefix("snapshot/files/")
        return None if rest == name or not rest else target / rest

    inner_file = tar.extractfile(member)
    if inner_file is None or member.sparse is not None:
        raise internal(f"Failed to unpack tar archive: failed to unpack `{member.name}`")
    with inner_file, tarfile.open(fileobj=inner_file, mode="r:") as inner:
        for one in inner:
            _unpack_member(inner, one, fd, base + member.offset_data, place)


def _write_file(fd: int, offset: int, path: Path, extents: list[tuple[int, int]], size: int) -> None:
    with path.open("xb", buffering=0) as target:
        for start, length in extents:
            _copy_range(fd, offset, target.fileno(), start, length, path)
            offset += length
        os.ftruncate(target.fileno(), size)


def _copy_range(source: int, offset: int, target: int, start: int, length: int, path: Path) -> None:
    while length > 0:
        try:
            done = os.copy_file_range(source, target, length, offset, start)
        except OSError:  # across file systems, or not known to this one
            done = os.pwrite(target, os.pread(source, min(length, _COPY_BYTES), offset), start)
        if done == 0:
            raise QdrantError(
                500, f"Service internal error: Failed to unpack tar archive: failed to unpack `{path.name}`"
            )
        offset, start, length = offset + done, start + done, length - done
