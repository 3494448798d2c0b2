"""Faults of the wire and of the node, switched on at run time.

A rule says which requests it is for and what goes wrong with them. As JSON (POST /sandbox/faults
takes a list of these and replaces all rules):

    {"method": "GET", "path": "/collections/[^/]+/snapshots/.+", "action": "truncate", "bytes": 1000,
     "times": 1, "after": 2}

method, path  regular expressions, matched against the whole method and path (without the query);
              both default to everything
after         let so many matching requests through first (default 0)
times         fire so often, then rest (default: always)
on            "response" (default) or "request": which body `stall`, `truncate`, `reset`, `rate` and
              `die` count their bytes in; "request" is for uploads

action        further keys          what happens
status        status, body          answer at once with this status; body is a text, or JSON
delay         seconds               wait before the work is begun
stall         bytes                 after so many bytes of body hang until the client goes or the node stops
truncate      bytes                 after so many bytes of body close, although the length promised more
reset         bytes                 after so many bytes of body reset the connection (TCP RST)
short_length  bytes (default 1)     promise so many bytes more than are sent, then close
rate          rate                  at most so many bytes a second
lie_checksum  -                     snapshot descriptions carry a wrong checksum
flip          offset                the byte of the body at this offset has all its bits flipped
drop_result   -                     do the work, then close without an answer
die           bytes (optional)      end the process at once; with bytes, after so many bytes of body

Several rules may fire for one request. The paths under /sandbox/ are never faulted.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

_NEEDS: dict[str, tuple[str, ...]] = {
    "status": ("status",),
    "delay": ("seconds",),
    "stall": ("bytes",),
    "truncate": ("bytes",),
    "reset": ("bytes",),
    "short_length": (),
    "rate": ("rate",),
    "lie_checksum": (),
    "flip": ("offset",),
    "drop_result": (),
    "die": (),
}
ACTIONS = frozenset(_NEEDS)
_NUMBERS = ("status", "seconds", "bytes", "rate", "offset", "times", "after")
_CUTS = frozenset({"stall", "truncate", "reset", "die"})


@dataclass(frozen=True)
class FaultRule:
    """One rule; the module's docstring explains every field."""

    action: str
    method: str = ".*"
    path: str = ".*"
    times: int | None = None
    after: int = 0
    on: str = "response"
    status: int | None = None
    body: Any = None
    seconds: float | None = None
    bytes: int | None = None
    rate: float | None = None
    offset: int | None = None

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise ValueError(f"unknown action {self.action!r}, expected one of {sorted(ACTIONS)}")
        if self.on not in ("request", "response"):
            raise ValueError(f"on must be request or response, not {self.on!r}")
        for name in _NEEDS[self.action]:
            if getattr(self, name) is None:
                raise ValueError(f"action {self.action} needs {name}")
        for name in _NUMBERS:
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
                raise ValueError(f"{name} must be a number of 0 or more")
        if self.rate == 0:
            raise ValueError("rate must be above 0; use stall to send nothing at all")
        try:
            re.compile(self.method)
            re.compile(self.path)
        except re.error as error:
            raise ValueError(f"bad regular expression: {error}") from error

    @classmethod
    def from_json(cls, data: object) -> FaultRule:
        """Build a rule from its JSON form. Raises: ValueError for anything it does not know."""
        if not isinstance(data, Mapping):
            raise ValueError("a rule is a JSON object")
        unknown = set(data) - set(cls.__dataclass_fields__)
        if unknown:
            raise ValueError(f"unknown keys {sorted(unknown)}")
        if "action" not in data:
            raise ValueError("a rule needs an action")
        return cls(**{str(key): value for key, value in data.items()})

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form, without the keys that were left out."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Cut:
    """Where a body ends badly: the kind of end, after so many bytes."""

    kind: str
    after_bytes: int


@dataclass
class FaultPlan:
    """What goes wrong with one request: the sum of the rules that fired."""

    answer: FaultRule | None = None
    delay_seconds: float = 0.0
    response_cut: Cut | None = None
    request_cut: Cut | None = None
    response_rate: float | None = None
    request_rate: float | None = None
    flips: list[int] = field(default_factory=list)
    extra_length: int = 0
    lie_checksum: bool = False
    drop_result: bool = False
    die: bool = False

    @property
    def changes_body(self) -> bool:
        """Whether the response body must be looked at byte by byte, instead of being sent as it is."""
        return bool(self.response_cut or self.response_rate or self.flips)

    def include(self, rule: FaultRule) -> None:
        """Add what one rule does."""
        if rule.action == "status":
            self.answer = self.answer or rule
        elif rule.action == "delay":
            self.delay_seconds += rule.seconds or 0.0
        elif rule.action == "die" and rule.bytes is None:
            self.die = True
        elif rule.action in _CUTS:
            cut = Cut(rule.action, int(rule.bytes or 0))
            if rule.on == "request":
                self.request_cut = cut
            else:
                self.response_cut = cut
        elif rule.action == "rate":
            if rule.on == "request":
                self.request_rate = rule.rate
            else:
                self.response_rate = rule.rate
        elif rule.action == "flip":
            self.flips.append(int(rule.offset or 0))
        elif rule.action == "short_length":
            self.extra_length += 1 if rule.bytes is None else int(rule.bytes)
        elif rule.action == "lie_checksum":
            self.lie_checksum = True
        else:
            self.drop_result = True


@dataclass
class _Armed:
    rule: FaultRule
    seen: int = 0
    fired: int = 0

    def fires(self) -> bool:
        self.seen += 1
        if self.seen <= self.rule.after:
            return False
        if self.rule.times is not None and self.fired >= self.rule.times:
            return False
        self.fired += 1
        return True


class Faults:
    """The rules of one node. Safe to change while requests run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._armed: list[_Armed] = []

    def add(self, action: str, **settings: Any) -> FaultRule:
        """Add a rule; the keyword arguments are the JSON keys. Raises: ValueError for a bad one."""
        rule = FaultRule(action, **settings)
        with self._lock:
            self._armed.append(_Armed(rule))
        return rule

    def replace(self, rules: Iterable[FaultRule]) -> None:
        """Forget all rules and take these."""
        armed = [_Armed(rule) for rule in rules]
        with self._lock:
            self._armed = armed

    def clear(self) -> None:
        """Forget all rules. Requests under way keep the faults they have."""
        self.replace([])

    def describe(self) -> list[dict[str, Any]]:
        """Return the rules as JSON, each with `seen` (matching requests) and `fired` (how often it acted)."""
        with self._lock:
            return [one.rule.to_json() | {"seen": one.seen, "fired": one.fired} for one in self._armed]

    def plan(self, method: str, path: str) -> FaultPlan:
        """Count this request against every rule and return what shall go wrong with it."""
        plan = FaultPlan()
        with self._lock:
            for one in self._armed:
                rule = one.rule
                matches = re.fullmatch(rule.method, method) and re.fullmatch(rule.path, path)
                if matches and one.fires():
                    plan.include(rule)
        return plan
