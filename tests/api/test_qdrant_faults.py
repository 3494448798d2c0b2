"""Nodes that fail, lie, are slow, or are many: what clients of the API are told."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from rest_framework.test import APIClient
from werkzeug import Request, Response

from apps.api.v1.download import CHUNK_BYTES
from apps.clusters.models import Cluster
from apps.clusters.qdrant import DownloadBroken
from apps.storage.models import StorageConfig
from tests.api.conftest import V1, error_of, result_of

PEERS = {"1": {"uri": "http://a:6335/"}, "2": {"uri": "http://b:6335/"}, "3": {"uri": "http://c:6335/"}}
HEALTHY: dict[str, Any] = {
    "status": "enabled",
    "peer_id": 1,
    "peers": PEERS,
    "raft_info": {
        "term": 4, "commit": 51, "pending_operations": 0, "leader": 1, "role": "Leader", "is_voter": True,
    },
    "consensus_thread_status": {"consensus_thread_status": "working", "last_update": "2026-08-01T00:00:00Z"},
    "message_send_failures": {},
}  # fmt: skip


@pytest.fixture
def fake(httpserver: HTTPServer, db: None, settings: Any) -> HTTPServer:
    settings.BACKUPMGR_QDRANT_TIMEOUT_SECONDS = 1
    settings.BACKUPMGR_STALL_SECONDS = 1
    Cluster.objects.create(name="fake", url=httpserver.url_for(""), api_key="canary-key")
    return httpserver


def ok(result: Any) -> dict[str, Any]:
    return {"result": result, "status": "ok", "time": 0.001}


def wrong(sentence: str) -> dict[str, Any]:
    return {"status": {"error": sentence}, "time": 0.0}


@pytest.mark.parametrize(
    ("change", "ready", "status"),
    [
        ({}, 200, "green"),
        ({}, 503, "yellow"),
        ({"message_send_failures": {"http://c:6335/": {"count": 3}}}, 200, "yellow"),
        ({"message_send_failures": {"http://b:6335/": {}, "http://c:6335/": {}}}, 200, "red"),
        ({"raft_info": HEALTHY["raft_info"] | {"pending_operations": 2}}, 200, "yellow"),
        ({"raft_info": HEALTHY["raft_info"] | {"leader": None, "role": "Candidate"}}, 200, "red"),
        ({"consensus_thread_status": {"consensus_thread_status": "stopped_with_err", "err": "disk"}}, 200, "red"),
        ({"raft_info": None}, 200, "red"),
    ],
)
def test_colour_follows_from_the_facts(
    api: APIClient, fake: HTTPServer, change: dict[str, Any], ready: int, status: str
) -> None:
    fake.expect_request("/cluster").respond_with_json(ok(HEALTHY | change))
    fake.expect_request("/readyz").respond_with_data("…", status=ready)

    shown = result_of(api.get(f"{V1}/cluster"))

    assert shown["status"] == status
    assert bool(shown["problems"]) == (status != "green")
    assert shown["peers"] == PEERS
    assert set(shown["raft_info"]) == set(HEALTHY["raft_info"])
    assert None not in shown["raft_info"].values()


def test_registered_node_that_is_silent_makes_it_yellow(api: APIClient, fake: HTTPServer) -> None:
    Cluster.objects.update(nodes={"2": "http://127.0.0.1:9"})
    fake.expect_request("/").respond_with_json({"title": "qdrant", "version": "1.18.3"})
    fake.expect_request("/cluster").respond_with_json(ok(HEALTHY))
    fake.expect_request("/readyz").respond_with_data("ok")

    shown = result_of(api.get(f"{V1}/cluster"))

    assert shown["status"] == "yellow"
    assert shown["problems"][0].startswith("Peer 2:")
    assert len(shown["problems"]) == 1


def test_nodes_count_the_replicas_of_every_peer(api: APIClient, fake: HTTPServer) -> None:
    placement = {
        "peer_id": 1,
        "shard_count": 2,
        "local_shards": [{"shard_id": 0, "points_count": 5, "state": "Active"}],
        "remote_shards": [
            {"shard_id": 0, "peer_id": 2, "state": "Active"},
            {"shard_id": 1, "peer_id": 2, "state": "Active"},
        ],
        "shard_transfers": [],
    }
    fake.expect_request("/cluster").respond_with_json(ok(HEALTHY))
    fake.expect_request("/collections").respond_with_json(ok({"collections": [{"name": "a"}, {"name": "gone"}]}))
    fake.expect_request("/collections/a/cluster").respond_with_json(ok(placement))
    fake.expect_request("/collections/gone/cluster").respond_with_json(
        wrong("Not found: Collection `gone` doesn't exist!"), status=404
    )

    nodes = result_of(api.get(f"{V1}/cluster/nodes"))

    assert [
        (n["peer_id"], n["is_leader"], n["is_voter"], n["collections_count"], n["shards_count"]) for n in nodes
    ] == [
        (1, True, True, 1, 1),
        (2, False, None, 1, 2),
        (3, False, None, 0, 0),
    ]


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (Response("Invalid API key or JWT", 401), 502),
        (Response(json.dumps(wrong("Forbidden: Global access is required")), 403), 502),
        (Response(json.dumps(wrong("Service internal error: disk")), 500), 502),
        (Response("<html>502 Bad Gateway</html>", 502), 502),
        (Response("hello", 200), 502),
        (Response("", 302, {"Location": "http://elsewhere"}), 502),
        (Response(json.dumps(wrong("Timeout: gave up")), 408), 504),
        (Response(json.dumps(wrong("Rate limiting exceeded: slow down")), 429), 502),
        (Response(json.dumps(wrong("Wrong input: Shard 3 is not a local shard")), 400), 400),
        (Response(json.dumps(wrong("Not found: shard 9 not found")), 404), 404),
        (Response(json.dumps(wrong("Validation error")), 422), 422),
    ],
)
def test_faults_of_the_node_become_ours(api: APIClient, fake: HTTPServer, answer: Response, status: int) -> None:
    fake.expect_request("/collections/c/shards/0/snapshots").respond_with_response(answer)

    for response in (
        api.get(f"{V1}/collections/c/shards/0/snapshots"),
        api.post(f"{V1}/collections/c/shards/0/snapshots"),
    ):
        assert response.status_code == status, response.content
        assert "<html" not in error_of(response)
        assert "canary-key" not in response.content.decode()


@pytest.mark.parametrize(("theirs", "status"), [(401, 502), (403, 502), (404, 404), (500, 502), (429, 502), (418, 502)])
def test_downloads_that_do_not_begin(api: APIClient, fake: HTTPServer, theirs: int, status: int) -> None:
    fake.expect_request("/collections/c/snapshots/s").respond_with_data("Not found: Snapshot s", status=theirs)

    response = api.get(f"{V1}/collections/c/snapshots/s")

    assert response.status_code == status
    assert error_of(response)


def test_node_that_is_too_slow_is_504(api: APIClient, fake: HTTPServer) -> None:
    release = threading.Event()

    def stall(request: Request) -> Response:
        release.wait(10)
        return Response("{}")

    fake.expect_request("/collections").respond_with_handler(stall)
    fake.expect_request("/collections/c/snapshots/s").respond_with_handler(stall)
    try:
        for path in ("collections", "collections/c/snapshots/s"):
            response = api.get(f"{V1}/{path}")
            assert response.status_code == 504
            assert error_of(response)
    finally:
        release.set()


@pytest.fixture
def liar(db: None) -> Iterator[socket.socket]:
    """A node that promises 1,000,000 bytes, sends 10 and hangs up."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n0123456789")

    threading.Thread(target=serve, daemon=True).start()
    Cluster.objects.create(name="liar", url=f"http://127.0.0.1:{server.getsockname()[1]}")
    yield server
    server.close()


def test_download_cut_in_the_middle_does_not_look_whole(api: APIClient, liar: socket.socket) -> None:
    response = api.get(f"{V1}/collections/c/snapshots/s")

    assert response["Content-Length"] == "1000000"
    with pytest.raises(DownloadBroken):
        list(response.streaming_content)


def test_client_that_goes_away_frees_the_connection(api: APIClient, fake: HTTPServer) -> None:
    fake.expect_request("/collections/c/snapshots/s").respond_with_data(b"x" * (CHUNK_BYTES * 4))
    response = api.get(f"{V1}/collections/c/snapshots/s")
    body = response._iterator if hasattr(response, "_iterator") else response.streaming_content
    next(iter(body))

    response.close()

    assert response.closed


def test_older_nodes_tell_the_vectors_and_strict_ones_do_not_count(api: APIClient, fake: HTTPServer) -> None:
    info = {
        "status": "green", "optimizer_status": "ok", "indexed_vectors_count": 7, "points_count": 5,
        "segments_count": 1, "payload_schema": {},
        "config": {
            "params": {"vectors": {"size": 4, "distance": "Dot"}, "shard_number": 1, "replication_factor": 1},
            "hnsw_config": {}, "optimizer_config": {}, "wal_config": {},
        },
    }  # fmt: skip
    fake.expect_request("/collections/old").respond_with_json(ok(info | {"vectors_count": 99}))
    fake.expect_request("/collections/strict").respond_with_json(ok(info))
    fake.expect_request("/collections/strict/points/count").respond_with_json(wrong("Forbidden: strict"), status=400)
    fake.expect_request("/collections/new").respond_with_json(ok(info | {"points_count": None}))
    fake.expect_request(
        "/collections/new/points/count", json={"exact": False, "filter": {"must": [{"has_vector": ""}]}}
    ).respond_with_json(ok({"count": 4}))

    assert result_of(api.get(f"{V1}/collections/old"))["vectors_count"] == 99
    assert result_of(api.get(f"{V1}/collections/strict"))["vectors_count"] == 7
    shown = result_of(api.get(f"{V1}/collections/new"))
    assert (shown["vectors_count"], shown["points_count"]) == (4, 0)


def recorded(fake: HTTPServer, status: int = 200, answer: Any = None) -> list[Any]:
    """Have the node answer recoveries; return the list into which their bodies go."""
    fake.expect_request("/").respond_with_json({"title": "qdrant - vector search engine", "version": "1.18.3"})
    bodies: list[Any] = []

    def handle(request: Request) -> Response:
        assert request.method == "PUT"
        bodies.append((dict(request.args), request.get_json(), request.headers.get("api-key")))
        return Response(json.dumps(answer or ok(True)), status)

    fake.expect_request("/collections/c/snapshots/recover").respond_with_handler(handle)
    return bodies


RECOVER = f"{V1}/collections/c/snapshots/recover"


def test_recover_sends_the_defaults_and_the_key_to_the_source_only(api: APIClient, fake: HTTPServer) -> None:
    bodies = recorded(fake)
    location = "https://203.0.113.7/x.snapshot?token=1"

    result_of(api.post(RECOVER, {"location": location, "api_key": "source-key"}, format="json"))
    result_of(api.post(RECOVER, {"location": "file:///qdrant/snapshots/x"}, format="json"))

    assert bodies == [
        ({"wait": "true"}, {"location": location, "priority": "snapshot", "api_key": "source-key"}, "canary-key"),
        ({"wait": "true"}, {"location": "file:///qdrant/snapshots/x", "priority": "snapshot"}, "canary-key"),
    ]


@pytest.mark.parametrize(
    "location",
    [
        "x", "ftp://h/x", "gs://b/k", "http://", "http:///x", "file://host/x", "file:relative", "s3://", "s3://none/k",
        "http://h:99999/x", "http://[::1/x", "http://h/a b", "http://h/\n", "javascript:alert(1)", "HTTP:x",
    ],
)  # fmt: skip
def test_locations_that_cannot_be_are_422(api: APIClient, fake: HTTPServer, location: str) -> None:
    response = api.post(RECOVER, {"location": location}, format="json")

    assert response.status_code == 422, response.content
    assert "location" in error_of(response)


@pytest.mark.parametrize(
    ("change", "status"),
    [({"checksum": "abc"}, 422), ({"checksum": "g" * 64}, 422), ({"priority": "primary"}, 400), ({"location": 1}, 400)],
)
def test_other_fields_that_cannot_be(api: APIClient, fake: HTTPServer, change: dict[str, Any], status: int) -> None:
    response = api.post(RECOVER, {"location": "http://h/x"} | change, format="json")

    assert response.status_code == status
    assert next(iter(change)) in error_of(response)


def test_file_outside_the_nodes_folder_is_422(api: APIClient, fake: HTTPServer) -> None:
    recorded(fake, 403, wrong("Forbidden: Snapshot file path must be inside the snapshots directory"))

    response = api.post(RECOVER, {"location": "file:///etc/passwd"}, format="json")

    assert response.status_code == 422
    assert "inside the snapshots directory" in error_of(response)


class FakeStore:
    """Stands for an open S3 storage."""

    signed = "https://s3/backups/pre/a/k.snapshot?X-Amz-Signature=canary-signature&X-Amz-Date=1"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def stat(self, key: str) -> object | None:
        self.asked.append(key)
        return object() if key == "a/k.snapshot" else None

    def presign(self, key: str, seconds: int) -> str:
        return self.signed


@pytest.fixture
def s3(db: None, monkeypatch: pytest.MonkeyPatch) -> FakeStore:
    StorageConfig.objects.create(
        name="Off site", type="s3", s3_endpoint="https://s3", s3_bucket="backups", s3_prefix="pre", s3_region="r",
        s3_access_key="ak", s3_secret_key="sk",
    )  # fmt: skip
    store = FakeStore()
    monkeypatch.setattr("apps.api.v1.locations.open_store", lambda config: store)
    return store


@pytest.mark.parametrize("location", ["s3://Off%20site/a/k.snapshot", "s3://backups/pre/a/k.snapshot"])
def test_own_storage_becomes_a_presigned_address(
    api: APIClient, fake: HTTPServer, s3: FakeStore, location: str
) -> None:
    bodies = recorded(fake)

    response = api.post(RECOVER, {"location": location, "api_key": "source-key"}, format="json")

    assert result_of(response) is True
    assert s3.asked == ["a/k.snapshot"]
    assert bodies[0][1] == {"location": FakeStore.signed, "priority": "snapshot"}


def test_signature_does_not_come_back_in_an_error(api: APIClient, fake: HTTPServer, s3: FakeStore) -> None:
    recorded(fake, 400, wrong(f"Wrong input: Failed to download tar from {FakeStore.signed}: status - 403"))

    response = api.post(RECOVER, {"location": "s3://backups/pre/a/k.snapshot"}, format="json")

    assert response.status_code == 400
    assert "canary-signature" not in error_of(response)
    assert "s3://backups/pre/a/k.snapshot" in error_of(response)


@pytest.mark.parametrize(
    ("location", "status"),
    [
        ("s3://backups/pre/a/none", 404), ("s3://backups/other/a/k.snapshot", 422), ("s3://backups/pre/", 422),
        ("s3://Off%20site/../x", 422), ("s3://Off%20site/a/..%2F..%2Fx", 422), ("s3://Off%20site", 422),
    ],
)  # fmt: skip
def test_keys_that_are_not_there_or_climb(
    api: APIClient, fake: HTTPServer, s3: FakeStore, location: str, status: int
) -> None:
    response = api.post(RECOVER, {"location": location}, format="json")

    assert response.status_code == status, response.content
    assert error_of(response)
