"""LocalStore: a folder of this host as a storage."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from django.core.files.storage import FileSystemStorage

from apps.core.abort import Abort
from apps.storage.backends import FILE_MODE, FOLDER_MODE
from apps.storage.errors import ObjectExists, ObjectMissing, StorageDenied, StorageFault
from apps.storage.filesystem import (
    make_folders,
    prune_folders,
    publish,
    reserve,
    storage_error,
    sync_folder,
    translated,
)
from apps.storage.keys import check_key
from apps.storage.stores import StoredObject, Unfinished
from apps.storage.whole import get_whole, put_whole

PART_SIZE = 4 * 1024 * 1024
CONCURRENCY = 2
# Between two looks at `abort` while reading.
_READ_SLICE = 4 * 1024 * 1024
# The random token keeps apart the attempts of one job and whoever else writes the same object.
_PART_NAME = re.compile(r"\.[0-9a-f]{16}\.part$")
# The file system's own, readable by root alone; it lies in the root of a mounted disk.
_FOREIGN = frozenset({"lost+found"})


class LocalSink:
    """An object being written into a `.part` file beside its final name.

    `write` may be called by `concurrency` threads at once; `commit` by one, after them.
    """

    part_size = PART_SIZE
    concurrency = CONCURRENCY

    def __init__(self, root: Path, key: str, size_bytes: int, abort: Abort) -> None:
        self._root = root
        self._key = key
        self._size = size_bytes
        self._abort = abort
        self._final = root / key
        self._part = self._final.with_name(f"{self._final.name}.{secrets.token_hex(8)}.part")
        self._lock = threading.Lock()
        self._users = 0
        self._closing = False
        self._written: set[int] = set()
        self._published = False
        self._committed = False
        #: Never told anything: what cannot be written to a disk cannot be written a second later.
        self.on_break: Callable[[str], None] | None = None
        self._descriptor = self._open()
        try:
            with translated(root):
                reserve(self._descriptor, size_bytes)
        except BaseException:
            self.abort()
            raise

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with translated(self._root):
            if os.path.lexists(self._final):
                raise self._exists()
            for left in (2, 1, 0):
                try:
                    make_folders(self._root, self._final.parent, FOLDER_MODE)
                    return os.open(self._part, flags, FILE_MODE)
                except FileNotFoundError:  # somebody else's cleaning removed the empty folder between the two calls
                    if not left or not self._root.is_dir():
                        raise
        raise AssertionError("unreachable")

    def _exists(self) -> ObjectExists:
        return ObjectExists(f"{self._key} exists already in the folder {self._root}; nothing was overwritten.")

    def write(self, number: int, data: bytearray, length: int) -> None:
        """Write part `number` (from 0): the first `length` bytes of `data`, which may be reused afterwards.

        Raises: the reason of `abort`; StorageFull, StorageError; ValueError when the length is not the part's.
        """
        self._abort.check()
        offset = number * self.part_size
        if number < 0 or length != min(self.part_size, self._size - offset):
            raise ValueError(f"Part {number} of {self._size} bytes cannot have {length} bytes.")
        with self._descriptor_in_use() as descriptor, translated(self._root), memoryview(data) as view:
            done = 0
            while done < length:
                done += os.pwrite(descriptor, view[done:length], offset + done)
            # Starts writing back at once, so that `commit` finds little left to do: measured half as fast again.
            with suppress(OSError):
                os.posix_fadvise(descriptor, offset, length, os.POSIX_FADV_DONTNEED)
        with self._lock:
            self._written.add(number)

    @contextmanager
    def _descriptor_in_use(self) -> Iterator[int]:
        """Keep the file open: were it closed meanwhile, the write would hit whatever got the same number next."""
        with self._lock:
            if self._closing:
                raise StorageFault(f"Writing into the folder {self._root} was given up.")
            self._users += 1
        try:
            yield self._descriptor
        finally:
            self._release()

    def _release(self) -> None:
        with self._lock:
            self._users -= 1
            if self._closing and self._users == 0:
                os.close(self._descriptor)

    def commit(self) -> StoredObject:
        """Make the object visible under its key, durably.

        Raises: the reason of `abort`; ObjectExists when somebody else was faster; StorageError.
        """
        self._abort.check()
        count = -(-self._size // self.part_size)
        with self._lock:
            missing = count - len(self._written)
        if missing:
            raise StorageFault(f"{missing} of {count} parts were never written into the folder {self._root}.")
        with self._descriptor_in_use() as descriptor, translated(self._root):
            os.fsync(descriptor)
            # Who reads it back to compare shall read the disk, and a backup shall not empty the host's cache.
            with suppress(OSError):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            if (found := os.fstat(descriptor).st_size) != self._size:
                raise StorageFault(
                    f"The folder {self._root} holds {found} bytes of an object of {self._size}: check its disk."
                )
        with translated(self._root):
            try:
                publish(self._part, self._final)
            except FileExistsError as error:
                raise self._exists() from error
            self._published = True
            sync_folder(self._final.parent)
        self._committed = True
        self._close()
        return StoredObject(key=self._key, size_bytes=self._size)

    def abort(self) -> None:
        """Remove everything that was written; nothing happens after a successful `commit`.

        May be called twice, and while a `write` is under way. Raises: StorageError.
        """
        if self._committed:
            return
        self._close()
        with translated(self._root):
            self._part.unlink(missing_ok=True)
            if self._published:  # its name could not be made durable
                self._final.unlink(missing_ok=True)
                self._published = False
            prune_folders(self._root, self._final.parent)

    def _close(self) -> None:
        with self._lock:
            if self._closing:
                return
            self._closing = True
            if self._users == 0:
                os.close(self._descriptor)


class LocalSource:
    """A file being read from its beginning."""

    def __init__(self, root: Path, descriptor: int, abort: Abort) -> None:
        self._root = root
        self._descriptor = descriptor
        self._abort = abort
        self._position = 0
        self.size_bytes = os.fstat(descriptor).st_size
        with suppress(OSError):  # advice only
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def readinto(self, buffer: memoryview) -> int:
        """Fill `buffer` with the next bytes; fewer only at the end, 0 after it. Raises: the reason of `abort`."""
        done = 0
        while done < len(buffer):
            self._abort.check()
            with translated(self._root):
                got = os.preadv(self._descriptor, [buffer[done : done + _READ_SLICE]], self._position)
            if not got:
                break
            done += got
            self._position += got
        return done


class LocalStore:
    """A folder as a Store. Links inside the folder are never followed: they might lead out of it."""

    def __init__(self, backend: FileSystemStorage) -> None:
        self._root = Path(backend.location)

    def __repr__(self) -> str:
        return f"<LocalStore {self._root}>"

    @property
    def is_unsure(self) -> bool:
        """Never: a call on a folder has ended when it returns."""
        return False

    def sink(self, key: str, size_bytes: int, abort: Abort) -> LocalSink:
        """Begin to write an object. Raises: ObjectExists; StorageFull when the folder has no room for all of it."""
        abort.check()
        self._require_root()
        path = self._path(key)
        return LocalSink(self._root, path.relative_to(self._root).as_posix(), size_bytes, abort)

    @contextmanager
    def source(self, key: str, abort: Abort) -> Iterator[LocalSource]:
        """Read an object from its beginning. Raises: ObjectMissing."""
        abort.check()
        path = self._path(key)
        try:
            # Without O_NONBLOCK opening a named pipe would wait for its writer.
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP) and self._root.is_dir():
                raise self._missing(key) from error
            raise storage_error(self._root, error) from error
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise self._missing(key)
            yield LocalSource(self._root, descriptor, abort)
        finally:
            os.close(descriptor)

    def put(self, key: str, data: bytes) -> StoredObject:
        """Write a small object whole and durably. Raises: ObjectExists."""
        return put_whole(self.sink(key, len(data), Abort()), data)

    def get(self, key: str, max_bytes: int) -> bytes:
        """Read a small object whole. Raises: ObjectMissing; StorageFault when it is larger than `max_bytes`."""
        with self.source(key, Abort()) as source:
            return get_whole(source, max_bytes, f"{key} in the folder {self._root}")

    def stat(self, key: str) -> StoredObject | None:
        """Return what is stored under `key`, None when nothing is."""
        path = self._path(key)
        with translated(self._root):
            try:
                found = path.lstat()
            except (FileNotFoundError, NotADirectoryError):
                self._require_root()  # an unmounted disk must not look like a lost backup
                return None
        return StoredObject(key, found.st_size) if stat.S_ISREG(found.st_mode) else None

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yield the objects below the folder `prefix` ('' for all), in no order; unfinished ones are left out.

        The files of one folder come one after another.
        """
        for key, found in self._walk(prefix):
            if not _PART_NAME.search(key):
                yield StoredObject(key, found.st_size, modified_at=_moment(found.st_mtime))

    def unfinished(self, prefix: str) -> Iterator[Unfinished]:
        """Yield the `.part` files below the folder `prefix` ('' for all), in no order."""
        for path, found in self._walk(prefix):
            if _PART_NAME.search(path):
                token = path.rpartition("/")[2]
                yield Unfinished(_PART_NAME.sub("", path), token, _moment(found.st_mtime), found.st_size)

    def discard(self, item: Unfinished) -> bool:
        """Remove exactly this `.part` file and the folders that get empty; False when it was not there any more."""
        path = self._path(item.key).with_name(item.token)
        if "/" in item.token or not _PART_NAME.search(item.token):
            raise ValueError(f"{item.token!r} names no unfinished file.")
        with translated(self._root):
            try:
                path.unlink()
            except (FileNotFoundError, NotADirectoryError):
                self._require_root()
                return False
            prune_folders(self._root, path.parent)
        return True

    def _walk(self, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
        """Yield every file below the folder `prefix`, relative to the root, with what lstat says of it."""
        self._require_root()
        waiting = [self._path(prefix) if prefix else self._root]
        while waiting:
            folder = waiting.pop()
            with translated(self._root):
                try:
                    entries = os.scandir(folder)
                except (FileNotFoundError, NotADirectoryError):  # removed meanwhile, or never there
                    continue
                with entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            if folder != self._root or entry.name not in _FOREIGN:
                                waiting.append(Path(entry.path))
                        elif entry.is_file(follow_symlinks=False):
                            with suppress(FileNotFoundError):
                                found = entry.stat(follow_symlinks=False)
                                yield Path(entry.path).relative_to(self._root).as_posix(), found

    def delete(self, key: str) -> None:
        """Remove an object and the folders that get empty; nothing happens when it is not there."""
        path = self._path(key)
        with translated(self._root):
            try:
                path.unlink()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                self._require_root()
                return
            prune_folders(self._root, path.parent)

    def locked_until(self, key: str) -> None:
        """A folder locks nothing."""

    def clear(self, folder: str) -> int:
        """Remove everything below a folder, unfinished files included. Returns how many files were removed."""
        self._require_root()
        path = self._path(folder)
        removed = 0
        if path.is_symlink():
            raise self._leads_out(folder)
        if not path.is_dir():
            return 0
        with translated(self._root):
            # Bottom up and by open folders, so that nothing swapped for a link meanwhile leads out.
            for _, folders, files, descriptor in os.fwalk(path, topdown=False, onerror=_unless_missing):
                for name in files:
                    with suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=descriptor)
                        removed += 1
                for name in folders:
                    try:
                        os.rmdir(name, dir_fd=descriptor)
                    except NotADirectoryError:  # a link to a folder: the link goes, not what it leads to
                        os.unlink(name, dir_fd=descriptor)
                        removed += 1
                    except FileNotFoundError:
                        pass
            prune_folders(self._root, path)
        return removed

    def presign(self, key: str, seconds: int) -> str | None:
        """Return None: nobody else can reach a folder."""
        return None

    def _path(self, key: str) -> Path:
        """Return the path of a key, once no folder on the way to it is a link.

        Raises: keys.BadKey; StorageDenied.
        """
        path = self._root / check_key(key)
        if os.path.realpath(path.parent) != str(path.parent):
            raise self._leads_out(key)
        return path

    def _require_root(self) -> None:
        if not self._root.is_dir():
            raise storage_error(self._root, FileNotFoundError(errno.ENOENT, ""))

    def _missing(self, key: str) -> ObjectMissing:
        return ObjectMissing(f"There is no {key} in the folder {self._root}.")

    def _leads_out(self, key: str) -> StorageDenied:
        return StorageDenied(
            f"{key} in the folder {self._root} lies behind a symbolic link, and links are not followed there: "
            "replace it by a real folder."
        )


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error
