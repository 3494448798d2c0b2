"""What a backup or a restore would do, read from cluster, storage and catalogue now; nothing is changed or kept."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from apps.backups.backup import BackupOrder, plan_of
from apps.backups.fleet import Fleet, open_fleet
from apps.backups.manifest import Manifest
from apps.backups.plan import BackupPlan, PlanBlocked
from apps.backups.restore import outlook
from apps.backups.restore_order import RestoreOrder
from apps.backups.room import demand_room, look_at_room, sentences
from apps.clusters.advisories import Operation, advisories_for
from apps.clusters.models import Purpose
from apps.core.errors import BackupmgrError, Unavailable
from apps.core.text import plural
from apps.storage.services import open_store


@dataclass(frozen=True)
class ShardForecast:
    """Where one shard is taken from, and why from there."""

    shard_id: int
    shard_key: str | int | None
    peer_id: int
    node: str
    why: str
    other_peers: tuple[int, ...]


@dataclass
class Forecast:
    """`blocked` says why it would be refused now; `unknown` why nobody can tell; both are empty when it would start."""

    blocked: str = ""
    unknown: str = ""
    steps: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    shards: list[ShardForecast] = field(default_factory=list)
    #: Backups: the room in the storage and on the nodes (room.py).
    room: list[dict[str, Any]] = field(default_factory=list)

    #: Restores: whether something that exists is overwritten in place, which aliases are switched instead, and the
    #: version of the target's Qdrant.
    replaces: bool = False
    switches: tuple[str, ...] = ()
    version: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def forecast_backup(order: BackupOrder) -> Forecast:
    """Plan a backup as a job would."""
    forecast = Forecast()
    try:
        with open_fleet(order.cluster, Purpose.BACKUP) as fleet:
            forecast.warnings += fleet.cautions()
            plan, info, _ = plan_of(order, fleet)
            _tell_backup(order, plan, fleet, forecast)
            rooms = look_at_room(storage=order.storage, cluster=order.cluster, plan=plan, info=info, fleet=fleet)
        forecast.room = [room.to_json() for room in rooms]
        for sentence, is_warning in sentences(rooms):
            (forecast.warnings if is_warning else forecast.steps).append(sentence)
        open_store(order.storage).stat("manifest.json")
        demand_room(rooms)
    except BackupmgrError as error:
        note_error(error, forecast)
    return forecast


def forecast_restore(
    order: RestoreOrder, *, manifest: Manifest | None = None, timeout_seconds: float | None = None
) -> Forecast:
    """Plan a restore as a job would, by what every node says; the parts are not read.

    The manifest is read from the storage unless it is given. `timeout_seconds` bounds each call to a node where a page
    waits for it.
    """
    forecast = Forecast()
    try:
        foreseen = outlook(order, manifest=manifest, timeout_seconds=timeout_seconds)
        forecast.steps += foreseen.steps
        forecast.warnings += foreseen.warnings
        forecast.replaces, forecast.switches, forecast.version = foreseen.replaces, foreseen.switches, foreseen.version
    except BackupmgrError as error:
        note_error(error, forecast)
    return forecast


def note_error(error: BackupmgrError, forecast: Forecast) -> None:
    """What is away now may be there when the job starts; everything else stands in the way."""
    if isinstance(error, Unavailable) and error.transient and not isinstance(error, PlanBlocked):
        forecast.unknown = str(error)
    else:
        forecast.blocked = str(error)
        # What stands in the way needs not be said twice.
        forecast.warnings = [warning for warning in forecast.warnings if warning != forecast.blocked]


def _tell_backup(order: BackupOrder, plan: BackupPlan, fleet: Fleet, forecast: Forecast) -> None:
    version = fleet.info.version
    forecast.warnings += plan.warnings
    versions = dict.fromkeys([version, *fleet.versions.values()])
    known = dict.fromkeys(one for each in versions for one in advisories_for(each, Operation.BACKUP))
    forecast.warnings += [advisory.sentence for advisory in known]
    for source in plan.shards:
        forecast.shards.append(
            ShardForecast(
                shard_id=source.shard_id,
                shard_key=source.shard_key,
                peer_id=source.peer_id,
                node=fleet.node(source.peer_id).endpoint.url,
                why=source.why,
                other_peers=source.others,
            )
        )
    nodes = len({source.peer_id for source in plan.shards})
    at_once = ", all nodes at the same time, each one shard after another" if nodes > 1 else ", one after another"
    forecast.steps.append(
        f"{plural(len(plan.shards), 'shard')} of {order.collection!r} from {plural(nodes, 'node')} of Qdrant {version} "
        f"to {order.storage.name!r}{at_once if len(plan.shards) > 1 else ''}."
    )
