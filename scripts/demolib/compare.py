"""Two pictures of a collection, and every difference between them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Picture:
    """All that a node says of a collection.

    `points` maps id → the point as canonical JSON: text tells 1 from 1.0 and from true, which == does not, and takes
    a tenth of the memory.
    """

    points: dict[str, str]
    config: dict[str, Any]
    payload_schema: dict[str, Any]
    aliases: tuple[str, ...]


def canonical(value: Any) -> str:
    """Return JSON with sorted keys; Python prints a float with the fewest digits that name it, so no bit is lost."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def index_points(points: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Return id → canonical JSON. Raises: ValueError when an id comes twice."""
    found: dict[str, str] = {}
    for point in points:
        key = canonical(point["id"])
        if key in found:
            raise ValueError(f"the point {key} came twice")
        found[key] = canonical(point)
    return found


def differences(before: Picture, after: Picture) -> list[str]:
    """Return a sentence for each difference; empty when the two are equal."""
    found = point_differences(before.points, after.points)
    found += _walk(without_nulls(before.config), without_nulls(after.config), "config")
    found += _schema_differences(before.payload_schema, after.payload_schema)
    if before.aliases != after.aliases:
        found.append(f"aliases: were {_list(before.aliases)}, are {_list(after.aliases)}")
    return found


def replica_differences(nodes: list[dict[int, tuple[str, int]]], replicas: int, points: int) -> list[str]:
    """Compare the replicas of all nodes: enough of each shard, all Active, all with the same points."""
    found, total = [], 0
    for shard_id in sorted({shard_id for node in nodes for shard_id in node}):
        here = [node[shard_id] for node in nodes if shard_id in node]
        counts = sorted({count for _, count in here})
        total += counts[0]
        if len(here) != replicas:
            found.append(f"shard {shard_id}: has {len(here)} replicas, not {replicas}")
        if any(state != "Active" for state, _ in here):
            found.append(f"shard {shard_id}: its replicas are {', '.join(state for state, _ in here)}")
        if len(counts) > 1:
            found.append(f"shard {shard_id}: its replicas hold {' and '.join(map(str, counts))} points")
    if total != points:
        found.append(f"the shards hold {total} points together, not {points}")
    return found


def point_differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Return a sentence for each point that is missing, new, or not the same."""
    found = [f"point {key}: missing" for key in before.keys() - after.keys()]
    found += [f"point {key}: was not there before" for key in after.keys() - before.keys()]
    for key, text in before.items():
        other = after.get(key)
        if other is not None and other != text:
            found += _walk(json.loads(text), json.loads(other), f"point {key}")
    return sorted(found)


def without_nulls(value: Any) -> Any:
    """Drop null members: a node shows an option that is not set as null or not at all."""
    if isinstance(value, dict):
        return {key: without_nulls(member) for key, member in value.items() if member is not None}
    return value


def _schema_differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Compare type and parameters. How many points an index covers is left out: it grows after the restore."""

    def facts(schema: dict[str, Any]) -> dict[str, Any]:
        return {
            field: {key: value for key, value in without_nulls(entry).items() if key != "points"}
            for field, entry in schema.items()
        }

    old, new = facts(before), facts(after)
    found = [f"payload index {field!r}: missing" for field in sorted(old.keys() - new.keys())]
    found += [f"payload index {field!r}: was not there before" for field in sorted(new.keys() - old.keys())]
    for field in sorted(old.keys() & new.keys()):
        found += _walk(old[field], new[field], f"payload index {field!r}")
    return found


_ABSENT = object()


def _walk(before: Any, after: Any, path: str) -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            sentence
            for key in sorted(before.keys() | after.keys())
            for sentence in _walk(before.get(key, _ABSENT), after.get(key, _ABSENT), f"{path} {key}")
        ]
    if before is not _ABSENT and after is not _ABSENT and canonical(before) == canonical(after):
        return []
    return [f"{path}: was {_show(before)}, is {_show(after)}"]


def _show(value: Any) -> str:
    if value is _ABSENT:
        return "not there"
    text = canonical(value)
    return text if len(text) <= 100 else f"{text[:100]}…"


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "none"
