#!/bin/bash
# Back up a collection, wait, restore it under another name: backup_restore.sh COLLECTION NEW_NAME (needs curl and jq)
set -euo pipefail
api=${BACKUPMGR_API:-http://127.0.0.1:8000/api/v1}
# The token comes by standard input: a command line is for all to read.
call() { curl -sS -K - "$@" <<<"header = \"api-key: $BACKUPMGR_TOKEN\""; }
run() {
    job=$(call "$api/jobs" -H 'content-type: application/json' -d "$1")
    while jq -e '.result.status | IN("pending", "running")' <<<"$job" >/dev/null; do
        sleep 0.5
        job=$(call "$api/jobs/$(jq -r .result.id <<<"$job")")
    done
    jq -e '.result.status == "completed"' <<<"$job" >/dev/null || { jq -r '.result.error // .status.error' <<<"$job" >&2; exit 1; }
}
run "$(jq -n --arg c "$1" '{type: "backup", collection_name: $c}')"
echo "Backed up as $(jq -r .result.snapshot_name <<<"$job")"
run "$(jq -n --arg c "$1" --arg t "$2" --arg b "$(jq -r .result.backup_id <<<"$job")" \
    '{type: "restore", collection_name: $c, backup_id: $b, target_collection: $t}')"
echo "Restored as $2"
