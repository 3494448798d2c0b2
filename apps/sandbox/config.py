"""The configuration of a collection: the body that creates it, what is read back, what the engine gets.

The stored form is the one Qdrant answers with and writes to `config.json` of a snapshot (`params`,
`hnsw_config`, `optimizer_config`, `wal_config`, `quantization_config`, and, when set, `strict_mode_config`
and `metadata`). Source: tests/recordings, Qdrant 1.18.
"""

from __future__ import annotations

import copy
from typing import Any

import qdrant_edge as edge

from .errors import bad_format, bad_request, internal, invalid
from .jsonbody import place

DISTANCES = {
    "Cosine": edge.Distance.Cosine,
    "Euclid": edge.Distance.Euclid,
    "Dot": edge.Distance.Dot,
    "Manhattan": edge.Distance.Manhattan,
}
_DATATYPES = {
    "float32": edge.VectorStorageDatatype.Float32,
    "float16": edge.VectorStorageDatatype.Float16,
    "uint8": edge.VectorStorageDatatype.Uint8,
}
_HNSW = {
    "m": 16,
    "ef_construct": 100,
    "full_scan_threshold": 10000,
    "max_indexing_threads": 0,
    "on_disk": False,
}
_OPTIMIZER = {
    "deleted_threshold": 0.2,
    "vacuum_min_vector_number": 1000,
    "default_segment_number": 0,
    "max_segment_size": None,
    "memmap_threshold": None,
    "indexing_threshold": 10000,
    "flush_interval_sec": 5,
    "max_optimization_threads": None,
    "prevent_unoptimized": None,
}
_WAL = {"wal_capacity_mb": 32, "wal_segments_ahead": 0, "wal_retain_closed": 1}
_VECTOR_KEYS = (
    "size",
    "distance",
    "hnsw_config",
    "quantization_config",
    "on_disk",
    "datatype",
    "multivector_config",
)

Config = dict[str, Any]


def create_config(body: dict[str, Any], raw: bytes) -> Config:
    """Turn the body of PUT /collections/{name} into the stored form, defaults filled in.

    `raw` is only for the position in error texts. Raises: QdrantError (400, 422).
    """
    vectors = _vectors(body.get("vectors"), raw)
    sparse = _sparse_vectors(body.get("sparse_vectors"), raw)
    if not vectors and not sparse:
        # Qdrant would keep payloads alone; its embedded engine refuses a shard without any vector.
        raise bad_request("this sandbox needs at least one dense or sparse vector")
    shard_number = _positive(body, "shard_number", 1)
    params: Config = {"vectors": vectors, "shard_number": shard_number}
    if body.get("sharding_method") is not None:
        if body["sharding_method"] not in ("auto", "custom"):
            raise bad_format(f"unknown variant `{body['sharding_method']}`, expected `auto` or `custom` {place(raw)}")
        params["sharding_method"] = body["sharding_method"]
    params["replication_factor"] = _positive(body, "replication_factor", 1)
    params["write_consistency_factor"] = _positive(body, "write_consistency_factor", 1)
    params["on_disk_payload"] = True if body.get("on_disk_payload") is None else bool(body["on_disk_payload"])
    if sparse:
        params["sparse_vectors"] = sparse
    config: Config = {
        "params": params,
        "hnsw_config": _filled(_HNSW, body.get("hnsw_config"), raw),
        "optimizer_config": _filled(_OPTIMIZER, body.get("optimizers_config"), raw),
        "wal_config": _filled(_WAL, body.get("wal_config"), raw),
        "quantization_config": copy.deepcopy(body.get("quantization_config")),
    }
    for key in ("strict_mode_config", "metadata"):
        if body.get(key) is not None:
            config[key] = copy.deepcopy(body[key])
    return config


def patch_config(config: Config, body: dict[str, Any], raw: bytes) -> Config:
    """Return the configuration after PATCH /collections/{name}. Raises: QdrantError (400)."""
    changed = copy.deepcopy(config)
    for source, target in (("hnsw_config", "hnsw_config"), ("optimizers_config", "optimizer_config")):
        if body.get(source) is not None:
            changed[target] = _filled(changed[target], body[source], raw)
    if body.get("params") is not None:
        changed["params"].update({key: value for key, value in body["params"].items() if value is not None})
    if body.get("quantization_config") is not None:
        disabled = body["quantization_config"] == "Disabled"
        changed["quantization_config"] = None if disabled else body["quantization_config"]
    for key in ("strict_mode_config", "metadata"):
        if body.get(key) is not None:
            changed[key] = {**(changed.get(key) or {}), **body[key]}
    for name, patch in (body.get("vectors") or {}).items():
        vectors = changed["params"]["vectors"]
        target = vectors if name == "" and "size" in vectors else vectors.get(name)
        if target is None:
            raise bad_request(f"Not existing vector name error: {name}")
        target.update({key: value for key, value in patch.items() if value is not None})
    for name, patch in (body.get("sparse_vectors") or {}).items():
        changed["params"].setdefault("sparse_vectors", {}).setdefault(name, {}).update(patch)
    return changed


def config_of_snapshot(data: object) -> Config:
    """Return the stored form of a snapshot's `config.json`. Raises: QdrantError (500) when it is none."""
    if not isinstance(data, dict) or not isinstance(data.get("params"), dict):
        raise internal("Failed to read collection config: missing field `params`")
    config = {key: value for key, value in data.items() if key != "uuid" and value is not None}
    for key, defaults in (("hnsw_config", _HNSW), ("optimizer_config", _OPTIMIZER), ("wal_config", _WAL)):
        config[key] = {**defaults, **(config.get(key) or {})}
    config.setdefault("quantization_config", None)
    params = config["params"]
    params.setdefault("vectors", {})
    if not isinstance(params.get("shard_number"), int):
        raise internal("Failed to read collection config: missing field `shard_number`")
    params.pop("read_fan_out_factor", None)
    params.pop("read_fan_out_delay_ms", None)
    return config


def dense_vectors(config: Config) -> dict[str, dict[str, Any]]:
    """Return the dense vectors by name; the unnamed one has the name ""."""
    vectors = config["params"].get("vectors") or {}
    return {"": vectors} if "size" in vectors else vectors


def sparse_vectors(config: Config) -> dict[str, dict[str, Any]]:
    """Return the sparse vectors by name."""
    return config["params"].get("sparse_vectors") or {}


def edge_config(config: Config) -> edge.EdgeConfig:
    """Return what the engine needs to make or open a shard.

    No write-ahead log: it would double what a bulk load writes, and the engine does not replay it when a
    shard is opened. What was not flushed is lost when the process is killed; shards are flushed every few
    seconds, on snapshots and on a clean stop. Quantization is kept in the configuration but not passed on:
    it only shows in optimized segments, and the sandbox does not run optimizers.
    """
    dense = {
        name: edge.EdgeVectorParams(
            vector["size"],
            DISTANCES[vector["distance"]],
            on_disk=vector.get("on_disk"),
            multivector_config=(
                edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim) if vector.get("multivector_config") else None
            ),
            datatype=_DATATYPES.get(vector.get("datatype") or ""),
        )
        for name, vector in dense_vectors(config).items()
    }
    sparse = {
        name: edge.EdgeSparseVectorParams(
            full_scan_threshold=(vector.get("index") or {}).get("full_scan_threshold"),
            on_disk=(vector.get("index") or {}).get("on_disk"),
            modifier=edge.Modifier.Idf if vector.get("modifier") == "idf" else None,
        )
        for name, vector in sparse_vectors(config).items()
    }
    hnsw = config["hnsw_config"]
    return edge.EdgeConfig(
        vectors=dense or None,
        sparse_vectors=sparse or None,
        on_disk_payload=config["params"].get("on_disk_payload", True),
        hnsw_config=edge.HnswIndexConfig(
            hnsw["m"],
            hnsw["ef_construct"],
            hnsw["full_scan_threshold"],
            hnsw.get("max_indexing_threads") or 0,
        ),
        wal_enabled=False,
    )


def explain_vectors(config: Config) -> str:
    """Word `params.vectors` as Qdrant's message about an incompatible snapshot does (its debug form)."""
    vectors = config["params"].get("vectors") or {}
    if "size" in vectors:
        return f"Single({_explain_vector(vectors)})"
    parts = [f'"{name}": {_explain_vector(vectors[name])}' for name in sorted(vectors)]
    return f"Multi({{{', '.join(parts)}}})"


def _explain_vector(vector: dict[str, Any]) -> str:
    def option(key: str) -> str:
        value = vector.get(key)
        if value is None:
            return "None"
        return f"Some({str(value).lower() if isinstance(value, bool) else value})"

    keys = ("hnsw_config", "quantization_config", "on_disk", "datatype", "multivector_config")
    rest = "".join(f", {key}: {option(key)}" for key in keys)
    return f"VectorParams {{ size: {vector['size']}, distance: {vector['distance']}{rest} }}"


def _vectors(value: object, raw: bytes) -> Config:
    wrong = bad_format(f"data did not match any variant of untagged enum VectorsConfig {place(raw)}")
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise wrong
    if "size" in value and not isinstance(value["size"], dict):
        return _vector(value, "vectors.size", wrong)
    named = {}
    for name in sorted(value):
        if not isinstance(value[name], dict):
            raise wrong
        named[name] = _vector(value[name], f"vectors.{name}.size", wrong)
    return named


def _vector(value: dict[str, Any], label: str, wrong: Exception) -> Config:
    size = value.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0 or value.get("distance") not in DISTANCES:
        raise wrong
    if not 1 <= size <= 65536:
        raise invalid(f"{label}: value {size} invalid, must be from 1 to 65536")
    if value.get("datatype") not in (None, *_DATATYPES):
        raise wrong
    return {key: copy.deepcopy(value[key]) for key in _VECTOR_KEYS if value.get(key) is not None}


def _sparse_vectors(value: object, raw: bytes) -> Config:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(one, dict | None) for one in value.values()):
        raise bad_format(f"invalid type: expected a map of sparse vectors {place(raw)}")
    return {
        name: {key: inner for key, inner in (vector or {}).items() if inner is not None}
        for name, vector in sorted(value.items())
    }


def _filled(defaults: Config, given: object, raw: bytes) -> Config:
    if given is None:
        return copy.deepcopy(defaults)
    if not isinstance(given, dict):
        raise bad_format(f"invalid type: expected struct {place(raw)}")
    return {**copy.deepcopy(defaults), **{key: value for key, value in given.items() if value is not None}}


def _positive(body: dict[str, Any], key: str, default: int) -> int:
    value = body.get(key)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool):
        raise bad_format(f"invalid type for `{key}`, expected a nonzero u32 at line 1 column 0")
    if value < 1:
        raise invalid(f"{key}: value {value} invalid, must be 1 or larger")
    return value
