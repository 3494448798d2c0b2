"""The demo's comparison must find every kind of difference: an "equal" that is not would be worth nothing."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from scripts.demolib import sample
from scripts.demolib.compare import Picture, differences, index_points, replica_differences
from scripts.demolib.errors import DemoError
from scripts.demolib.folder import fresh_folder
from scripts.demolib.node import Node

CONFIG = {"params": {"shard_number": 2, "on_disk_payload": True}, "hnsw_config": {"m": 16}, "quantization_config": None}
SCHEMA = {"category": {"data_type": "keyword", "points": 30}}


def picture(points: list[dict[str, Any]], **changes: Any) -> Picture:
    facts = {"config": CONFIG, "payload_schema": SCHEMA, "aliases": ("shop",)} | changes
    return Picture(points=index_points(points), **facts)


@pytest.fixture
def points() -> list[dict[str, Any]]:
    return list(sample.points(30))


def test_two_equal_pictures_have_no_difference(points: list[dict[str, Any]]) -> None:
    reordered = [dict(reversed(point.items())) for point in reversed(copy.deepcopy(points))]

    assert differences(picture(points), picture(reordered)) == []


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (("payload", "category"), "toys!", "point 3 payload category: was"),
        (("payload", "stock"), 1.0, "point 3 payload stock: was"),
        (("payload", "maker", "address", "flat"), 4, "point 3 payload maker address flat: was null, is 4"),
        (("payload", "extra"), None, "point 3 payload extra: was not there, is null"),
        (("vector", "text", 63), 0.5, "point 3 vector text: was ["),
        (("vector", "image", 0), 0.5, "point 3 vector image: was ["),
        (("vector", "words", "values", 0), 9.5, "point 3 vector words values: was ["),
    ],
)
def test_a_change_of_a_point_is_found(
    points: list[dict[str, Any]], path: tuple[Any, ...], value: Any, sentence: str
) -> None:
    changed = copy.deepcopy(points)
    place = changed[3]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value

    found = differences(picture(points), picture(changed))

    assert len(found) == 1
    assert found[0].startswith(sentence)


@pytest.mark.parametrize(("before", "after"), [(1, 1.0), (1, True), (0, False), ("1", 1), (0.0, -0.0), (None, False)])
def test_values_that_python_or_a_reader_may_take_for_equal_are_different(before: Any, after: Any) -> None:
    old, new = ([{"id": 1, "vector": {}, "payload": {"n": value}}] for value in (before, after))

    assert len(differences(picture(old), picture(new))) == 1


def test_the_smallest_change_of_a_vector_is_found() -> None:
    old, new = ([{"id": 1, "vector": {"text": [value]}}] for value in (0.1, 0.10000000000000002))

    assert len(differences(picture(old), picture(new))) == 1


def test_a_missing_and_an_additional_point_are_found(points: list[dict[str, Any]]) -> None:
    other = [*points[1:], sample.point(4001)]

    found = differences(picture(points), picture(other))

    assert found == [
        f'point "{points[0]["id"]}": missing',
        "point 4001: was not there before",
    ]


def test_a_number_and_a_text_are_different_ids() -> None:
    number, text = ([{"id": value, "payload": {}}] for value in (7, "7"))

    assert len(differences(picture(number), picture(text))) == 2


def test_an_id_that_comes_twice_is_an_error(points: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match="came twice"):
        index_points([*points, points[4]])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"payload_schema": {**SCHEMA, "extra": {"data_type": "integer", "points": 0}}},
            "payload index 'extra': was not there before",
        ),
        ({"payload_schema": {}}, "payload index 'category': missing"),
        (
            {"payload_schema": {"category": {"data_type": "text", "points": 30}}},
            'payload index \'category\' data_type: was "keyword", is "text"',
        ),
        (
            {"payload_schema": {"category": {"data_type": "keyword", "params": {"is_tenant": True}, "points": 30}}},
            "payload index 'category' params: was not there, is {\"is_tenant\":true}",
        ),
        ({"config": {**CONFIG, "hnsw_config": {"m": 32}}}, "config hnsw_config m: was 16, is 32"),
        ({"aliases": ()}, "aliases: were shop, are none"),
    ],
)
def test_a_change_of_the_collection_is_found(
    points: list[dict[str, Any]], changes: dict[str, Any], sentence: str
) -> None:
    assert differences(picture(points), picture(points, **changes)) == [sentence]


def test_an_option_shown_as_null_or_not_at_all_and_the_points_of_an_index_make_no_difference(
    points: list[dict[str, Any]],
) -> None:
    config = {key: value for key, value in CONFIG.items() if value is not None}
    schema = {"category": {"data_type": "keyword", "params": None, "points": 12}}

    assert differences(picture(points), picture(points, config=config, payload_schema=schema)) == []


def test_the_sample_is_the_same_at_every_run_and_has_something_of_everything() -> None:
    points = list(sample.points(200))

    assert points == list(sample.points(200))
    assert {type(point["id"]) for point in points} == {int, str}
    assert {frozenset(point["vector"]) for point in points} == {
        frozenset({"text"}),
        frozenset({"text", "image"}),
        frozenset({"text", "words"}),
        frozenset({"text", "image", "words"}),
    }
    kinds = {type(value) for point in points for value in point["payload"].values()}
    assert kinds == {str, int, float, bool, dict, list, type(None)}
    assert any(not point["payload"] for point in points)


@pytest.mark.parametrize("url", ["ftp://node", "node:6333", "http://", "http://user:word@node:6333"])
def test_an_address_that_is_none_of_a_node_is_refused(url: str) -> None:
    with pytest.raises(DemoError, match="QDRANT_URL must"):
        Node(url)


def test_only_a_folder_of_the_demo_is_removed(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    other.mkdir()
    (other / "precious").touch()

    with fresh_folder(mine) as folder:
        (folder / "left over").touch()
        with pytest.raises(DemoError, match="Another demo runs"), fresh_folder(mine):
            pass
    with fresh_folder(mine) as folder:
        assert not (folder / "left over").exists()
    with pytest.raises(DemoError, match="left alone"), fresh_folder(other):
        pass

    assert (other / "precious").exists()


REPLICAS = [{0: ("Active", 3), 1: ("Active", 4)}, {0: ("Active", 3)}, {1: ("Active", 4)}]


def test_equal_replicas_on_every_node_have_no_difference() -> None:
    assert replica_differences(REPLICAS, 2, 7) == []


@pytest.mark.parametrize(
    ("node", "change", "sentence"),
    [
        (1, {}, "shard 0: has 1 replicas, not 2"),
        (1, {0: ("Partial", 3)}, "shard 0: its replicas are Active, Partial"),
        (2, {1: ("Active", 3)}, "shard 1: its replicas hold 3 and 4 points"),
    ],
)
def test_a_replica_that_is_not_like_the_others_is_found(
    node: int, change: dict[int, tuple[str, int]], sentence: str
) -> None:
    changed = [change if number == node else one for number, one in enumerate(REPLICAS)]
    assert sentence in replica_differences(changed, 2, 7)


def test_points_that_no_shard_holds_are_found() -> None:
    assert replica_differences(REPLICAS, 2, 8) == ["the shards hold 7 points together, not 8"]
