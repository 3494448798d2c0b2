"""Back up a collection, wait, restore it under another name: backup_restore.py COLLECTION NEW_NAME."""

import os
import sys
import time

import requests

API = os.environ.get("BACKUPMGR_API", "http://127.0.0.1:8000/api/v1")
session = requests.Session()
session.headers["api-key"] = os.environ["BACKUPMGR_TOKEN"]


def run(**job):
    answer = session.post(f"{API}/jobs", json=job, timeout=30).json()
    while "result" in answer and answer["result"]["status"] in ("pending", "running"):
        time.sleep(0.5)
        answer = session.get(f"{API}/jobs/{answer['result']['id']}", timeout=30).json()
    if answer.get("result", {}).get("status") != "completed":
        sys.exit(answer["result"]["error"] if "result" in answer else answer["status"]["error"])
    return answer["result"]


backup = run(type="backup", collection_name=sys.argv[1])
print("Backed up as", backup["snapshot_name"])
run(type="restore", collection_name=sys.argv[1], backup_id=backup["backup_id"], target_collection=sys.argv[2])
print("Restored as", sys.argv[2])
