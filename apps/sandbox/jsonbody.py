"""Reading JSON bodies, with refusals worded as Qdrant's parser words them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from .errors import bad_format


def parse_json(raw: bytes) -> Any:
    """Parse a body. Raises: QdrantError (400) with the position, as serde_json reports it."""
    try:
        return json.loads(raw)
    except UnicodeDecodeError as error:
        raise bad_format("invalid unicode code point at line 1 column 1") from error
    except json.JSONDecodeError as error:
        raise bad_format(_explain(raw.decode("utf-8", "replace"), error)) from error
    except RecursionError as error:
        raise bad_format("recursion limit exceeded at line 1 column 128") from error


def _explain(text: str, error: json.JSONDecodeError) -> str:
    rest = text[error.pos :].strip()
    if rest:
        return f"expected value at line {error.lineno} column {error.colno}"
    opened = [char for char in text if char in "{["]
    what = {"{": "an object", "[": "a list"}[opened[-1]] if opened else "a value"
    return f"EOF while parsing {what} {place(text.encode())}"


def place(raw: bytes) -> str:
    """Return the position of the end of a body in serde's words."""
    lines = raw.split(b"\n")
    return f"at line {len(lines)} column {len(lines[-1])}"


def parse_object(raw: bytes, what: str = "struct") -> dict[str, Any]:
    """Parse a body that must be a JSON object. Raises: QdrantError (400); `what` names the expected shape."""
    data = parse_json(raw)
    if not isinstance(data, dict):
        kind = {list: "sequence", str: "string", bool: "boolean", type(None): "null"}.get(type(data), "number")
        raise bad_format(f"invalid type: {kind}, expected {what} at line 1 column 0")
    return data


def need(data: dict[str, Any], field: str, raw: bytes) -> Any:
    """Return a field that must be there. Raises: QdrantError (400) as serde says it."""
    if field not in data:
        raise bad_format(f"missing field `{field}` {place(raw)}")
    return data[field]


def need_variant(value: object, allowed: Iterable[str], raw: bytes) -> str:
    """Return a value that must be one of a few words. Raises: QdrantError (400) that lists them."""
    names = list(allowed)
    if isinstance(value, str) and value in names:
        return value
    listed = ", ".join(f"`{name}`" for name in names)
    lines = raw.split(b"\n")
    where = f"at line {len(lines)} column {max(len(lines[-1]) - 1, 0)}"
    raise bad_format(f"unknown variant `{value}`, expected one of {listed} {where}")
