"""How much room a storage has left, where that can be known."""

from __future__ import annotations

import os

from apps.storage.models import StorageConfig, StorageType


def free_bytes(storage: StorageConfig) -> int | None:
    """Return how many bytes may still be written to the storage; None where nobody can tell.

    For a folder that is what its file system leaves to us, without what is kept for root. S3 has no such question.
    """
    if storage.type != StorageType.LOCAL:
        return None
    try:
        found = os.statvfs(storage.path)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize
