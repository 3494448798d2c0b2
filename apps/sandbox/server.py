"""The HTTP server: keep-alive connections in threads, and the faults that strike on the wire."""

from __future__ import annotations

import os
import socket
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from .control_api import PREFIX, RequestLog
from .download import GzipSink, disposition, plan_download, send_gzip, wants_gzip
from .errors import QdrantError
from .faults import FaultPlan, Faults
from .messages import File, Json, Nothing, Request, Response, Stream, Text
from .wire import BodyReader, BodyWriter, ConnectionCut, reset, wait_until_gone

_VARY = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
# What an endpoint left unread is read up to this, so that the connection can be used again.
_DISCARD_BYTES = 1 << 20
_LINGER_SECONDS = 5.0
_EXIT_CODE_OF_DEATH = 137


class Answers(Protocol):
    """What answers requests: the router of a node."""

    def handle(self, request: Request, raw_path: str) -> Response:
        """Answer a request."""


@dataclass(frozen=True)
class Application:
    """What the connections of a server share."""

    router: Answers
    faults: Faults
    log: RequestLog
    stopping: threading.Event


class Server(ThreadingHTTPServer):
    """The listening socket and the connections. `close_connections` ends those that are idle or stuck."""

    daemon_threads = True
    # Threads are ended by closing their connections; waiting for each would wait for clients.
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], application: Application) -> None:
        self.application = application
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self.busy = 0
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection."""
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """End a connection."""
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a connection that breaks is what tests do on purpose."""

    def count_busy(self, change: int) -> None:
        """Count a request that begins (1) or ends (-1)."""
        with self._lock:
            self.busy += change

    def close_connections(self, seconds: float) -> None:
        """Let requests finish for at most so long, then close all connections."""
        deadline = time.monotonic() + seconds
        while self.busy and time.monotonic() < deadline:
            time.sleep(0.005)
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # it is closed already


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    rbufsize = 64 << 10
    server: Server

    def _serve(self) -> None:
        application = self.server.application
        target = urlsplit(self.path)
        faulty = not target.path.startswith(PREFIX)
        plan = application.faults.plan(self.command, unquote(target.path)) if faulty else FaultPlan()
        self._sent = 0
        self._status = 0
        self.server.count_busy(1)
        try:
            self._answer(application.router, target.path, target.query, plan)
        except ConnectionCut as cut:
            self.close_connection = True
            self._cut(cut.kind)
        except OSError:
            self.close_connection = True
        finally:
            self.server.count_busy(-1)
            if faulty:
                application.log.add(self.command, unquote(target.path), target.query, self._status, self._sent)

    do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = do_HEAD = do_OPTIONS = _serve

    def _answer(self, router: Answers, path: str, query: str, plan: FaultPlan) -> None:
        chunked = "chunked" in (self.headers.get("Transfer-Encoding") or "").lower()
        length = self.headers.get("Content-Length") or "0"
        if not length.isdecimal():
            self.close_connection = True
            self._send(Nothing(400), plan)
            return
        body = BodyReader(self.rfile, int(length), plan, chunked=chunked)  # type: ignore[arg-type]
        self.server.application.stopping.wait(plan.delay_seconds)
        if plan.die:
            os._exit(_EXIT_CODE_OF_DEATH)
        response: Response
        if plan.answer is not None:
            rule = plan.answer
            is_text = rule.body is None or isinstance(rule.body, str)
            response = Text(rule.status or 500, rule.body or "") if is_text else Json(rule.status or 500, rule.body)
        else:
            request = Request(
                self.command,
                unquote(path),
                dict(parse_qsl(query, keep_blank_values=True)),
                self.headers,
                body,
            )
            response = router.handle(request, path)
        if plan.lie_checksum and isinstance(response, Json):
            _lie(response.body)
        if plan.drop_result:
            raise ConnectionCut("truncate")
        whole = body.discard(_DISCARD_BYTES)
        if not whole:
            self.close_connection = True
        self._send(response, plan)
        if not whole:
            self._linger(body)

    def _send(self, response: Response, plan: FaultPlan) -> None:
        if isinstance(response, File):
            self._send_file(response, plan)
        elif isinstance(response, Stream):
            headers = {
                "Content-Type": "application/octet-stream",
                "Content-Disposition": disposition(response.filename),
            }
            gzip = wants_gzip(self.headers.get("Accept-Encoding"))
            if gzip:
                headers |= {"Content-Encoding": "gzip", "Vary": "accept-encoding"}
            writer = self._start(200, headers, None, plan)
            try:
                if gzip:
                    sink = GzipSink(writer)
                    response.write(sink)
                    sink.finish()
                else:
                    response.write(writer)
                writer.finish()
            except QdrantError:
                # As on a server: the status is sent, the body just ends.
                self.close_connection = True
            finally:
                self._sent = writer.sent
        else:
            data, headers = b"", {}
            if isinstance(response, Json):
                data, headers = response.encode(), {"Content-Type": "application/json"}
            elif isinstance(response, Text):
                data = response.text.encode()
                headers = {"Content-Type": "text/plain; charset=utf-8"} if response.typed else {}
            if self.command == "HEAD":
                data = b""
            self._send_bytes(response.status, headers, data, plan)

    def _send_bytes(self, status: int, headers: dict[str, str], data: bytes, plan: FaultPlan) -> None:
        if not plan.changes_body:
            self._status = status
            self.connection.sendall(self._head(status, headers, len(data) + plan.extra_length) + data)
            self._sent = len(data)
        else:
            writer = self._start(status, headers, len(data) + plan.extra_length, plan)
            try:
                writer.write(data)
                writer.finish()
            finally:
                self._sent = writer.sent
        if plan.extra_length:
            self.close_connection = True

    def _send_file(self, response: File, plan: FaultPlan) -> None:
        with response.path.open("rb") as file:
            todo = plan_download(os.fstat(file.fileno()), response.path.name, self.headers)
            length = None if todo.gzip else todo.count + (plan.extra_length if todo.status in (200, 206) else 0)
            writer = self._start(todo.status, todo.headers, length, plan)
            try:
                if todo.gzip:
                    send_gzip(file, writer)
                else:
                    writer.send_file(file, todo.start, todo.count)
                writer.finish()
            finally:
                self._sent = writer.sent
        if plan.extra_length:
            self.close_connection = True

    def _start(self, status: int, headers: dict[str, str], length: int | None, plan: FaultPlan) -> BodyWriter:
        self._status = status
        self.connection.sendall(self._head(status, headers, length))
        return BodyWriter(self.connection, plan, chunked=length is None)

    def _head(self, status: int, headers: dict[str, str], length: int | None) -> bytes:
        lines = [f"HTTP/1.1 {status} {_phrase(status)}"]
        lines.append("Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}")
        vary = headers.get("Vary")
        lines.extend(f"{name}: {value}" for name, value in headers.items() if name != "Vary")
        lines.append(f"Vary: {vary}, {_VARY}" if vary else f"Vary: {_VARY}")
        lines.append(f"Date: {self.date_time_string()}")
        if self.close_connection:
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")

    def _cut(self, kind: str) -> None:
        if kind == "die":
            os._exit(_EXIT_CODE_OF_DEATH)
        if kind == "stall":
            wait_until_gone(self.connection, self.server.application.stopping)
        if kind == "reset":
            reset(self.connection)

    def _linger(self, body: BodyReader) -> None:
        # Closing with unread data resets the connection, and the client would lose the answer.
        self.connection.settimeout(_LINGER_SECONDS)
        try:
            self.connection.shutdown(socket.SHUT_WR)
            body.discard(1 << 40)
        except OSError:
            return

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, the name is the base's
        """Stay silent: the request log is at /sandbox/log."""


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def _lie(body: Any) -> None:
    if not isinstance(body, dict):
        return
    result = body.get("result")
    for one in result if isinstance(result, list) else [result]:
        if isinstance(one, dict) and "checksum" in one:
            one["checksum"] = one["checksum"].translate(str.maketrans("0123456789abcdef", "fedcba9876543210"))
