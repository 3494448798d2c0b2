"""The reconciler: compares what lies in storages and on nodes with what the database knows, both ways.

    folders.py       a storage's listing, a folder at a time
    storage_scan.py  what a storage holds and should not, and what it should hold and does not
    node_scan.py     snapshots of ours on the nodes of a cluster
    recording.py     findings become Orphan rows; what is ours and old is removed, by tombstones

Scans change nothing but the status of backups, and yield findings. Who runs them, when, and what a person decides
afterwards stands in apps/jobs/reconciling.py, which knows the jobs.
"""
