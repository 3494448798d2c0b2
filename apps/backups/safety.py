"""A safety backup: what a collection holds before a restore replaces it, and how to tell people where it is."""

from __future__ import annotations

from django.utils import timezone

from apps.backups.backup import BackupOrder, make_backup, record_backup
from apps.backups.models import Backup, BackupStatus
from apps.backups.plan import PlanBlocked
from apps.backups.run import Run
from apps.clusters.models import Cluster
from apps.core.errors import BackupmgrError
from apps.core.text import plural
from apps.storage.models import StorageConfig


class TargetIncomplete(BackupmgrError):
    """A restore that replaced a collection broke off; the message names the safety backup."""


def make_safety_backup(
    *, cluster: Cluster, collection: str, storage: StorageConfig, shard_id: int | None, run: Run
) -> Backup:
    """Back up what is there, and enter it into the catalogue at once; an attempt before may have done so already.

    Raises: PlanBlocked when it cannot be made; the reason of the abort. Nothing has been touched then.
    """
    known = (
        Backup.objects.filter(
            job_id=run.job_id, cluster=cluster, collection_name=collection, status=BackupStatus.COMPLETED
        )
        .order_by("created_at")
        .first()
    )
    if known is not None:
        # The first one is of what was there before any attempt of this job.
        run.tell(f"The safety backup of an attempt before is there already: {known.snapshot_name}.")
        return known
    run.tell(f"Taking a safety backup of what {collection!r} holds now.")
    order = BackupOrder(cluster=cluster, collection=collection, storage=storage, shard_id=shard_id)
    try:
        finished = make_backup(order, run)
    except BackupmgrError as error:
        blocked = PlanBlocked(
            f"The safety backup of {collection!r} could not be made, so nothing was touched: {error} To go without "
            f"one, decline it (safety_backup: false)."
        )
        blocked.transient = error.transient
        raise blocked from error
    backup = record_backup(finished, storage=storage, cluster=cluster)
    run.save_traces()
    run.tell(
        f"Safety backup: {backup.snapshot_name} in {storage.name!r}, {plural(backup.points_count, 'point')}.",
        backup_id=str(backup.pk),
    )
    return backup


def with_way_back(error: BackupmgrError, safety: Backup, collection: str) -> TargetIncomplete:
    """Return the error with the name of the safety backup in its sentence; it may pass as the error may."""
    told = TargetIncomplete(
        f"{error} {collection!r} is incomplete now; what it held before is in the backup {safety.snapshot_name}: "
        f"restore that to go back."
    )
    told.transient = error.transient
    return told


def describe_moment() -> str:
    """The time, as a part of a collection's name."""
    return f"{timezone.now():%Y%m%dT%H%M%SZ}"
