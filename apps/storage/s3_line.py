"""Line: the connections of an S3 client, which an Abort breaks: a job that has to stop must not wait for a server.

botocore has no public place for this. What is used of it: the session that sends, the pools' connection classes, and
the event that asks whether to try again.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from weakref import WeakKeyDictionary

from botocore.retries import standard

from apps.core.abort import Abort

#: Of botocore's own handler (retries/standard.py).
_RETRY_EVENT, _RETRY_ID = "needs-retry.s3", "retry-config-s3"


class Line:
    """What binds clients to an Abort. Safe to use from several threads."""

    def __init__(self, abort: Abort) -> None:
        self._abort = abort
        self._lock = threading.Lock()
        self._open: WeakKeyDictionary[Any, socket.socket] = WeakKeyDictionary()
        self._own = threading.local()
        self._unanswered = False

    @property
    def unanswered(self) -> bool:
        """Whether a call that makes something visible was broken off: it may take effect yet."""
        return self._unanswered

    def bind(self, client: Any) -> None:
        """Have every call of this client end once the Abort trips, with its reason: waiting, or between two tries."""
        session = client._endpoint.http_session
        manager = session._manager
        manager.pool_classes_by_scheme = {
            scheme: self._kept(pool) for scheme, pool in manager.pool_classes_by_scheme.items()
        }
        session.send = self._breakable(session.send)
        self._wait_between_tries(client)

    @contextmanager
    def undoing(self) -> Iterator[None]:
        """What this thread calls inside the block is not broken: it removes what was begun."""
        before, self._own.undoes = self._undoes, True
        try:
            yield
        finally:
            self._own.undoes = before

    @property
    def _undoes(self) -> bool:
        return getattr(self._own, "undoes", False)

    def _breakable(self, send: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def send_or_break(request: Any) -> Any:
            if self._undoes:
                return send(request)
            with self._abort.breaking(self._sever):
                try:
                    return send(request)
                except Exception:
                    if self._abort.reason is not None and _publishes(request):
                        self._unanswered = True
                    self._abort.check()
                    raise

        return send_or_break

    def _wait_between_tries(self, client: Any) -> None:
        """Have botocore's handler decide whether to try again, and wait here: its own sleep cannot be broken."""
        events = client.meta.events
        events.unregister(_RETRY_EVENT, unique_id=_RETRY_ID)
        handler = standard.register_retry_handler(client, client.meta.config.retries["total_max_attempts"])
        events.unregister(_RETRY_EVENT, unique_id=_RETRY_ID)

        def wait(**asked: Any) -> float | None:
            seconds: float | None = handler.needs_retry(**asked)
            if not seconds or self._undoes:
                return seconds
            self._abort.sleep(seconds)
            return 0

        events.register(_RETRY_EVENT, wait, unique_id=_RETRY_ID)

    def _kept(self, pool: Any) -> Any:
        line = self

        class KeptConnection(pool.ConnectionCls):
            def _new_conn(self) -> socket.socket:
                connection: socket.socket = super()._new_conn()
                line._keep(self, connection)
                return connection

            def close(self) -> None:
                line._drop(self)
                super().close()

        return type(f"Kept{pool.__name__}", (pool,), {"ConnectionCls": KeptConnection})

    def _keep(self, owner: Any, connection: socket.socket) -> None:
        # A second handle: TLS takes the first one over, and what is shut down is the connection, not the handle.
        handle = connection.dup()
        with self._lock:
            self._open[owner] = handle
        if self._abort.reason is not None and not self._undoes:  # it tripped while this one was made
            _shut(handle)

    def _drop(self, owner: Any) -> None:
        with self._lock:
            handle = self._open.pop(owner, None)
        if handle is not None:
            handle.close()

    def _sever(self) -> None:
        with self._lock:
            for handle in self._open.values():
                _shut(handle)


def _shut(handle: socket.socket) -> None:
    with suppress(OSError):  # the other side was faster
        handle.shutdown(socket.SHUT_RDWR)


def _publishes(request: Any) -> bool:
    """Tell whether a request begins an upload or makes an object visible. A part goes with its upload."""
    return request.method == "POST" or (request.method == "PUT" and "partNumber=" not in request.url)
