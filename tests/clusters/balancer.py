"""A load balancer: gives every new connection to the next of its backends."""

from __future__ import annotations

import itertools
import socket
import threading
from types import TracebackType
from urllib.parse import urlsplit


class Balancer:
    """Round robin over TCP connections, as cloud load balancers do it; `connections` counts them."""

    def __init__(self, *urls: str) -> None:
        addresses = [(parts.hostname, parts.port) for parts in map(urlsplit, urls)]
        self._backends = itertools.cycle(addresses)
        self.connections = 0

    def __enter__(self) -> Balancer:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                client = self._server.accept()[0]
            except OSError:
                return
            self.connections += 1
            try:
                backend = socket.create_connection(next(self._backends))
            except OSError:
                client.close()
                continue
            for source, target in ((client, backend), (backend, client)):
                threading.Thread(target=copy, args=(source, target), daemon=True).start()


def copy(source: socket.socket, target: socket.socket) -> None:
    """Pass on what `source` says until one of the two ends."""
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        source.close()
        target.close()
