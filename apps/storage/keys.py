"""Object keys: the one place where names that people chose become paths.

    <cluster>/<collection>/<start>-<job id>/shard-0.snapshot
                                           /manifest.json

A prefix (S3) or folder (local) of the storage comes before that and belongs to the storage.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

from apps.core.errors import InvalidRequest

_PLAIN = frozenset(string.ascii_letters + string.digits + "-_.")
# File names end at 255 bytes, S3 keys at 1024: two escaped names, the folder and the file stay well below.
_MAX_SEGMENT = 200

_SEGMENT = re.compile(r"(?!\.)[A-Za-z0-9_.~-]{1,200}")
_NAME = re.compile(r"(\d{8}T\d{6}Z)-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:-([1-9]\d{0,8}))?")
_PROBE = re.compile(r"\.probe-[0-9a-f]{16}")
_PART = re.compile(r"shard-\d{1,9}\.snapshot")

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


@dataclass(frozen=True)
class FolderName:
    """What the path of a backup's folder says. Segments are escaped names: only `escape` can compare them."""

    cluster: str
    collection: str
    started_at: datetime
    job_id: uuid.UUID
    attempt: int


def parse_folder(path: str) -> FolderName | None:
    """Read the path that `backup_folder` makes; None for every other path."""
    pieces = path.split("/")
    found = _NAME.fullmatch(pieces[-1])
    if len(pieces) != 3 or not found or not all(_SEGMENT.fullmatch(piece) for piece in pieces[:2]):
        return None
    try:
        started_at = datetime.strptime(found[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:  # the 41st of a month
        return None
    return FolderName(pieces[0], pieces[1], started_at, uuid.UUID(found[2]), int(found[3] or 1))


def is_part_name(name: str) -> bool:
    """Tell whether a file name is one that `part_key` gives."""
    return bool(_PART.fullmatch(name))


def probe_key() -> str:
    """Return a key for a test object. No name of a cluster becomes a segment with a dot in front (`escape`)."""
    return f".probe-{secrets.token_hex(8)}"


def is_probe_key(key: str) -> bool:
    """Tell whether a key is one that `probe_key` gives."""
    return bool(_PROBE.fullmatch(key))


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
