"""Examples for the schema and for docs/api.md: what is sent, and what comes back as `result`, for each operation.

A test holds every one of them against the schema.
"""

from __future__ import annotations

from typing import Any

_AT = "2026-08-01T02:00:00Z"
_SHA = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_CLUSTER = "2f1b6c1e-6f0e-4d0b-9a53-0d8c2b8f4a11"
_STORAGE = "8d0a4f6c-3d5e-4a0c-8f77-5f2b7f1f6c22"
_JOB = "6f1c2f6e-8c1d-4b6e-9d7a-3e5a4c2b1d33"
_BACKUP = "b7e9d2a4-1c3f-4e5d-8a6b-7c8d9e0f1a44"
_SNAPSHOT = f"20260801T020000Z-{_JOB}"
_ON_NODE = "films-shard-0-2026-08-01-02-00-00.snapshot"

_CHANNEL: dict[str, Any] = {
    "id": "5f0e9c1a-2b3c-4d5e-8f60-718293a4b5c6",
    "name": "ops",
    "kind": "webhook",
    "enabled": True,
    "address": "https://hooks.example.com/…",
    "has_signing_key": True,
    "min_severity": "warning",
    "rules": [],
    "clusters": [],
    "schedules": [],
    "digest": "daily",
    "time_zone": "Europe/Berlin",
    "muted_until": None,
    "last_ok_at": _AT,
    "last_error": "",
}
_DELIVERY: dict[str, Any] = {
    "id": "0c9d8e7f-6a5b-4c3d-9e2f-1a0b9c8d7e6f",
    "channel": "ops",
    "kind": "alert",
    "state": "sent",
    "subject": "[backupmgr] films on main: It has never been backed up.",
    "attempts": 1,
    "error": "",
    "created_at": _AT,
    "sent_at": _AT,
}
_INCIDENT: dict[str, Any] = {
    "id": "9b8a7c6d-5e4f-4a3b-8c2d-1e0f9a8b7c6d",
    "rule": "unprotected",
    "severity": "warning",
    "summary": "films on main: It has never been backed up.",
    "cluster": "main",
    "collection": "films",
    "opened_at": _AT,
    "last_seen_at": _AT,
    "resolved_at": None,
    "notified_at": _AT,
    "acknowledged_at": None,
    "acknowledged_by": "",
}

_JOB_DONE: dict[str, Any] = {
    "id": _JOB,
    "type": "backup",
    "status": "completed",
    "cluster": "main",
    "collection_name": "films",
    "shard_id": None,
    "snapshot_name": _SNAPSHOT,
    "storage_id": _STORAGE,
    "backup_id": _BACKUP,
    "target_cluster": None,
    "target_collection": None,
    "overwrite": False,
    "restore_aliases": False,
    "parent_id": None,
    "collections": [],
    "exclude_collections": [],
    "children": None,
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
    "created_at": _AT,
    "started_at": "2026-08-01T02:00:01Z",
    "completed_at": "2026-08-01T02:00:09Z",
}
_JOB_NEW: dict[str, Any] = _JOB_DONE | {
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
_JOB_CANCELLED = _JOB_NEW | {"status": "cancelled", "completed_at": "2026-08-01T02:00:05Z"}
_RESTORE_NEW = _JOB_NEW | {
    "type": "restore",
    "snapshot_name": _SNAPSHOT,
    "backup_id": _BACKUP,
    "target_cluster": "main",
    "target_collection": "films-restored",
    "metadata": {},
}
_VERIFY_NEW = _JOB_NEW | {
    "type": "verify",
    "snapshot_name": _SNAPSHOT,
    "backup_id": _BACKUP,
    "options": {"hashes_only": False},
    "metadata": {},
}
_VERIFICATION = {
    "id": "c1d2e3f4-5a6b-4c7d-8e9f-0a1b2c3d4e55",
    "kind": "opened",
    "result": "ok",
    "created_at": "2026-08-01T03:00:04Z",
    "by": "ops",
    "job_id": _JOB,
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
_STORAGE_SHOWN: dict[str, Any] = {
    "id": _STORAGE,
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
    "created_at": _AT,
    "updated_at": _AT,
}
_FOLDER_BODY = {"name": "nas", "type": "local", "path": "/srv/backups"}
_S3_BODY = {
    "name": "offsite",
    "type": "s3",
    "s3_endpoint": "https://s3.eu-central-1.amazonaws.com",
    "s3_bucket": "qdrant-backups",
    "s3_region": "eu-central-1",
    "s3_access_key": "AKIAIOSFODNN7EXAMPLE",
    "s3_secret_key": "the secret key",
}
_CLUSTER_SHOWN: dict[str, Any] = {
    "id": _CLUSTER,
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
    "created_at": _AT,
    "updated_at": _AT,
}
_MISSING = (
    "Peer 2190154863091733 (http://10.0.0.2:6335/) has no REST address here, so shards that only it holds cannot be "
    "reached: add its address. http://10.0.0.2:6333 may be it."
)
_CLUSTER_TESTED: dict[str, Any] = {
    "success": False,
    "message": _MISSING,
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
            "message": _MISSING,
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
_BACKUP_SHOWN: dict[str, Any] = {
    "id": _BACKUP,
    "snapshot_name": _SNAPSHOT,
    "status": "completed",
    "status_reason": "",
    "cluster": "main",
    "cluster_id": _CLUSTER,
    "collection_name": "films",
    "shard_id": None,
    "storage": "offsite",
    "storage_id": _STORAGE,
    "path": f"main/films/{_SNAPSHOT}",
    "size_bytes": 27472896,
    "points_count": 20000,
    "shard_count": 1,
    "qdrant_version": "1.18.3",
    "manifest_sha256": _SHA,
    "job_id": _JOB,
    "started_at": _AT,
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
_PART = {
    "shard_id": 0,
    "key": f"main/films/{_SNAPSHOT}/shard-0.snapshot",
    "size_bytes": 27472896,
    "sha256": _SHA,
    "points_count": 20000,
}
_TOKEN_SHOWN: dict[str, Any] = {
    "id": "c4d5e6f7-2a3b-4c5d-8e9f-0a1b2c3d4e55",
    "name": "nightly-backup",
    "prefix": "3f9a1c7e5b20",
    "scope": "operate",
    "user": "ops",
    "created_at": _AT,
    "expires_at": "2027-08-01T02:00:00Z",
    "last_used_at": None,
    "revoked_at": None,
}
_SNAPSHOT_SHOWN = {"name": _ON_NODE, "creation_time": _AT, "size": 27472896, "checksum": _SHA}
_RECOVER = {
    "location": f"s3://offsite/main/films/{_SNAPSHOT}/shard-0.snapshot",
    "priority": "snapshot",
    "checksum": _SHA,
}
_OPERATION: dict[str, Any] = {
    "id": "d5e6f7a8-3b4c-4d5e-9f0a-1b2c3d4e5f66",
    "kind": "create_snapshot",
    "status": "completed",
    "cluster": "main",
    "node": None,
    "collection_name": "films",
    "shard_id": 0,
    "snapshot_name": _ON_NODE,
    "snapshot": _SNAPSHOT_SHOWN,
    "error": None,
    "created_at": _AT,
    "started_at": _AT,
    "completed_at": "2026-08-01T02:00:01Z",
}
_ORPHAN: dict[str, Any] = {
    "id": "f7a8b9c0-5d6e-4f7a-8b2c-3d4e5f6a7b88",
    "kind": "backup",
    "state": "open",
    "cluster": None,
    "storage": "offsite",
    "node": "",
    "name": f"main/films/{_SNAPSHOT}",
    "collection_name": "films",
    "shard_id": None,
    "job_id": _JOB,
    "backup_id": None,
    "size_bytes": 27472896,
    "is_ours": False,
    "reason": "The storage holds this backup and the catalogue does not know it: adopt it to restore from it.",
    "first_seen_at": _AT,
    "last_seen_at": "2026-08-02T08:00:00Z",
    "ended_at": None,
}
_RECONCILIATION: dict[str, Any] = {
    "id": "a8b9c0d1-6e7f-4a8b-9c3d-4e5f6a7b8c99",
    "status": "completed",
    "trigger": "request",
    "places": [
        {
            "kind": "storage",
            "id": _STORAGE,
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
    "created_at": _AT,
    "started_at": "2026-08-01T02:00:05Z",
    "completed_at": "2026-08-01T02:00:09Z",
}
_LEFTOVER: dict[str, Any] = {
    "id": "e6f7a8b9-4c5d-4e6f-8a1b-2c3d4e5f6a77",
    "kind": "backup",
    "subject": f"the backup in main/films/{_SNAPSHOT}",
    "cluster": None,
    "storage": "offsite",
    "backup_id": _BACKUP,
    "job_id": _JOB,
    "reason": "",
    "tries": 3,
    "last_error": "No connection to the S3 storage https://s3.eu-central-1.amazonaws.com (bucket qdrant-backups): "
    "check the endpoint, and that the service runs.",
    "created_at": _AT,
    "next_try_at": "2026-08-01T02:02:40Z",
}


def _page(*items: Any) -> dict[str, Any]:
    return {"items": list(items), "total": len(items), "page": 1, "limit": 20}


#: operationId → title → body.
BODIES: dict[str, dict[str, Any]] = {
    "createChannel": {
        "A signed webhook": {
            "name": "ops",
            "kind": "webhook",
            "address": "https://hooks.example.com/backupmgr",
            "signing_key": "a shared secret",
            "digest": "daily",
            "time_zone": "Europe/Berlin",
        }
    },
    "updateChannel": {"Every week instead": {"digest": "weekly"}},
    "acknowledgeIncident": {"Until Monday": {"muted_until": "2026-08-03T06:00:00Z"}},
    "createJob": {
        "Back up": {"type": "backup", "collection_name": "films", "metadata": {"ticket": "OPS-7"}},
        "Back up all collections": {"type": "backup", "collection_name": "*"},
        "Back up many of them": {
            "type": "backup",
            "collection_name": "*",
            "collections": ["films*", "users"],
            "exclude_collections": ["*_tmp"],
        },
        "Restore beside the original": {
            "type": "restore",
            "collection_name": "films",
            "snapshot_name": _SNAPSHOT,
            "target_collection": "films-restored",
        },
    },
    "createStorageConfig": {"Folder": _FOLDER_BODY, "S3": _S3_BODY},
    "testStorage": {"Folder": _FOLDER_BODY, "S3": _S3_BODY},
    "updateStorageConfig": {"Make it the default": {"is_default": True}},
    "createCluster": {
        "Standalone": {"name": "main", "url": "http://qdrant:6333"},
        "Many nodes": {
            "name": "main",
            "urls": ["http://qdrant-0:6333", "http://qdrant-1:6333", "http://qdrant-2:6333"],
            "api_key": "the key for backups",
            "restore_api_key": "the key for restores",
        },
    },
    "updateCluster": {"Another address": {"url": "http://qdrant-1:6333"}},
    "testCluster": {
        "Standalone": {"url": "http://qdrant:6333"},
        "Many nodes": {"urls": ["http://qdrant-0:6333", "http://qdrant-1:6333"]},
    },
    "createToken": {"For a script": {"name": "nightly-backup", "scope": "operate", "expires_days": 365}},
    "restoreBackup": {"Beside the original": {"target_collection": "films-restored"}},
    "verifyBackup": {"Open every part": {}, "Hashes only": {"hashes_only": True}},
    "recoverSnapshot": {
        "From another node": {
            "location": "http://qdrant-1:6333/collections/films/snapshots/films.snapshot",
            "priority": "snapshot",
            "api_key": "the other node's key",
        }
    },
    "recoverShardSnapshot": {"From a storage": _RECOVER},
}

#: operationId → `result` (GET /jobs: the whole answer) of a success.
ANSWERS: dict[str, Any] = {
    "listChannels": [_CHANNEL],
    "createChannel": _CHANNEL,
    "getChannel": _CHANNEL,
    "updateChannel": _CHANNEL | {"digest": "weekly"},
    "testChannel": _DELIVERY | {"kind": "test", "subject": "[backupmgr] Test: this channel works"},
    "listDeliveries": {"items": [_DELIVERY], "total": 1, "page": 1, "limit": 20},
    "listIncidents": {"items": [_INCIDENT], "total": 1, "page": 1, "limit": 20},
    "acknowledgeIncident": _INCIDENT | {"acknowledged_at": _AT, "acknowledged_by": "ana"},
    "listAuditEntries": {
        "items": [
            {
                "id": 4711,
                "at": "2026-08-01T02:00:00.000000Z",
                "via": "api",
                "outcome": "done",
                "actor": "ana",
                "token": "nightly (3f2a1b9c0d4e)",
                "address": "203.0.113.9",
                "action": "job.create",
                "summary": "Started the backup of films on demo.",
                "object_type": "job",
                "object_id": "3e7b8c52-3ad5-4d5e-9f0a-2f6a4a1f8a11",
                "object_name": "films",
            }
        ],
        "total": 1,
        "page": 1,
        "limit": 20,
    },
    "getClusterStatus": {
        "status": "green",
        "peer_id": 8744961036220313,
        "peers": {"8744961036220313": {"uri": "http://qdrant-0:6335/"}},
        "raft_info": {
            "term": 3,
            "commit": 51,
            "pending_operations": 0,
            "leader": 8744961036220313,
            "role": "Leader",
            "is_voter": True,
        },
        "distributed": True,
        "problems": [],
    },
    "listClusterNodes": [
        {
            "peer_id": 8744961036220313,
            "uri": "http://qdrant-0:6335/",
            "is_leader": True,
            "is_voter": True,
            "collections_count": 1,
            "shards_count": 2,
        }
    ],
    "listCollections": {"collections": [{"name": "films"}]},
    "getCollection": {
        "name": "films",
        "status": "green",
        "vectors_count": 20000,
        "points_count": 20000,
        "segments_count": 4,
        "config": {
            "params": {"shard_number": 1, "replication_factor": 1, "vectors": {"size": 64, "distance": "Cosine"}},
            "hnsw_config": {"m": 16, "ef_construct": 100},
            "optimizer_config": {"deleted_threshold": 0.2},
            "wal_config": {"wal_capacity_mb": 32},
        },
        "payload_schema": {"city": {"data_type": "keyword", "points": 20000}},
    },
    "getCollectionCluster": {
        "peer_id": 8744961036220313,
        "shard_count": 1,
        "local_shards": [{"shard_id": 0, "points_count": 20000, "state": "Active"}],
        "remote_shards": [],
        "shard_transfers": [],
    },
    "listSnapshots": [_SNAPSHOT_SHOWN],
    "createSnapshot": _SNAPSHOT_SHOWN,
    "deleteSnapshot": True,
    "recoverSnapshot": True,
    "listShardSnapshots": [_SNAPSHOT_SHOWN],
    "createShardSnapshot": _SNAPSHOT_SHOWN,
    "deleteShardSnapshot": True,
    "recoverShardSnapshot": True,
    "listStorageConfigs": [_STORAGE_SHOWN],
    "createStorageConfig": _STORAGE_SHOWN,
    "updateStorageConfig": _STORAGE_SHOWN,
    "deleteStorageConfig": True,
    "testStorage": {"success": False, "message": "The bucket 'qdrant-backups' does not exist."},
    "listClusters": [_CLUSTER_SHOWN],
    "createCluster": _CLUSTER_SHOWN,
    "getCluster": _CLUSTER_SHOWN,
    "updateCluster": _CLUSTER_SHOWN,
    "deleteCluster": True,
    "testCluster": _CLUSTER_TESTED,
    "testRegisteredCluster": _CLUSTER_TESTED,
    "listJobs": _page(_JOB_DONE),
    "createJob": _JOB_NEW,
    "getJob": _JOB_DONE,
    "cancelJob": _JOB_CANCELLED,
    "retryJob": _JOB_NEW,
    "listJobAttempts": [
        {
            "number": 1,
            "outcome": "failed",
            "started_at": "2026-08-01T02:00:01Z",
            "ended_at": "2026-08-01T02:00:09Z",
            "seconds": 8.0,
            "bytes_moved": 1048576,
            "error": "No answer from the S3 storage https://s3.example.com (bucket backups) in time: it is overloaded "
            "or hangs; try again later.",
            "error_category": "storage_unreachable",
            "next_attempt_at": "2026-08-01T02:01:09Z",
            "worker": "3b0f7a52-9f0e-4a0d-8a55-1f0d9c2b7e66",
        },
        {
            "number": 2,
            "outcome": "completed",
            "started_at": "2026-08-01T02:01:10Z",
            "ended_at": "2026-08-01T02:01:19Z",
            "seconds": 9.0,
            "bytes_moved": 27472896,
            "error": None,
            "error_category": None,
            "next_attempt_at": None,
            "worker": "3b0f7a52-9f0e-4a0d-8a55-1f0d9c2b7e66",
        },
    ],
    "listJobEvents": [
        {"id": 41, "at": _AT, "attempt": 0, "level": "info", "message": "Created by ops.", "data": {}},
        {"id": 42, "at": _AT, "attempt": 1, "level": "info", "message": "Attempt 1 started.", "data": {}},
        {
            "id": 43,
            "at": _AT,
            "attempt": 1,
            "level": "info",
            "message": "Copying shard 0 took 1.2 s, 13.1 MiB moved.",
            "data": {"step": "copying shard 0", "seconds": 1.204, "bytes": 13736448},
        },
    ],
    "listBackups": _page(_BACKUP_SHOWN),
    "getBackup": _BACKUP_SHOWN | {"parts": [_PART], "manifest": {"format": 1}},
    "deleteBackup": True,
    "restoreBackup": _RESTORE_NEW,
    "listOrphans": _page(_ORPHAN),
    "getOrphan": _ORPHAN,
    "adoptOrphan": _ORPHAN | {"state": "adopted", "backup_id": _BACKUP, "ended_at": "2026-08-02T09:00:00Z"},
    "dismissOrphan": _ORPHAN | {"state": "dismissed", "ended_at": "2026-08-02T09:00:00Z"},
    "deleteOrphan": _ORPHAN | {"state": "cleaned", "ended_at": "2026-08-02T09:00:00Z"},
    "listReconciliations": _page(_RECONCILIATION),
    "createReconciliation": _RECONCILIATION
    | {"status": "pending", "places": [], "found": 0, "started_at": None, "completed_at": None},
    "getReconciliation": _RECONCILIATION,
    "listLeftovers": _page(_LEFTOVER),
    "getLeftover": _LEFTOVER,
    "retryLeftover": True,
    "listBackupVerifications": _page(_VERIFICATION),
    "listOperations": _page(_OPERATION),
    "getOperation": _OPERATION,
    "listTokens": _page(_TOKEN_SHOWN),
    "createToken": _TOKEN_SHOWN | {"token": "bmgr_3f9a1c7e5b20_shown-in-this-answer-and-nowhere-else"},
    "revokeToken": True,
}
#: `result` of 202, unless the operation has one of its own in ACCEPTED.
ACCEPTED_OPERATION = {"operation_id": _OPERATION["id"]}
#: operationId → `result` of 202.
ACCEPTED: dict[str, Any] = {"deleteBackup": _LEFTOVER, "verifyBackup": _VERIFY_NEW}
