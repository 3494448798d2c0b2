"""Requests and responses between the HTTP server and what answers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any

from .archive import Sink
from .errors import QdrantError
from .jsonbody import parse_object
from .wire import BodyReader

# Qdrant's `service.max_request_size_mb`; uploads have no limit.
MAX_JSON_BYTES = 32 << 20


@dataclass
class Request:
    """One request. `path` is decoded, `params` are the named parts of it."""

    method: str
    path: str
    query: dict[str, str]
    headers: Message
    body: BodyReader
    params: dict[str, str] = field(default_factory=dict)
    raw: bytes = b""
    _json: dict[str, Any] | None = None

    def json(self) -> dict[str, Any]:
        """Return the body, which must be a JSON object. Raises: QdrantError (400, 413)."""
        if self._json is None:
            self.raw = self.body.read_all(MAX_JSON_BYTES)
            self._json = parse_object(self.raw)
        return self._json

    def json_or_none(self) -> dict[str, Any] | None:
        """Read the body ahead of work in the background, None when there is none.

        Raises: QdrantError (400, 413).
        """
        if self.body.ended:
            return None
        return self.json()

    def flag(self, name: str, default: bool) -> bool:
        """Return a true/false query parameter. Raises: QdrantError (400)."""
        value = self.query.get(name)
        if value is None:
            return default
        if value not in ("true", "false"):
            raise QdrantError(400, "Query deserialize error: provided string was not `true` or `false`")
        return value == "true"


@dataclass(frozen=True)
class Json:
    """A JSON answer; `body` is the whole of it."""

    status: int
    body: Any

    def encode(self) -> bytes:
        """Return the bytes of the answer."""
        return json.dumps(self.body, ensure_ascii=False, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Text:
    """A plain text answer."""

    status: int
    text: str
    # The refusals about keys carry no content type.
    typed: bool = True


@dataclass(frozen=True)
class Nothing:
    """An answer without a body."""

    status: int


@dataclass(frozen=True)
class File:
    """A file for download."""

    path: Path


@dataclass(frozen=True)
class Stream:
    """A download that is made while it is sent; `write` gets the sink."""

    filename: str
    write: Callable[[Sink], None]


Response = Json | Text | Nothing | File | Stream


def success(result: Any, started: float) -> Json:
    """Wrap a result as Qdrant does; `started` is a reading of time.perf_counter()."""
    return Json(200, {"result": result, "status": "ok", "time": time.perf_counter() - started})


def accepted() -> Json:
    """Answer to work that goes on in the background."""
    return Json(202, {"status": "accepted", "time": 0.000001})


def failure(error: QdrantError, *, plain: bool) -> Json | Text:
    """Wrap a refusal: JSON, or the plain text that downloads and uploads give."""
    if plain:
        return Text(error.status, error.message)
    return Json(error.status, {"status": {"error": error.message}, "time": 0.0})
