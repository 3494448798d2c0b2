"""What the folder store asks of the operating system beyond Python's own calls, and what its refusals mean."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from apps.storage.errors import BucketMissing, StorageDenied, StorageError, StorageFault, StorageFull

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_MISSING = {errno.ENOENT, errno.ENOTDIR}
#: A file system that has no hard links says one of these (FAT, some network and FUSE file systems).
NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def translated(root: Path) -> Iterator[None]:
    """Turn an OSError into the StorageError that it means, with a sentence naming the storage's folder."""
    try:
        yield
    except OSError as error:
        raise storage_error(root, error) from error


def storage_error(root: Path, error: OSError) -> StorageError:
    """Return the StorageError for `error`, met below the folder `root`."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in _FULL:
        return StorageFull(f"No room left in the folder {root} ({reason}): free space there or use another storage.")
    if error.errno in _DENIED:
        return StorageDenied(
            f"The folder {root} cannot be used ({reason}): let the user that runs backupmgr read and write it."
        )
    if error.errno in _MISSING and not root.is_dir():
        state = "is no folder" if root.exists() else "does not exist"
        return BucketMissing(f"The folder {root} {state}: create it, or mount what belongs there.")
    return StorageFault(f"The folder {root} failed ({reason}): look at the disk or the mount below it.")


def reserve(descriptor: int, size_bytes: int) -> None:
    """Reserve the room for a file, so that a full disk is known before hours of work and not after them.

    Nothing happens where the file system cannot do it. Not os.posix_fallocate: where the file system cannot, the C
    library writes a byte into every block instead, which takes as long as the backup itself.
    Raises: OSError (ENOSPC, EDQUOT, EFBIG).
    """
    if size_bytes <= 0:
        return
    if _libc.fallocate(descriptor, 0, ctypes.c_int64(0), ctypes.c_int64(size_bytes)) != 0:
        code = ctypes.get_errno()
        if code in _FULL:
            raise OSError(code, os.strerror(code))


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable. Raises: OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync a folder, and need not
            raise
    finally:
        os.close(descriptor)


def make_folders(root: Path, folder: Path, mode: int) -> None:
    """Create the folders between `root` (which has to exist) and `folder`, durably. Raises: OSError."""
    missing = []
    current = folder
    while current != root and not current.is_dir():
        missing.append(current)
        current = current.parent
    for path in reversed(missing):
        with suppress(FileExistsError):  # another job makes the same folder at this moment
            path.mkdir(mode=mode)
        sync_folder(path.parent)


def prune_folders(root: Path, folder: Path) -> None:
    """Remove `folder` and its parents as far as they are empty, never `root`."""
    while folder != root and root in folder.parents:
        try:
            folder.rmdir()
        except FileNotFoundError:
            pass
        except OSError:  # not empty, or not ours to remove
            return
        folder = folder.parent


def publish(part: Path, final: Path) -> None:
    """Give the finished file `part` its name, atomically and never over another file.

    Raises: FileExistsError when there is one already, other OSErrors.
    """
    try:
        os.link(part, final, follow_symlinks=False)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        # Without hard links an empty file takes the name (only one taker can win), then ours replaces it.
        os.close(os.open(final, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        part.rename(final)
    else:
        part.unlink(missing_ok=True)
