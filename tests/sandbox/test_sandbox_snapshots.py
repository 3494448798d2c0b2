"""Snapshots are genuine: the engine opens them, other nodes restore them, and a server's restore here."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import json
import tarfile
import threading
import tracemalloc
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import qdrant_edge as edge

from apps.sandbox import SandboxNode


def facts_of(recordings: Path, name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    folder = recordings / "cluster"
    lines = (folder / f"{name}.points.jsonl").read_text().splitlines()
    return json.loads((folder / f"{name}.facts.json").read_text()), [json.loads(line) for line in lines]


def key(point: dict[str, Any]) -> tuple[bool, Any]:
    return isinstance(point["id"], str), point["id"]


FILMS = {
    "vectors": {
        "text": {"size": 32, "distance": "Cosine"},
        "image": {"size": 16, "distance": "Dot", "on_disk": True},
    },
    "sparse_vectors": {"keywords": {}},
}


def test_the_engine_opens_a_shard_snapshot_made_here(api: Any, fill: Any, same: Any, tmp_path: Path) -> None:
    points = {point["id"]: point for point in fill(api)}
    found: dict[Any, Any] = {}
    for shard_id in (0, 1):
        name = api("POST", f"/collections/shop/shards/{shard_id}/snapshots").result["name"]
        target = tmp_path / name
        target.write_bytes(api("GET", f"/collections/shop/shards/{shard_id}/snapshots/{name}").content)

        edge.EdgeShard.unpack_snapshot(str(target), str(tmp_path / f"shard-{shard_id}"))
        shard = edge.EdgeShard.load(str(tmp_path / f"shard-{shard_id}"))

        records, following = shard.scroll(edge.ScrollRequest(limit=100, with_payload=True, with_vector=True))
        counted = api("POST", f"/collections/shop/shards/{shard_id}/points/count", {"exact": True}).result["count"]
        assert following is None
        assert shard.count(edge.CountRequest(exact=True)) == len(records) == counted > 0
        assert set(shard.info().payload_schema) == {"city", "n"}
        for record in records:
            wanted = points[record.id if isinstance(record.id, int) else str(record.id)]
            assert record.payload == wanted["payload"]
            assert same(record.vector["text"], wanted["vector"]["text"])
            assert record.vector["words"].indices == wanted["vector"]["words"]["indices"]
            found[wanted["id"]] = record
        shard.close()
    assert found.keys() == points.keys()


def test_a_snapshot_is_laid_out_as_a_servers(api: Any, fill: Any) -> None:
    fill(api)
    made = api("POST", "/collections/shop/snapshots").result
    content = api("GET", f"/collections/shop/snapshots/{made['name']}").content
    assert len(content) == made["size"] < 2_000_000
    assert hashlib.sha256(content).hexdigest() == made["checksum"]
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        names = tar.getnames()
        logs = [member for member in tar if "/wal/closed-" in member.name]
        config = json.load(tar.extractfile("config.json"))
        schema = json.load(tar.extractfile("payload_index.json"))
        state = json.load(tar.extractfile("1/replica_state.json"))
    assert names[-4:] == ["version.info", "config.json", "shard_key_mapping.json", "payload_index.json"]
    assert [log.size for log in logs] == [32 << 20] * 2
    assert all(log.type == tarfile.GNUTYPE_SPARSE for log in logs)
    info = api("GET", "/collections/shop").result["config"]
    assert config == {**info, "uuid": None}
    assert schema == {"schema": {"city": "keyword", "n": {"type": "integer", "lookup": True, "range": True}}}
    assert state["is_local"] is True
    assert list(state["peers"].values()) == ["Active"]


@pytest.mark.parametrize("way", ["pull", "upload", "upload in chunks"])
def test_another_node_restores_a_collection(
    api: Any,
    node: SandboxNode,
    make_node: Callable[..., SandboxNode],
    client: Any,
    fill: Any,
    same: Any,
    way: str,
) -> None:
    points = fill(api)
    made = api("POST", "/collections/shop/snapshots").result
    path = f"/collections/shop/snapshots/{made['name']}"
    other = client(make_node().url)

    if way == "pull":
        asked = {"location": node.url + path, "checksum": made["checksum"].upper(), "priority": "snapshot"}
        answer = other("PUT", "/collections/copy/snapshots/recover", asked)
    elif way == "upload":
        content = api("GET", path).content
        answer = other.upload(f"/collections/copy/snapshots/upload?checksum={made['checksum']}", content)
    else:
        answer = upload_in_chunks(other, "/collections/copy/snapshots/upload", api("GET", path).content)

    assert (answer.status, answer.result) == (200, True)
    assert same(other.scroll("copy"), points)
    ours, theirs = other("GET", "/collections/copy").result, api("GET", "/collections/shop").result
    assert ours["config"] == theirs["config"]
    assert ours["payload_schema"] == theirs["payload_schema"]


def upload_in_chunks(api: Any, target: str, content: bytes) -> Any:
    head = b'--b\r\nContent-Disposition: form-data; name="snapshot"; filename="x.snapshot"\r\n\r\n'
    body = head + content + b"\r\n--b--"
    pieces = [body[at : at + 70_001] for at in range(0, len(body), 70_001)]
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    connection = http.client.HTTPConnection(api._address.hostname, api._address.port, timeout=30)
    connection.putrequest("POST", target)
    connection.putheader("Content-Type", "multipart/form-data; boundary=b")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders(chunked)
    response = connection.getresponse()
    return type(api("GET", "/"))(response.status, dict(response.getheaders()), response.read())


def test_shards_restore_into_a_collection_made_from_the_read_configuration(
    api: Any, node: SandboxNode, make_node: Callable[..., SandboxNode], client: Any, fill: Any, same: Any
) -> None:
    points = fill(api)
    other = client(make_node().url)
    config = api("GET", "/collections/shop").result["config"]
    body = {**config["params"], "hnsw_config": config["hnsw_config"], "wal_config": config["wal_config"]}
    body["optimizers_config"] = config["optimizer_config"]
    assert other("PUT", "/collections/copy", body).result is True
    assert other("GET", "/collections/copy").result["config"] == config

    for shard_id in (0, 1):
        base = f"/collections/shop/shards/{shard_id}/snapshots"
        name = api("POST", base).result["name"]
        target = f"/collections/copy/shards/{shard_id}/snapshots"
        if shard_id:
            streamed = api("GET", f"/collections/shop/shards/{shard_id}/snapshot").content
            answer = other.upload(f"{target}/upload?priority=no_sync", streamed)
            assert (answer.status, answer.result) == (200, None)
        else:
            answer = other("PUT", f"{target}/recover", {"location": f"{node.url}{base}/{name}"})
            assert (answer.status, answer.result) == (200, True)

    assert same(other.scroll("copy"), points)
    assert set(other("GET", "/collections/copy").result["payload_schema"]) == {"city", "n"}


def test_a_shard_recovers_from_a_snapshot_of_its_own_by_name(api: Any, fill: Any, same: Any) -> None:
    points = fill(api)
    names = [api("POST", f"/collections/shop/shards/{one}/snapshots").result["name"] for one in (0, 1)]
    assert (
        api(
            "POST",
            "/collections/shop/points/delete?wait=true",
            {"filter": {"must": [{"key": "n", "range": {"gte": 0}}]}},
        ).status
        == 200
    )
    assert api.count("shop") == 0
    for shard_id, name in enumerate(names):
        answer = api("PUT", f"/collections/shop/shards/{shard_id}/snapshots/recover", {"location": name})
        assert answer.result is True
    assert same(api.scroll("shop"), points)


def test_a_point_stays_in_the_shard_a_snapshot_put_it(api: Any, recordings: Path) -> None:
    genuine = (recordings / "films.collection.snapshot").read_bytes()
    assert api.upload("/collections/films/snapshots/upload", genuine).result is True
    before = [api("POST", f"/collections/films/shards/{one}/points/count", {}).result["count"] for one in (0, 1)]
    assert before == [328, 272]
    ids = [point["id"] for point in api.scroll("films")]

    points = [{"id": one, "vector": {"image": [1.0] * 16}, "payload": {"new": True}} for one in ids]
    assert api("PUT", "/collections/films/points?wait=true", {"points": points}).status == 200

    after = [api("POST", f"/collections/films/shards/{one}/points/count", {}).result["count"] for one in (0, 1)]
    assert after == before
    assert [point["payload"] for point in api.scroll("films")] == [{"new": True}] * 600


@pytest.mark.parametrize(
    ("file", "count"),
    [
        ("films.shard-0.snapshot", 328),
        ("films.shard-1.snapshot", 272),
        ("films.shard-0.streamed.snapshot", 328),
    ],
)
def test_genuine_shard_snapshots_restore(api: Any, recordings: Path, same: Any, file: str, count: int) -> None:
    genuine = (recordings / "films.collection.snapshot").read_bytes()
    assert api.upload("/collections/films/snapshots/upload", genuine).result is True
    known = {point["id"]: point for point in api.scroll("films")}
    assert len(known) == 600
    assert api("PUT", "/collections/one", FILMS).result is True

    content = (recordings / file).read_bytes()
    checksum = hashlib.sha256(content).hexdigest()
    answer = api.upload(f"/collections/one/shards/0/snapshots/upload?checksum={checksum}", content)

    assert answer.status == 200, answer.content
    points = api.scroll("one")
    assert len(points) == api.count("one") == count
    assert same(points, [known[point["id"]] for point in points])


@pytest.mark.parametrize("name", ["films", "tenants"])
def test_genuine_snapshots_of_a_cluster_restore_point_for_point(
    api: Any, recordings: Path, same: Any, name: str
) -> None:
    facts, points = facts_of(recordings, name)
    wanted: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for point in points:
        wanted[json.dumps(point.pop("shard_key", None))].append(point)
    restored: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for shard in facts["shards"]:
        content = (recordings / "cluster" / shard["file"]).read_bytes()
        target = f"part-{shard['shard_id']}"
        assert api("PUT", f"/collections/{target}", FILMS).result is True
        assert api.upload(f"/collections/{target}/shards/0/snapshots/upload", content).status == 200
        assert api.count(target) == shard["points"]
        restored[json.dumps(shard["shard_key"])] += api.scroll(target)
    assert restored.keys() == wanted.keys()
    for group, found in restored.items():
        assert same(sorted(found, key=key), sorted(wanted[group], key=key)), group


def test_a_snapshot_of_other_dimensions_is_refused_and_changes_nothing(
    api: Any, recordings: Path, fill: Any, same: Any
) -> None:
    points = fill(api)
    content = (recordings / "films.shard-0.snapshot").read_bytes()
    answer = api.upload("/collections/shop/shards/0/snapshots/upload", content)
    assert answer.status == 500
    assert answer.error.startswith("Service internal error: ")
    assert same(api.scroll("shop"), points)
    assert api("PUT", "/collections/shop/points?wait=true", {"points": [{"id": 7000, "vector": {}}]}).status == 200


def test_names_beyond_ascii_and_too_long_ones(api: Any) -> None:
    small = {"vectors": {"size": 2, "distance": "Dot"}}
    odd = quote("łódź & co.", safe="")
    assert api("PUT", f"/collections/{odd}", small).result is True
    name = api("POST", f"/collections/{odd}/snapshots").result["name"]
    assert api("GET", f"/collections/{odd}/snapshots/{quote(name)}").status == 200
    long = "x" * 255
    assert api("PUT", f"/collections/{long}", small).result is True
    assert api("POST", f"/collections/{long}/snapshots").status == 500
    assert api("GET", f"/collections/{long}/snapshots").result == []
    assert api("PUT", "/collections/%2e%2e", small).status == 422


def test_an_upload_takes_constant_memory(api: Any, node: SandboxNode) -> None:
    # The node runs in this process, so its memory is seen here; the 48 MiB go out in small pieces.
    size = 48 << 20
    head = b'--b\r\nContent-Disposition: form-data; name="snapshot"; filename="big.snapshot"\r\n\r\n'
    tail = b"\r\n--b--\r\n"
    piece = bytes(range(256)) * 256
    connection = http.client.HTTPConnection(api._address.hostname, api._address.port, timeout=30)
    tracemalloc.start()
    try:
        connection.putrequest("POST", "/collections/big/snapshots/upload")
        connection.putheader("Content-Type", "multipart/form-data; boundary=b")
        connection.putheader("Content-Length", str(len(head) + size + len(tail)))
        connection.endheaders(head)
        for _ in range(size // len(piece)):
            connection.send(piece)
        connection.send(tail)
        response = connection.getresponse()
        assert response.status == 500
        assert b"Malformed tar archive" in response.read()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        connection.close()
    assert peak < 12 << 20
    kept = node.snapshots_path / "big" / "big.snapshot"
    assert kept.stat().st_size == size
    with kept.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").digest() == hashlib.sha256(piece * (size // len(piece))).digest()


def test_writing_goes_on_beside_snapshots(api: Any, client: Any, node: SandboxNode, fill: Any) -> None:
    fill(api, count=20)
    errors: list[Any] = []

    def write(start: int) -> None:
        mine = client(node.url)
        for at in range(5):
            points = [{"id": start + at * 50 + one, "vector": {"image": [1.0] * 4}} for one in range(50)]
            answer = mine("PUT", "/collections/shop/points?wait=true", {"points": points})
            if answer.status != 200:
                errors.append(answer.content)

    threads = [threading.Thread(target=write, args=(1000 * (number + 1),)) for number in range(4)]
    for thread in threads:
        thread.start()
    made = [api("POST", f"/collections/shop/shards/{at % 2}/snapshots") for at in range(4)]
    for thread in threads:
        thread.join()
    assert errors == []
    assert [answer.status for answer in made] == [200] * 4
    assert api.count("shop") == 20 + 4 * 5 * 50
    name = api("POST", "/collections/shop/snapshots").result["name"]
    location = f"{node.url}/collections/shop/snapshots/{name}"
    assert api("PUT", "/collections/copy/snapshots/recover", {"location": location}).result is True
    assert api.count("copy") == api.count("shop")


def test_a_stream_is_compressed_when_the_client_asks_for_it(api: Any, fill: Any) -> None:
    fill(api, count=5)
    path = "/collections/shop/shards/0/snapshot"
    plain = api("GET", path)
    packed = api("GET", path, headers={"Accept-Encoding": "gzip, deflate"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.content) == plain.content
