"""Endpoints of the node itself: who it is, how it is, what it measures."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .messages import Json, Request, Text
from .routing import Router
from .snapshots import Snapshots
from .store import Store

VERSION = "1.18.3"
# Not a commit of Qdrant: there is none behind this node.
_COMMIT = "0" * 40
_OPEN_FILES = Path("/proc/self/fd")


class ServiceApi:
    """What monitors and version checks ask for."""

    def __init__(self, store: Store, snapshots: Snapshots, version: str) -> None:
        self._store = store
        self._snapshots = snapshots
        self._version = version
        self._started = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"

    def register(self, router: Router) -> None:
        """Add the endpoints."""
        router.add("GET", "/", self.root, access="open")
        for path in ("/healthz", "/livez"):
            router.add("GET", path, lambda _: Text(200, "healthz check passed"), access="open")
        router.add("GET", "/readyz", lambda _: Text(200, "all shards are ready"), access="open")
        router.add("GET", "/cluster", lambda _: {"status": "disabled"})
        router.add("GET", "/issues", lambda _: {"issues": []})
        router.add("DELETE", "/issues", lambda _: True, access="manage")
        router.add("GET", "/telemetry", self.telemetry)
        router.add("GET", "/metrics", self.metrics)

    def root(self, request: Request) -> Json:
        """Say what this is and which version of Qdrant it answers like."""
        return Json(200, {"title": "qdrant - vector search engine", "version": self._version, "commit": _COMMIT})

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
            "app": {"name": "qdrant", "version": self._version, "startup": self._started},
            "collections": collections,
            "cluster": {"enabled": False, "resharding_enabled": False},
            "requests": {"rest": {"responses": {}}, "grpc": {"responses": {}}},
        }

    def metrics(self, request: Request) -> Text:
        """Return metrics in the text format of Prometheus."""
        found = self._store.collections()
        lines: list[str] = []

        def add(name: str, kind: str, text: str, samples: list[tuple[str, float]]) -> None:
            lines.extend([f"# HELP {name} {text}", f"# TYPE {name} {kind}"])
            lines.extend(f"{name}{labels} {value}" for labels, value in samples)

        def each(value: Any) -> list[tuple[str, float]]:
            return [(f'{{id="{_escaped(one.name)}"}}', value(one)) for one in found]

        info = f'{{name="qdrant",version="{self._version}"}}'
        replicas = int(bool(found))
        add("app_info", "gauge", "information about qdrant server", [(info, 1)])
        add("app_status_recovery_mode", "gauge", "features enabled in qdrant server", [("", 0)])
        add("collections_total", "gauge", "number of collections", [("", len(found))])
        points = {one.name: sum(shard.info().points_count for shard in one.shards.values()) for one in found}
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
            [("", replicas)],
        )
        add(
            "collection_active_replicas_max",
            "gauge",
            "maximum number of active replicas across all shards",
            [("", replicas)],
        )
        add(
            "collection_dead_replicas",
            "gauge",
            "total amount of shard replicas in non-active state",
            [("", 0)],
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
        add("cluster_enabled", "gauge", "is cluster support enabled", [("", 0)])
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
