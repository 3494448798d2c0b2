"""Names of collections and snapshots: what is allowed, and how snapshot files are called."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from .errors import QdrantError, invalid, not_found

# Qdrant refuses these because they cannot stand in a file name everywhere.
_FORBIDDEN = '<>:"/\\|?*\0\u007f'
_MAX_NAME_CHARACTERS = 255


def check_collection_name(name: str) -> None:
    """Check the name of a collection that is to be created. Raises: QdrantError (422)."""
    where = "path parameters"
    if not 1 <= len(name) <= _MAX_NAME_CHARACTERS:
        raise invalid(
            f'collection_name: value "{name}" invalid, must be from 1 to {_MAX_NAME_CHARACTERS} characters',
            where,
        )
    for char in name:
        if char in _FORBIDDEN:
            raise invalid(f'collection_name: collection name cannot contain "{char}" char', where)
    if name in (".", ".."):
        # They would climb out of the snapshots directory.
        raise invalid(f'collection_name: collection name cannot be "{name}"', where)


def check_snapshot_name(name: str) -> str:
    """Return the name of a snapshot file if it is a plain one.

    Raises: QdrantError (404), as for a missing file.
    """
    if not name or name in (".", "..") or any(char in name for char in "/\\\0"):
        raise not_found(f"Snapshot {name} not found")
    return name


def parse_shard_id(text: str) -> int:
    """Return a shard id from a path. Raises: QdrantError (400) when it is no unsigned 32-bit number."""
    if not re.fullmatch(r"\+?[0-9]+", text) or int(text) >= 2**32:
        raise QdrantError(400, f'Deserialize error in path parameters: can not parse "{text}" to a u32')
    return int(text)


def _stamp(now: datetime) -> str:
    return now.astimezone(UTC).strftime("%Y-%m-%d-%H-%M-%S")


def collection_snapshot_name(collection: str, peer_id: int, now: datetime) -> str:
    """Return the file name of a collection snapshot; its clock ticks in seconds, as Qdrant's."""
    return f"{collection}-{peer_id}-{_stamp(now)}.snapshot"


def shard_snapshot_name(collection: str, shard_id: int, now: datetime) -> str:
    """Return the file name of a shard snapshot; it carries no peer id, as Qdrant's."""
    return f"{collection}-shard-{shard_id}-{_stamp(now)}.snapshot"
