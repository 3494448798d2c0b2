"""From a request to what answers it: routes, keys, `wait=false`, and errors."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from .errors import QdrantError, forbidden
from .messages import Nothing, Request, Response, Text, accepted, failure, success

_log = logging.getLogger(__name__)

Handler = Callable[[Request], Any]
_NO_KEY = "Must provide an API key or an Authorization bearer token"
_BAD_KEY = "Invalid API key or JWT"


@dataclass(frozen=True)
class Route:
    """One endpoint.

    access      "open" (no key), "read" (any key) or "manage" (not the read-only key)
    plain       errors are plain text, as of downloads and uploads
    background  `wait=false` answers 202 at once and swallows whatever goes wrong, a forbidden key included
    """

    method: str
    pattern: tuple[str, ...]
    handler: Handler
    access: str = "read"
    plain: bool = False
    background: bool = False

    def match(self, method: str, segments: list[str]) -> dict[str, str] | None:
        """Return the named parts of a path, None when this is another endpoint."""
        if method != self.method or len(segments) != len(self.pattern):
            return None
        params = {}
        for wanted, given in zip(self.pattern, segments, strict=True):
            if wanted.startswith("{"):
                params[wanted[1:-1]] = given
            elif wanted != given:
                return None
        return params


@dataclass(frozen=True)
class Keys:
    """The keys of a node; without any it is open to everyone."""

    full: str | None = None
    read_only: str | None = None

    def access(self, headers: Any) -> str | None:
        """Return "manage" or "read" for the caller. Raises: QdrantError (401)."""
        if self.full is None and self.read_only is None:
            return "manage"
        given = headers.get("api-key")
        if given is None:
            scheme, _, token = (headers.get("Authorization") or "").partition(" ")
            given = token if scheme == "Bearer" else None
        if given is None:
            raise QdrantError(401, _NO_KEY)
        if given == self.full:
            return "manage"
        if given == self.read_only:
            return "read"
        raise QdrantError(401, _BAD_KEY)


class Router:
    """Finds the endpoint, checks the key, runs it and wraps what it returns or raises."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self._routes: list[Route] = []
        self._background: set[threading.Thread] = set()
        self._lock = threading.Lock()

    def add(
        self,
        method: str,
        path: str,
        handler: Handler,
        *,
        access: str = "read",
        plain: bool = False,
        background: bool = False,
    ) -> None:
        """Add an endpoint; `{name}` in the path is a named part. Earlier ones win."""
        pattern = tuple(path.strip("/").split("/"))
        self._routes.append(Route(method, pattern, handler, access, plain, background))

    def handle(self, request: Request, raw_path: str) -> Response:
        """Answer a request. Never raises QdrantError; a cut connection passes through."""
        # Split before decoding: an encoded slash belongs to a name.
        segments = [unquote(part) for part in raw_path.rstrip("/").lstrip("/").split("/")]
        route = None
        for one in self._routes:
            params = one.match(request.method, segments)
            if params is not None:
                route, request.params = one, params
                break
        access = "manage"
        if route is None or route.access != "open":
            try:
                access = self.keys.access(request.headers) or "read"
            except QdrantError as error:
                return Text(error.status, error.message, typed=False)
        if route is None:
            return Nothing(404)
        return self._run(route, request, access)

    def _run(self, route: Route, request: Request, access: str) -> Response:
        started = time.perf_counter()
        plain = route.plain

        def work() -> Any:
            if route.access == "manage" and access != "manage":
                raise forbidden("Global manage access is required")
            return route.handler(request)

        try:
            if route.background and not request.flag("wait", True):
                request.json_or_none()
                self._start(work)
                return accepted()
            result = work()
        except QdrantError as error:
            # Only refusals about the key are plain in uploads; what the work says is JSON.
            return failure(error, plain=plain and (request.method == "GET" or error.status == 403))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            if isinstance(error, ConnectionError):
                raise
            _log.exception("the sandbox failed on a request")
            return failure(QdrantError(500, f"Service internal error: {type(error).__name__}: {error}"), plain=plain)
        if isinstance(result, Response):
            return result
        return success(result, started)

    def _start(self, work: Callable[[], Any]) -> None:
        def run() -> None:
            try:
                work()
            except QdrantError as error:
                _log.info("background work was refused: %s", error.message)
            except Exception:  # noqa: BLE001, the outer edge of a thread
                _log.exception("background work failed")
            finally:
                with self._lock:
                    self._background.discard(thread)

        thread = threading.Thread(target=run, name="sandbox-background", daemon=True)
        with self._lock:
            self._background.add(thread)
        thread.start()

    def wait_for_background(self, seconds: float) -> None:
        """Wait until the work of `wait=false` calls is done, at most so long."""
        deadline = time.monotonic() + seconds
        with self._lock:
            threads = list(self._background)
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
