"""Known troubles of Qdrant's versions with snapshots: advisories.toml, read and looked up."""

from __future__ import annotations

import operator
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any

_FILE = Path(__file__).with_suffix(".toml")
_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?")
_CONDITION = re.compile(r"(>=|<=|==|>|<)(\d+\.\d+\.\d+)")
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}

Version = tuple[int, int, int]


class Operation(StrEnum):
    """What an advisory can concern."""

    BACKUP = "backup"
    RESTORE = "restore"
    #: Qdrant's own recovery of a collection, passed through by the API.
    RECOVER = "recover"


class Effect(StrEnum):
    """What comes of it, the worst first."""

    DATA = "data"
    SECURITY = "security"
    FAILURE = "failure"


@dataclass(frozen=True)
class Advisory:
    """A known trouble: which versions have it, what it does, what to do, and where Qdrant says so."""

    id: str
    affected: str
    operations: tuple[Operation, ...]
    effect: Effect
    consequence: str
    advice: str
    #: None while no release is without it.
    fixed_in: str | None
    sources: tuple[str, ...]

    def affects(self, version: Version) -> bool:
        return all(compare(version, bound) for compare, bound in _conditions(self.affected))

    @property
    def source_names(self) -> str:
        """The sources in short: '#7298, #7306', 'GHSA-…', 'v1.11.1'."""
        tails = (source.rstrip("/").rpartition("/")[2] for source in self.sources)
        return ", ".join(f"#{tail}" if tail.isdigit() else tail for tail in tails)

    @property
    def sentence(self) -> str:
        """All of it in one line, for plans and job events."""
        fixed = f"fixed in {self.fixed_in}" if self.fixed_in else "not fixed yet"
        return f"{self.consequence} {self.advice} ({fixed}; Qdrant {self.source_names})"


def advisories_for(version: str | None, operation: Operation | str | None = None) -> tuple[Advisory, ...]:
    """Return what is known of a node's version, the worst first; `operation` None for all.

    A version that cannot be read (a build of one's own, an unknown node) has none.
    """
    parsed = parse_version(version or "")
    if parsed is None:
        return ()
    wanted = Operation(operation) if operation is not None else None
    found = (one for one in all_advisories() if one.affects(parsed) and (wanted is None or wanted in one.operations))
    worst_first = list(Effect)
    return tuple(sorted(found, key=lambda one: worst_first.index(one.effect)))


def parse_version(text: str) -> Version | None:
    """'1.18.3' and '1.18.3-dev' → (1, 18, 3); None for anything else."""
    match = _VERSION.match(text.strip())
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else None


@lru_cache(maxsize=1)
def all_advisories() -> tuple[Advisory, ...]:
    """Read the data file. Raises: KeyError, ValueError for one that is not in order (a test reads it)."""
    entries = tomllib.loads(_FILE.read_text(encoding="utf-8"))["advisory"]
    return tuple(_read(entry) for entry in entries)


def _read(entry: dict[str, Any]) -> Advisory:
    unknown = entry.keys() - Advisory.__dataclass_fields__.keys()
    if unknown:
        raise ValueError(f"{entry['id']}: unknown keys {sorted(unknown)}")
    _conditions(entry["affected"])
    return Advisory(
        id=entry["id"],
        affected=entry["affected"],
        operations=tuple(Operation(name) for name in entry["operations"]),
        effect=Effect(entry["effect"]),
        consequence=entry["consequence"],
        advice=entry["advice"],
        fixed_in=entry.get("fixed_in"),
        sources=tuple(entry["sources"]),
    )


@lru_cache(maxsize=256)
def _conditions(affected: str) -> tuple[tuple[Callable[[Any, Any], bool], Version], ...]:
    conditions = []
    for text in affected.split(","):
        match = _CONDITION.fullmatch(text.strip())
        bound = parse_version(match[2]) if match else None
        if match is None or bound is None:
            raise ValueError(f"{text!r} is no condition on a version")
        conditions.append((_COMPARE[match[1]], bound))
    return tuple(conditions)
