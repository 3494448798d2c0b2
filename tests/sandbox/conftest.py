"""Fixtures of the sandbox's tests: nodes, genuine recordings, raw HTTP."""

from __future__ import annotations

import http.client
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from apps.sandbox import SandboxNode

RECORDINGS = Path(__file__).parent.parent / "recordings"


class Answer:
    """One response, read whole and undecoded."""

    def __init__(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.status, self.headers, self.content = status, headers, content

    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def result(self) -> Any:
        return self.json()["result"]

    @property
    def error(self) -> str:
        return self.json()["status"]["error"]


class Client:
    """HTTP without any kindness: no decoding, no retries, no added headers."""

    def __init__(self, url: str, headers: dict[str, str] | None = None) -> None:
        self._address = urlsplit(url)
        self._headers = headers or {}

    def __call__(self, method: str, target: str, data: Any = None, headers: dict[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection(self._address.hostname, self._address.port, timeout=30)
        sent = {**self._headers, **(headers or {})}
        if data is not None and not isinstance(data, bytes):
            data = json.dumps(data).encode()
            sent.setdefault("Content-Type", "application/json")
        try:
            connection.putrequest(method, target, skip_accept_encoding=True)
            for name, value in sent.items():
                connection.putheader(name, value)
            if data is not None:
                connection.putheader("Content-Length", str(len(data)))
            connection.endheaders(data)
            response = connection.getresponse()
            content = response.read()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, content)
        finally:
            connection.close()

    def upload(self, target: str, content: bytes, filename: str = "x.snapshot", field: str = "snapshot") -> Answer:
        body, kind = multipart(content, filename, field)
        return self("POST", target, body, {"Content-Type": kind})

    def scroll(self, collection: str, **more: Any) -> list[dict[str, Any]]:
        """Return all points of a collection with everything."""
        points: list[dict[str, Any]] = []
        offset = None
        while True:
            asked = {"limit": 250, "with_payload": True, "with_vector": True, "offset": offset, **more}
            page = self("POST", f"/collections/{collection}/points/scroll", asked).result
            points += page["points"]
            offset = page["next_page_offset"]
            if offset is None:
                return points

    def count(self, collection: str) -> int:
        return self("POST", f"/collections/{collection}/points/count", {"exact": True}).result["count"]


def multipart(content: bytes, filename: str, field: str) -> tuple[bytes, str]:
    head = (
        f'--limit\r\nContent-Disposition: form-data; name="{field}"; filename="{filename}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    return head.encode() + content + b"\r\n--limit--\r\n", "multipart/form-data; boundary=limit"


def almost_equal(one: Any, other: Any, tolerance: float = 1e-5) -> bool:
    """Compare JSON; numbers may differ a little."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(almost_equal(one[key], other[key], tolerance) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(almost_equal, one, other, [tolerance] * len(one)))
    if isinstance(one, float) or isinstance(other, float):
        numbers = isinstance(one, int | float) and isinstance(other, int | float)
        return numbers and math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance)
    return type(one) is type(other) and one == other


@pytest.fixture(scope="session")
def recordings() -> Path:
    return RECORDINGS


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[Callable[..., SandboxNode]]:
    """Start nodes, each in a directory of its own unless one is given; all are stopped in the end."""
    started: list[SandboxNode] = []

    def make(data_dir: Path | None = None, **settings: Any) -> SandboxNode:
        node = SandboxNode(data_dir or tmp_path / f"node-{len(started)}", **settings)
        started.append(node)
        return node.start()

    yield make
    for node in started:
        node.stop(grace_seconds=0.2)


@pytest.fixture
def node(make_node: Callable[..., SandboxNode]) -> SandboxNode:
    return make_node()


@pytest.fixture
def api(node: SandboxNode) -> Client:
    return Client(node.url)


@pytest.fixture
def client() -> type[Client]:
    return Client


@pytest.fixture
def same() -> Callable[..., bool]:
    return almost_equal


# On disk, because the engine fills the memory of others (32 MiB each) when it opens them: that is slow.
SHOP = {
    "vectors": {
        "text": {"size": 8, "distance": "Cosine", "on_disk": True},
        "image": {"size": 4, "distance": "Dot", "on_disk": True},
    },
    "sparse_vectors": {"words": {}},
    "shard_number": 2,
}


def shop_points(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Make points of every kind: numbers and UUIDs as ids, all vectors, nested payload."""
    return [
        {
            "id": number if number % 2 else f"00000000-0000-4000-8000-{number:012d}",
            "vector": {
                "text": [math.sin(number + at) for at in range(8)],
                "image": [float(at * number % 7) for at in range(4)],
                "words": {"indices": [number % 50, 100 + number % 7], "values": [0.25, 0.5]},
            },
            "payload": {
                "n": number,
                "city": ("Kyiv", "Łódź", "Berlin")[number % 3],
                "tags": ["a", {"b": None}],
            },
        }
        for number in range(start, start + count)
    ]


@pytest.fixture
def fill() -> Callable[..., list[dict[str, Any]]]:
    """Create a collection with points and indexes, and return all of its points as a scroll gives them."""

    def make(api: Client, name: str = "shop", count: int = 60, config: dict[str, Any] | None = None) -> Any:
        assert api("PUT", f"/collections/{name}", config or SHOP).status == 200
        for field, schema in (("city", "keyword"), ("n", {"type": "integer", "lookup": True, "range": True})):
            asked = {"field_name": field, "field_schema": schema}
            assert api("PUT", f"/collections/{name}/index?wait=true", asked).status == 200
        assert api("PUT", f"/collections/{name}/points?wait=true", {"points": shop_points(count)}).status == 200
        return api.scroll(name)

    return make
