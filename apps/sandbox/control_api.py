"""Endpoints no real node has: faults and the request log, all under /sandbox/.

GET /sandbox/faults     the rules, each with `seen` and `fired`
POST /sandbox/faults    a list of rules (apps.sandbox.faults); replaces all
DELETE /sandbox/faults  no rules any more
GET /sandbox/log        the last requests, oldest first: method, path, query, status, bytes (of the body sent)
DELETE /sandbox/log     forget them

They need no key, are never faulted and are not logged.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from .errors import bad_format
from .faults import FaultRule, Faults
from .jsonbody import parse_json
from .messages import MAX_JSON_BYTES, Request
from .routing import Router

_KEPT_REQUESTS = 1000
PREFIX = "/sandbox/"


class RequestLog:
    """The last requests of a node. `status` is 0 for a connection that was cut before an answer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: deque[dict[str, Any]] = deque(maxlen=_KEPT_REQUESTS)

    def add(self, method: str, path: str, query: str, status: int, sent_bytes: int) -> None:
        """Remember one request."""
        entry = {"method": method, "path": path, "query": query, "status": status, "bytes": sent_bytes}
        with self._lock:
            self._entries.append(entry)

    def entries(self) -> list[dict[str, Any]]:
        """Return what is remembered, oldest first."""
        with self._lock:
            return list(self._entries)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()


class ControlApi:
    """The switches of the sandbox."""

    def __init__(self, faults: Faults, log: RequestLog) -> None:
        self._faults = faults
        self._log = log

    def register(self, router: Router) -> None:
        """Add the endpoints."""
        router.add("GET", "/sandbox/faults", lambda _: self._faults.describe(), access="open")
        router.add("POST", "/sandbox/faults", self.replace, access="open")
        router.add("DELETE", "/sandbox/faults", self.clear, access="open")
        router.add("GET", "/sandbox/log", lambda _: self._log.entries(), access="open")
        router.add("DELETE", "/sandbox/log", self.clear_log, access="open")

    def replace(self, request: Request) -> list[dict[str, Any]]:
        """Take a list of rules instead of those there are."""
        data = parse_json(request.body.read_all(MAX_JSON_BYTES))
        if not isinstance(data, list):
            raise bad_format("a list of rules is expected")
        try:
            rules = [FaultRule.from_json(one) for one in data]
        except (ValueError, TypeError) as error:
            raise bad_format(str(error)) from error
        self._faults.replace(rules)
        return self._faults.describe()

    def clear(self, request: Request) -> bool:
        """Switch all faults off."""
        self._faults.clear()
        return True

    def clear_log(self, request: Request) -> bool:
        """Empty the log."""
        self._log.clear()
        return True
