"""What a job would do, asked for without creating it."""

from __future__ import annotations

from apps.backups.backup import BackupOrder
from apps.backups.fleet import demand_health, open_fleet
from apps.backups.forecast import Forecast, forecast_backup, forecast_restore, note_error
from apps.backups.restore_order import RestoreOrder
from apps.clusters.models import Purpose
from apps.core.errors import BackupmgrError, NotFound
from apps.core.text import format_size, plural
from apps.jobs.batches import matching
from apps.jobs.models import Job
from apps.jobs.states import BACKUP_TYPES, JobType

#: More names than this are no sentence any more.
SHOWN_NAMES = 50


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
        overwrite_method=job.options.get("overwrite_method", ""),
        verify_points=job.options.get("verify_points", ""),
    )


def forecast_job(job: Job) -> Forecast:
    """Plan the job, saved or not, as a worker would. Talks to Qdrant and to the storage; changes nothing."""
    if job.is_batch:
        return _forecast_batch(job)
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


def _forecast_batch(job: Job) -> Forecast:
    """Tell which collections match now, and what is wrong with the cluster. Each has a plan of its own when asked."""
    patterns = ", ".join(job.collections)
    forecast = Forecast(
        steps=[f"A backup of its own is made of each collection of {job.cluster.name!r} that matches: {patterns}."]
    )
    try:
        with open_fleet(job.cluster, Purpose.BACKUP) as fleet:
            forecast.warnings += fleet.cautions()
            demand_health(fleet)
            names = matching(fleet.first.collections(), job.collections, job.exclude_collections)
        if not names:
            raise NotFound(f"None of its collections matches {patterns} now.")
    except BackupmgrError as error:
        note_error(error, forecast)
        return forecast
    shown = ", ".join(names[:SHOWN_NAMES]) + (f" and {len(names) - SHOWN_NAMES} more" if names[SHOWN_NAMES:] else "")
    forecast.steps.append(f"{plural(len(names), 'collection')} at this moment: {shown}.")
    forecast.steps.append("One that fails does not stop the others; the whole is completed when each has its backup.")
    return forecast
