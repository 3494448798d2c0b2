"""After a restore: read points back from every replica, and compare them with what the backup holds, one by one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from django.conf import settings

from apps.backups.compare import vector_sizes
from apps.backups.engine import EngineUnavailable, PartUnreadable, check_engine, open_part
from apps.backups.engine.points import digest
from apps.backups.fleet import Fleet
from apps.backups.manifest import Manifest, PartFacts
from apps.backups.models import Backup
from apps.backups.run import Run
from apps.backups.scratch import FileSink, check_room, scratch_folder
from apps.backups.topology import Topology
from apps.backups.verify import check_part
from apps.clusters.qdrant import QdrantRejected
from apps.core.errors import BackupmgrError
from apps.core.text import format_size, plural
from apps.storage.stores import Store

#: "" is a sample of the smaller parts, where this host can; the others are demanded, and fail the job where it cannot.
PointsWanted = Literal["", "sample", "all", "none"]
#: Points of a sample, per shard.
SAMPLE = 100
#: So many differing points are named.
NAMED = 5


class PointsDiffer(BackupmgrError):
    """Points in the target are not those of the backup."""


@dataclass
class Compared:
    """How much was compared: points (each once, whatever the replicas), shards of how many."""

    points: int = 0
    shards: list[int] = field(default_factory=list)
    #: Why fewer points were compared than asked for; empty when none were left out.
    left_out: str = ""


def check_comparable(parts: list[PartFacts], wanted: PointsWanted) -> None:
    """Make sure, before anything is touched, that what was demanded can be done here. Raises: EngineUnavailable."""
    if wanted in ("sample", "all"):
        check_engine()
        with scratch_folder() as folder:
            check_room(folder, max(part.size_bytes for part in parts))


def parts_to_open(parts: list[PartFacts], wanted: PointsWanted) -> list[PartFacts]:
    """Return the parts whose points are compared: when nothing was said, the smaller ones within the budget."""
    if wanted == "none":
        return []
    if wanted:
        return parts
    budget, chosen = settings.BACKUPMGR_SAMPLE_MAX_MB * 1024**2, []
    for part in sorted(parts, key=lambda one: one.size_bytes):
        budget -= part.size_bytes
        if budget < 0:
            break
        chosen.append(part)
    return chosen


def compare_points(
    *,
    backup: Backup,
    manifest: Manifest,
    parts: list[PartFacts],
    wanted: PointsWanted,
    store: Store,
    fleet: Fleet,
    topology: Topology,
    collection: str,
    run: Run,
) -> Compared:
    """Open parts in Qdrant's engine, and look up each of their points in every replica of its shard.

    Raises: PointsDiffer; PartDamaged; EngineUnavailable and PartUnreadable when `wanted` says what must be compared;
    QdrantError; the reason of the abort.
    """
    compared = Compared()
    chosen = parts_to_open(parts, wanted)
    if not wanted and len(chosen) < len(parts):
        compared.left_out = (
            f"parts of more than {format_size(settings.BACKUPMGR_SAMPLE_MAX_MB * 1024**2)} together are opened only "
            f"when verify_points asks for it"
        )
    for part in chosen:
        run.phase(f"comparing points of shard {part.shard_id}")
        try:
            compared.points += _compare_part(backup, manifest, part, wanted, store, fleet, topology, collection, run)
        except (EngineUnavailable, PartUnreadable, QdrantRejected) as error:
            # A node before 1.11 does not know the call for the points of one replica.
            if wanted:
                raise
            compared.left_out = str(error)
            run.warn(f"The points could not be compared one by one: {error}")
            break
        compared.shards.append(part.shard_id)
    return compared


def _compare_part(
    backup: Backup,
    manifest: Manifest,
    part: PartFacts,
    wanted: PointsWanted,
    store: Store,
    fleet: Fleet,
    topology: Topology,
    collection: str,
    run: Run,
) -> int:
    count, differing = 0, []
    with scratch_folder() as folder:
        check_room(folder, part.size_bytes)
        archive = folder / part.file
        check_part(backup, part, store, run, FileSink(archive, part.size_bytes, run.abort))
        with open_part(
            archive,
            folder / "shard",
            wanted="all" if wanted == "all" else "sample",
            sample=SAMPLE,
            vectors=vector_sizes(manifest.config),
            abort=run.abort,
        ) as opened:
            for page in opened.points():
                run.abort.check()
                count += len(page)
                for replica in topology.of(part.shard_id):
                    node = fleet.node(replica.peer_id)
                    answered = node.points(collection, part.shard_id, [point_id for point_id, _ in page])
                    found = {
                        point["id"]: digest(point["id"], point.get("payload"), point.get("vector"))
                        for point in answered
                    }
                    where = f" on peer {replica.peer_id}" if fleet.size > 1 else ""
                    differing += [
                        f"point {point_id} of shard {part.shard_id} {'differs' if point_id in found else 'is missing'}"
                        f"{where}"
                        for point_id, expected in page
                        if found.get(point_id) != expected
                    ]
                if len(differing) > NAMED:
                    break
    if differing:
        more = " and more" if len(differing) > NAMED else ""
        raise PointsDiffer(
            f"Points in {collection!r} are not those of the backup: {'; '.join(differing[:NAMED])}{more}."
        )
    run.tell(f"Shard {part.shard_id}: {plural(count, 'point')} compared one by one with the backup.", points=count)
    return count
