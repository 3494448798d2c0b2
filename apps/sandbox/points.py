"""Points: JSON to the engine and back."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import qdrant_edge as edge

from .config import Config, dense_vectors, sparse_vectors
from .errors import bad_format, bad_request, wrong_input

PointId = int | UUID | str
_UUID = re.compile(r"(?:urn:uuid:)?\{?[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}\}?")


def parse_id(value: object) -> PointId:
    """Return the id of a point. Raises: QdrantError (400) when it is no unsigned number and no UUID."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**64:
        return value
    if isinstance(value, str) and _UUID.fullmatch(value):
        return UUID(value.removeprefix("urn:uuid:"))
    raise bad_format(f"value {value} is not a valid point ID, valid values are either an unsigned integer or a UUID")


def id_to_json(point_id: PointId) -> int | str:
    """Return the JSON form of an id: a number, or the UUID in lower case with dashes."""
    return point_id if isinstance(point_id, int) else str(point_id)


def id_order(point_id: PointId) -> tuple[bool, int]:
    """Return the key ids are sorted by: numbers first, then UUIDs (by value)."""
    if isinstance(point_id, int):
        return False, point_id
    return True, (point_id if isinstance(point_id, UUID) else UUID(point_id)).int


class PointReader:
    """Turns the points of upserts into the engine's, checked against one collection's vectors.

    The check comes before anything is written, so that a bad point in a batch changes no shard.
    """

    def __init__(self, config: Config) -> None:
        self._dense = dense_vectors(config)
        self._sparse = sparse_vectors(config)

    def read(self, data: object) -> edge.Point:
        """Return one point. Raises: QdrantError (400): bad id, unknown vector, wrong dimension."""
        if not isinstance(data, dict):
            raise bad_format("invalid type: expected struct PointStruct at line 1 column 0")
        for key in ("id", "vector"):
            if key not in data:
                raise bad_format(f"missing field `{key}` at line 1 column 0")
        payload = data.get("payload")
        if payload is not None and not isinstance(payload, dict):
            raise bad_format("invalid type: expected a map at line 1 column 0")
        return edge.Point(parse_id(data["id"]), self.read_vectors(data["vector"]), payload or {})

    def read_vectors(self, data: object) -> Any:
        """Return the vector(s) of a point. Raises: QdrantError (400)."""
        if isinstance(data, list):
            self._check_dense("", data)
            return data
        if not isinstance(data, dict):
            raise bad_format("data did not match any variant of untagged enum VectorStruct at line 1 column 0")
        return {name: self._named(name, value) for name, value in data.items()}

    def _named(self, name: str, value: object) -> Any:
        if isinstance(value, dict):
            if name not in self._sparse:
                raise wrong_input(f"Not existing vector name error: {name}")
            return read_sparse(value)
        if not isinstance(value, list):
            raise bad_format("data did not match any variant of untagged enum Vector at line 1 column 0")
        self._check_dense(name, value)
        return value

    def _check_dense(self, name: str, value: list[Any]) -> None:
        params = self._dense.get(name)
        if params is None:
            raise wrong_input(f"Not existing vector name error: {name}")
        rows = value if value and isinstance(value[0], list) else [value]
        if rows is value and "multivector_config" not in params:
            raise wrong_input("Wrong vector type: expected a single dense vector, got a multi-dense vector")
        for row in rows:
            if len(row) != params["size"]:
                raise wrong_input(f"Vector dimension error: expected dim: {params['size']}, got {len(row)}")
            # The engine takes any object that turns into a float; JSON numbers are what Qdrant takes.
            if not all(type(number) in (float, int) for number in row):
                raise bad_format("data did not match any variant of untagged enum Vector at line 1 column 0")


def read_sparse(value: dict[str, Any]) -> edge.SparseVector:
    """Return a sparse vector. Raises: QdrantError (400) when indices and values do not go together."""
    indices, values = value.get("indices"), value.get("values")
    if not isinstance(indices, list) or not isinstance(values, list):
        raise bad_format("data did not match any variant of untagged enum Vector at line 1 column 0")
    if len(indices) != len(values):
        raise bad_request("Sparse vector indices and values must have the same length")
    if len(set(indices)) != len(indices):
        raise bad_request("Sparse vector indices must be unique")
    try:
        return edge.SparseVector(indices, values)
    except (TypeError, ValueError, OverflowError) as error:
        raise bad_format(f"data did not match any variant of untagged enum Vector: {error}") from error


def split_batch(batch: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the points of an upsert in batch form (`ids`, `vectors`, `payloads` side by side).

    Raises: QdrantError (400, 422) when the lists differ in length.
    """
    ids = batch.get("ids")
    vectors = batch.get("vectors")
    payloads = batch.get("payloads")
    if not isinstance(ids, list) or vectors is None:
        raise bad_format("missing field `ids` or `vectors` at line 1 column 0")
    if isinstance(vectors, dict):
        rows: list[Any] = [{name: column[at] for name, column in vectors.items()} for at in range(len(ids))]
        lengths = {len(column) for column in vectors.values()}
    else:
        rows, lengths = vectors, {len(vectors)}
    if lengths - {len(ids)} or (payloads is not None and len(payloads) != len(ids)):
        raise bad_request("number of ids, vectors and payloads must be equal")
    payloads = payloads or [None] * len(ids)
    return [{"id": one, "vector": row, "payload": load} for one, row, load in zip(ids, rows, payloads, strict=True)]


def shortest_floats(values: Sequence[float]) -> list[float]:
    """Return 32-bit floats as the doubles with the fewest digits that still name the same 32-bit float.

    The engine hands out 0.23800000548362732 for what was stored as 0.238; Qdrant prints 0.238.
    """
    found = [float(f"{value:.7g}") for value in values]
    if array("f", found) == array("f", values):
        return found
    exact = array("f", values)
    for at, value in enumerate(exact):
        if array("f", (found[at],))[0] != value:
            shorter = float(f"{value:.8g}")
            found[at] = shorter if array("f", (shorter,))[0] == value else float(f"{value:.9g}")
    return found


def vector_to_json(vector: Any) -> Any:
    """Return the JSON form of what the engine gives as a vector: dense, multi, sparse or named."""
    if isinstance(vector, dict):
        return {name: vector_to_json(one) for name, one in vector.items()}
    if isinstance(vector, edge.SparseVector):
        return {"indices": vector.indices, "values": shortest_floats(vector.values)}
    if vector and isinstance(vector[0], list):
        return [shortest_floats(row) for row in vector]
    return shortest_floats(vector)


def record_to_json(record: Any, *, with_payload: bool, with_vector: bool) -> dict[str, Any]:
    """Return a retrieved point as JSON; keys that were not asked for are left out."""
    data: dict[str, Any] = {"id": id_to_json(record.id)}
    if with_payload:
        data["payload"] = record.payload or {}
    if with_vector:
        data["vector"] = vector_to_json(record.vector if record.vector is not None else {})
    return data


def parse_with_payload(value: object) -> Any:
    """Return the engine's payload selector. Raises: QdrantError (400)."""
    if isinstance(value, bool):
        return value
    if isinstance(value, list):
        return edge.PayloadSelector.Include(value)
    if isinstance(value, dict) and len(value) == 1:
        [(kind, keys)] = value.items()
        if kind == "include":
            return edge.PayloadSelector.Include(keys)
        if kind == "exclude":
            return edge.PayloadSelector.Exclude(keys)
    raise bad_format("data did not match any variant of untagged enum WithPayloadInterface at line 1 column 0")


def parse_with_vector(value: object) -> bool | list[str]:
    """Return the vectors that are wanted. Raises: QdrantError (400)."""
    if isinstance(value, bool):
        return value
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return value
    raise bad_format("data did not match any variant of untagged enum WithVector at line 1 column 0")


def parse_ids(values: Iterable[object]) -> list[PointId]:
    """Return ids. Raises: QdrantError (400)."""
    return [parse_id(value) for value in values]
