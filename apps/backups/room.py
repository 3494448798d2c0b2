"""Is there room for a backup? In the storage, and on the nodes that make snapshots for it.

How much it needs is taken from the newest backup of the same collection, since nobody knows the size of a snapshot
before it is made. What refuses a backup is kept apart from what is expected: an estimate must not stand in the way of
one that would have found room.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from apps.backups.fleet import Fleet
from apps.backups.models import Backup, BackupStatus
from apps.backups.plan import BackupPlan, minor_version
from apps.clusters.models import Cluster
from apps.clusters.qdrant import CollectionInfo, QdrantError, disk_usage_percent
from apps.core.text import format_size
from apps.storage.errors import StorageFull
from apps.storage.models import StorageConfig, StorageType
from apps.storage.room import free_bytes

#: From here on a node's disk is called nearly full.
NEARLY_FULL_PERCENT = 90
#: The first version that tells how full its disk is (GET /quotas).
_TELLS_SINCE = (1, 19)
_VECTOR_BYTES = {"float32": 4, "float16": 2, "uint8": 1}


class RoomState(StrEnum):
    """`short` in a storage refuses the backup; everything else lets it go on."""

    ENOUGH = "enough"
    TIGHT = "tight"
    SHORT = "short"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Needs:
    """How many bytes a backup takes. None where there is nothing to estimate from."""

    #: Of each shard, as in the newest backup and as the collection has grown since.
    shards: Mapping[int, int] = field(default_factory=dict)
    expected: int | None = None
    #: It needs at least so many: less room than this refuses it.
    at_least: int = 0
    #: What the figures come from, in words.
    source: str = ""


@dataclass(frozen=True)
class Room:
    """The room at one place, in bytes; None where nobody can tell. `place` is storage or node."""

    place: str
    name: str
    state: RoomState
    sentence: str
    needed_bytes: int | None = None
    free_bytes: int | None = None
    #: Nodes: how full the file system of its data is.
    used_percent: int | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def look_at_room(
    *, storage: StorageConfig, cluster: Cluster, plan: BackupPlan, info: CollectionInfo, fleet: Fleet
) -> list[Room]:
    """Compare what the backup needs with what the storage and the nodes have; the storage comes first.

    A node that cannot tell is no error.
    """
    needs = estimate(cluster=cluster, plan=plan, info=info)
    return [in_storage(storage, needs), *_on_nodes(plan, fleet, needs)]


def demand_room(rooms: list[Room]) -> None:
    """Make sure that the storage is not known to be too small. Raises: StorageFull."""
    for room in rooms:
        if room.place == "storage" and room.state == RoomState.SHORT:
            raise StorageFull(room.sentence)


def sentences(rooms: list[Room]) -> list[tuple[str, bool]]:
    """Return what to tell people, and whether it deserves attention; nodes that cannot tell share one sentence.

    What refuses a backup is not among them: that is said by `demand_room`.
    """
    rooms = [room for room in rooms if room.state != RoomState.SHORT]
    silent = [room for room in rooms if room.place == "node" and room.state == RoomState.UNKNOWN]
    told = [(room.sentence, room.state == RoomState.TIGHT) for room in rooms if len(silent) < 2 or room not in silent]
    if len(silent) > 1:
        largest = max((room.needed_bytes or 0 for room in silent), default=0)
        what = f" The largest snapshot needs about {format_size(largest)} until it has been copied." if largest else ""
        told.append(
            (f"How much room the disks of {len(silent)} nodes have is unknown: Qdrant does not tell.{what}", False)
        )
    return told


def estimate(*, cluster: Cluster, plan: BackupPlan, info: CollectionInfo) -> Needs:
    """Say what a backup after this plan needs, by the newest one there is of the collection."""
    wanted = [source.shard_id for source in plan.shards]
    newest = (
        Backup.objects.filter(cluster=cluster, collection_name=plan.collection, status=BackupStatus.COMPLETED)
        .filter(parts__shard_id__in=wanted)
        .order_by("-created_at")
        .distinct()
        .first()
    )
    if newest is None:
        vectors = _vector_bytes(info) if _is_whole(plan, info) else 0
        return Needs(at_least=vectors, source="its vectors alone" if vectors else "")
    sizes = dict(newest.parts.filter(shard_id__in=wanted).values_list("shard_id", "size_bytes"))
    total = sum(sizes.values())
    grown = _growth(newest, info)
    # Shards that the backup did not hold are like the others.
    each = total // len(sizes)
    shards = {shard_id: int(sizes.get(shard_id, each) * max(1.0, grown)) for shard_id in wanted}
    return Needs(
        shards=shards,
        expected=sum(shards.values()),
        at_least=int(total * min(1.0, grown)),
        source=f"the newest backup ({format_size(total)} for {newest.points_count:,} points)",
    )


def _growth(newest: Backup, info: CollectionInfo) -> float:
    """How many times as many points there are now; 1 where that cannot be told. Qdrant's figure is an estimate."""
    if newest.shard_id is not None or not newest.points_count or info.points_count is None:
        return 1.0
    return info.points_count / newest.points_count


def _is_whole(plan: BackupPlan, info: CollectionInfo) -> bool:
    return len(plan.shards) == len({replica.shard_id for replica in plan.replicas}) and bool(info.points_count)


def _vector_bytes(info: CollectionInfo) -> int:
    """Return what the dense vectors of a collection take up at least; every snapshot holds them uncompressed."""
    vectors = info.config.get("params", {}).get("vectors") or {}
    described = [vectors] if "size" in vectors else [one for one in vectors.values() if isinstance(one, dict)]
    # One that holds several vectors a point, or none, says nothing.
    if len(described) != 1 or described[0].get("multivector_config"):
        return 0
    size = int(described[0].get("size") or 0) * _VECTOR_BYTES.get(str(described[0].get("datatype") or "float32"), 0)
    return size * (info.points_count or 0)


def in_storage(storage: StorageConfig, needs: Needs) -> Room:
    """Compare the needs with the room in the storage."""
    free = free_bytes(storage)
    what = f"about {format_size(needs.expected)} are needed, by {needs.source}" if needs.expected is not None else ""

    def room(state: RoomState, sentence: str) -> Room:
        needed = needs.expected if needs.expected is not None else needs.at_least or None
        return Room("storage", storage.name, state, sentence, needed, free)

    if free is None:
        why = "S3 does not tell" if storage.type == StorageType.S3 else "its folder could not be looked at"
        rest = f"; {what}" if what else ""
        return room(RoomState.UNKNOWN, f"How much room {storage.name!r} has is unknown: {why}{rest}.")
    place = f"The folder of {storage.name!r} has {format_size(free)} of room"
    if free < max(needs.at_least, 1):
        by = f"and the backup needs at least {format_size(needs.at_least)}, by {needs.source}" if needs.at_least else ""
        return room(RoomState.SHORT, f"{place}{', ' + by if by else ''}: free some, or use another storage.")
    if needs.expected is None:
        return room(RoomState.UNKNOWN, f"{place}; what this first backup needs will be seen when it is made.")
    if free < needs.expected:
        return room(RoomState.TIGHT, f"{place}, and {what}: it may not be enough.")
    return room(RoomState.ENOUGH, f"{place}; {what}.")


def _on_nodes(plan: BackupPlan, fleet: Fleet, needs: Needs) -> list[Room]:
    by_peer: dict[int, list[int]] = {}
    for source in plan.shards:
        by_peer.setdefault(source.peer_id, []).append(source.shard_id)
    return [_on_node(peer, shards, fleet, needs) for peer, shards in sorted(by_peer.items())]


def _on_node(peer: int, shards: list[int], fleet: Fleet, needs: Needs) -> Room:
    """Say whether a node has room for the largest of its snapshots: it makes one at a time."""
    node = fleet.node(peer)
    largest = max((needs.shards[shard] for shard in shards), default=None) if needs.shards else None
    what = f"the largest snapshot there needs about {format_size(largest)} until it has been copied" if largest else ""
    version = fleet.versions.get(peer, fleet.info.version)
    percent, why = None, f"Qdrant {version} does not tell"
    if (minor_version(version) or (0, 0)) >= _TELLS_SINCE:
        try:
            percent = disk_usage_percent(node)
        except QdrantError as error:
            why = str(error)
    url = node.endpoint.url
    if percent is None:
        rest = f"; {what}" if what else ""
        sentence = f"How much room the disk of {url} has is unknown: {why.rstrip('.')}{rest}."
        return Room("node", url, RoomState.UNKNOWN, sentence, largest)
    told = f"The disk of {url} is {percent} % full"
    if percent >= NEARLY_FULL_PERCENT:
        # Not refused: snapshots may lie on another disk, and a node that fills up needs a backup most.
        rest = f", and {what}" if what else ""
        return Room("node", url, RoomState.TIGHT, f"{told}{rest}: a snapshot may fail.", largest, None, percent)
    return Room("node", url, RoomState.ENOUGH, f"{told}{'; ' + what if what else ''}.", largest, None, percent)
