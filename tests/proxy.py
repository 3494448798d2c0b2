"""A TCP proxy that counts what passes it and cuts every connection when so many bytes have passed."""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import suppress
from urllib.parse import urlsplit


class CuttingProxy:
    """Forwards to an endpoint. `up_bytes` and `down_bytes` count everything on the wire, headers included.

    Once the direction that is watched has carried `cut_after` bytes, all connections are reset; and `cuts` times in
    all, each time as soon as `step` more bytes have passed.
    """

    def __init__(self, endpoint: str, *, watch: str, cut_after: int = 0, cuts: int = 0, step: int = 0) -> None:
        parts = urlsplit(endpoint)
        self._target = (parts.hostname or "", parts.port or 80)
        self._watch = watch
        self._next_cut = cut_after
        self._step = step
        self._away_seconds = 0.0
        self._away_until = 0.0
        self.cuts_left = cuts
        self.up_bytes = self.down_bytes = 0
        self._lock = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._server.getsockname()[1]}"

    def __enter__(self) -> CuttingProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._cut()

    def arm(self, *, cut_after: int, cuts: int, step: int, away_seconds: float = 0.0) -> None:
        """Begin to count anew, and to cut; after each cut nobody gets through for so long."""
        with self._lock:
            self._away_seconds = away_seconds
            self.up_bytes = self.down_bytes = 0
            self._next_cut, self.cuts_left, self._step = cut_after, cuts, step

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                if time.monotonic() < self._away_until:
                    client.close()
                    continue
                upstream = socket.create_connection(self._target)
                with self._lock:
                    self._pairs.add((client, upstream))
                for source, sink, way in ((client, upstream, "up"), (upstream, client, "down")):
                    threading.Thread(target=self._forward, args=(source, sink, way), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
                if self._count(len(data), way):
                    self._cut()
            sink.shutdown(socket.SHUT_WR)

    def _count(self, size: int, way: str) -> bool:
        """Count; tell whether it is time to cut."""
        with self._lock:
            if way == "up":
                self.up_bytes += size
            else:
                self.down_bytes += size
            moved = self.up_bytes if self._watch == "up" else self.down_bytes
            if not self.cuts_left or way != self._watch or moved < self._next_cut:
                return False
            self.cuts_left -= 1
            self._away_until = time.monotonic() + self._away_seconds
            self._next_cut = moved + self._step
            return True

    def _cut(self) -> None:
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            for each in pair:
                with suppress(OSError):
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    each.shutdown(socket.SHUT_RDWR)
                    each.close()
