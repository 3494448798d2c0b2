"""Bodies on the wire, with the faults that strike there: cut, throttled, flipped."""

from __future__ import annotations

import io
import os
import select
import socket
import struct
import threading
import time
from typing import BinaryIO

from .errors import QdrantError
from .faults import Cut, FaultPlan

_PIECE_BYTES = 256 << 10
_POLL_SECONDS = 0.05
_MAX_CHUNK_LINE = 1024


class ConnectionCut(Exception):
    """A fault ends this connection now; the kind says how."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class BodyWriter:
    """Sends the body of one response, in chunks or as it is."""

    def __init__(self, connection: socket.socket, plan: FaultPlan, *, chunked: bool = False) -> None:
        self._connection = connection
        self._plan = plan
        self._chunked = chunked
        self._pace = _Pace(plan.response_rate)
        self.sent = 0

    def write(self, data: bytes | memoryview) -> None:
        """Send a part of the body. Raises: OSError when the client is gone, ConnectionCut by a fault."""
        if not self._plan.changes_body:
            self._send(data)
            return
        view = memoryview(data)
        while len(view):
            piece = view[: self._pace.piece(_PIECE_BYTES)]
            cut = self._plan.response_cut
            if cut is not None:
                piece = piece[: max(cut.after_bytes - self.sent, 0)]
            if len(piece):
                self._send(self._flipped(piece))
                self._pace.wait(len(piece))
            view = view[len(piece) :]
            if cut is not None and self.sent >= cut.after_bytes:
                raise ConnectionCut(cut.kind)

    def send_file(self, file: BinaryIO, start: int, count: int) -> None:
        """Send a range of a file; without faults the kernel copies it. Raises: as `write`."""
        if not self._plan.changes_body and not self._chunked:
            self.sent += self._connection.sendfile(file, start, count) if count else 0
            return
        end = start + count
        while start < end:
            data = os.pread(file.fileno(), min(_PIECE_BYTES, end - start), start)
            if not data:
                raise OSError("the file ended early")
            self.write(data)
            start += len(data)

    def finish(self) -> None:
        """End the body. Raises: ConnectionCut by a fault that waits for the end."""
        cut = self._plan.response_cut
        if cut is not None and self.sent >= cut.after_bytes:
            raise ConnectionCut(cut.kind)
        if self._chunked:
            self._connection.sendall(b"0\r\n\r\n")

    def _send(self, data: bytes | memoryview) -> None:
        if not len(data):
            return  # an empty chunk would end the body
        if self._chunked:
            self._connection.sendall(b"".join((f"{len(data):x}\r\n".encode(), data, b"\r\n")))
        else:
            self._connection.sendall(data)
        self.sent += len(data)

    def _flipped(self, piece: memoryview) -> bytes | memoryview:
        hits = [at - self.sent for at in self._plan.flips if self.sent <= at < self.sent + len(piece)]
        if not hits:
            return piece
        changed = bytearray(piece)
        for at in hits:
            changed[at] ^= 0xFF
        return bytes(changed)


class BodyReader:
    """Reads the body of one request, whether it has a length or comes in chunks. Constant memory."""

    def __init__(self, stream: io.BufferedReader, length: int | None, plan: FaultPlan, *, chunked: bool) -> None:
        self._stream = stream
        self._chunked = chunked
        self._left = 0 if chunked else (length or 0)
        self._ended = not chunked and not self._left
        self._first_chunk = True
        self._cut: Cut | None = plan.request_cut
        self._pace = _Pace(plan.request_rate)
        self.received = 0

    @property
    def ended(self) -> bool:
        """Whether all of the body was read."""
        return self._ended

    def read_into(self, buffer: memoryview) -> int:
        """Read some bytes; 0 is the end.

        Raises: ConnectionError when it ends early, ConnectionCut by a fault.
        """
        if self._cut is not None and self.received >= self._cut.after_bytes:
            raise ConnectionCut(self._cut.kind)
        if self._chunked and not self._left and not self._ended:
            self._next_chunk()
        if self._ended:
            return 0
        room = min(len(buffer), self._left, self._pace.piece(len(buffer)))
        if self._cut is not None:
            room = min(room, self._cut.after_bytes - self.received)
        count = self._stream.readinto1(buffer[:room])
        if not count:
            raise ConnectionError("the request body ended early")
        self._left -= count
        self.received += count
        if not self._left and not self._chunked:
            self._ended = True
        self._pace.wait(count)
        return count

    def read_all(self, limit: int) -> bytes:
        """Read the rest of the body. Raises: QdrantError (413) when it is longer than `limit` bytes."""
        if not self._chunked and self._left > limit:
            raise _too_large(self._left, limit)
        parts = bytearray()
        buffer = memoryview(bytearray(min(max(self._left, 4096), 1 << 20)))
        while count := self.read_into(buffer):
            parts += buffer[:count]
            if len(parts) > limit:
                raise _too_large(len(parts), limit)
        return bytes(parts)

    def discard(self, limit: int) -> bool:
        """Read and drop what is left, up to `limit` bytes; return whether that was all."""
        buffer = memoryview(bytearray(64 << 10))
        dropped = 0
        while dropped < limit:
            count = self.read_into(buffer)
            if not count:
                return True
            dropped += count
        return self._ended

    def _next_chunk(self) -> None:
        if not self._first_chunk:
            self._stream.readline(_MAX_CHUNK_LINE)
        self._first_chunk = False
        line = self._stream.readline(_MAX_CHUNK_LINE)
        try:
            self._left = int(line.split(b";")[0], 16)
        except ValueError as error:
            raise ConnectionError("a malformed chunk") from error
        if not self._left:
            self._ended = True
            while self._stream.readline(_MAX_CHUNK_LINE).strip():
                pass  # trailers


def _too_large(size: int, limit: int) -> QdrantError:
    return QdrantError(
        413, f"Payload error: JSON payload ({size} bytes) is larger than allowed (limit: {limit} bytes)."
    )


class _Pace:
    """Keeps a body at a rate in bytes a second; None does not slow it."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._started: float | None = None
        self._done = 0

    def piece(self, most: int) -> int:
        """Return how much to move at once, so that the pauses are short."""
        return most if self._rate is None else max(1, min(most, int(self._rate / 20)))

    def wait(self, count: int) -> None:
        """Sleep until `count` more bytes are due."""
        if self._rate is None:
            return
        now = time.monotonic()
        if self._started is None:
            self._started = now
        self._done += count
        time.sleep(max(0.0, self._started + self._done / self._rate - now))


def wait_until_gone(connection: socket.socket, stopping: threading.Event) -> None:
    """Hang until the client closes its side or the node stops."""
    while not stopping.is_set():
        try:
            readable, _, _ = select.select([connection], [], [], _POLL_SECONDS)
            if readable and not connection.recv(1, socket.MSG_PEEK):
                return
            if readable:
                stopping.wait(_POLL_SECONDS)  # the client goes on sending; it is not gone
        except (OSError, ValueError):
            return


def reset(connection: socket.socket) -> None:
    """Close a connection so that the peer gets a reset instead of an end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
