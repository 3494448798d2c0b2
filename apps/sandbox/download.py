"""Downloads of files: ranges, conditions and compression, as Qdrant's file handler answers them.

Source: tests/recordings/standalone.jsonl ("download ...").
"""

from __future__ import annotations

import os
import re
import zlib
from dataclasses import dataclass
from email.message import Message
from email.utils import formatdate, parsedate_to_datetime
from typing import BinaryIO
from urllib.parse import quote

from .wire import BodyWriter

_READ_BYTES = 256 << 10
_GZIP = 16 + zlib.MAX_WBITS


@dataclass(frozen=True)
class Download:
    """What to answer: the status, the headers, and which bytes of the file go along."""

    status: int
    headers: dict[str, str]
    start: int
    count: int
    gzip: bool = False


def disposition(filename: str) -> str:
    """Return the Content-Disposition of a download; names beyond ASCII get the extended form too."""
    plain = filename.replace("\\", "\\\\").replace('"', '\\"')
    if plain.isascii():
        return f'attachment; filename="{plain}"'
    fallback = plain.encode("utf-8").decode("latin-1")
    return f"attachment; filename=\"{fallback}\"; filename*=UTF-8''{quote(filename, safe='')}"


def plan_download(facts: os.stat_result, filename: str, asked: Message) -> Download:
    """Decide how to answer a GET of a file from its stat result and the request's headers."""
    size = facts.st_size
    seconds, nanoseconds = divmod(facts.st_mtime_ns, 10**9)
    etag = f'"{facts.st_ino:x}:{size:x}:{seconds:x}:{nanoseconds:x}"'
    headers = {
        "ETag": etag,
        "Last-Modified": formatdate(seconds, usegmt=True),
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
        "Content-Disposition": disposition(filename),
    }
    start, count = _range(asked.get("Range"), size)
    if start is None:
        return Download(416, headers | {"Content-Range": f"bytes */{size}"}, 0, 0)
    partial = asked.get("Range") is not None and count != size
    if partial:
        headers["Content-Range"] = f"bytes {start}-{start + count - 1}/{size}"
        if asked.get("Accept-Encoding") is not None:
            headers["Content-Encoding"] = "identity"
    if _precondition_fails(asked, etag, seconds):
        return Download(412, headers, 0, 0)
    if any(_strip(one) in ("*", etag) for one in (asked.get("If-None-Match") or "").split(",") if one):
        return Download(304, headers, 0, 0)
    if partial:
        return Download(206, headers, start, count)
    if wants_gzip(asked.get("Accept-Encoding")):
        return Download(200, headers | {"Content-Encoding": "gzip", "Vary": "accept-encoding"}, 0, size, gzip=True)
    return Download(200, headers, 0, size)


def _strip(tag: str) -> str:
    return tag.strip().removeprefix("W/")


def _precondition_fails(asked: Message, etag: str, seconds: int) -> bool:
    wanted = asked.get("If-Match")
    if wanted is not None:
        return not any(one.strip() in ("*", etag) for one in wanted.split(","))
    limit = asked.get("If-Unmodified-Since")
    if limit is None:
        return False
    try:
        return seconds > parsedate_to_datetime(limit).timestamp()
    except ValueError:
        return False


def _range(header: str | None, size: int) -> tuple[int | None, int]:
    """Return start and length; no start for a range that cannot be satisfied. Only the first range counts."""
    if header is None:
        return 0, size
    match = re.fullmatch(r"bytes=\s*(\d*)-(\d*)\s*(?:,.*)?", header)
    if match is None or not (match[1] or match[2]):
        return None, 0
    if not match[1]:
        count = min(int(match[2]), size)
        return (size - count, count) if count else (None, 0)
    start = int(match[1])
    end = min(int(match[2]), size - 1) if match[2] else size - 1
    if start >= size or end < start:
        return None, 0
    return start, end - start + 1


def wants_gzip(header: str | None) -> bool:
    """Say whether an Accept-Encoding header asks for gzip; no header does not."""
    if header is None:
        return False
    for one in header.split(","):
        name, _, options = one.strip().partition(";")
        if name.strip().lower() == "gzip":
            return not re.fullmatch(r"\s*q=0(\.0*)?\s*", options)
    return False


class GzipSink:
    """A sink that compresses on the way to a response's body. Constant memory."""

    def __init__(self, writer: BodyWriter) -> None:
        self._writer = writer
        self._packer = zlib.compressobj(1, zlib.DEFLATED, _GZIP)

    def write(self, data: bytes | memoryview) -> None:
        """Compress and send. Raises: as BodyWriter.write."""
        packed = self._packer.compress(data)
        if packed:
            self._writer.write(packed)

    def finish(self) -> None:
        """Send what is left."""
        self._writer.write(self._packer.flush())


def send_gzip(file: BinaryIO, writer: BodyWriter) -> None:
    """Send a file compressed, in constant memory."""
    sink = GzipSink(writer)
    while data := file.read(_READ_BYTES):
        sink.write(data)
    sink.finish()
