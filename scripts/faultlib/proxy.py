"""A proxy in front of a real server: passes everything on, but for what its rules say.

A rule names a place in the conversation (`Where`) and what happens there (an action of wire_faults.py). The server
behind it stays whole; what breaks is the way to it, at the byte that a test names.
"""

from __future__ import annotations

import io
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from .rules import Action, Exchange, Instead, Moment, Rule, Seen, Where
from .wire import Body, Broken, Cut, Head, has_body, read_head, reader_of, reset, wait_until_gone

_CONNECT_SECONDS = 5.0
_LINGER_SECONDS = 2.0
_REMEMBERED = 4000


@dataclass
class _Outage:
    action: Action
    until: float


class Proxy:
    """Listens on a port of its own for the server at `upstream`. Thread-safe; use as a context manager, or `close`."""

    def __init__(self, upstream: str, name: str = "proxy") -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._lock = threading.Lock()
        self._rules: list[Rule] = []
        self._outage: _Outage | None = None
        self._connections: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self.name = name
        self.ended = threading.Event()
        self.log: deque[Seen] = deque(maxlen=_REMEMBERED)
        self._port = 0
        self.up()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # --- rules ---------------------------------------------------------------------------------------------
    def add(self, where: Where, action: Action, times: int | None = 1) -> Rule:
        """Add a rule; its `fired` tells later whether it ever struck."""
        rule = Rule(where, action, times)
        with self._lock:
            self._rules.append(rule)
        return rule

    def clear(self) -> None:
        """Forget all rules, end an outage, and listen again."""
        with self._lock:
            self._rules = []
            self._outage = None
        self.up()

    def outage(self, action: Action, seconds: float) -> None:
        """Do this to every request for so long."""
        with self._lock:
            self._outage = _Outage(action, time.monotonic() + seconds)

    def down(self, seconds: float | None = None) -> None:
        """Refuse connections and reset those that are open; for so many seconds, or until `up`."""
        with self._lock:
            listener, self._listener = self._listener, None
            connections = list(self._connections)
        if listener is not None:
            # Only shutdown wakes an accept() that another thread sits in; and only then the port is free.
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for connection in connections:
            reset(connection)
        if seconds is not None:
            timer = threading.Timer(seconds, self.up)
            timer.daemon = True
            timer.start()

    def up(self) -> None:
        """Listen (again), always on the same port."""
        with self._lock:
            if self._listener is not None or self.ended.is_set():
                return
            listener = socket.create_server(("127.0.0.1", self._port), backlog=64)
            self._listener = listener
            self._port = listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(listener,), name=f"{self.name} accept", daemon=True).start()

    def close(self) -> None:
        self.ended.set()
        self.down()

    # --- connections ----------------------------------------------------------------------------------------
    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), name=f"{self.name} connection", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with self._tracked(client):
            connection = _Connection(self, client, self._upstream)
            try:
                while connection.exchange():
                    pass
            except Cut as cut:
                if cut.kind == "stall":
                    wait_until_gone(client, cut.seconds, self.ended)
                elif cut.kind == "reset":
                    reset(client)
            except (Broken, OSError):
                pass
            finally:
                connection.close()

    @contextmanager
    def _tracked(self, client: socket.socket) -> Iterator[None]:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._connections.add(client)
        try:
            yield
        finally:
            with self._lock:
                self._connections.discard(client)
            with suppress(OSError):
                client.close()

    def begin(self, head: Head) -> list[Rule]:
        """Count a request against every rule; return those that are for it."""
        with self._lock:
            return [rule for rule in self._rules if rule.counts(head)]

    def outage_now(self) -> Action | None:
        with self._lock:
            outage = self._outage
            return outage.action if outage is not None and time.monotonic() < outage.until else None


@dataclass
class _Connection:
    """A client's connection and the one to the server that goes with it."""

    proxy: Proxy
    client: socket.socket
    upstream: tuple[str, int]
    _server: socket.socket | None = None
    _from_server: io.BufferedReader | None = None
    _from_client: io.BufferedReader = field(init=False)

    def __post_init__(self) -> None:
        self._from_client = reader_of(self.client)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    def exchange(self) -> bool:
        """Pass one request and its answer; False when the connection ends with it. Raises: Broken, Cut."""
        head = read_head(self._from_client)
        if head is None:
            return False
        exchange = Exchange(self.proxy, head)
        started = time.time()
        try:
            return self._pass(exchange, self.proxy.begin(head))
        finally:
            up, down = exchange.upload, exchange.download
            self.proxy.log.append(
                Seen(
                    started,
                    head.method,
                    head.target,
                    exchange.status,
                    up.moved if up is not None else 0,
                    down.moved if down is not None else 0,
                )
            )

    def _pass(self, exchange: Exchange, rules: list[Rule]) -> bool:
        head = exchange.head
        exchange.upload = self._body(self._from_client, head, has=True, forward=self._to_server)
        try:
            outage = self.proxy.outage_now()
            if outage is not None:
                outage.strike(exchange)
            self._strike(exchange, rules, Moment.REQUEST)
            self._aim(exchange, exchange.upload, rules, Moment.UPLOAD)
            self._to_server(head.raw)
            refused = not self._send_body(exchange.upload)
            answer = self._read_answer()
            exchange.status = answer.status
            self._strike(exchange, rules, Moment.ANSWER)
        except Instead as instead:
            return self._answer(exchange, instead)
        until_close = answer.length is None and not answer.is_chunked
        exchange.download = self._body(
            self._from_server_stream(),
            answer,
            has=has_body(head.method, answer.status),
            forward=self._to_client,
            until_close=until_close,
        )
        self._aim(exchange, exchange.download, rules, Moment.DOWNLOAD)
        self._to_client(answer.raw)
        exchange.download.run()
        self._strike(exchange, rules, Moment.DONE)
        if refused:
            self._linger()
        ends = head.closes or answer.closes or refused
        return not (ends or (until_close and has_body(head.method, answer.status)))

    @staticmethod
    def _body(
        reader: io.BufferedReader, head: Head, *, has: bool, forward: Callable[[bytes], None], until_close: bool = False
    ) -> Body:
        if not has:
            return Body(reader, chunked=False, length=0, until_close=False, forward=forward)
        return Body(reader, chunked=head.is_chunked, length=head.length, until_close=until_close, forward=forward)

    def _linger(self) -> None:
        """Read what the client still sends: closing in front of it would reset the connection and lose the answer."""
        with suppress(OSError):
            self.client.shutdown(socket.SHUT_WR)
            self.client.settimeout(_LINGER_SECONDS)
            while self.client.recv(256 * 1024):
                pass

    def _aim(self, exchange: Exchange, body: Body, rules: list[Rule], moment: Moment) -> None:
        for rule in rules:
            if rule.where.moment == moment:
                body.stop_at(rule.where.at, lambda rule=rule: self._fire(exchange, rule))  # type: ignore[misc]

    def _strike(self, exchange: Exchange, rules: list[Rule], moment: Moment) -> None:
        for rule in rules:
            if rule.where.moment == moment:
                self._fire(exchange, rule)

    @staticmethod
    def _fire(exchange: Exchange, rule: Rule) -> None:
        rule.fired += 1
        rule.action.strike(exchange)

    def _send_body(self, body: Body) -> bool:
        """Pass the request's body on; False when the server closed before it had all: it may have answered why."""
        try:
            body.run()
        except OSError:
            return False
        return True

    def _answer(self, exchange: Exchange, instead: Instead) -> bool:
        """Answer in the server's place, once the request is read: a client that still sends hears no answer."""
        exchange.status = instead.status
        if exchange.upload is not None:
            exchange.upload.discard_rest()
        self._to_client(instead.head + (b"" if exchange.head.method == "HEAD" else instead.body))
        # What the server had to say to this request must not answer the next one.
        self.close()
        self._server = self._from_server = None
        return not exchange.head.closes

    def _read_answer(self) -> Head:
        while True:
            answer = read_head(self._from_server_stream())
            if answer is None:
                raise Broken("the server closed without an answer")
            if answer.status >= 200:
                return answer
            self._to_client(answer.raw)

    def _from_server_stream(self) -> io.BufferedReader:
        self._connect()
        assert self._from_server is not None
        return self._from_server

    def _connect(self) -> socket.socket:
        if self._server is None:
            server = socket.create_connection(self.upstream, _CONNECT_SECONDS)
            server.settimeout(None)
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._server, self._from_server = server, reader_of(server)
        return self._server

    def _to_server(self, data: bytes) -> None:
        self._connect().sendall(data)

    def _to_client(self, data: bytes) -> None:
        self.client.sendall(data)
