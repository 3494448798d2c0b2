"""Examples for the schema and for docs/api.md: what is sent, and what comes back as `result`, for each operation.

A test holds every one of them against the schema.
"""

from __future__ import annotations

from typing import Any

from apps.api.v1.example_values import (
    AT,
    BACKUP,
    BACKUP_SHOWN,
    CHANNEL,
    CLUSTER_SHOWN,
    CLUSTER_TESTED,
    DELIVERY,
    FOLDER_BODY,
    INCIDENT,
    JOB_CANCELLED,
    JOB_DONE,
    JOB_NEW,
    KEPT_COLLECTION,
    LEFTOVER,
    OPERATION,
    ORIGIN,
    ORPHAN,
    PART,
    RECONCILIATION,
    RECOVER,
    RESTORE_NEW,
    S3_BODY,
    SNAPSHOT,
    SNAPSHOT_SHOWN,
    STORAGE_SHOWN,
    TOKEN_SHOWN,
    VERIFICATION,
    VERIFY_NEW,
    page_of,
)

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
        "Back up, to stay until a date": {
            "type": "backup",
            "collection_name": "films",
            "keep_until": "2027-01-31T00:00:00Z",
        },
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
            "snapshot_name": SNAPSHOT,
            "target_collection": "films-restored",
        },
    },
    "createStorageConfig": {"Folder": FOLDER_BODY, "S3": S3_BODY},
    "testStorage": {"Folder": FOLDER_BODY, "S3": S3_BODY},
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
    "recoverShardSnapshot": {"From a storage": RECOVER},
}

#: operationId → `result` (GET /jobs: the whole answer) of a success.
ANSWERS: dict[str, Any] = {
    "listChannels": [CHANNEL],
    "createChannel": CHANNEL,
    "getChannel": CHANNEL,
    "updateChannel": CHANNEL | {"digest": "weekly"},
    "testChannel": DELIVERY | {"kind": "test", "subject": "[backupmgr] Test: this channel works"},
    "listDeliveries": {"items": [DELIVERY], "total": 1, "page": 1, "limit": 20},
    "listIncidents": {"items": [INCIDENT], "total": 1, "page": 1, "limit": 20},
    "acknowledgeIncident": INCIDENT | {"acknowledged_at": AT, "acknowledged_by": "ana"},
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
    "listSnapshots": [SNAPSHOT_SHOWN],
    "createSnapshot": SNAPSHOT_SHOWN,
    "deleteSnapshot": True,
    "recoverSnapshot": True,
    "listShardSnapshots": [SNAPSHOT_SHOWN],
    "createShardSnapshot": SNAPSHOT_SHOWN,
    "deleteShardSnapshot": True,
    "recoverShardSnapshot": True,
    "listStorageConfigs": [STORAGE_SHOWN],
    "createStorageConfig": STORAGE_SHOWN,
    "updateStorageConfig": STORAGE_SHOWN,
    "deleteStorageConfig": True,
    "testStorage": {"success": False, "message": "The bucket 'qdrant-backups' does not exist."},
    "listClusters": [CLUSTER_SHOWN],
    "createCluster": CLUSTER_SHOWN,
    "getCluster": CLUSTER_SHOWN,
    "updateCluster": CLUSTER_SHOWN,
    "deleteCluster": True,
    "testCluster": CLUSTER_TESTED,
    "testRegisteredCluster": CLUSTER_TESTED,
    "listJobs": page_of(JOB_DONE),
    "createJob": JOB_NEW,
    "getJob": JOB_DONE,
    "cancelJob": JOB_CANCELLED,
    "retryJob": JOB_NEW,
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
        {"id": 41, "at": AT, "attempt": 0, "level": "info", "message": "Created by ops.", "data": {}},
        {"id": 42, "at": AT, "attempt": 1, "level": "info", "message": "Attempt 1 started.", "data": {}},
        {
            "id": 43,
            "at": AT,
            "attempt": 1,
            "level": "info",
            "message": "Copying shard 0 took 1.2 s, 13.1 MiB moved.",
            "data": {"step": "copying shard 0", "seconds": 1.204, "bytes": 13736448},
        },
    ],
    "listBackups": page_of(BACKUP_SHOWN),
    "getBackup": BACKUP_SHOWN | {"parts": [PART], "origin": ORIGIN, "manifest": {"format": 2}},
    "deleteBackup": True,
    "restoreBackup": RESTORE_NEW,
    "listOrphans": page_of(ORPHAN),
    "getOrphan": ORPHAN,
    "adoptOrphan": ORPHAN | {"state": "adopted", "backup_id": BACKUP, "ended_at": "2026-08-02T09:00:00Z"},
    "dismissOrphan": ORPHAN | {"state": "dismissed", "ended_at": "2026-08-02T09:00:00Z"},
    "deleteOrphan": ORPHAN | {"state": "cleaned", "ended_at": "2026-08-02T09:00:00Z"},
    "listReconciliations": page_of(RECONCILIATION),
    "createReconciliation": RECONCILIATION
    | {"status": "pending", "places": [], "found": 0, "started_at": None, "completed_at": None},
    "getReconciliation": RECONCILIATION,
    "listLeftovers": page_of(LEFTOVER),
    "getLeftover": LEFTOVER,
    "retryLeftover": True,
    "listKeptCollections": page_of(KEPT_COLLECTION),
    "getKeptCollection": KEPT_COLLECTION,
    "removeKeptCollection": True,
    "forgetKeptCollection": True,
    "switchBackKeptCollection": KEPT_COLLECTION
    | {
        "collection_name": "films-20260801T021500Z",
        "replaced_by": "films",
        "job_id": None,
        "created_at": "2026-08-02T09:00:00Z",
        "switched_at": "2026-08-02T09:00:00Z",
    },
    "listBackupVerifications": page_of(VERIFICATION),
    "listOperations": page_of(OPERATION),
    "getOperation": OPERATION,
    "listTokens": page_of(TOKEN_SHOWN),
    "createToken": TOKEN_SHOWN | {"token": "bmgr_3f9a1c7e5b20_shown-in-this-answer-and-nowhere-else"},
    "revokeToken": True,
}
#: `result` of 202, unless the operation has one of its own in ACCEPTED.
ACCEPTED_OPERATION = {"operation_id": OPERATION["id"]}
#: operationId → `result` of 202.
ACCEPTED: dict[str, Any] = {"deleteBackup": LEFTOVER, "verifyBackup": VERIFY_NEW}
