"""Filters of requests, turned into the engine's.

Served: must, should, must_not, min_should, nested filters; match (value, any, except, text, phrase),
range (numbers and dates), geo_bounding_box, geo_radius, values_count, is_empty, is_null, has_id, has_vector.
Source: the filtering chapter of Qdrant's documentation; the engine decides what they mean.
"""

from __future__ import annotations

from typing import Any

import qdrant_edge as edge

from .errors import bad_format
from .points import parse_id


def parse_filter(data: object) -> edge.Filter | None:
    """Return the engine's filter, None for none. Raises: QdrantError (400) for what is not understood."""
    if data is None:
        return None
    if not isinstance(data, dict):
        raise bad_format("invalid type: expected struct Filter at line 1 column 0")
    unknown = set(data) - {"must", "should", "must_not", "min_should"}
    if unknown:
        known = "`should`, `min_should`, `must`, `must_not`"
        raise bad_format(f"unknown field `{sorted(unknown)[0]}`, expected one of {known}")
    least = data.get("min_should")
    try:
        return edge.Filter(
            must=_conditions(data.get("must")),
            should=_conditions(data.get("should")),
            must_not=_conditions(data.get("must_not")),
            min_should=None
            if least is None
            else edge.MinShould(_conditions(least["conditions"]) or [], least["min_count"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise bad_format(f"data did not match any variant of untagged enum Condition: {error}") from error


def _conditions(data: Any) -> list[Any] | None:
    if data is None:
        return None
    return [_condition(one) for one in (data if isinstance(data, list) else [data])]


def _condition(data: dict[str, Any]) -> Any:
    if "key" in data:
        return _field(data)
    if "has_id" in data:
        return edge.HasIdCondition({parse_id(one) for one in data["has_id"]})
    if "is_empty" in data:
        return edge.IsEmptyCondition(data["is_empty"]["key"])
    if "is_null" in data:
        return edge.IsNullCondition(data["is_null"]["key"])
    if "has_vector" in data:
        return edge.HasVectorCondition(data["has_vector"])
    if "nested" in data:
        inner = parse_filter(data["nested"]["filter"])
        return edge.NestedCondition(data["nested"]["key"], inner if inner is not None else edge.Filter())
    inner = parse_filter(data)
    if inner is None or not data:
        raise ValueError("an empty condition")
    return inner


def _field(data: dict[str, Any]) -> edge.FieldCondition:
    known = {"key", "match", "range", "geo_bounding_box", "geo_radius", "values_count", "is_empty", "is_null"}
    if not set(data) <= known or len(data) < 2:
        raise ValueError(f"a condition on {data.get('key')!r} that is not understood")
    box, radius, count = data.get("geo_bounding_box"), data.get("geo_radius"), data.get("values_count")
    return edge.FieldCondition(
        data["key"],
        match=_match(data["match"]) if "match" in data else None,
        range=_range(data["range"]) if "range" in data else None,
        geo_bounding_box=edge.GeoBoundingBox(_geo(box["top_left"]), _geo(box["bottom_right"])) if box else None,
        geo_radius=edge.GeoRadius(_geo(radius["center"]), float(radius["radius"])) if radius else None,
        values_count=edge.ValuesCount(**count) if count else None,
        is_empty=data.get("is_empty"),
        is_null=data.get("is_null"),
    )


def _geo(data: dict[str, float]) -> edge.GeoPoint:
    return edge.GeoPoint(data["lon"], data["lat"])


def _match(data: dict[str, Any]) -> Any:
    [(kind, value)] = data.items()
    if kind == "value":
        return edge.MatchValue(value)
    if kind == "any":
        return edge.MatchAny(value)
    if kind == "except":
        return edge.MatchExcept(value)
    if kind == "text":
        return edge.MatchText(value)
    if kind == "text_any":
        return edge.MatchTextAny(value)
    if kind == "phrase":
        return edge.MatchPhrase(value)
    raise ValueError(f"unknown match {kind!r}")


def _range(data: dict[str, Any]) -> Any:
    given = {key: value for key, value in data.items() if value is not None}
    if any(isinstance(value, str) for value in given.values()):
        return edge.RangeDateTime(**given)
    return edge.RangeFloat(**given)
