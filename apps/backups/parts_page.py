"""A part of a backup, or its manifest, as a download: read from the storage as it is sent, in constant memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from django.http import HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.utils.http import content_disposition_header

from apps.backups.models import Backup, Part
from apps.core.abort import Abort
from apps.storage.keys import MANIFEST_MAX_BYTES, manifest_key
from apps.storage.services import open_store

logger = logging.getLogger(__name__)

CHUNK_BYTES = 256 * 1024


def stream_part(part: Part) -> HttpResponseBase:
    """Begin to send the part. Raises: StorageError, ObjectMissing; nothing has been sent by then."""
    abort = Abort()
    opened = open_store(part.backup.storage).source(part.key, abort)
    source = opened.__enter__()
    answer = StreamingHttpResponse(_Body(opened, source, part.key), content_type="application/octet-stream")
    answer["Content-Length"] = str(source.size_bytes)
    answer["Cache-Control"] = "no-transform"
    answer["X-Checksum-Sha256"] = part.sha256
    answer["Content-Disposition"] = _named(f"{_base(part.backup)}-shard-{part.shard_id}.snapshot")
    return answer


def send_manifest(backup: Backup) -> HttpResponse:
    """The manifest as it lies in the storage. Raises: StorageError, ObjectMissing."""
    data = open_store(backup.storage).get(manifest_key(backup.path), MANIFEST_MAX_BYTES)
    answer = HttpResponse(data, content_type="application/json")
    answer["Content-Disposition"] = _named(f"{_base(backup)}-manifest.json")
    return answer


def _base(backup: Backup) -> str:
    return f"{backup.collection_name}-{backup.snapshot_name}"


def _named(name: str) -> str:
    return content_disposition_header(True, name.replace("/", "_")) or "attachment"


class _Body:
    """The bytes on their way through. Closed by Django when the client is served or gone."""

    def __init__(self, opened: Any, source: Any, key: str) -> None:
        self._opened = opened
        self._source = source
        self._key = key

    def __iter__(self) -> Iterator[bytes]:
        buffer = bytearray(CHUNK_BYTES)
        sent = 0
        while count := self._source.readinto(memoryview(buffer)):
            sent += count
            yield bytes(buffer[:count])
        if sent < self._source.size_bytes:
            # The status line is long gone: all that is left is to break off before the promised length.
            logger.warning("The download of %s broke off after %d bytes.", self._key, sent)
            raise ConnectionAbortedError(f"{self._key} ended after {sent} bytes")

    def close(self) -> None:
        self._opened.__exit__(None, None, None)
