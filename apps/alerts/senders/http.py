"""HTTP to receivers: short time-outs, no redirects, and only to where connections may lead."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Any

import requests
import urllib3
from django.conf import settings
from requests.adapters import HTTPAdapter

from apps.alerts.senders.errors import NotDelivered
from apps.core.outbound import Guard, current_guard

#: What a receiver says about a refusal; more is of no use.
_ANSWER_BYTES = 200


class _GuardedAdapter(HTTPAdapter):
    """Checks the peer of every connection once it stands, and can cut it."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._sockets: list[socket.socket] = []
        self.was_cut = False
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        manager = self.poolmanager
        pools = self._guard.pools(manager.pool_classes_by_scheme)
        manager.pool_classes_by_scheme = {scheme: self._noted(pool) for scheme, pool in pools.items()}

    def _noted(self, pool: Any) -> Any:
        adapter = self

        class NotedConnection(pool.ConnectionCls):
            def _new_conn(self) -> socket.socket:
                connection: socket.socket = super()._new_conn()
                # A second handle of it: TLS takes the first one over.
                adapter._sockets.append(connection.dup())
                return connection

        return type(f"Noted{pool.__name__}", (pool,), {"ConnectionCls": NotedConnection})

    def cut(self) -> None:
        """End what is under way: a time-out counts from one byte to the next, and a receiver may drip."""
        self.was_cut = True
        for connection in list(self._sockets):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        super().close()
        for connection in self._sockets:
            connection.close()


def call(method: str, url: str, *, body: bytes = b"", headers: dict[str, str] | None = None) -> int:
    """Send one request; return the status, which is 2xx. Raises: NotDelivered, AddressRefused."""
    guard = current_guard(url)
    timeout = settings.BACKUPMGR_ALERT_TIMEOUT_SECONDS
    adapter = _GuardedAdapter(guard)
    deadline = threading.Timer(timeout, adapter.cut)
    deadline.daemon = True
    with requests.Session() as session:
        session.trust_env = False
        session.mount(url.partition("://")[0] + "://", adapter)
        deadline.start()
        try:
            answer = session.request(
                method,
                url,
                data=body,
                headers={"User-Agent": "backupmgr", **(headers or {})},
                timeout=(timeout, timeout),
                allow_redirects=False,
                stream=True,
            )
            with answer:
                # Of a refusal the first words are read; what follows a success is nothing to us.
                refused = not 200 <= answer.status_code < 300
                said = answer.raw.read(_ANSWER_BYTES, decode_content=False) if refused else b""
        except requests.Timeout as error:
            raise NotDelivered(f"The receiver did not answer within {timeout:g} s.") from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            if adapter.was_cut:
                raise NotDelivered(f"The receiver did not answer within {timeout:g} s.") from error
            if isinstance(error, requests.exceptions.SSLError):
                raise NotDelivered("The receiver's certificate is not valid.") from error
            raise NotDelivered(f"The receiver cannot be reached ({type(error).__name__}).") from error
        finally:
            deadline.cancel()
    if 300 <= answer.status_code < 400:
        raise NotDelivered("The receiver redirects to another address: enter that one.")
    if not 200 <= answer.status_code < 300:
        words = (said or b"").decode("utf-8", "replace").strip().splitlines()
        clause = (
            f": {words[0][:120]}" if words and answer.headers.get("Content-Type", "").startswith("text/plain") else ""
        )
        raise NotDelivered(f"The receiver answered {answer.status_code}{clause}.")
    return answer.status_code
