"""Rows for the tests of the admin: what workers and operators would have made."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth.models import Group, User
from django.utils import timezone

from apps.backups.models import Backup, Part
from apps.clusters.models import Cluster
from apps.jobs.models import Job
from apps.storage.models import StorageConfig

#: Nothing listens there.
DEAD_URL = "http://127.0.0.1:9"


def person(group: str | None = None, *, name: str = "", superuser: bool = False) -> User:
    user = User.objects.create_user(
        name or group or "root", password="a-long-pass-phrase", is_staff=True, is_superuser=superuser
    )
    if group:
        user.groups.add(Group.objects.get(name=group))
    return user


def make_backup(cluster: Cluster, storage: StorageConfig, name: str = "products", **fields: Any) -> Backup:
    """A complete backup of two shards."""
    now = timezone.now()
    snapshot = fields.pop("snapshot_name", f"20261120-0200-{uuid.uuid4().hex[:8]}")
    created_at: datetime = fields.pop("created_at", now - timedelta(hours=1))
    parts = [
        {"shard_id": shard, "file": f"shard-{shard}.snapshot", "size_bytes": 512 * 1024, "sha256": f"{shard}" * 64,
         "etag": "", "snapshot": f"{name}-{shard}.snapshot"}
        for shard in (0, 1)
    ]  # fmt: skip
    manifest = {
        "format": 1,
        "product": "backupmgr",
        "backup": {"name": snapshot, "job_id": str(uuid.uuid4()), "attempt": 1, "shard_id": None,
                   "started_at": (created_at - timedelta(seconds=42)).isoformat(),
                   "created_at": created_at.isoformat()},
        "cluster": {"id": str(cluster.pk), "name": cluster.name},
        "node": {"version": "1.18.3", "peer_id": None},
        "collection": {"name": name, "config": {"params": {"vectors": {"size": 4, "distance": "Cosine"}}},
                       "payload_schema": {}, "aliases": ["shop"]},
        "shards": [{"shard_id": shard, "shard_key": None, "points_min": 1000, "points_max": 1000} for shard in (0, 1)],
        "parts": parts,
    }  # fmt: skip
    backup = Backup.objects.create(**{
        "storage": storage, "cluster": cluster, "cluster_name": cluster.name, "collection_name": name,
        "snapshot_name": snapshot, "path": f"{cluster.name}/{name}/{snapshot}", "size_bytes": 1024 * 1024,
        "points_count": 2000, "shard_count": 2, "qdrant_version": "1.18.3", "manifest": manifest,
        "manifest_sha256": "f" * 64, "started_at": created_at - timedelta(seconds=42), "created_at": created_at,
    } | fields)  # fmt: skip
    for part in parts:
        Part.objects.create(
            backup=backup, shard_id=part["shard_id"], key=f"{backup.path}/{part['file']}", size_bytes=512 * 1024,
            sha256=part["sha256"], points_count=1000,
        )  # fmt: skip
    return backup


def make_job(cluster: Cluster, storage: StorageConfig, name: str = "products", **fields: Any) -> Job:
    """A job as it lies in the table; nothing is queued."""
    now = timezone.now()
    defaults: dict[str, Any] = {
        "type": "backup", "status": "completed", "cluster": cluster, "collection_name": name, "storage": storage,
        "subject_cluster": cluster, "subject_collection": f"{name}-{uuid.uuid4().hex[:6]}", "not_before": now,
        "created_at": now - timedelta(minutes=5),
    }  # fmt: skip
    status = fields.get("status", "completed")
    if status != "pending":
        defaults |= {"started_at": now - timedelta(minutes=4), "attempt": 1}
    if status in ("completed", "failed", "cancelled"):
        defaults["completed_at"] = now - timedelta(minutes=2)
    if status == "completed":
        defaults |= {"bytes_done": 1024 * 1024, "bytes_total": 1024 * 1024}
    if fields.get("type", "backup").endswith("restore"):
        defaults |= {"target_cluster": cluster, "target_collection": name}
    return Job.objects.create(**(defaults | fields))
