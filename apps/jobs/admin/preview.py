"""What a restore would do to its target, read from all its nodes now: for the page that asks for a confirmation."""

from __future__ import annotations

import json
from dataclasses import dataclass

from apps.backups.comparing import PointsWanted
from apps.backups.forecast import forecast_restore
from apps.backups.manifest import parse_manifest
from apps.backups.models import Backup
from apps.backups.restore_order import OverwriteMethod, RestoreOrder
from apps.clusters.admin_live import REQUEST_SECONDS
from apps.clusters.models import Cluster
from apps.core.errors import BackupmgrError


@dataclass(frozen=True)
class Preview:
    """`blocked` says why it would be refused; `unknown` why nobody can tell now."""

    sentences: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    blocked: str = ""
    unknown: str = ""
    exists: bool = False
    #: Of Qdrant at the target; empty when it did not say.
    version: str = ""
    #: Aliases that are switched to what is restored beside.
    switches: tuple[str, ...] = ()


def preview_restore(
    *,
    backup: Backup,
    cluster: Cluster,
    collection: str,
    overwrite: bool,
    shard_id: int | None,
    replication_factor: int | None = None,
    safety_backup: bool = True,
    overwrite_method: OverwriteMethod = "",
    restore_aliases: bool = False,
    verify_points: PointsWanted = "",
) -> Preview:
    """Plan the restore as its job will, with a page's patience, and touch nothing.

    By the manifest as the catalogue has it: the job reads the one in the storage.
    """
    try:
        manifest = parse_manifest(json.dumps(backup.manifest).encode())
    except BackupmgrError as error:
        return Preview(blocked=str(error))
    forecast = forecast_restore(
        RestoreOrder(
            backup=backup,
            cluster=cluster,
            collection=collection,
            overwrite=overwrite,
            overwrite_method=overwrite_method if overwrite else "",
            restore_aliases=restore_aliases,
            shard_id=shard_id,
            replication_factor=replication_factor,
            safety_backup=safety_backup,
            verify_points=verify_points,
        ),
        manifest=manifest,
        timeout_seconds=REQUEST_SECONDS,
    )
    return Preview(
        sentences=tuple(forecast.steps),
        warnings=tuple(forecast.warnings),
        blocked=forecast.blocked,
        unknown=forecast.unknown,
        exists=forecast.replaces,
        version=forecast.version,
        switches=forecast.switches,
    )
