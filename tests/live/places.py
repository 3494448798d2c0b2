"""A cluster of three nodes and a node alone, sandbox or real, as the tests of clusters use them."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from apps.sandbox import SandboxCluster, SandboxNode
from tests.support import wait_until

#: REST addresses of the nodes of one real cluster, comma separated; and of a real node that is alone.
URLS = [url.strip().rstrip("/") for url in os.environ.get("QDRANT_URLS", "").split(",") if url.strip()]
URL = os.environ.get("QDRANT_URL", "").rstrip("/")
#: REST address of a real node that runs in cluster mode, and is the only one of its cluster.
LONE_URL = os.environ.get("QDRANT_LONE_URL", "").rstrip("/")
KEY = os.environ.get("QDRANT_API_KEY", "")
#: A program that takes `kill N` and `up N` for the Nth of QDRANT_URLS, for the tests in which a node dies.
CONTROL = os.environ.get("QDRANT_CONTROL", "")


@dataclass
class Nodes:
    """Some nodes that belong together, spoken to over plain HTTP."""

    urls: list[str]
    kill: Callable[[int], None] | None = None
    up: Callable[[int], None] | None = None
    sandbox: SandboxCluster | None = None
    made: list[str] = field(default_factory=list)

    def name(self) -> str:
        """Return a name that nobody else uses; the collection is removed in the end."""
        self.made.append(f"backupmgr-test-{secrets.token_hex(4)}")
        return self.made[-1]

    def call(self, method: str, path: str, body: Any = None, node: int = 0) -> Any:
        answer = requests.request(method, self.urls[node] + path, json=body, headers={"api-key": KEY}, timeout=60)
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()["result"]

    def exists(self, name: str) -> bool:
        return bool(self.call("GET", f"/collections/{name}/exists")["exists"])

    def delete(self, name: str) -> None:
        self.call("DELETE", f"/collections/{name}")
        wait_until(
            lambda: all(not self.call("GET", f"/collections/{name}/exists", node=n)["exists"] for n in self.numbers),
            what="the end of the collection on every node",
        )

    @property
    def numbers(self) -> range:
        return range(len(self.urls))

    # What is there

    def placement(self, name: str, node: int) -> dict[str, Any]:
        return dict(self.call("GET", f"/collections/{name}/cluster", node=node))

    def replicas(self, name: str) -> dict[int, dict[int, str]]:
        """Return the state of each replica as the node that has it tells it: by shard, then by node."""
        found: dict[int, dict[int, str]] = {}
        for number in self.numbers:
            for shard in self.placement(name, number)["local_shards"]:
                found.setdefault(shard["shard_id"], {})[number] = shard["state"]
        return dict(sorted(found.items()))

    def is_settled(self, name: str) -> bool:
        """Say whether every node sees every replica Active, and no transfer."""
        views = [self.placement(name, number) for number in self.numbers]
        shards = [shard for view in views for shard in view["local_shards"] + view["remote_shards"]]
        return all(one["state"] == "Active" for one in shards) and not any(view["shard_transfers"] for view in views)

    def keys(self, name: str) -> dict[Any, list[int]]:
        """Return the ids of the shards of each key, the key None without custom sharding."""
        found: dict[Any, set[int]] = {}
        for number in self.numbers:
            view = self.placement(name, number)
            for shard in view["local_shards"] + view["remote_shards"]:
                found.setdefault(shard.get("shard_key"), set()).add(shard["shard_id"])
        return {key: sorted(ids) for key, ids in found.items()}

    def points(self, name: str, key: Any, node: int = 0) -> list[dict[str, Any]]:
        """Return every point of a key with payload and vectors, by id."""
        found: list[dict[str, Any]] = []
        offset = None
        while True:
            body = {"limit": 250, "with_payload": True, "with_vector": True, "offset": offset}
            if key is not None:
                body["shard_key"] = key
            page = self.call("POST", f"/collections/{name}/points/scroll", body, node=node)
            found += page["points"]
            offset = page["next_page_offset"]
            if offset is None:
                return sorted(found, key=lambda point: str(point["id"]))

    def replica_counts(self, name: str) -> dict[int, list[int]]:
        """Return the exact count of every replica by shard."""
        found: dict[int, list[int]] = {}
        for shard_id, nodes in self.replicas(name).items():
            path = f"/collections/{name}/shards/{shard_id}/points/count"
            for number in nodes:
                found.setdefault(shard_id, []).append(self.call("POST", path, {"exact": True}, node=number)["count"])
        return found

    def facts(self, name: str) -> dict[str, Any]:
        """Return what a restore must bring back: config, schema, keys with ids, points key by key, counts."""
        info = self.call("GET", f"/collections/{name}")
        schema = {one: {k: v for k, v in had.items() if k != "points"} for one, had in info["payload_schema"].items()}
        keys = self.keys(name)
        counts = self.replica_counts(name)
        assert all(len(set(some)) == 1 for some in counts.values()), f"replicas differ: {counts}"
        return {
            "config": info["config"],
            "schema": schema,
            "keys": keys,
            "counts": {shard_id: some[0] for shard_id, some in counts.items()},
            "points": {key: self.points(name, key) for key in keys},
        }

    def snapshots(self, name: str) -> list[str]:
        """Return the names of all snapshots of the collection and its shards, of all nodes."""
        found = []
        for number in self.numbers:
            paths = [f"/collections/{name}/snapshots"]
            for shard in self.placement(name, number)["local_shards"]:
                paths.append(f"/collections/{name}/shards/{shard['shard_id']}/snapshots")
            found += [one["name"] for path in paths for one in self.call("GET", path, node=number)]
        return found


@dataclass(frozen=True)
class Place:
    """Where a test runs: a cluster of three nodes, one node that is alone, and a cluster of one node."""

    three: Nodes
    one: Nodes
    lone: Nodes


@contextmanager
def sandbox_place(folder: Path) -> Iterator[Place]:
    """Start a sandbox cluster and a sandbox node."""
    with ExitStack() as stack:
        cluster = stack.enter_context(SandboxCluster(folder / "three"))
        node = stack.enter_context(SandboxNode(folder / "one"))
        lone = stack.enter_context(SandboxCluster(folder / "lone", nodes=1))

        def kill(number: int) -> None:
            cluster.stop(number, grace_seconds=0)

        three = Nodes(cluster.urls, kill, lambda number: void(cluster.start(number)), cluster)
        yield Place(three, Nodes([node.url]), Nodes(list(lone.urls), sandbox=lone))


@contextmanager
def real_place() -> Iterator[Place]:
    """Use the nodes of QDRANT_URLS and QDRANT_URL; the collections that a test made are removed in the end."""

    def control(action: str) -> Callable[[int], None] | None:
        if not CONTROL:
            return None

        def do(number: int) -> None:
            subprocess.run([CONTROL, action, str(number)], check=True, timeout=60)
            time.sleep(0.2)

        return do

    place = Place(Nodes(URLS, control("kill"), control("up")), Nodes([URL]), Nodes([LONE_URL] if LONE_URL else []))
    try:
        yield place
    finally:
        places = [some for some in (place.three, place.one, place.lone) if some.urls]
        for nodes in places:
            for name in nodes.made:
                for one in places:
                    requests.delete(f"{one.urls[0]}/collections/{name}", headers={"api-key": KEY}, timeout=60)


def void(value: object) -> None:
    """Return nothing of what a call gives."""
