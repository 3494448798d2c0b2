"""What a node keeps and refuses: restarts, aliases, configuration, filters, HTTP."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apps.sandbox import SandboxNode


def test_everything_is_there_after_a_restart(
    tmp_path: Path, make_node: Callable[..., SandboxNode], client: Any, fill: Any, same: Any
) -> None:
    node = make_node(tmp_path / "data")
    api = client(node.url)
    points = fill(api)
    api(
        "POST",
        "/collections/aliases",
        {"actions": [{"create_alias": {"collection_name": "shop", "alias_name": "live"}}]},
    )
    api("POST", "/collections/shop/snapshots")
    before = [api("GET", path).result for path in ("/collections/shop", "/aliases", "/collections/shop/snapshots")]
    operation = api("DELETE", "/collections/shop/index/city?wait=true").result["operation_id"]
    url, peer_id = node.url, node.peer_id

    node.stop()
    node.start()

    assert (node.url, node.peer_id) == (url, peer_id)
    assert same(api.scroll("live"), points)
    after = [api("GET", path).result for path in ("/collections/shop", "/aliases", "/collections/shop/snapshots")]
    before[0]["payload_schema"].pop("city")
    assert after == before
    assert api("PUT", "/collections/shop/points?wait=true", {"points": []}).result["operation_id"] > operation


def test_a_restored_collection_is_there_after_a_restart(
    make_node: Callable[..., SandboxNode], client: Any, recordings: Path
) -> None:
    node = make_node()
    api = client(node.url)
    genuine = (recordings / "films.collection.snapshot").read_bytes()
    for _ in range(2):
        assert api.upload("/collections/films/snapshots/upload", genuine).result is True
    node.stop()
    node.start()
    assert api.count("films") == 600
    [stored] = (node.snapshots_path.parent / "collections").iterdir()
    assert len([path for path in stored.iterdir() if path.is_dir()]) == 2


def test_alias_actions_are_all_done_or_none(api: Any, fill: Any) -> None:
    fill(api, count=1)
    create = {"create_alias": {"collection_name": "shop", "alias_name": "one"}}
    broken = {"create_alias": {"collection_name": "nope", "alias_name": "two"}}
    assert api("POST", "/collections/aliases", {"actions": [create, broken]}).status == 404
    assert api("GET", "/aliases").result == {"aliases": []}
    assert api("POST", "/collections/aliases", {"actions": [create, {"nonsense": {}}]}).status == 400
    assert api("POST", "/collections/aliases", {"actions": [create]}).result is True
    assert api("DELETE", "/collections/shop").result is True
    assert api("GET", "/aliases").result == {"aliases": []}


def test_snapshots_outlive_their_collection(api: Any, fill: Any) -> None:
    fill(api, count=3)
    name = api("POST", "/collections/shop/snapshots").result["name"]
    api("DELETE", "/collections/shop")
    assert api("GET", "/collections/shop/snapshots").status == 404
    fill(api, count=3)
    assert [one["name"] for one in api("GET", "/collections/shop/snapshots").result] == [name]


def test_a_configuration_reads_back_and_creates_the_same_again(api: Any) -> None:
    body = {
        "vectors": {"size": 8, "distance": "Manhattan", "datatype": "float16", "on_disk": True},
        "sparse_vectors": {"words": {"modifier": "idf", "index": {"on_disk": True}}},
        "shard_number": 3,
        "on_disk_payload": False,
        "hnsw_config": {"m": 4},
        "wal_config": {"wal_capacity_mb": 8},
        "optimizers_config": {"indexing_threshold": 77},
        "quantization_config": {"binary": {"always_ram": True}},
        "strict_mode_config": {"enabled": False},
        "metadata": {"team": ["a", 1]},
    }
    assert api("PUT", "/collections/one", body).result is True
    config = api("GET", "/collections/one").result["config"]
    again = {**config["params"], "optimizers_config": config["optimizer_config"]}
    again |= {key: value for key, value in config.items() if key not in ("params", "optimizer_config")}
    assert api("PUT", "/collections/two", again).result is True
    assert api("GET", "/collections/two").result["config"] == config
    assert config["hnsw_config"]["m"] == 4
    assert config["metadata"] == {"team": ["a", 1]}
    assert api("PATCH", "/collections/two", {"metadata": {"more": 2}, "hnsw_config": {"m": 5}}).result is True
    changed = api("GET", "/collections/two").result["config"]
    assert changed["metadata"] == {"team": ["a", 1], "more": 2}
    assert changed["hnsw_config"] == {**config["hnsw_config"], "m": 5}


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        ({"must": [{"key": "city", "match": {"value": "Kyiv"}}]}, 20),
        ({"must_not": [{"key": "city", "match": {"any": ["Kyiv", "Berlin"]}}]}, 20),
        ({"should": [{"key": "n", "range": {"lt": 3}}, {"key": "n", "match": {"value": 50}}]}, 4),
        ({"must": {"key": "n", "range": {"gte": 10, "lte": 12}}}, 3),
        ({"must": [{"has_id": [1, 3, "00000000-0000-4000-8000-000000000002"]}]}, 3),
        ({"must": [{"is_empty": {"key": "missing"}}]}, 60),
        ({"must": [{"should": [{"key": "n", "match": {"value": 1}}]}]}, 1),
        ({"must": [{"key": "city", "match": {"except": ["Kyiv"]}}]}, 40),
    ],
)
def test_filters(api: Any, fill: Any, wanted: dict[str, Any], count: int) -> None:
    fill(api)
    assert api("POST", "/collections/shop/points/count", {"filter": wanted}).result["count"] == count
    assert len(api.scroll("shop", filter=wanted)) == count


def test_a_filter_that_is_not_understood_is_refused_not_ignored(api: Any, fill: Any) -> None:
    fill(api, count=3)
    for wrong in (
        {"must": [{"key": "n"}]},
        {"musst": []},
        {"must": [{"key": "n", "matches": 1}]},
        {"must": [{}]},
        7,
    ):
        answer = api("POST", "/collections/shop/points/delete?wait=true", {"filter": wrong})
        assert answer.status == 400, wrong
    assert api.count("shop") == 3


def test_a_bad_point_in_a_batch_changes_nothing(api: Any, fill: Any) -> None:
    fill(api, count=4)
    good = {"id": 900, "vector": {"image": [1, 2, 3, 4]}}
    for bad in (
        {"id": -1, "vector": {}},
        {"id": 901, "vector": {"image": [1]}},
        {"id": 902, "vector": {"nope": [1]}},
        {"id": 903, "vector": {"image": [1, 2, 3, "4"]}},
        {"id": True, "vector": {}},
        {"id": 904},
        5,
    ):
        answer = api("PUT", "/collections/shop/points?wait=true", {"points": [good, bad]})
        assert answer.status == 400, bad
    assert api.count("shop") == 4


def test_pages_of_a_scroll_come_in_the_order_of_ids(api: Any, fill: Any) -> None:
    ids = [point["id"] for point in fill(api)]
    assert ids == sorted(ids, key=lambda one: (isinstance(one, str), one))
    paged, offset = [], None
    while True:
        page = api("POST", "/collections/shop/points/scroll", {"limit": 7, "offset": offset}).result
        paged += [point["id"] for point in page["points"]]
        if (offset := page["next_page_offset"]) is None:
            break
    assert paged == ids


def test_queries_by_vector_sparse_vector_and_point(api: Any, fill: Any) -> None:
    points = fill(api)
    one = points[7]
    for query, using in ((one["vector"]["text"], "text"), ({"nearest": one["id"]}, "text")):
        found = api("POST", "/collections/shop/points/query", {"query": query, "using": using, "limit": 3}).result
        scores = [point["score"] for point in found["points"]]
        assert scores == sorted(scores, reverse=True)
        assert one["id"] in [point["id"] for point in found["points"]]
    query = {"indices": one["vector"]["words"]["indices"], "values": [1.0, 1.0]}
    found = api("POST", "/collections/shop/points/query", {"query": query, "using": "words"}).result["points"]
    assert found[0]["score"] == 0.75


def test_one_connection_serves_many_requests(node: SandboxNode) -> None:
    host, port = node.url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=5)
    for method, path, status in (
        ("GET", "/", 200),
        ("PUT", "/nowhere", 404),
        ("GET", "/collections", 200),
    ) * 3:
        connection.request(method, path, body=b"x" * 1000 if method == "PUT" else None)
        response = connection.getresponse()
        response.read()
        assert response.status == status
        assert response.headers.get("Connection") is None
    connection.close()


def test_a_refused_upload_gets_its_answer_although_its_body_was_not_read(
    make_node: Callable[..., SandboxNode], client: Any
) -> None:
    node = make_node(api_key="full", read_only_api_key="reader")
    api = client(node.url, {"api-key": "reader"})
    answer = api.upload("/collections/new/snapshots/upload", bytes(6 << 20))
    assert (answer.status, answer.content) == (403, b"Forbidden: Global manage access is required")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    answer = client(node.url).upload("/collections/new/snapshots/upload", bytes(6 << 20))
    assert (answer.status, answer.content) == (
        401,
        b"Must provide an API key or an Authorization bearer token",
    )
    assert api("GET", "/collections").result == {"collections": []}


def test_stopping_frees_the_port_and_its_threads(make_node: Callable[..., SandboxNode], client: Any) -> None:
    node = make_node()
    client(node.url)("GET", "/")
    node.stop()
    node.stop()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sandbox-")]
    with pytest.raises(OSError, match=r".+"):
        client(node.url)("GET", "/")
