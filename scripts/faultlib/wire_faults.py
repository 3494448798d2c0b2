"""What a proxy does at a place in the conversation."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from typing import Any

from .rules import Action, Exchange, Instead
from .wire import Cut


@dataclass(frozen=True)
class Reset:
    """Reset the connection (TCP RST)."""

    def strike(self, exchange: Exchange) -> None:
        raise Cut("reset")


@dataclass(frozen=True)
class Truncate:
    """Close the connection as if all was said."""

    def strike(self, exchange: Exchange) -> None:
        raise Cut("close")


@dataclass(frozen=True)
class Stall:
    """Say nothing more, and keep the connection until the client gives up."""

    seconds: float = 60.0

    def strike(self, exchange: Exchange) -> None:
        raise Cut("stall", self.seconds)


@dataclass(frozen=True)
class Slow:
    """From here on pass `count` bytes at `rate` bytes a second; then as before."""

    rate: float = 1_000_000
    count: int = 3_000_000

    def strike(self, exchange: Exchange) -> None:
        exchange.slow_down(self.rate, self.count)


@dataclass(frozen=True)
class Refuse:
    """Reset everything and refuse connections for so many seconds."""

    seconds: float = 1.0

    def strike(self, exchange: Exchange) -> None:
        exchange.proxy.down(self.seconds)
        raise Cut("reset")


@dataclass(frozen=True)
class Answer:
    """Answer with this status, whatever the server says or would have said."""

    status: int
    body: bytes = b""
    kind: str = "application/json"
    fields: tuple[tuple[str, str], ...] = ()

    def strike(self, exchange: Exchange) -> None:
        raise Instead(self.status, self.body, self.kind, **dict(self.fields))


def qdrant_says(status: int) -> Answer:
    """Return an answer as Qdrant gives it with this status."""
    text = {429: "Rate limiting exceeded: try again later", 503: "Shard temporarily unavailable: try again later"}
    body: dict[str, Any] = {
        "status": {"error": text.get(status, "Service internal error: a fault on purpose")},
        "time": 0.0,
    }
    fields = (("Retry_After", "1"),) if status == 429 else ()
    return Answer(status, json.dumps(body).encode(), fields=fields)


def s3_says(status: int) -> Answer:
    """Return an answer as S3 gives it with this status."""
    code = {429: "TooManyRequests", 503: "SlowDown"}.get(status, "InternalError")
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>A fault on purpose.</Message></Error>'
    return Answer(status, body.encode(), "application/xml")


@dataclass(frozen=True)
class Outage:
    """From here on the same happens to every request, for so many seconds."""

    action: Action
    seconds: float

    def strike(self, exchange: Exchange) -> None:
        exchange.proxy.outage(self.action, self.seconds)
        self.action.strike(exchange)


@dataclass
class Hold:
    """Keep the conversation where it is until `release`; whoever waits for `reached` does something meanwhile."""

    most_seconds: float = 60.0
    reached: threading.Event = field(default_factory=threading.Event)
    _released: threading.Event = field(default_factory=threading.Event)
    _then: Action | None = None

    def strike(self, exchange: Exchange) -> None:
        self.reached.set()
        # Not ended by the proxy's end: that resets all connections anyway.
        self._released.wait(self.most_seconds)
        if self._then is not None:
            self._then.strike(exchange)

    def release(self, then: Action | None = None) -> None:
        """Let it go on, or end as `then` says."""
        self._then = then
        self._released.set()
