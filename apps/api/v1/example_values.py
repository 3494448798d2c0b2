"""Rows and answers that several examples share."""

from __future__ import annotations

from typing import Any

AT = "2026-08-01T02:00:00Z"
SHA = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
CLUSTER = "2f1b6c1e-6f0e-4d0b-9a53-0d8c2b8f4a11"
STORAGE = "8d0a4f6c-3d5e-4a0c-8f77-5f2b7f1f6c22"
JOB = "6f1c2f6e-8c1d-4b6e-9d7a-3e5a4c2b1d33"
BACKUP = "b7e9d2a4-1c3f-4e5d-8a6b-7c8d9e0f1a44"
SNAPSHOT = f"20260801T020000Z-{JOB}"
ON_NODE = "films-shard-0-2026-08-01-02-00-00.snapshot"

CHANNEL: dict[str, Any] = {
    "id": "5f0e9c1a-2b3c-4d5e-8f60-718293a4b5c6",
    "name": "ops",
    "kind": "webhook",
    "enabled": True,
    "is_default": True,
    "tell_success": False,
    "address": "https://hooks.example.com/…",
    "has_signing_key": True,
    "min_severity": "warning",
    "rules": [],
    "clusters": [],
    "collections": [],
    "tags": ["production"],
    "quiet_hours": "22:00-07:00",
    "schedules": [],
    "digest": "daily",
    "time_zone": "Europe/Berlin",
    "muted_until": None,
    "last_ok_at": AT,
    "last_error": "",
}
DELIVERY: dict[str, Any] = {
    "id": "0c9d8e7f-6a5b-4c3d-9e2f-1a0b9c8d7e6f",
    "channel": "ops",
    "kind": "alert",
    "state": "sent",
    "subject": "[backupmgr] films on main: It has never been backed up.",
    "attempts": 1,
    "error": "",
    "created_at": AT,
    "sent_at": AT,
}
INCIDENT: dict[str, Any] = {
    "id": "9b8a7c6d-5e4f-4a3b-8c2d-1e0f9a8b7c6d",
    "rule": "unprotected",
    "severity": "warning",
    "summary": "films on main: It has never been backed up.",
    "cluster": "main",
    "collection": "films",
    "opened_at": AT,
    "last_seen_at": AT,
    "resolved_at": None,
    "notified_at": AT,
    "acknowledged_at": None,
    "acknowledged_by": "",
}

JOB_DONE: dict[str, Any] = {
    "id": JOB,
    "type": "backup",
    "status": "completed",
    "cluster": "main",
    "collection_name": "films",
    "shard_id": None,
    "snapshot_name": SNAPSHOT,
    "storage_id": STORAGE,
    "backup_id": BACKUP,
    "target_cluster": None,
    "target_collection": None,
    "overwrite": False,
    "restore_aliases": False,
    "parent_id": None,
    "collections": [],
    "exclude_collections": [],
    "children": None,
    "policy_id": None,
    "keep_until": None,
    "options": {},
    "plan": None,
    "progress": 100,
    "phase": "",
    "bytes_done": 27472896,
    "bytes_total": 27472896,
    "rate_bytes_per_second": None,
    "eta_seconds": None,
    "attempt": 1,
    "next_attempt_at": None,
    "wait_reason": None,
    "cancel_requested": False,
    "error": None,
    "metadata": {"ticket": "OPS-7"},
    "created_at": AT,
    "started_at": "2026-08-01T02:00:01Z",
    "completed_at": "2026-08-01T02:00:09Z",
}
JOB_NEW: dict[str, Any] = JOB_DONE | {
    "status": "pending",
    "snapshot_name": None,
    "backup_id": None,
    "progress": 0,
    "bytes_done": 0,
    "bytes_total": 0,
    "attempt": 0,
    "started_at": None,
    "completed_at": None,
}
JOB_CANCELLED = JOB_NEW | {"status": "cancelled", "completed_at": "2026-08-01T02:00:05Z"}
RESTORE_NEW = JOB_NEW | {
    "type": "restore",
    "snapshot_name": SNAPSHOT,
    "backup_id": BACKUP,
    "target_cluster": "main",
    "target_collection": "films-restored",
    "metadata": {},
}
VERIFY_NEW = JOB_NEW | {
    "type": "verify",
    "snapshot_name": SNAPSHOT,
    "backup_id": BACKUP,
    "options": {"hashes_only": False},
    "metadata": {},
}
VERIFICATION = {
    "id": "c1d2e3f4-5a6b-4c7d-8e9f-0a1b2c3d4e55",
    "kind": "opened",
    "result": "ok",
    "created_at": "2026-08-01T03:00:04Z",
    "by": "ops",
    "job_id": JOB,
    "method": "The SHA-256 of 1 part (26.2 MiB) compared with the manifest; each opened in Qdrant's engine "
    "(qdrant-edge 0.9.0), 20,000 points counted, 100 points read.",
    "reason": "",
    "points_compared": 0,
    "details": {
        "engine": "0.9.0",
        "parts": [
            {
                "shard_id": 0,
                "size_bytes": 27472896,
                "points": 20000,
                "segments": 4,
                "points_read": 100,
                "seconds": 0.731,
            }
        ],
    },
}
STORAGE_SHOWN: dict[str, Any] = {
    "id": STORAGE,
    "name": "offsite",
    "type": "s3",
    "path": None,
    "s3_endpoint": "https://s3.eu-central-1.amazonaws.com",
    "s3_bucket": "qdrant-backups",
    "s3_region": "eu-central-1",
    "s3_access_key": "********MPLE",
    "s3_prefix": "",
    "s3_addressing_style": "auto",
    "verify_tls": True,
    "ca": "",
    "is_default": True,
    "max_jobs": 4,
    "created_at": AT,
    "updated_at": AT,
}
FOLDER_BODY = {"name": "nas", "type": "local", "path": "/srv/backups"}
S3_BODY = {
    "name": "offsite",
    "type": "s3",
    "s3_endpoint": "https://s3.eu-central-1.amazonaws.com",
    "s3_bucket": "qdrant-backups",
    "s3_region": "eu-central-1",
    "s3_access_key": "AKIAIOSFODNN7EXAMPLE",
    "s3_secret_key": "the secret key",
}
CLUSTER_SHOWN: dict[str, Any] = {
    "id": CLUSTER,
    "name": "main",
    "url": "http://qdrant-0:6333",
    "urls": ["http://qdrant-0:6333", "http://qdrant-1:6333"],
    "nodes": {},
    "has_api_key": True,
    "has_restore_api_key": False,
    "verify_tls": True,
    "ca": "",
    "is_default": True,
    "max_jobs": 2,
    "max_jobs_per_node": 1,
    "created_at": AT,
    "updated_at": AT,
}
MISSING = (
    "Peer 2190154863091733 (http://10.0.0.2:6335/) has no REST address here, so shards that only it holds cannot be "
    "reached: add its address. http://10.0.0.2:6333 may be it."
)
CLUSTER_TESTED: dict[str, Any] = {
    "success": False,
    "message": MISSING,
    "version": "1.18.3",
    "peer_id": 8744961036220313,
    "distributed": True,
    "nodes": [
        {
            "peer_id": 2190154863091733,
            "url": "",
            "uri": "http://10.0.0.2:6335/",
            "version": None,
            "is_leader": False,
            "is_voter": None,
            "is_usable": False,
            "suggested_url": "http://10.0.0.2:6333",
        },
        {
            "peer_id": 8744961036220313,
            "url": "http://10.0.0.1:6333",
            "uri": "http://10.0.0.1:6335/",
            "version": "1.18.3",
            "is_leader": True,
            "is_voter": True,
            "is_usable": True,
            "suggested_url": "",
        },
    ],
    "problems": [
        {
            "kind": "peer_without_address",
            "message": MISSING,
            "is_error": True,
            "blocks": False,
            "url": None,
            "peer_id": 2190154863091733,
        }
    ],
    "keys": [
        {"purpose": "backup", "verdict": "fine", "message": "The API key may make snapshots."},
        {"purpose": "restore", "verdict": "fine", "message": "The API key may restore."},
    ],
    "advisories": [
        {
            "id": "overlapping-recoveries",
            "operations": ["restore", "recover"],
            "effect": "data",
            "consequence": "Two recoveries of one shard at the same time are not kept apart.",
            "advice": "Only one restore runs on a collection here; do not recover it by other means meanwhile.",
            "fixed_in": "1.19.0",
            "sources": ["https://github.com/qdrant/qdrant/pull/10026"],
        }
    ],
}
BACKUP_SHOWN: dict[str, Any] = {
    "id": BACKUP,
    "snapshot_name": SNAPSHOT,
    "status": "completed",
    "status_reason": "",
    "cluster": "main",
    "cluster_id": CLUSTER,
    "collection_name": "films",
    "shard_id": None,
    "storage": "offsite",
    "storage_id": STORAGE,
    "path": f"main/films/{SNAPSHOT}",
    "size_bytes": 27472896,
    "points_count": 20000,
    "shard_count": 1,
    "qdrant_version": "1.18.3",
    "manifest_sha256": SHA,
    "job_id": JOB,
    "started_at": AT,
    "created_at": "2026-08-01T02:00:09Z",
    "proof": None,
    "checked_at": None,
    "opened_at": None,
    "restored_at": None,
    "policy_id": None,
    "keep_until": None,
    "locked_until": None,
    "expired_at": None,
    "expire_reason": "",
    "delete_at": None,
}
PART = {
    "shard_id": 0,
    "key": f"main/films/{SNAPSHOT}/shard-0.snapshot",
    "size_bytes": 27472896,
    "sha256": SHA,
    "points_count": 20000,
}
ORIGIN = {
    "nodes": [{"peer_id": 8744961036220313, "url": "http://qdrant-0:6333", "version": "1.18.3"}],
    "keys": [],
    "replicas": [
        {"shard_id": 0, "peer_id": 8744961036220313, "state": "Active", "taken": True, "why": "it has the only replica"}
    ],
}
TOKEN_SHOWN: dict[str, Any] = {
    "id": "c4d5e6f7-2a3b-4c5d-8e9f-0a1b2c3d4e55",
    "name": "nightly-backup",
    "prefix": "3f9a1c7e5b20",
    "scope": "operate",
    "user": "ops",
    "created_at": AT,
    "expires_at": "2027-08-01T02:00:00Z",
    "last_used_at": None,
    "revoked_at": None,
}
SNAPSHOT_SHOWN = {"name": ON_NODE, "creation_time": AT, "size": 27472896, "checksum": SHA}
RECOVER = {
    "location": f"s3://offsite/main/films/{SNAPSHOT}/shard-0.snapshot",
    "priority": "snapshot",
    "checksum": SHA,
}
OPERATION: dict[str, Any] = {
    "id": "d5e6f7a8-3b4c-4d5e-9f0a-1b2c3d4e5f66",
    "kind": "create_snapshot",
    "status": "completed",
    "cluster": "main",
    "node": None,
    "collection_name": "films",
    "shard_id": 0,
    "snapshot_name": ON_NODE,
    "snapshot": SNAPSHOT_SHOWN,
    "error": None,
    "created_at": AT,
    "started_at": AT,
    "completed_at": "2026-08-01T02:00:01Z",
}
ORPHAN: dict[str, Any] = {
    "id": "f7a8b9c0-5d6e-4f7a-8b2c-3d4e5f6a7b88",
    "kind": "backup",
    "state": "open",
    "cluster": None,
    "storage": "offsite",
    "node": "",
    "name": f"main/films/{SNAPSHOT}",
    "collection_name": "films",
    "shard_id": None,
    "job_id": JOB,
    "backup_id": None,
    "size_bytes": 27472896,
    "is_ours": False,
    "reason": "The storage holds this backup and the catalogue does not know it: adopt it to restore from it.",
    "first_seen_at": AT,
    "last_seen_at": "2026-08-02T08:00:00Z",
    "ended_at": None,
}
RECONCILIATION: dict[str, Any] = {
    "id": "a8b9c0d1-6e7f-4a8b-9c3d-4e5f6a7b8c99",
    "status": "completed",
    "trigger": "request",
    "places": [
        {
            "kind": "storage",
            "id": STORAGE,
            "name": "offsite",
            "error": "",
            "looked_at": 42,
            "orphans": 1,
            "cleaned": 0,
        }
    ],
    "found": 1,
    "cleaned": 0,
    "error": None,
    "created_at": AT,
    "started_at": "2026-08-01T02:00:05Z",
    "completed_at": "2026-08-01T02:00:09Z",
}
LEFTOVER: dict[str, Any] = {
    "id": "e6f7a8b9-4c5d-4e6f-8a1b-2c3d4e5f6a77",
    "kind": "backup",
    "subject": f"the backup in main/films/{SNAPSHOT}",
    "cluster": None,
    "storage": "offsite",
    "backup_id": BACKUP,
    "job_id": JOB,
    "reason": "",
    "tries": 3,
    "last_error": "No connection to the S3 storage https://s3.eu-central-1.amazonaws.com (bucket qdrant-backups): "
    "check the endpoint, and that the service runs.",
    "created_at": AT,
    "next_try_at": "2026-08-01T02:02:40Z",
}
DELETED_BACKUP: dict[str, Any] = {
    "id": "f7a8b9c0-5d6e-4f7a-8b2c-3d4e5f6a7b88",
    "backup_id": BACKUP,
    "snapshot_name": SNAPSHOT,
    "collection_name": "films",
    "shard_id": None,
    "cluster": "main",
    "storage": "offsite",
    "path": f"main/films/{SNAPSHOT}",
    "taken_at": AT,
    "size_bytes": 27472896,
    "points_count": 120034,
    "parts_count": 2,
    "manifest_sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "job_id": JOB,
    "schedule_id": None,
    "reason": "Retention: daily: no-rule-keeps-it",
    "let_go_at": "2026-08-09T02:05:00Z",
    "retention_run_id": "0a1b2c3d-4e5f-4a6b-8c7d-8e9f0a1b2c3d",
    "policy_id": "1b2c3d4e-5f6a-4b7c-8d8e-9f0a1b2c3d4e",
    "policy": "daily",
    "policy_version": 3,
    "policy_rules": {"keep_daily": 7, "keep_weekly": 4, "min_redundancy": 2},
    "deleted_by": "",
    "asked_at": "2026-08-10T02:05:00Z",
    "erased_at": "2026-08-10T02:05:03Z",
    "created_at": "2026-08-10T02:05:03Z",
}
KEPT_COLLECTION: dict[str, Any] = {
    "id": "a4b5c6d7-6e7f-4a8b-9c1d-4e5f6a7b8c99",
    "cluster": "main",
    "collection_name": "films",
    "replaced_by": "films-20260801T021500Z",
    "aliases": ["films-live"],
    "points_count": 120034,
    "job_id": JOB,
    "created_at": AT,
    "switched_at": "2026-08-01T02:02:41Z",
}


def page_of(*items: Any) -> dict[str, Any]:
    return {"items": list(items), "total": len(items), "page": 1, "limit": 20}
