"""Uploads: a multipart body streamed to disk in constant memory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

from .errors import QdrantError
from .wire import BodyReader

_BUFFER_BYTES = 1 << 20
_MAX_HEADER_BYTES = 16 << 10


@dataclass(frozen=True)
class Upload:
    """The file of an upload: where it was put, how it is called, how long it is in bytes."""

    path: Path
    filename: str
    size: int


def receive_upload(body: BodyReader, content_type: str, field: str, target: Path) -> Upload:
    """Stream the one file part named `field` to a new file; other parts are read and dropped.

    Raises: QdrantError with a plain text: 400 for a missing or doubled field or a broken body, 415 for
    another content type. ConnectionError when the client goes away.
    """
    boundary = _boundary(content_type)
    parts = _Parts(body, boundary)
    upload: Upload | None = None
    while (headers := parts.next_part()) is not None:
        name = headers.get_param("name", header="content-disposition")
        if name != field:
            parts.copy_body(None)
            continue
        if upload is not None:
            raise QdrantError(400, f"Duplicate field: {field}")
        filename = headers.get_filename() or target.name
        upload = Upload(target, filename, parts.copy_body(target))
    if upload is None:
        raise QdrantError(400, f"Required field is missing: {field}")
    return upload


def _boundary(content_type: str) -> bytes:
    message = Message()
    message["content-type"] = content_type
    boundary = message.get_param("boundary")
    if message.get_content_type() != "multipart/form-data" or not isinstance(boundary, str):
        raise QdrantError(415, "Multipart error: Invalid Content-Type header")
    return boundary.encode("latin-1", "replace")


class _Parts:
    """Walks over the parts of a body with one rolling buffer."""

    def __init__(self, body: BodyReader, boundary: bytes) -> None:
        self._body = body
        self._delimiter = b"\r\n--" + boundary
        self._buffer = bytearray(_BUFFER_BYTES + len(self._delimiter))
        self._view = memoryview(self._buffer)
        # A line break before the body lets the first boundary look like all others.
        self._buffer[:2] = b"\r\n"
        self._start, self._end = 0, 2
        self._before_first = True

    def next_part(self) -> Message | None:
        """Return the headers of the next part, None after the last one."""
        if self._before_first:
            self._before_first = False
            self.copy_body(None)
        tail = self._take_line()
        if tail.startswith(b"--"):
            self._body.discard(_BUFFER_BYTES)
            return None
        lines = []
        while line := self._take_line():
            lines.append(line)
            if sum(map(len, lines)) > _MAX_HEADER_BYTES:
                raise _malformed()
        return HeaderParser().parsestr(_decode(b"\r\n".join(lines)) + "\r\n\r\n")

    def copy_body(self, target: Path | None) -> int:
        """Read up to the next boundary into a file, or nowhere; return the length in bytes."""
        size = 0
        file = target.open("xb", buffering=0) if target is not None else None
        try:
            while True:
                found = self._buffer.find(self._delimiter, self._start, self._end)
                # What might be the beginning of a boundary stays until more has come.
                upto = found if found >= 0 else max(self._start, self._end - len(self._delimiter) + 1)
                if file is not None and upto > self._start:
                    _write_all(file, self._view[self._start : upto])
                size += upto - self._start
                self._start = upto
                if found >= 0:
                    self._start += len(self._delimiter)
                    return size
                self._fill()
        finally:
            if file is not None:
                file.close()

    def _take_line(self) -> bytes:
        while (at := self._buffer.find(b"\r\n", self._start, self._end)) < 0:
            if self._end - self._start > _MAX_HEADER_BYTES:
                raise _malformed()
            if self._buffer[self._start : self._end] == b"--":
                # Some clients end the body right after the last boundary.
                if not self._fill(may_end=True):
                    return b"--"
                continue
            self._fill()
        line = bytes(self._buffer[self._start : at])
        self._start = at + 2
        return line

    def _fill(self, *, may_end: bool = False) -> bool:
        held = self._end - self._start
        if self._start and held:
            self._buffer[:held] = self._buffer[self._start : self._end]
        self._start, self._end = 0, held
        count = self._body.read_into(self._view[held:])
        if not count and not may_end:
            raise _malformed()
        self._end += count
        return count > 0


def _write_all(file: object, data: memoryview) -> None:
    while len(data):
        data = data[file.write(data) :]  # type: ignore[attr-defined]


def _decode(raw: bytes) -> str:
    # File names come as UTF-8, whatever the standard says.
    return re.sub(r"[\0\x0b]", "", raw.decode("utf-8", "replace"))


def _malformed() -> QdrantError:
    return QdrantError(400, "Multipart error: Multipart stream is incomplete")
