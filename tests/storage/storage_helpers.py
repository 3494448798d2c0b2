"""A writer that drives a sink the way the engine does, and a TCP proxy that misbehaves on purpose."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from urllib.parse import urlsplit

from apps.core.abort import Abort
from apps.storage.stores import Sink, Store


def write_all(sink: Sink, data: bytes) -> None:
    """Write `data` from `sink.concurrency` threads, last part first."""
    numbers = range(-(-len(data) // sink.part_size))

    def write(number: int) -> None:
        piece = data[number * sink.part_size :][: sink.part_size]
        buffer = bytearray(sink.part_size)
        buffer[: len(piece)] = piece
        sink.write(number, buffer, len(piece))
        buffer[:] = bytes(len(buffer))  # the buffer is reused: whoever still reads it would send zeros

    with ThreadPoolExecutor(sink.concurrency) as pool:
        list(pool.map(write, reversed(numbers)))


def read_all(store: Store, key: str, abort: Abort | None = None) -> bytes:
    """Read an object through buffers of an odd size."""
    pieces = []
    buffer = memoryview(bytearray(1_000_003))
    with store.source(key, abort or Abort()) as source:
        while got := source.readinto(buffer):
            pieces.append(bytes(buffer[:got]))
    return b"".join(pieces)


class Proxy:
    """Forwards TCP to an endpoint. Answers stop after `cut_after` bytes: cut, or held open with `stall`."""

    def __init__(
        self, endpoint: str, *, cut_after: int = 0, cuts: int = 0, stall: bool = False, up_bytes_per_second: int = 0
    ) -> None:
        parts = urlsplit(endpoint)
        self._target = (parts.hostname or "", parts.port or 80)
        self._cut_after = cut_after
        self._stall = stall
        self._up_rate = up_bytes_per_second
        self.cuts_left = cuts
        self._server = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self._sockets: list[socket.socket] = [self._server]

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                if self._up_rate:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
                upstream = socket.create_connection(self._target)
                self._sockets += [client, upstream]
                threading.Thread(target=self._up, args=(client, upstream), daemon=True).start()
                threading.Thread(target=self._down, args=(upstream, client), daemon=True).start()

    def _up(self, client: socket.socket, upstream: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                if self._up_rate:
                    time.sleep(len(data) / self._up_rate)
                upstream.sendall(data)
            upstream.shutdown(socket.SHUT_WR)

    def _down(self, upstream: socket.socket, client: socket.socket) -> None:
        sent = 0
        with suppress(OSError):
            while data := upstream.recv(65536):
                if self.cuts_left and sent + len(data) > self._cut_after:
                    client.sendall(data[: self._cut_after - sent])
                    if self._stall:
                        time.sleep(60)
                    self.cuts_left -= 1
                    break
                client.sendall(data)
                sent += len(data)
            client.shutdown(socket.SHUT_RDWR)
            upstream.shutdown(socket.SHUT_RDWR)
