"""How to restore a backup without this program: a shell script for one backup, to be copied from its page.

Its steps are those of docs/operations.md ("Restore without backupmgr"), which a test runs against a node.
"""

from __future__ import annotations

import shlex

from apps.backups.models import Backup
from apps.storage.models import StorageConfig, StorageType

#: The steps, in the folder of the backup. A test compares them with the manual's.
STEPS = r"""
# 1. Are these the bytes that were backed up?
jq -r '.parts[] | "\(.sha256)  \(.file)"' manifest.json | sha256sum --check

# 2. The collection, with the configuration of the backup
jq '.collection.config
    | (.params | with_entries(select(.key | startswith("read_fan_out") | not)))
      + {hnsw_config, wal_config, optimizers_config: .optimizer_config, quantization_config, strict_mode_config,
         metadata}
    | del(.. | nulls)' manifest.json > create.json
curl -fsS -X PUT "$QDRANT/collections/$NAME" \
    -H "api-key: $KEY" -H 'content-type: application/json' -d @create.json

# 3. Its payload indexes
jq -c '.collection.payload_schema | to_entries[]
    | {field_name: .key, field_schema: (.value.params // .value.data_type)}' manifest.json |
while read -r index; do
    curl -fsS -X PUT "$QDRANT/collections/$NAME/index?wait=true" \
        -H "api-key: $KEY" -H 'content-type: application/json' -d "$index"
done

# 4. Its shards; Qdrant compares the checksum before it takes one
jq -r '.parts[] | "\(.shard_id) \(.file) \(.sha256)"' manifest.json |
while read -r shard file sha256; do
    curl -fsS -X POST -H "api-key: $KEY" -F "snapshot=@$file" \
        "$QDRANT/collections/$NAME/shards/$shard/snapshots/upload?priority=no_sync&wait=true&checksum=$sha256"
done

# 5. As many points as were backed up?
jq '[.shards[].points_max] | add' manifest.json
curl -fsS -X POST "$QDRANT/collections/$NAME/points/count" \
    -H "api-key: $KEY" -H 'content-type: application/json' -d '{"exact": true}'

# 6. When the old collection is gone: its aliases
jq -c --arg name "$NAME" '{actions: [.collection.aliases[]
    | {create_alias: {collection_name: $name, alias_name: .}}]}' manifest.json |
curl -fsS -X POST "$QDRANT/collections/aliases" -H "api-key: $KEY" -H 'content-type: application/json' -d @-
""".lstrip("\n")


def recipe(backup: Backup) -> str:
    """Return the script: fetch the folder, then the steps. It names no credentials."""
    name = shlex.quote(f"{backup.collection_name}-restored")
    return (
        f"# Restores {_line(backup.collection_name)} of {_line(backup.cluster_name)} as it was at "
        f"{backup.started_at:%Y-%m-%d %H:%M} UTC, with curl and jq.\n"
        f"# Needs Qdrant {_line(backup.qdrant_version) or 'of the same minor version'} or the next minor version.\n"
        f"{_fetch(backup.storage, backup.path)}\n"
        f"QDRANT=${{QDRANT:-http://localhost:6333}}\n"
        f"NAME={name}     # a name that is not there yet\n"
        f"KEY=${{KEY:-}}                     # Qdrant's API key, if it has one\n\n"
        f"{STEPS}"
    )


def _fetch(storage: StorageConfig, path: str) -> str:
    if storage.type == StorageType.LOCAL:
        return f"cd {shlex.quote(f'{storage.path.rstrip(chr(47))}/{path}')}     # on the host of the storage"
    key = "/".join(piece.strip("/") for piece in (storage.s3_prefix, path) if piece.strip("/"))
    endpoint = f" --endpoint-url {shlex.quote(storage.s3_endpoint)}" if storage.s3_endpoint else ""
    source = shlex.quote(f"s3://{storage.s3_bucket}/{key}")
    return f"aws s3 cp --recursive{endpoint} {source} ./backup && cd ./backup"


def _line(text: str) -> str:
    """A text that stays within its line of comment."""
    return " ".join(text.split())
