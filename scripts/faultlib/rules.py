"""Rules of a proxy: a place in the conversation, and what happens there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from .wire import Body, Head, Pace

if TYPE_CHECKING:
    from .proxy import Proxy


class Moment(StrEnum):
    """Where in an exchange something happens."""

    REQUEST = "request"  # the request's head is here; the server has heard nothing
    UPLOAD = "upload"  # so many bytes of the request's body have gone to the server
    ANSWER = "answer"  # the server has done it; the client has heard nothing
    DOWNLOAD = "download"  # so many bytes of the answer's body have gone to the client
    DONE = "done"  # the client has the whole answer


@dataclass(frozen=True)
class Where:
    """A place in the conversation. `method` and `target` are regular expressions for all of it.

    `at` counts bytes of the body for UPLOAD and DOWNLOAD: a float is a share of it, a negative number counts from the
    end. `nth` is the first matching request that counts.
    """

    method: str
    target: str
    moment: Moment = Moment.REQUEST
    at: int | float = 0
    nth: int = 1

    def matches(self, head: Head) -> bool:
        return bool(re.fullmatch(self.method, head.method) and re.fullmatch(self.target, head.target))


@dataclass
class Exchange:
    """One request and its answer, as the actions see them."""

    proxy: Proxy
    head: Head
    upload: Body | None = None
    download: Body | None = None
    status: int = 0

    def slow_down(self, rate: float, count: int) -> None:
        """Let the next `count` bytes pass at `rate` bytes a second, in whichever direction they move."""
        for body in (self.upload, self.download):
            if body is not None:
                body.pace = Pace(rate, count)


class Action(Protocol):
    """What happens at a place."""

    def strike(self, exchange: Exchange) -> None:
        """Do it. Raises: Cut to end the connection, Instead to answer otherwise."""


class Instead(Exception):
    """The client gets this answer and not the server's."""

    def __init__(self, status: int, body: bytes, kind: str = "application/json", **fields: str) -> None:
        super().__init__(str(status))
        lines = [f"HTTP/1.1 {status} Fault", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        self.status = status
        self.head = ("\r\n".join(lines) + "\r\n\r\n").encode()
        self.body = body


@dataclass
class Rule:
    """An action at a place, for the first `times` matching requests from the nth on (None: for all)."""

    where: Where
    action: Action
    times: int | None = 1
    seen: int = 0
    fired: int = 0

    def counts(self, head: Head) -> bool:
        """Count a request; tell whether the rule is for this one."""
        if not self.where.matches(head):
            return False
        self.seen += 1
        return self.seen >= self.where.nth and (self.times is None or self.seen < self.where.nth + self.times)


@dataclass(frozen=True)
class Seen:
    """A request that passed: what was asked, and the status that the client got (0: none)."""

    at: float
    method: str
    target: str
    status: int
    uploaded: int
    downloaded: int
