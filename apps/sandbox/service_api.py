"""Endpoints of the node itself: who it is, how it is, what it measures."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .collection import Collection
from .errors import QdrantError
from .messages import Json, Request, Text
from .placement import ACTIVE
from .reach import info
from .routing import Router
from .snapshots import Snapshots
from .store import Store

VERSION = "1.18.3"
# Not a commit of Qdrant: there is none behind this node.
_COMMIT = "0" * 40
_OPEN_FILES = Path("/proc/self/fd")


class ServiceApi:
    """What monitors and version checks ask for. `version` is asked anew each time: a test may change it."""

    def __init__(self, store: Store, snapshots: Snapshots, version: Callable[[], str]) -> None:
        self._store = store
        self._snapshots = snapshots
        self._version = version
        self._ready = False
        self._started = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"

    def register(self, router: Router) -> None:
        """Add the endpoints."""
        router.add("GET", "/", self.root, access="open")
        for path in ("/healthz", "/livez"):
            router.add("GET", path, lambda _: Text(200, "healthz check passed"), access="open")
        router.add("GET", "/readyz", self.readyz, access="open")
        router.add("GET", "/cluster", lambda _: {"status": "disabled"})
        router.add("GET", "/issues", lambda _: {"issues": []})
        router.add("DELETE", "/issues", lambda _: True, access="manage")
        router.add("GET", "/telemetry", self.telemetry)
        router.add("GET", "/metrics", self.metrics)

    def root(self, request: Request) -> Json:
        """Say what this is and which version of Qdrant it answers like."""
        return Json(200, {"title": "qdrant - vector search engine", "version": self._version(), "commit": _COMMIT})

    def readyz(self, request: Request) -> Text:
        """Say whether all replicas on this node are sound; once they were, it stays so until a restart."""
        me = self._store.peer_id
        states = {
            replicas[me]
            for collection in self._store.collections()
            for replicas in self._store.replicas(collection).values()
            if me in replicas
        }
        self._ready = self._ready or states <= {"Active", "ReshardingScaleDown", "Listener"}
        return Text(200, "all shards are ready") if self._ready else Text(503, "some shards are not ready")

    def telemetry(self, request: Request) -> dict[str, Any]:
        """Return the parts of the telemetry a client watches; more at details_level 2."""
        found = self._store.collections()
        collections: dict[str, Any] = {"number_of_collections": len(found)}
        level = request.query.get("details_level", "0")
        if level.isdecimal() and int(level) >= 2:
            collections["collections"] = [{"id": one.name, "config": one.config} for one in found]
            collections["snapshots"] = [
                {
                    "id": one.name,
                    "running_snapshots": self._snapshots.creating[one.name],
                    "running_snapshot_recovery": self._snapshots.recovering[one.name],
                    "total_snapshot_creations": self._snapshots.created[one.name],
                }
                for one in found
            ]
        return {
            "id": self._store.telemetry_id,
            "app": {"name": "qdrant", "version": self._version(), "startup": self._started},
            "collections": collections,
            "cluster": {"enabled": self._store.peers() is not None, "resharding_enabled": False},
            "requests": {"rest": {"responses": {}}, "grpc": {"responses": {}}},
        }

    def _points(self, collection: Collection) -> int:
        found = 0
        for target in self._store.targets(collection, None):
            with suppress(QdrantError):  # no replica of this shard can be asked
                found += info(target).points_count
        return found

    def metrics(self, request: Request) -> Text:
        """Return metrics in the text format of Prometheus."""
        found = self._store.collections()
        lines: list[str] = []

        def add(name: str, kind: str, text: str, samples: list[tuple[str, float]]) -> None:
            lines.extend([f"# HELP {name} {text}", f"# TYPE {name} {kind}"])
            lines.extend(f"{name}{labels} {value}" for labels, value in samples)

        def each(value: Any) -> list[tuple[str, float]]:
            return [(f'{{id="{_escaped(one.name)}"}}', value(one)) for one in found]

        app = f'{{name="qdrant",version="{self._version()}"}}'
        peers = self._store.peers()
        states = [
            list(replicas.values()) for collection in found for replicas in self._store.replicas(collection).values()
        ]
        active = [sum(state in ACTIVE for state in one) for one in states]
        add("app_info", "gauge", "information about qdrant server", [(app, 1)])
        add("app_status_recovery_mode", "gauge", "features enabled in qdrant server", [("", 0)])
        add("collections_total", "gauge", "number of collections", [("", len(found))])
        points = {one.name: self._points(one) for one in found}
        add(
            "collections_vector_total",
            "gauge",
            "total number of vectors in all collections",
            [("", sum(points.values()))],
        )
        if found:
            add(
                "collection_points",
                "gauge",
                "approximate amount of points per collection",
                each(lambda one: points[one.name]),
            )
        add(
            "collection_active_replicas_min",
            "gauge",
            "minimum number of active replicas across all shards",
            [("", min(active, default=0))],
        )
        add(
            "collection_active_replicas_max",
            "gauge",
            "maximum number of active replicas across all shards",
            [("", max(active, default=0))],
        )
        add(
            "collection_dead_replicas",
            "gauge",
            "total amount of shard replicas in non-active state",
            [("", sum(map(len, states)) - sum(active))],
        )
        if found:
            add(
                "snapshot_creation_running",
                "gauge",
                "amount of snapshot creations that are currently running",
                each(lambda one: self._snapshots.creating[one.name]),
            )
            add(
                "snapshot_recovery_running",
                "gauge",
                "amount of snapshot recovery operations currently running",
                each(lambda one: self._snapshots.recovering[one.name]),
            )
            add(
                "snapshot_created_total",
                "counter",
                "total amount of snapshots created",
                each(lambda one: self._snapshots.created[one.name]),
            )
        add("cluster_enabled", "gauge", "is cluster support enabled", [("", int(peers is not None))])
        if peers is not None:
            add("cluster_peers_total", "gauge", "total number of cluster peers", [("", len(peers))])
        add("process_threads", "gauge", "count of active threads", [("", threading.active_count())])
        add(
            "process_open_fds",
            "gauge",
            "count of currently open file descriptors",
            [("", len(list(_OPEN_FILES.iterdir())) if _OPEN_FILES.is_dir() else 0)],
        )
        return Text(200, "\n".join(lines) + "\n")


def _escaped(name: str) -> str:
    return name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
