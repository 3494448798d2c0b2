"""Payload indexes: their JSON form and the engine's.

`field_schema` is a type's name ("keyword") or an object with `type` and parameters; it is read back as
`{"data_type": ..., "params": ..., "points": N}`. Source: tests/recordings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qdrant_edge as edge

from .errors import bad_format
from .jsonbody import place

_PLAIN: dict[str, Callable[..., Any]] = {
    "keyword": edge.KeywordIndexParams,
    "integer": edge.IntegerIndexParams,
    "float": edge.FloatIndexParams,
    "geo": edge.GeoIndexParams,
    "bool": edge.BoolIndexParams,
    "datetime": edge.DatetimeIndexParams,
    "uuid": edge.UuidIndexParams,
    "text": edge.TextIndexParams,
}
# What each type understands; `on_disk` and `enable_hnsw` go for all of them.
_KEYS: dict[str, frozenset[str]] = {
    "keyword": frozenset({"is_tenant", "prefix"}),
    "integer": frozenset({"lookup", "range", "is_principal"}),
    "float": frozenset({"is_principal"}),
    "geo": frozenset(),
    "bool": frozenset(),
    "datetime": frozenset({"is_principal"}),
    "uuid": frozenset({"is_tenant"}),
    "text": frozenset({"min_token_len", "max_token_len", "lowercase", "ascii_folding", "phrase_matching"}),
}
_FOR_ALL = frozenset({"on_disk", "enable_hnsw"})
# Kept in the schema and read back, but not used: words would be stemmed and dropped otherwise than asked.
_KEPT = frozenset({"tokenizer", "stopwords", "stemmer"})
_TOKENIZERS = {
    "prefix": edge.TokenizerType.Prefix,
    "whitespace": edge.TokenizerType.Whitespace,
    "word": edge.TokenizerType.Word,
    "multilingual": edge.TokenizerType.Multilingual,
}

FieldSchema = str | dict[str, Any]


def check_field_schema(value: object, raw: bytes) -> FieldSchema:
    """Return a field schema that is understood. Raises: QdrantError (400) in Qdrant's words."""
    wrong = bad_format(f"data did not match any variant of untagged enum PayloadFieldSchema {place(raw)}")
    if isinstance(value, str):
        if value not in _PLAIN:
            raise wrong
        return value
    if not isinstance(value, dict) or value.get("type") not in _PLAIN:
        raise wrong
    kind = value["type"]
    allowed = _KEYS[kind] | _FOR_ALL | {"type"} | (_KEPT if kind == "text" else frozenset())
    if not set(value) <= allowed or value.get("tokenizer", "word") not in _TOKENIZERS:
        raise wrong
    return {key: inner for key, inner in value.items() if inner is not None}


def edge_field_schema(schema: FieldSchema) -> Any:
    """Return the engine's parameters of an index."""
    if isinstance(schema, str):
        return _PLAIN[schema]()
    kind = schema["type"]
    given = {key: value for key, value in schema.items() if key in _KEYS[kind] | _FOR_ALL}
    if kind == "text" and "tokenizer" in schema:
        given["tokenizer"] = _TOKENIZERS[schema["tokenizer"]]
    return _PLAIN[kind](**given)


def describe_field(schema: FieldSchema, points: int) -> dict[str, Any]:
    """Return the entry of `payload_schema`; `points` have a value that is indexed."""
    if isinstance(schema, str):
        return {"data_type": schema, "points": points}
    return {"data_type": schema["type"], "params": schema, "points": points}


def schema_of_engine(info: Any) -> FieldSchema:
    """Return the field schema of an index in a restored shard (`info`: the engine's PayloadIndexInfo)."""
    kind = str(info.data_type).rpartition(".")[2].lower()
    given: dict[str, Any] = {}
    for key in sorted(_KEYS[kind] | _FOR_ALL):
        value = getattr(info.params, key, None)
        if value is not None:
            given[key] = value
    if kind == "text":
        names = {str(engine): name for name, engine in _TOKENIZERS.items()}
        tokenizer = names.get(str(getattr(info.params, "tokenizer", None)))
        if tokenizer is not None:
            given["tokenizer"] = tokenizer
    return {"type": kind, **given} if given else kind
