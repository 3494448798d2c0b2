from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from apps.backups.compare import (
    config_differences,
    count_difference,
    create_body,
    fan_out_patch,
    index_schema,
    schema_differences,
)
from apps.backups.manifest import ShardFacts
from tests.backups.test_manifest import MANIFEST

CONFIG: dict[str, Any] = {
    "params": {
        "vectors": {
            "text": {"size": 32, "distance": "Cosine"},
            "image": {"size": 16, "distance": "Dot", "on_disk": True},
        },
        "shard_number": 2,
        "replication_factor": 1,
        "write_consistency_factor": 1,
        "on_disk_payload": True,
        "sparse_vectors": {"keywords": {}},
        "read_fan_out_factor": 2,
    },
    "hnsw_config": {"m": 8, "ef_construct": 64},
    "optimizer_config": {"default_segment_number": 2, "max_segment_size": None, "flush_interval_sec": 5},
    "wal_config": {"wal_capacity_mb": 32},
    "quantization_config": None,
    "strict_mode_config": {"enabled": False},
    "metadata": {"owner": "shop"},
}


def changed(**paths: Any) -> dict[str, Any]:
    import copy

    config = copy.deepcopy(CONFIG)
    for path, value in paths.items():
        *way, last = path.split("__")
        target = config
        for step in way:
            target = target[step]
        target[last] = value
    return config


def test_equal_configs_have_no_differences() -> None:
    assert config_differences(CONFIG, changed(), same_version=True) == []


@pytest.mark.parametrize(
    "actual",
    [
        changed(quantization_config={}),
        changed(optimizer_config__max_segment_size=None),
        changed(params__sharding_method=None),
        changed(uuid="8c1f"),
    ],
)
def test_null_empty_and_bookkeeping_do_not_count(actual: dict[str, Any]) -> None:
    assert config_differences(CONFIG, actual, same_version=True) == []


def test_a_difference_is_named_by_its_path_and_both_values() -> None:
    found = config_differences(CONFIG, changed(params__vectors__text__size=64), same_version=True)

    assert found == ["params.vectors.text.size is 64, should be 32"]


def test_a_missing_vector_and_a_surplus_one_are_both_told() -> None:
    actual = changed()
    actual["params"]["vectors"] = {"text": CONFIG["params"]["vectors"]["text"], "audio": {"size": 3, "distance": "Dot"}}

    found = config_differences(CONFIG, actual, same_version=True)

    assert any("params.vectors.audio" in line and "should be not set" in line for line in found)
    assert any("params.vectors.image is not set" in line for line in found)


def test_false_is_not_the_same_as_unset_when_versions_are_the_same() -> None:
    assert config_differences(CONFIG, changed(params__on_disk_payload=False), same_version=True)


def test_a_default_that_only_a_newer_version_shows_does_not_count() -> None:
    newer = changed(params__new_option=1)

    assert config_differences(CONFIG, newer, same_version=True)
    assert config_differences(CONFIG, newer, same_version=False) == []


def test_an_option_that_the_other_version_lost_does_count() -> None:
    assert config_differences(changed(params__new_option=1), CONFIG, same_version=False)


def test_the_body_that_creates_is_flat_and_names_the_optimizer_as_creation_does() -> None:
    body = create_body(replace(MANIFEST, config=CONFIG))

    assert body["vectors"] == CONFIG["params"]["vectors"]
    assert body["sparse_vectors"] == {"keywords": {}}
    assert body["shard_number"] == 2
    assert body["optimizers_config"] == {"default_segment_number": 2, "flush_interval_sec": 5}
    assert body["metadata"] == {"owner": "shop"}
    assert "optimizer_config" not in body
    assert "read_fan_out_factor" not in body
    assert fan_out_patch(replace(MANIFEST, config=CONFIG)) == {"read_fan_out_factor": 2}


def test_payload_schemas_are_compared_without_their_point_counts() -> None:
    expected = {"city": {"data_type": "keyword", "points": 600}}

    assert schema_differences(expected, {"city": {"data_type": "keyword", "points": 0}}) == []


def test_each_differing_index_is_named() -> None:
    expected = {
        "city": {"data_type": "keyword"},
        "n": {"data_type": "integer", "params": {"type": "integer", "lookup": True, "range": False}},
        "at": {"data_type": "datetime"},
    }
    actual = {
        "n": {"data_type": "integer", "params": {"type": "integer", "lookup": True, "range": True}},
        "at": {"data_type": "datetime"},
        "more": {"data_type": "bool"},
    }

    found = schema_differences(expected, actual)

    assert len(found) == 3
    assert "payload index 'city' is missing" in found
    assert any(line.startswith("payload index 'more' is there") for line in found)
    assert any(line.startswith("payload index 'n' is") for line in found)


def test_an_index_with_parameters_is_created_with_them() -> None:
    params = {"type": "integer", "lookup": True}

    assert index_schema({"data_type": "integer", "params": params, "points": 4}) == params
    assert index_schema({"data_type": "keyword", "points": 4}) == "keyword"


@pytest.mark.parametrize(("found", "fine"), [(9, False), (10, True), (12, True), (13, False)])
def test_counts_must_lie_within_what_was_seen_at_backup_time(found: int, fine: bool) -> None:
    assert (count_difference(ShardFacts(0, None, 10, 12), found) is None) is fine


def test_an_exact_count_allows_nothing_else() -> None:
    assert count_difference(ShardFacts(3, None, 10, 10), 9) == "shard 3 holds 9 points, should hold 10"
