"""The node answers as a real one did: recorded exchanges are played again and compared."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from apps.sandbox import SandboxNode

_SOURCE = "127.0.0.1:38209"
_PARTIAL = "partial snapshots copy replicas between nodes; backups are whole"
_FULL = "a full storage snapshot has no REST restore, so nothing here uses it"
NOT_SERVED = {
    ("read collection", "GET", "/collections/films/shards/0/snapshot/partial/manifest"): _PARTIAL,
    ("partial manifest", "GET", "/collections/films/shards/0/snapshot/partial/manifest"): _PARTIAL,
    (
        "partial create, nothing changed",
        "POST",
        "/collections/films/shards/0/snapshot/partial/create",
    ): _PARTIAL,
    (
        "partial create, empty manifest",
        "POST",
        "/collections/films/shards/0/snapshot/partial/create",
    ): _PARTIAL,
    ("full snapshot", "POST", "/snapshots"): _FULL,
    ("list full", "GET", "/snapshots"): _FULL,
    ("delete full", "DELETE", "/snapshots/full-snapshot-2026-11-21-02-04-14.snapshot"): _FULL,
}
# What differs from run to run, or (segments) with what optimizers did, which do not run here.
VOLATILE = {"time", "creation_time", "size", "checksum", "peer_id", "commit", "startup", "segments_count"}
ETAG = re.compile(r'"[0-9a-f]+:[0-9a-f]+:[0-9a-f]+:[0-9a-f]+"')


def load(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def source(recordings: Path) -> Iterator[str]:
    """Stand in for the server the recorded node recovered from; returns its address."""
    whole = (recordings / "films.collection.snapshot").read_bytes()
    files = {
        "/ok": whole,
        "/key/ok": whole,
        "/junk": b"this is no archive " * 4000,
        "/short": whole[: len(whole) // 2],
        "/s0": (recordings / "films.shard-0.snapshot").read_bytes(),
        "/s1": (recordings / "films.shard-1.snapshot").read_bytes(),
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = files.get(self.path)
            status = 404 if body is None else 200
            if self.path.startswith("/key/") and self.headers.get("api-key") != "sesame":
                status = 401
            self.send_response(status)
            data = body if status == 200 and body is not None else b""
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


class Replay:
    """Plays exchanges against a node and compares what comes back."""

    def __init__(self, api: Any, same: Callable[..., bool], recordings: Path, source: str = _SOURCE) -> None:
        self.api, self.same, self.recordings, self.source = api, same, recordings, source
        self.names: dict[str, str] = {}
        self.seen: dict[str, bytes] = {}
        self.etag = ""

    def translate(self, text: str) -> str:
        for recorded, ours in self.names.items():
            text = text.replace(quote(recorded), quote(ours)).replace(recorded, ours)
        return text.replace(_SOURCE, self.source)

    def send(self, call: dict[str, Any]) -> Any:
        target = self.translate(call["path"])
        if call.get("params"):
            target += "?" + urlencode(call["params"])
        headers = self.request_headers(call["label"])
        if "multipart" in call:
            [(field, filename)] = call["multipart"].items()
            kept = "films.shard-0.snapshot" if filename == "s0.snapshot" else "films.collection.snapshot"
            return self.api.upload(target, (self.recordings / kept).read_bytes(), filename, field)
        if "data" in call:
            return self.api(call["method"], target, call["data"].encode(), headers)
        data = json.loads(self.translate(json.dumps(call["json"]))) if "json" in call else None
        return self.api(call["method"], target, data, headers)

    def request_headers(self, label: str) -> dict[str, str]:
        encoding = "gzip, deflate" if label == "download, gzip accepted" else "identity"
        more = {
            "download, range": {"Range": "bytes=100-199"},
            "download, range + If-Match": {"Range": "bytes=100-", "If-Match": self.etag},
            "download, stale If-Match": {"Range": "bytes=100-", "If-Match": '"1:2:3:4"'},
            "download, range past the end": {"Range": "bytes=999999999-"},
        }
        return {"Accept-Encoding": encoding, **more.get(label, {})}

    def compare(self, call: dict[str, Any], answer: Any) -> None:
        what = f"{call['label']}: {call['method']} {call['path']}"
        assert answer.status == call["status"], f"{what}: {answer.content[:300]!r}"
        self.compare_headers(what, call, answer)
        body = call["body"]
        if isinstance(body, dict) and "bytes" in body:
            self.compare_bytes(what, call, answer)
        elif isinstance(body, str) and body.startswith("# HELP"):
            assert metric_types(answer.content.decode()).items() <= metric_types(body).items(), what
        elif isinstance(body, str):
            assert answer.content.decode() == self.translate(body), what
        elif body is None:
            assert answer.content == b"", what
        elif call["path"].startswith("/telemetry"):
            self.compare_telemetry(what, body, answer.json())
        else:
            self.learn_names(body, answer.json())
            ours, theirs = (
                steady(answer.json()),
                steady(json.loads(self.translate(json.dumps(body, ensure_ascii=False)))),
            )
            assert self.same(ours, theirs), f"{what}:\n{ours}\n{theirs}"

    def learn_names(self, recorded: Any, ours: Any) -> None:
        theirs, mine = recorded.get("result"), ours.get("result")
        if isinstance(theirs, dict) and isinstance(mine, dict) and "checksum" in theirs:
            assert re.sub(r"\d+", "0", theirs["name"]) == re.sub(r"\d+", "0", mine["name"])
            assert re.fullmatch("[0-9a-f]{64}", mine["checksum"])
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", mine["creation_time"])
            self.names[theirs["name"]] = mine["name"]

    def leave_one_name(self) -> None:
        """Two snapshots of one second share a name; the recorded ones did, ours may have met a new second."""
        listed = [one["name"] for one in self.api("GET", "/collections/films/snapshots").result]
        assert 1 <= len(listed) <= 2
        for name in set(listed) - set(self.names.values()):
            assert self.api("DELETE", f"/collections/films/snapshots/{name}").result is True

    def compare_headers(self, what: str, call: dict[str, Any], answer: Any) -> None:
        theirs, ours = call["headers"], answer.headers
        for name in ("content-type", "accept-ranges", "content-encoding", "transfer-encoding", "vary"):
            assert ours.get(name) == theirs.get(name), f"{what}: {name}"
        for name in ("content-length", "etag", "last-modified", "content-range", "content-disposition"):
            assert (name in ours) == (name in theirs), f"{what}: {name}"
        if "etag" in theirs:
            assert ETAG.fullmatch(theirs["etag"])
            assert ETAG.fullmatch(ours["etag"])
            if answer.status == 200 and "content-length" in ours:
                assert int(ours["etag"].split(":")[1], 16) == int(ours["content-length"]), what
            self.etag = ours["etag"]
        if "content-disposition" in theirs:
            dates = re.compile(r"\d{4}(-\d\d){5}")
            wanted = dates.sub("now", self.translate(theirs["content-disposition"]))
            assert dates.sub("now", ours["content-disposition"]) == wanted, what

    def compare_bytes(self, what: str, call: dict[str, Any], answer: Any) -> None:
        kind = call["label"]
        if kind in ("download", "download shard snapshot"):
            self.seen["whole"] = answer.content
            self.etag = answer.headers["etag"]
            described = self.api("GET", self.translate(call["path"]).rpartition("/")[0]).result
            sums = {one["checksum"] for one in described}
            assert hashlib.sha256(answer.content).hexdigest() in sums, what
        elif kind == "download, gzip accepted":
            assert gzip.decompress(answer.content) == self.seen["whole"], what
            assert len(answer.content) < len(self.seen["whole"]) / 2
        elif kind == "download, range":
            assert answer.content == self.seen["whole"][100:200], what
            assert answer.headers["content-range"] == f"bytes 100-199/{len(self.seen['whole'])}"
        elif kind == "download, range + If-Match":
            whole = self.seen["whole"]
            assert answer.content == whole[100:], what
            assert answer.headers["content-range"] == f"bytes 100-{len(whole) - 1}/{len(whole)}"
        elif kind == "stream a shard snapshot":
            assert answer.content.endswith(bytes(1024)) and b"shard_config.json" in answer.content, what
        elif kind == "metrics after":
            assert 'snapshot_creation_running{id="films"} 0' in answer.content.decode(), what
        else:
            assert len(answer.content) == call["body"]["bytes"], what
            assert hashlib.sha256(answer.content).hexdigest() == call["body"]["sha256"], what

    def compare_telemetry(self, what: str, recorded: dict[str, Any], ours: dict[str, Any]) -> None:
        theirs, mine = recorded["result"], ours["result"]
        assert mine.keys() <= theirs.keys(), what
        assert {"id", "app", "collections", "cluster"} <= mine.keys(), what
        assert mine["app"].keys() <= theirs["app"].keys(), what
        assert mine["app"]["version"] == theirs["app"]["version"], what
        assert mine["collections"]["number_of_collections"] == theirs["collections"]["number_of_collections"], what
        by_id = {one["id"]: one for one in theirs["collections"].get("snapshots") or []}
        for one in mine["collections"].get("snapshots") or []:
            assert one.keys() <= next(iter(by_id.values())).keys(), what
        assert {one["id"] for one in mine["collections"].get("collections") or []} == {
            one["id"] for one in theirs["collections"].get("collections") or []
        }, what


def metric_types(text: str) -> dict[str, str]:
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))


def steady(data: Any, key: str = "") -> Any:
    """Take out what may differ: volatile values become their kind, positions and paths in errors a sign."""
    if isinstance(data, dict):
        return {name: steady(value, name) for name, value in data.items()}
    if isinstance(data, list):
        return [steady(value, key) for value in data]
    if key in VOLATILE:
        return "number" if isinstance(data, int | float) else type(data).__name__
    if key == "error":
        text = re.sub(r"at line \d+ column \d+", "at <place>", data)
        text = re.sub(r"\b[0-9a-f]{64}\b", lambda found: found[0] if set(found[0]) == {"0"} else "<hash>", text)
        text = re.sub(r'"?/[^ "`]*/(?:tmp/[^ "`]+|snapshots)"?', "<path>", text)
        return re.sub(r"(failed to unpack ).*", r"\1<entry>", text)
    return data


def test_a_standalone_node_answers_as_recorded(
    api: Any, client: Any, same: Callable[..., bool], recordings: Path, source: str, node: SandboxNode
) -> None:
    replay = Replay(api, same, recordings, source)
    not_served = []
    filled = False
    for call in load(recordings / "standalone.jsonl"):
        if call["label"] == "read collection" and not filled:
            # The recording lacks the calls that wrote the 600 points; the snapshot made of them has them.
            filled = api("PUT", "/collections/films/snapshots/recover", {"location": f"http://{source}/ok"}).result
        answer = replay.send(call)
        if answer.status == 404 and not answer.content and call["status"] != 404:
            not_served.append((call["label"], call["method"], call["path"]))
        else:
            replay.compare(call, answer)
        if call.get("params") == {"wait": "false"}:
            wait_for_background(node)
        if call["label"] == "create, wait=false":
            replay.leave_one_name()
    assert not_served == list(NOT_SERVED)


def test_points_are_written_and_read_as_recorded(api: Any, same: Callable[..., bool], recordings: Path) -> None:
    replay = Replay(api, same, recordings)
    for call in load(recordings / "points.jsonl"):
        replay.compare(call, replay.send(call))


def wait_for_background(node: SandboxNode) -> None:
    assert node._router is not None
    node._router.wait_for_background(10)


CALLERS = {
    "as none": {},
    "as wrong": {"api-key": "no such key"},
    "as read-only": {"api-key": "reader"},
    "as full": {"api-key": "writer"},
    "as bearer full": {"Authorization": "Bearer writer"},
}
JWT_CALLERS = {"as jwt r", "as jwt films rw", "as jwt other r", "as jwt expired", "as jwt forged"}


def test_keys_open_what_they_opened_in_the_recording(
    make_node: Callable[..., SandboxNode], client: Any, same: Callable[..., bool], recordings: Path
) -> None:
    node = make_node(api_key="writer", read_only_api_key="reader")
    writer = client(node.url, CALLERS["as full"])
    assert writer("PUT", "/collections/films", {"vectors": {"size": 4, "distance": "Dot"}}).status == 200
    point = {"points": [{"id": 1, "vector": [1, 2, 3, 4]}]}
    assert writer("PUT", "/collections/films/points?wait=true", point).status == 200
    name = writer("POST", "/collections/films/snapshots").result["name"]

    callers = set()
    for call in load(recordings / "auth.jsonl"):
        callers.add(call["label"])
        if call["label"] in JWT_CALLERS:
            continue
        path = re.sub(r"films-\d+-[-\d]+\.snapshot", name, call["path"])
        target = path + ("?" + urlencode(call["params"]) if call.get("params") else "")
        answer = client(node.url, CALLERS[call["label"]])(call["method"], target, call.get("json"))
        what = f"{call['label']}: {call['method']} {call['path']}"
        assert answer.status == call["status"], what
        assert answer.headers.get("content-type") == call["headers"].get("content-type"), what
        body = call["body"]
        if answer.status == 401:
            assert hashlib.sha256(answer.content).hexdigest() == body["sha256"], what
        if answer.status in (403, 500):
            assert answer.error == body["status"]["error"], what
    assert callers == set(CALLERS) | JWT_CALLERS

    # Tokens are not served: to this node one is just a key it does not know.
    token = client(node.url, {"Authorization": "Bearer eyJhbGciOiJIUzI1NiJ9.e30.x"})("GET", "/collections")
    assert (token.status, token.content) == (401, b"Invalid API key or JWT")
