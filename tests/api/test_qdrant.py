"""The operations that ask a Qdrant node, against the sandbox node: genuine collections, genuine snapshots."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import requests
from django.http import StreamingHttpResponse
from rest_framework.test import APIClient

from apps.api.v1.download import CHUNK_BYTES
from apps.clusters.models import Cluster
from tests.api.conftest import V1, error_of, result_of
from tests.support import Collections

NAME = "films é x"
COLLECTION = f"{V1}/collections/{requests.utils.quote(NAME, safe='')}"


@pytest.fixture
def films(collections: Collections, cluster: Cluster) -> str:
    """A collection of 60 points with a dense and a sparse vector in two shards; returns its address in the API."""
    collections.create(NAME, points=60)
    return COLLECTION


def body_of(response: Any) -> bytes:
    return b"".join(response.streaming_content)


def test_standalone_node_is_green_and_fills_every_field(api: APIClient, films: str) -> None:
    status = result_of(api.get(f"{V1}/cluster"))

    peer = status["peer_id"]
    assert status["status"] == "green"
    assert status["problems"] == []
    assert status["distributed"] is False
    assert set(status["peers"]) == {str(peer)}
    assert status["raft_info"] == {
        "term": 0, "commit": 0, "pending_operations": 0, "leader": peer, "role": "Leader", "is_voter": True,
    }  # fmt: skip


def test_empty_standalone_node_is_green_too(api: APIClient, cluster: Cluster) -> None:
    status = result_of(api.get(f"{V1}/cluster"))

    assert (status["status"], status["peer_id"]) == ("green", 0)


def test_nodes_of_a_standalone_cluster(api: APIClient, films: str, cluster: Cluster) -> None:
    (node,) = result_of(api.get(f"{V1}/cluster/nodes"))

    assert (node["uri"], node["is_leader"], node["is_voter"]) == (cluster.url, True, True)
    assert (node["collections_count"], node["shards_count"]) == (1, 2)


def test_collections(api: APIClient, films: str) -> None:
    assert result_of(api.get(f"{V1}/collections")) == {"collections": [{"name": NAME}]}


def test_collection_fills_every_field_of_the_contract(api: APIClient, films: str) -> None:
    shown = result_of(api.get(films))

    assert (shown["name"], shown["status"], shown["points_count"]) == (NAME, "green", 60)
    assert shown["vectors_count"] == 120  # a dense and a sparse one each
    assert shown["segments_count"] >= 1
    assert shown["config"]["params"]["shard_number"] == 2
    assert {"hnsw_config", "optimizer_config", "wal_config"} <= set(shown["config"])
    assert set(shown["payload_schema"]) == {"city", "n"}


def test_unknown_collection_is_404(api: APIClient, cluster: Cluster) -> None:
    for path in ("", "/cluster", "/snapshots", "/shards/0/snapshots", "/snapshots/x.snapshot"):
        response = api.get(f"{V1}/collections/nope{path}")
        assert response.status_code == 404, path
        assert error_of(response)


def test_placement(api: APIClient, films: str) -> None:
    shown = result_of(api.get(f"{films}/cluster"))

    assert shown["shard_count"] == 2
    assert [shard["shard_id"] for shard in shown["local_shards"]] == [0, 1]
    assert {shard["state"] for shard in shown["local_shards"]} == {"Active"}
    assert sum(shard["points_count"] for shard in shown["local_shards"]) == 60
    assert (shown["remote_shards"], shown["shard_transfers"]) == ([], [])


@pytest.mark.parametrize("where", ["", "/shards/1"])
def test_snapshot_is_made_listed_downloaded_and_deleted(api: APIClient, films: str, where: str) -> None:
    made = result_of(api.post(f"{films}{where}/snapshots"))

    assert set(made) == {"name", "creation_time", "size", "checksum", "peer_id"}
    assert made["peer_id"] is None
    assert made["creation_time"].endswith("Z")
    assert result_of(api.get(f"{films}{where}/snapshots")) == [made]
    path = f"{films}{where}/snapshots/{requests.utils.quote(made['name'], safe='')}"
    response = api.get(path, HTTP_ACCEPT="application/octet-stream", HTTP_ACCEPT_ENCODING="gzip, br")
    assert response.status_code == 200
    assert response["Content-Type"] == "application/octet-stream"
    assert int(response["Content-Length"]) == made["size"]
    assert "attachment" in response["Content-Disposition"]
    assert not response.has_header("Content-Encoding")
    body = body_of(response)
    assert len(body) == made["size"]
    assert hashlib.sha256(body).hexdigest() == made["checksum"]
    assert result_of(api.delete(path)) is True
    assert result_of(api.get(f"{films}{where}/snapshots")) == []
    for again in (api.get(path), api.delete(path), api.delete(f"{path}?wait=false")):
        assert again.status_code == 404
        assert error_of(again)


def test_download_takes_ranges_and_conditions(api: APIClient, films: str) -> None:
    made = result_of(api.post(f"{films}/snapshots"))
    path = f"{films}/snapshots/{requests.utils.quote(made['name'], safe='')}"
    first = api.get(path)
    whole, etag = body_of(first), first["ETag"]

    part = api.get(path, HTTP_RANGE="bytes=100-199", HTTP_IF_MATCH=etag)
    assert part.status_code == 206
    assert body_of(part) == whole[100:200]
    assert part["Content-Range"] == f"bytes 100-199/{made['size']}"
    assert part["Content-Length"] == "100"
    for headers, status in (({"HTTP_RANGE": f"bytes={made['size']}-"}, 416), ({"HTTP_IF_MATCH": '"stale"'}, 412)):
        refused = api.get(path, **headers)
        assert refused.status_code == status
        assert error_of(refused)


def test_head_of_a_download_has_its_length_and_no_body(api: APIClient, films: str) -> None:
    made = result_of(api.post(f"{films}/snapshots"))

    response = api.head(f"{films}/snapshots/{requests.utils.quote(made['name'], safe='')}")

    assert not isinstance(response, StreamingHttpResponse)
    assert (response.status_code, response.content) == (200, b"")
    assert int(response["Content-Length"]) == made["size"]
    assert response["ETag"]


def test_if_range_of_another_file_sends_all_of_this_one(api: APIClient, films: str) -> None:
    made = result_of(api.post(f"{films}/snapshots"))
    path = f"{films}/snapshots/{requests.utils.quote(made['name'], safe='')}"
    etag = api.head(path)["ETag"]

    same = api.get(path, HTTP_RANGE="bytes=10-", HTTP_IF_RANGE=etag)
    other = api.get(path, HTTP_RANGE="bytes=10-", HTTP_IF_RANGE='"other"')

    assert (same.status_code, len(body_of(same))) == (206, made["size"] - 10)
    assert (other.status_code, len(body_of(other))) == (200, made["size"])


def test_download_streams_in_small_pieces(api: APIClient, films: str) -> None:
    made = result_of(api.post(f"{films}/snapshots"))

    response = api.get(f"{films}/snapshots/{requests.utils.quote(made['name'], safe='')}")

    assert isinstance(response, StreamingHttpResponse)
    assert max(len(chunk) for chunk in response.streaming_content) <= CHUNK_BYTES


def test_shard_that_does_not_exist_is_404(api: APIClient, films: str) -> None:
    for response in (api.post(f"{films}/shards/7/snapshots"), api.get(f"{films}/shards/7/snapshots")):
        assert response.status_code == 404
        assert error_of(response)


def test_name_that_cannot_be_snapshotted_is_422(api: APIClient, cluster: Cluster) -> None:
    assert api.post(f"{V1}/collections/{'x' * 255}/snapshots").status_code == 422


def test_recover_from_another_address(api: APIClient, films: str, node: Any, collections: Collections) -> None:
    made = result_of(api.post(f"{films}/snapshots"))
    source = f"{node.url}/collections/{Collections.quote(NAME)}/snapshots/{Collections.quote(made['name'])}"
    body = {"location": source, "checksum": made["checksum"].upper(), "priority": "NO_SYNC"}

    assert result_of(api.post(f"{V1}/collections/again/snapshots/recover", body, format="json")) is True
    assert collections.count("again") == 60
    wrong = api.post(f"{V1}/collections/third/snapshots/recover", body | {"checksum": "0" * 64}, format="json")
    assert wrong.status_code == 400
    assert "hecksum" in error_of(wrong)
    assert collections.names() == sorted(["again", NAME])


def test_recover_a_shard(api: APIClient, films: str, node: Any, collections: Collections) -> None:
    made = result_of(api.post(f"{films}/shards/0/snapshots"))
    quoted = Collections.quote(NAME)
    source = f"{node.url}/collections/{quoted}/shards/0/snapshots/{Collections.quote(made['name'])}"
    collections.create("target", points=0)

    path = f"{V1}/collections/target/shards/0/snapshots/recover"
    assert result_of(api.post(path, {"location": source}, format="json")) is True
    assert 0 < collections.count("target") < 60


def test_chosen_cluster_is_asked(api: APIClient, films: str, down: Cluster) -> None:
    assert api.get(f"{V1}/collections?cluster=main").status_code == 200
    response = api.get(f"{V1}/collections?cluster=down")
    assert response.status_code == 503
    assert "cannot be reached" in error_of(response)


def test_without_a_cluster_a_sentence_says_so(api: APIClient) -> None:
    for path in ("cluster", "cluster/nodes", "collections", "collections/c/snapshots/s"):
        response = api.get(f"{V1}/{path}")
        assert response.status_code == 404
        assert "add one" in error_of(response)
