"""What a restore was asked for, and what is at hand while it is carried out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from apps.backups.comparing import PointsWanted
from apps.backups.fleet import Fleet
from apps.backups.manifest import Manifest, PartFacts
from apps.backups.models import Backup
from apps.backups.plan import RestorePlan
from apps.backups.run import Run
from apps.clusters.models import Cluster
from apps.storage.stores import Store

#: How what exists is overwritten. `switch`: the backup is restored beside it, and its aliases are switched when all is
#: proved. `in_place`: under its own name. Empty: the first where an alias leads to it, else the second.
OverwriteMethod = Literal["", "switch", "in_place"]


@dataclass(frozen=True, kw_only=True)
class RestoreOrder:
    """What to restore, and where to. `shard_id` for one shard of an existing collection."""

    backup: Backup
    cluster: Cluster
    collection: str
    overwrite: bool
    overwrite_method: OverwriteMethod = ""
    restore_aliases: bool = False
    shard_id: int | None = None
    #: Of a collection that is created; None for that of the backup.
    replication_factor: int | None = None
    #: Whether what is replaced is backed up first.
    safety_backup: bool = True
    verify_points: PointsWanted = ""


@dataclass(frozen=True)
class Restoration:
    """One restore that has been planned, with what it works on."""

    order: RestoreOrder
    manifest: Manifest
    plan: RestorePlan
    store: Store
    fleet: Fleet
    run: Run

    @property
    def collection(self) -> str:
        """The collection that is filled."""
        return self.plan.collection

    @property
    def parts(self) -> list[PartFacts]:
        """The parts that are restored, one for each shard."""
        return [self.manifest.part(shard_id) for shard_id in self.plan.shard_ids]

    @property
    def same_version(self) -> bool:
        """Whether the target runs the very version that the backup was made by."""
        return self.fleet.info.version == self.manifest.qdrant_version

    def on_peer(self, peer_id: int) -> str:
        """Return " on peer 123" for a sentence; nothing where there is one node only."""
        return f" on peer {peer_id}" if self.fleet.size > 1 else ""
