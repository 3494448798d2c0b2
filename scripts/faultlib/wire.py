"""HTTP/1.1 as a proxy needs it: heads, and bodies passed on piece by piece without being kept."""

from __future__ import annotations

import ctypes
import io
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import unquote

_libc = ctypes.CDLL(None)
_MOST_HEAD_BYTES = 256 * 1024
_PIECE_BYTES = 256 * 1024
_POLL_SECONDS = 0.05


class Broken(Exception):
    """One of the two sides ended the connection, or does not speak HTTP."""


class Cut(Exception):
    """A fault ends the connection now: `reset`, `close` or `stall`."""

    def __init__(self, kind: str, seconds: float = 60.0) -> None:
        super().__init__(kind)
        self.kind = kind
        self.seconds = seconds


@dataclass(frozen=True)
class Head:
    """The head of a request or an answer, with the bytes it came in."""

    raw: bytes
    first: tuple[str, str, str]
    fields: dict[str, str]

    @property
    def method(self) -> str:
        return self.first[0]

    @property
    def target(self) -> str:
        """The path with its query, unquoted."""
        return unquote(self.first[1])

    @property
    def status(self) -> int:
        return int(self.first[1])

    @property
    def is_chunked(self) -> bool:
        return "chunked" in self.fields.get("transfer-encoding", "").lower()

    @property
    def length(self) -> int | None:
        """Bytes of the body; None when it comes in chunks or ends with the connection."""
        value = self.fields.get("content-length")
        return None if value is None or self.is_chunked else int(value)

    @property
    def closes(self) -> bool:
        return "close" in self.fields.get("connection", "").lower()


def read_head(reader: io.BufferedReader) -> Head | None:
    """Read a head; None when the other side closed instead of sending one. Raises: Broken."""
    lines: list[bytes] = []
    size = 0
    try:
        while True:
            line = reader.readline(_MOST_HEAD_BYTES)
            if not line:
                if lines:
                    raise Broken("closed in the middle of a head")
                return None
            lines.append(line)
            size += len(line)
            if size > _MOST_HEAD_BYTES:
                raise Broken("a head without an end")
            if line in (b"\r\n", b"\n"):
                break
    except OSError as error:
        raise Broken(str(error)) from error
    first = lines[0].decode("latin-1").rstrip("\r\n").split(" ", 2)
    if len(first) < 2:
        raise Broken("no HTTP")
    pairs = [line.decode("latin-1").partition(":") for line in lines[1:-1]]
    fields = {name.strip().lower(): value.strip() for name, _, value in pairs}
    return Head(b"".join(lines), (first[0], first[1], first[2] if len(first) > 2 else ""), fields)


@dataclass
class Pace:
    """At most `rate` bytes a second for the next `left` bytes."""

    rate: float
    left: int

    def wait(self, count: int) -> None:
        if self.left > 0:
            time.sleep(min(count, self.left) / self.rate)
            self.left -= count


class Body:
    """A body on its way. `stops` are offsets at which `on_stop` is called before a further byte moves."""

    def __init__(
        self,
        reader: io.BufferedReader,
        *,
        chunked: bool,
        length: int | None,
        until_close: bool,
        forward: Callable[[bytes], None],
    ) -> None:
        self._reader = reader
        self._forward = forward
        self._chunked = chunked
        self._until_close = until_close
        self._length = length
        self._stops: list[tuple[int, Callable[[], None]]] = []
        self.pace: Pace | None = None
        self.moved = 0

    def stop_at(self, offset: int | float, call: Callable[[], None]) -> None:
        """Call at an offset in bytes; a float is a share of the length, a negative number counts from the end."""
        length = self._length or 0
        place = int(offset * length) if isinstance(offset, float) else offset if offset >= 0 else length + offset
        self._stops.append((max(0, place), call))
        self._stops.sort(key=lambda stop: stop[0])

    def run(self) -> None:
        """Pass everything on. Raises: Broken, Cut."""
        if self._chunked:
            self._run_chunked()
        elif self._until_close:
            self._plain(None)
        elif self._length:
            self._plain(self._length - self.moved)
        self._call_stops(final=True)

    def discard_rest(self) -> None:
        """Read what is left and pass nothing on. Raises: Broken."""
        self._forward = lambda data: None
        self._stops.clear()
        self.pace = None
        self.run()

    def _plain(self, count: int | None) -> None:
        while count is None or count > 0:
            self._call_stops()
            wanted = _PIECE_BYTES if count is None else min(_PIECE_BYTES, count)
            if self._stops:
                wanted = max(1, min(wanted, self._stops[0][0] - self.moved))
            if self.pace is not None and self.pace.left > 0:
                wanted = min(wanted, max(1, int(self.pace.rate / 20)))
            try:
                data = self._reader.read1(wanted)
            except OSError as error:
                raise Broken(str(error)) from error
            if not data:
                if count is None:
                    return
                raise Broken("closed in the middle of a body")
            self._forward(data)
            self.moved += len(data)
            if count is not None:
                count -= len(data)
            if self.pace is not None:
                self.pace.wait(len(data))

    def _run_chunked(self) -> None:
        while True:
            line = self._line()
            try:
                size = int(line.split(b";")[0], 16)
            except ValueError as error:
                raise Broken("a chunk without a length") from error
            self._forward(line)
            if size:
                self._plain(size)
                self._forward(self._line())
                continue
            while True:
                line = self._line()
                self._forward(line)
                if line in (b"\r\n", b"\n"):
                    return

    def _line(self) -> bytes:
        try:
            line = self._reader.readline(_MOST_HEAD_BYTES)
        except OSError as error:
            raise Broken(str(error)) from error
        if not line:
            raise Broken("closed between two chunks")
        return line

    def _call_stops(self, *, final: bool = False) -> None:
        while self._stops and (final or self._stops[0][0] <= self.moved):
            self._stops.pop(0)[1]()


def has_body(method: str, status: int) -> bool:
    """Tell whether an answer may have a body."""
    return method != "HEAD" and status not in (204, 304) and status >= 200


def reader_of(connection: socket.socket) -> io.BufferedReader:
    """Return a reader that does not keep the connection open: after makefile() a close waits for the file's."""
    return io.BufferedReader(socket.SocketIO(connection, "r"), _PIECE_BYTES)


def reset(connection: socket.socket) -> None:
    """End a connection so that the other side gets a reset instead of an end; also while a thread reads from it.

    close() would wait for that thread; connecting to no address (AF_UNSPEC) resets at once (Linux: tcp_disconnect).
    """
    with suppress(OSError):
        _libc.connect(connection.fileno(), bytes(16), 16)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()


def wait_until_gone(connection: socket.socket, seconds: float, ended: threading.Event) -> None:
    """Do nothing until the other side closes, `ended` is set, or so many seconds are over."""
    poll = select.poll()
    try:
        poll.register(connection, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
    except (OSError, ValueError):
        return
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not ended.is_set():
        try:
            if poll.poll(_POLL_SECONDS * 1000):
                return
        except OSError:
            return
