"""A Qdrant node over its REST API, as any client of it would speak."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any
from urllib.parse import quote, urlsplit

import requests

from .compare import Picture, index_points
from .errors import DemoError

_PAGE = 1000
_SETTLE_SECONDS = 120.0


class Node:
    """One node. Every method raises DemoError with a sentence when it does not answer as it should."""

    def __init__(self, url: str, api_key: str = "") -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise DemoError("QDRANT_URL must be the REST address of a node, such as http://localhost:6333.")
        if parts.username or parts.password:
            raise DemoError("QDRANT_URL must not hold credentials: give the key as QDRANT_API_KEY.")
        self.url = url.rstrip("/")
        self._session = requests.Session()
        self._session.trust_env = False
        if api_key:
            self._session.headers["api-key"] = api_key

    def version(self) -> str:
        """Return the version; the listing of collections proves the key."""
        answer = self._request("GET", "/")
        self._request("GET", "/collections")
        version = answer.get("version") if isinstance(answer, dict) else None
        if not isinstance(version, str):
            raise DemoError(f"What answers at {self.url} is no Qdrant: check QDRANT_URL.")
        return version

    def create(self, name: str, config: dict[str, Any], indexes: dict[str, Any], alias: str) -> None:
        self._request("PUT", _path(name), config)
        for field, schema in indexes.items():
            self._request("PUT", f"{_path(name)}/index?wait=true", {"field_name": field, "field_schema": schema})
        if alias:
            action = {"create_alias": {"collection_name": name, "alias_name": alias}}
            self._request("POST", "/collections/aliases", {"actions": [action]})

    def load(
        self, name: str, points: Iterable[dict[str, Any]], moved: Callable[[int], None], batch_size: int = 500
    ) -> None:
        """Insert points, batch by batch; `moved` hears how many went in."""
        rest = iter(points)
        while batch := list(islice(rest, batch_size)):
            self._request("PUT", f"{_path(name)}/points?wait=true", {"points": batch})
            moved(len(batch))

    def settle(self, name: str) -> None:
        """Wait until the node has nothing left to do on the collection."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        while time.monotonic() < deadline:
            found = self._request("GET", _path(name))["result"]
            if found["status"] == "green" and found["optimizer_status"] == "ok":
                return
            time.sleep(0.2)
        raise DemoError(f"The node did not finish optimizing {name!r} within {_SETTLE_SECONDS:.0f} seconds.")

    def picture(self, name: str, moved: Callable[[int], None] = lambda count: None) -> Picture:
        """Read everything there is to read: each point with payload and vectors, config, schema, aliases."""
        info = self._request("GET", _path(name))["result"]
        aliases = self._request("GET", f"{_path(name)}/aliases")["result"]["aliases"]
        try:
            points = index_points(self._scroll(name, moved))
        except ValueError as error:
            raise DemoError(f"The node cannot be trusted to list {name!r}: {error}.") from error
        return Picture(
            points=points,
            config=info["config"],
            payload_schema=info["payload_schema"],
            aliases=tuple(sorted(alias["alias_name"] for alias in aliases)),
        )

    def replicas(self, name: str) -> dict[int, tuple[str, int]]:
        """Return shard → state and exact count of each replica on this node."""
        local = self._request("GET", f"{_path(name)}/cluster")["result"]["local_shards"]
        return {
            shard["shard_id"]: (
                shard["state"],
                self._request("POST", f"{_path(name)}/shards/{shard['shard_id']}/points/count", {"exact": True})[
                    "result"
                ]["count"],
            )
            for shard in local
        }

    def exists(self, name: str) -> bool:
        return bool(self._request("GET", f"{_path(name)}/exists")["result"]["exists"])

    def delete(self, name: str) -> None:
        """Delete the collection, and its aliases with it; nothing happens when there is none."""
        self._request("DELETE", _path(name))

    def log(self) -> list[dict[str, Any]]:
        """Return the last requests that the node answered. Sandbox only."""
        return list(self._request("GET", "/sandbox/log")["result"])

    def clear_log(self) -> None:
        self._request("DELETE", "/sandbox/log")

    def _scroll(self, name: str, moved: Callable[[int], None]) -> Iterator[dict[str, Any]]:
        offset: Any = None
        while True:
            body = {"limit": _PAGE, "with_payload": True, "with_vector": True, "offset": offset}
            page = self._request("POST", f"{_path(name)}/points/scroll", body)["result"]
            yield from page["points"]
            moved(len(page["points"]))
            offset = page["next_page_offset"]
            if offset is None:
                return

    def _request(self, method: str, path: str, body: Any = None) -> Any:
        try:
            answer = self._session.request(method, self.url + path, json=body, timeout=(5, 120))
        except requests.RequestException as error:
            raise DemoError(f"The Qdrant node at {self.url} cannot be reached ({_kind(error)}).") from error
        if answer.status_code in (401, 403):
            raise DemoError(f"The Qdrant node at {self.url} refuses the key: set QDRANT_API_KEY to one that may write.")
        try:
            document = answer.json()
        except ValueError as error:
            raise DemoError(
                f"What answers at {self.url} is no Qdrant (HTTP {answer.status_code}, no JSON): check QDRANT_URL."
            ) from error
        if answer.status_code != 200:
            status = document.get("status") if isinstance(document, dict) else None
            reason = status.get("error") if isinstance(status, dict) else f"HTTP {answer.status_code}"
            raise DemoError(f"The Qdrant node refused {method} {path.partition('?')[0]}: {reason}")
        return document


def _path(name: str) -> str:
    return f"/collections/{quote(name, safe='')}"


def _kind(error: requests.RequestException) -> str:
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.SSLError):
        return "its TLS certificate is not trusted"
    return "nothing listens there, or the connection broke"
