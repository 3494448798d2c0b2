"""Is this collection what the manifest says? Config, payload schema and counts, with readable differences.

Pure functions on what Qdrant answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from apps.backups.manifest import Manifest, ShardFacts

# Bookkeeping of a node, not configuration: made anew with each collection.
_IGNORED_CONFIG = frozenset({"uuid"})


def without_nulls(value: Any) -> Any:
    """Drop null members at every depth: Qdrant shows an unset option as null or not at all, depending on version."""
    if isinstance(value, dict):
        return {key: without_nulls(member) for key, member in value.items() if member is not None}
    if isinstance(value, list):
        return [without_nulls(member) for member in value]
    return value


def config_differences(expected: dict[str, Any], actual: dict[str, Any], *, same_version: bool) -> list[str]:
    """Return a sentence per option in which two configs (`config` of GET /collections/{c}) differ.

    Between different versions an option that only the actual config has is a default that the newer version shows.
    """
    return [
        f"{path} is {_show(found)}, should be {_show(wanted)}"
        for path, wanted, found in _walk(_normal(expected), _normal(actual), "")
        if same_version or wanted is not None
    ]


def _normal(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in without_nulls(config).items() if key not in _IGNORED_CONFIG}


def _walk(wanted: Any, found: Any, path: str) -> list[tuple[str, Any, Any]]:
    if isinstance(wanted, dict) and isinstance(found, dict):
        return [
            difference
            for key in sorted(wanted.keys() | found.keys())
            for difference in _walk(wanted.get(key), found.get(key), f"{path}.{key}" if path else key)
        ]
    # An empty object and a missing one say the same: no option set.
    wanted, found = (None if value == {} else value for value in (wanted, found))
    return [] if wanted == found else [(path, wanted, found)]


def _show(value: Any) -> str:
    return "not set" if value is None else repr(value)


def index_schema(entry: dict[str, Any]) -> Any:
    """Turn an entry of `payload_schema` into the `field_schema` that creates the same index."""
    return entry.get("params") or entry["data_type"]


def schema_differences(expected: dict[str, Any], actual: dict[str, Any]) -> list[str]:
    """Return a sentence per payload index in which two payload schemas differ; point counts do not matter."""
    differences = []
    for field in sorted(expected.keys() | actual.keys()):
        wanted, found = expected.get(field), actual.get(field)
        if wanted is None:
            differences.append(f"payload index {field!r} is there but not in the backup")
        elif found is None:
            differences.append(f"payload index {field!r} is missing")
        elif _index_facts(wanted) != _index_facts(found):
            differences.append(f"payload index {field!r} is {_index_facts(found)}, should be {_index_facts(wanted)}")
    return differences


def _index_facts(entry: dict[str, Any]) -> dict[str, Any]:
    facts = {"data_type": str(entry["data_type"]).lower()}
    params = without_nulls(entry.get("params") or {})
    params.pop("type", None)
    return facts | ({"params": params} if params else {})


def count_difference(shard: ShardFacts, found: int) -> str | None:
    """Return a sentence when a restored shard does not hold the points that it should; None when it does."""
    return counts_difference(f"shard {shard.shard_id}", [shard], found)


def counts_difference(what: str, shards: Sequence[ShardFacts], found: int) -> str | None:
    """Return a sentence when `what`, which is made of these shards, does not hold the points that it should."""
    least, most = sum(shard.points_min for shard in shards), sum(shard.points_max for shard in shards)
    if least <= found <= most:
        return None
    wanted = f"{least:,}" if least == most else f"between {least:,} and {most:,}"
    return f"{what} holds {found:,} points, should hold {wanted}"


def with_factor(config: dict[str, Any], replication_factor: int | None) -> dict[str, Any]:
    """Return the config with another replication factor, None for as it is.

    A write must not need more replicas than there are: write_consistency_factor comes down with it.
    """
    if replication_factor is None:
        return config
    params = dict(config["params"], replication_factor=replication_factor)
    if int(params.get("write_consistency_factor") or 1) > replication_factor:
        params["write_consistency_factor"] = replication_factor
    return {**config, "params": params}


def create_body(manifest: Manifest, replication_factor: int | None = None) -> dict[str, Any]:
    """Return the body of `PUT /collections/{c}` that makes a collection of the manifest's config.

    Qdrant reads a flat body where it answers a nested config; `optimizer_config` is then `optimizers_config`.
    """
    config = _normal(with_factor(manifest.config, replication_factor))
    params = dict(config["params"])
    # read_fan_out_* cannot be given on creation (only by PATCH).
    body = {key: value for key, value in params.items() if not key.startswith("read_fan_out")}
    for key, name in (
        ("hnsw_config", "hnsw_config"),
        ("wal_config", "wal_config"),
        ("optimizer_config", "optimizers_config"),
        ("quantization_config", "quantization_config"),
        ("strict_mode_config", "strict_mode_config"),
        ("metadata", "metadata"),
    ):
        if config.get(key):
            body[name] = config[key]
    return body


def fan_out_patch(manifest: Manifest) -> dict[str, Any]:
    """Return the params that only PATCH can set; empty when the backup has none."""
    params = _normal(manifest.config)["params"]
    return {key: value for key, value in params.items() if key.startswith("read_fan_out")}


def vector_sizes(config: dict[str, Any]) -> dict[str, int | None]:
    """Return the vectors of a config by name with their sizes: None for a sparse one, "" names the only dense one."""
    params = config["params"]
    vectors = params.get("vectors") or {}
    dense = {"": vectors} if isinstance(vectors.get("size"), int) else vectors
    sizes: dict[str, int | None] = {name: int(vector["size"]) for name, vector in dense.items()}
    return sizes | dict.fromkeys(params.get("sparse_vectors") or {})
