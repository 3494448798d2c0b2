"""What a restore would do to its target, read from the target now: for the page that asks for a confirmation."""

from __future__ import annotations

import json
from dataclasses import dataclass

from apps.backups.manifest import parse_manifest
from apps.backups.models import Backup
from apps.backups.plan import plan_restore
from apps.clusters.admin_live import page_node
from apps.clusters.models import Cluster
from apps.clusters.qdrant import QdrantError
from apps.core.admin_cells import number
from apps.core.errors import BackupmgrError


@dataclass(frozen=True)
class Preview:
    """`blocked` says why it would be refused; `unknown` why nobody can tell now; `exists` whether it overwrites."""

    sentences: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    blocked: str = ""
    unknown: str = ""
    exists: bool = False
    #: Of Qdrant at the target; empty when it did not say.
    version: str = ""


def preview_restore(
    *,
    backup: Backup,
    cluster: Cluster,
    collection: str,
    overwrite: bool,
    shard_id: int | None,
    replication_factor: int | None = None,
    safety_backup: bool = True,
) -> Preview:
    """Plan the restore without touching anything. Points are Qdrant's own estimate: exact counts take their time."""
    try:
        manifest = parse_manifest(json.dumps(backup.manifest).encode())
        with page_node(cluster) as node:
            info, aliases = node.info(), node.aliases()
            # An alias that is to be overwritten is restored beside what is behind it (apps/backups/restore.py).
            behind = aliases.get(collection) if overwrite and shard_id is None else None
            existing = node.find_collection(collection) if collection not in aliases else None
            placement = node.placement(collection) if existing is not None else None
            pointing = node.collection_aliases(collection) if existing is not None else []
    except QdrantError as error:
        return Preview(unknown=str(error))
    except (BackupmgrError, ValueError) as error:
        return Preview(blocked=str(error))
    points = existing.points_count or 0 if existing is not None else 0
    if shard_id is not None and placement is not None:
        points = next((shard.points_count for shard in placement.local_shards if shard.shard_id == shard_id), 0)
    try:
        plan = plan_restore(
            manifest=manifest, collection=collection, target=info, existing=existing, placement=placement,
            existing_points=points, aliased_to=None if behind else aliases.get(collection), overwrite=overwrite,
            shard_id=shard_id, nodes=max(1, len(info.cluster.get("peers") or {})),
            replication_factor=replication_factor,
        )  # fmt: skip
    except BackupmgrError as error:
        return Preview(blocked=str(error))
    if behind is not None:
        sentences = [
            f"{collection} is an alias of {behind} on {cluster.name}. The backup is restored into a new collection "
            f"beside it; when that is proved, the alias is switched to it in one call. {behind} is kept."
        ]
    elif plan.create:
        sentences = [f"This creates the collection {collection} on {cluster.name}. Nothing that exists is touched."]
    else:
        what = f"shard {shard_id} of {collection}" if shard_id is not None else collection
        sentences = [
            f"This replaces {what} on {cluster.name} (about {number(points)} points now) with the backup. Points "
            f"written since the backup are lost."
            + (
                " What is there is backed up first."
                if safety_backup
                else " No safety backup is taken of what is there."
            )
        ]
        if pointing:
            sentences.append(f"Aliases that point to it stay: {', '.join(pointing)}.")
    return Preview(sentences=tuple(sentences), warnings=plan.warnings, exists=not plan.create, version=info.version)
