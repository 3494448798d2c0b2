"""Object keys: the one place where names that people chose become paths.

    <cluster>/<collection>/<start>-<job id>/shard-0.snapshot
                                           /manifest.json

A prefix (S3) or folder (local) of the storage comes before that and belongs to the storage.
"""

from __future__ import annotations

import hashlib
import string
import uuid
from datetime import datetime

from apps.core.errors import InvalidRequest

_PLAIN = frozenset(string.ascii_letters + string.digits + "-_.")
# File names end at 255 bytes, S3 keys at 1024: two escaped names, the folder and the file stay well below.
_MAX_SEGMENT = 200

MANIFEST_NAME = "manifest.json"
MANIFEST_MAX_BYTES = 16 * 1024 * 1024


class BadKey(InvalidRequest, ValueError):
    """A key that is empty, absolute, or climbs out of where it is put."""


def escape(name: str) -> str:
    """Turn any name into a path segment, different names into different ones.

    Letters, digits, '-', '_' and '.' stay (a dot in front does not); every other byte of the UTF-8 text becomes
    `~XX`. A segment that gets too long is cut and ends in `~~` and a hash; the manifest holds the true name.
    """
    pieces = [
        chr(byte) if chr(byte) in _PLAIN and not (index == 0 and byte == ord(".")) else f"~{byte:02X}"
        for index, byte in enumerate(name.encode())
    ]
    segment = "".join(pieces)
    if len(segment) > _MAX_SEGMENT:
        digest = hashlib.sha256(name.encode()).hexdigest()[:16]
        segment = f"{segment[: _MAX_SEGMENT - 18]}~~{digest}"
    return segment


def snapshot_name(started_at: datetime, job_id: uuid.UUID, attempt: int) -> str:
    """Name a backup: start (UTC), job, and the attempt from the second one on.

    Each attempt writes a folder of its own, so that one that was given up for dead cannot spoil the next.
    """
    suffix = f"-{attempt}" if attempt > 1 else ""
    return f"{started_at:%Y%m%dT%H%M%SZ}-{job_id}{suffix}"


def backup_folder(cluster: str, collection: str, name: str) -> str:
    """Return the folder of a backup; `name` from `snapshot_name`."""
    return f"{escape(cluster)}/{escape(collection)}/{name}"


def part_key(folder: str, shard_id: int) -> str:
    return f"{folder}/shard-{shard_id}.snapshot"


def manifest_key(folder: str) -> str:
    return f"{folder}/{MANIFEST_NAME}"


def check_key(key: str) -> str:
    """Return `key` when it is a relative path that stays where it is put.

    Raises: BadKey (which is also a ValueError).
    """
    pieces = key.split("/")
    if not key or any(piece in ("", ".", "..") for piece in pieces):
        raise BadKey(f"Not a key: {key!r}")
    if any(ord(character) < 32 or character == "\\" for character in key):
        raise BadKey(f"Not a key: {key!r}")
    return key
