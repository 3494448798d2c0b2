"""Every fault does what it says, as often as it says, and leaves the node fit."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from apps.sandbox import FaultRule, SandboxNode

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def snapshot(api: Any, fill: Any) -> tuple[str, bytes]:
    """Return the path of a collection snapshot and its content."""
    fill(api, count=20)
    name = api("POST", "/collections/shop/snapshots").result["name"]
    path = f"/collections/shop/snapshots/{name}"
    return path, api("GET", path).content


@contextmanager
def begun(api: Any, path: str) -> Iterator[http.client.HTTPResponse]:
    """Ask for a download and give the response before its body is read."""
    connection = http.client.HTTPConnection(api._address.hostname, api._address.port, timeout=0.5)
    connection.request("GET", path, headers={"Accept-Encoding": "identity"})
    try:
        yield connection.getresponse()
    finally:
        connection.close()


def read_until_broken(response: http.client.HTTPResponse) -> tuple[bytes, BaseException | None]:
    data = b""
    try:
        while piece := response.read1(1 << 16):
            data += piece
    except (OSError, http.client.HTTPException) as error:
        return data, error
    return data, None


def test_status_with_text_or_json_fires_so_often_after_so_many(api: Any, node: SandboxNode) -> None:
    node.faults.add("status", method="GET", path="/collections", status=503, body="busy", after=1, times=2)
    node.faults.add("status", path="/clust.*", status=429, body={"status": {"error": "slow down"}})
    assert [api("GET", "/collections").status for _ in range(5)] == [200, 503, 503, 200, 200]
    answer = api("GET", "/cluster")
    assert (answer.status, answer.error) == (429, "slow down")
    assert api("GET", "/readyz").status == 200
    node.faults.clear()
    assert api("GET", "/cluster").status == 200


def test_a_status_fault_keeps_the_work_from_being_done(api: Any, node: SandboxNode, fill: Any) -> None:
    fill(api, count=5)
    node.faults.add("status", method="POST", path=".*/snapshots", status=500, times=1)
    assert api("POST", "/collections/shop/snapshots").status == 500
    assert api("GET", "/collections/shop/snapshots").result == []


def test_delay(api: Any, node: SandboxNode) -> None:
    node.faults.add("delay", path="/readyz", seconds=0.3)
    started = time.monotonic()
    assert api("GET", "/readyz").status == 200
    assert 0.3 <= time.monotonic() - started < 2


def test_truncate_keeps_the_promise_of_the_length_and_breaks_it(
    api: Any, node: SandboxNode, snapshot: tuple[str, bytes]
) -> None:
    path, content = snapshot
    node.faults.add("truncate", path=".*snapshot", bytes=5000)
    with begun(api, path) as response:
        assert int(response.headers["Content-Length"]) == len(content)
        data, _ = read_until_broken(response)
    assert data == content[:5000]


def test_truncate_of_a_stream_ends_without_the_last_chunk(api: Any, node: SandboxNode, fill: Any) -> None:
    fill(api, count=5)
    node.faults.add("truncate", path=".*/snapshot", bytes=700)
    with (
        begun(api, "/collections/shop/shards/0/snapshot") as response,
        pytest.raises(http.client.IncompleteRead),
    ):
        response.read()


def test_stall_hangs_until_the_client_goes_or_the_node_stops(
    api: Any, node: SandboxNode, snapshot: tuple[str, bytes]
) -> None:
    path, content = snapshot
    node.faults.add("stall", path=".*snapshot", bytes=3000)
    with begun(api, path) as response:
        data, error = read_until_broken(response)
        assert data == content[:3000]
        assert isinstance(error, TimeoutError)
        started = time.monotonic()
        node.stop()
        assert time.monotonic() - started < 3


def test_reset_resets(api: Any, node: SandboxNode, snapshot: tuple[str, bytes]) -> None:
    path, content = snapshot
    node.faults.add("reset", path=".*snapshot", bytes=2000)
    with begun(api, path) as response:
        data, error = read_until_broken(response)
    assert content.startswith(data)
    assert len(data) <= 2000
    assert isinstance(error, ConnectionResetError)


def test_short_length_promises_more_than_there_is(api: Any, node: SandboxNode, snapshot: tuple[str, bytes]) -> None:
    path, content = snapshot
    node.faults.add("short_length", path=".*snapshot", bytes=7)
    with begun(api, path) as response:
        assert int(response.headers["Content-Length"]) == len(content) + 7
        with pytest.raises(http.client.IncompleteRead) as caught:
            response.read()
    assert caught.value.partial == content


def test_rate_throttles_downloads_and_uploads(api: Any, node: SandboxNode, snapshot: tuple[str, bytes]) -> None:
    path, content = snapshot
    rate = len(content) / 0.4
    node.faults.add("rate", method="GET", path=".*snapshot", rate=rate)
    started = time.monotonic()
    assert api("GET", path).content == content
    assert 0.35 < time.monotonic() - started < 2
    node.faults.add("rate", method="POST", path=".*upload", rate=rate, on="request")
    started = time.monotonic()
    assert api.upload("/collections/copy/snapshots/upload", content).result is True
    assert 0.35 < time.monotonic() - started < 3


def test_flip_changes_one_byte(api: Any, node: SandboxNode, snapshot: tuple[str, bytes]) -> None:
    path, content = snapshot
    node.faults.add("flip", path=".*snapshot", offset=1234, times=1)
    changed = api("GET", path).content
    assert [at for at in range(len(content)) if changed[at] != content[at]] == [1234]
    assert len(changed) == len(content)
    assert api("GET", path).content == content


def test_lie_checksum_lies_in_create_and_list(api: Any, node: SandboxNode, snapshot: tuple[str, bytes]) -> None:
    honest = api("GET", "/collections/shop/snapshots").result[0]
    node.faults.add("lie_checksum", path=".*/snapshots")
    listed = api("GET", "/collections/shop/snapshots").result[0]
    assert listed["checksum"] != honest["checksum"]
    assert len(listed["checksum"]) == 64
    assert listed | {"checksum": honest["checksum"]} == honest
    made = api("POST", "/collections/shop/shards/0/snapshots").result
    node.faults.clear()
    assert api("GET", "/collections/shop/shards/0/snapshots").result[0]["checksum"] != made["checksum"]


def test_drop_result_does_the_work_but_never_answers(api: Any, node: SandboxNode, fill: Any) -> None:
    fill(api, count=5)
    node.faults.add("drop_result", method="POST", path=".*/snapshots", times=1)
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        api("POST", "/collections/shop/snapshots")
    assert len(api("GET", "/collections/shop/snapshots").result) == 1


@pytest.mark.parametrize("action", ["truncate", "reset"])
def test_an_upload_that_is_cut_changes_nothing(
    api: Any, node: SandboxNode, snapshot: tuple[str, bytes], action: str
) -> None:
    node.faults.add(action, path=".*upload", bytes=10_000, on="request", times=1)
    with pytest.raises((http.client.HTTPException, OSError)):
        api.upload("/collections/copy/snapshots/upload", snapshot[1] * 20)
    assert api("GET", "/collections/copy/exists").result == {"exists": False}
    assert list((node.snapshots_path.parent / "tmp").iterdir()) == []
    assert api.upload("/collections/copy/snapshots/upload", snapshot[1]).result is True


def test_a_recovery_from_a_faulty_source_changes_nothing(
    api: Any,
    node: SandboxNode,
    make_node: Callable[..., SandboxNode],
    client: Any,
    snapshot: tuple[str, bytes],
    same: Any,
) -> None:
    path, _ = snapshot
    other = client(make_node().url)
    assert other.upload("/collections/copy/snapshots/upload", snapshot[1]).result is True
    before = other.scroll("copy")
    honest = api("GET", "/collections/shop/snapshots").result[0]["checksum"]
    asked = {"location": node.url + path, "checksum": honest}
    for action, settings, status in (
        ("truncate", {"bytes": 9000}, 500),
        ("reset", {"bytes": 9000}, 500),
        ("status", {"status": 503}, 400),
        ("flip", {"offset": 700}, 400),
    ):
        node.faults.replace([])
        node.faults.add(action, method="GET", path=".*snapshot", **settings)
        assert other("PUT", "/collections/copy/snapshots/recover", asked).status == status, action
    node.faults.clear()
    assert same(other.scroll("copy"), before)
    assert other("PUT", "/collections/copy/snapshots/recover", asked).result is True


def test_rules_are_set_over_http_and_counted(api: Any, node: SandboxNode) -> None:
    rules = [{"method": "GET", "path": "/coll.*", "action": "status", "status": 418, "times": 1}]
    assert api("POST", "/sandbox/faults", rules).status == 200
    assert [api("GET", "/collections").status for _ in range(2)] == [418, 200]
    [rule] = api("GET", "/sandbox/faults").result
    assert rule["seen"] == 2
    assert rule["fired"] == 1
    assert rules[0].items() <= rule.items()
    assert api("DELETE", "/sandbox/faults").result is True
    assert api("GET", "/sandbox/faults").result == []


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"action": "explode"},
        {"action": "delay"},
        {"action": "stall", "bytes": -1},
        {"action": "rate", "rate": 0},
        {"action": "status", "status": "x"},
        {"action": "drop_result", "path": "("},
        {"action": "die", "colour": 1},
        7,
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(api: Any, rule: Any) -> None:
    assert api("POST", "/sandbox/faults", [rule]).status == 400
    assert api("GET", "/sandbox/faults").result == []
    with pytest.raises(ValueError, match=r".+"):
        FaultRule.from_json(rule)


def test_the_log_tells_what_was_asked_and_sent(api: Any, node: SandboxNode, snapshot: tuple[str, bytes]) -> None:
    path, content = snapshot
    node.clear_log()
    api("GET", path)
    api("POST", "/collections/nope/snapshots?wait=true")
    api("GET", "/sandbox/log")
    download, create = node.log()
    assert download == {"method": "GET", "path": path, "query": "", "status": 200, "bytes": len(content)}
    assert (create["method"], create["path"], create["query"]) == (
        "POST",
        "/collections/nope/snapshots",
        "wait=true",
    )
    assert create["status"] == 404
    assert api("GET", "/sandbox/log").result == node.log()


class Process:
    """A node as a process of its own."""

    def __init__(self, data: Path, *more: str) -> None:
        command = [sys.executable, "-m", "apps.sandbox", "--data", str(data), *more]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self.process.stdout is not None
        self.ready = json.loads(self.process.stdout.readline())
        self.url = self.ready["url"]

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def test_a_process_dies_on_a_fault_and_has_its_data_after_a_restart(
    tmp_path: Path, client: Any, fill: Any, same: Any
) -> None:
    with Process(tmp_path / "data", "--api-key", "secret") as process:
        api = client(process.url, {"api-key": "secret"})
        assert client(process.url)("GET", "/collections").status == 401
        points = fill(api, count=30)
        path = api("POST", "/collections/shop/snapshots").result["name"]
        rule = {"action": "die", "method": "GET", "path": ".*snapshot", "bytes": 1000}
        assert api("POST", "/sandbox/faults", [rule]).status == 200
        with pytest.raises((http.client.HTTPException, OSError)):
            api("GET", f"/collections/shop/snapshots/{path}")
        assert process.process.wait(5) == 137
    with Process(tmp_path / "data", "--api-key", "secret") as process:
        api = client(process.url, {"api-key": "secret"})
        assert same(api.scroll("shop"), points)
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(10) == 0


def test_a_process_ends_with_its_parent(tmp_path: Path) -> None:
    script = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-m', 'apps.sandbox', '--data', sys.argv[1],"
        " '--parent-pid', str(os.getpid())], stdout=subprocess.PIPE)\n"
        "print(child.stdout.readline().decode(), end='', flush=True)\n"
        "os._exit(0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "data")],
        cwd=ROOT,
        capture_output=True,
        timeout=20,
        check=True,
    )
    ready = json.loads(done.stdout)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and os.path.exists(f"/proc/{ready['pid']}"):
        time.sleep(0.05)
    port = int(ready["url"].rpartition(":")[2])
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
