"""What a job would do, asked for without creating it."""

from __future__ import annotations

from apps.backups.backup import BackupOrder
from apps.backups.forecast import Forecast, forecast_backup, forecast_restore
from apps.backups.restoring import RestoreOrder
from apps.core.text import format_size, plural
from apps.jobs.models import Job
from apps.jobs.states import BACKUP_TYPES, JobType


def backup_order(job: Job) -> BackupOrder:
    return BackupOrder(cluster=job.cluster, collection=job.collection_name, storage=job.storage, shard_id=job.shard_id)


def restore_order(job: Job) -> RestoreOrder:
    """Return what the job asks of a restore; for jobs that have a backup and a target cluster."""
    assert job.backup is not None and job.target_cluster is not None
    return RestoreOrder(
        backup=job.backup,
        cluster=job.target_cluster,
        collection=job.target_collection,
        overwrite=job.overwrite,
        restore_aliases=job.restore_aliases,
        shard_id=job.shard_id,
        replication_factor=job.options.get("replication_factor"),
        safety_backup=job.options.get("safety_backup", True),
        verify_points=job.options.get("verify_points", ""),
    )


def forecast_job(job: Job) -> Forecast:
    """Plan the job, saved or not, as a worker would. Talks to Qdrant and to the storage; changes nothing."""
    if job.is_batch:
        patterns = ", ".join(job.collections)
        return Forecast(steps=[f"A backup of its own is made of each collection of {job.cluster.name!r}: {patterns}."])
    if job.type in BACKUP_TYPES:
        return forecast_backup(backup_order(job))
    if job.type == JobType.VERIFY:
        assert job.backup is not None
        how = "compared with the manifest"
        if not job.options.get("hashes_only"):
            how += ", and opened in Qdrant's engine and counted"
        parts = f"{plural(job.backup.shard_count, 'part')} ({format_size(job.backup.size_bytes)})"
        return Forecast(steps=[f"{parts} in {job.storage.name!r} are read, {how}. No cluster is touched."])
    return forecast_restore(restore_order(job))
