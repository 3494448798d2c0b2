"""The table: which fault strikes at which point, and on which bed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .bed import LARGE, SMALL, Needs
from .faults import CANCEL, GONE, PROCESSES, WIRE, Fault, Signal, WireFault
from .faults_more import (
    ClockSet,
    DatabaseLocked,
    DatabaseRestarted,
    DataFull,
    DeliveredTwice,
    LeaseStolen,
    QueueWedged,
    StorageFull,
    WebRestarted,
)
from .points import POINTS, S3, Point
from .rules import Moment

#: Beds by name; the cells of one bed run one after another.
BEDS = {
    "main": Needs(collections=(SMALL, LARGE)),
    "short": Needs(s3=False, lock_seconds=2),
    "clock": Needs(s3=False, clock=True),
    "postgres": Needs(s3=False, database="postgres"),
}

#: The small part, of what is over soon; those with the worker's other settings last. scripts/test runs it.
QUICK_CELLS = (
    "backup-folder/reset/middle",
    "backup-folder/truncated/last-byte-2",
    "backup-folder/500/after-snapshot",
    "backup-folder/kill-worker/middle",
    "restore-folder/lost/uploaded",
    "restore-folder/kill-worker/uploaded",
    "restore-s3/truncated/s3-pull-middle",
    "backup-folder/cancel/after-snapshot",
    "restore-folder/cancel/before-create",
    "restore-s3/cancel/s3-verify-open",
)

_AT_REQUEST = ("refused", "reset", "stalled", "truncated", "500", "503", "429", "outage")
_AT_ANSWER = ("lost", "reset", "stalled", "truncated", "500")
_IN_A_BODY = ("refused", "reset", "stalled", "truncated", "slow")
_PROCESS_POINTS = {
    "backup-folder": (
        "plan", "before-snapshot", "after-snapshot", "first-byte", "middle", "last-byte", "clean-up",
        "after-snapshot-2", "middle-2", "look-again", "before-manifest", "last-write",
    ),
    "backup-s3": ("s3-create", "s3-part", "s3-complete", "s3-completed", "s3-manifest", "s3-manifested", "last-write"),
    "restore-folder": (
        "plan", "before-create", "after-create", "index", "upload-middle", "upload-end", "uploaded", "active",
        "aliased", "last-write",
    ),
    "restore-s3": ("s3-verify", "s3-pull-middle", "recovered"),
}  # fmt: skip
_CANCEL_POINTS = {
    "backup-folder": (*_PROCESS_POINTS["backup-folder"], "pending", "placement", "list", "cleaned-up", "last-byte-2"),
    "backup-s3": (
        "s3-plan", "s3-create", "s3-part", "s3-part-sent", "s3-last-part", "s3-complete", "s3-completed", "s3-manifest",
        "s3-manifested", "last-write",
    ),
    "restore-folder": (*_PROCESS_POINTS["restore-folder"], "pending", "upload-start", "upload-2", "compare", "aliases"),
    "restore-s3": ("s3-manifest", "s3-verify-open", "s3-verify", "s3-pull", "s3-pull-middle", "recover", "recovered"),
}  # fmt: skip
_EVERY = 4
_ALL_PROCESS_FAULTS = tuple(fault.key for fault in PROCESSES)


@dataclass(frozen=True)
class Cell:
    """A fault at a point, on a bed."""

    fault: Fault
    point: Point
    bed: str = "main"

    @property
    def key(self) -> str:
        name = self.point.table if self.bed == "main" else f"{self.point.table}@{self.bed}"
        return f"{name}/{self.fault.key}/{self.point.key}"


def all_cells() -> list[Cell]:
    """Return every cell of the table, those of one bed and one kind of worker together."""
    cells = [*_wire(), *_processes(), *_others(), *_cancels()]
    order = list(BEDS)
    return sorted(cells, key=lambda cell: (order.index(cell.bed), sorted(cell.fault.settings.items())))


def default_cells() -> list[Cell]:
    """Return the cells that are run when none are named: all but most of two kinds of which there are many.

    Each fault of the wire and each signal strikes at every fourth point of each kind of job; each begins at another.
    """
    order = {fault.key: number for number, fault in enumerate([*WIRE, *PROCESSES])}
    cells = all_cells()
    many = [cell for cell in cells if cell.bed == "main" and isinstance(cell.fault, WireFault | Signal)]
    rows: dict[tuple[str, str], list[Cell]] = {}
    for cell in many:
        rows.setdefault((cell.point.table, cell.fault.key), []).append(cell)
    left_out = set(many)
    for (_, fault), row in rows.items():
        left_out -= set(row[order[fault] % min(_EVERY, len(row)) :: _EVERY])
    return [cell for cell in cells if cell not in left_out or cell.key in QUICK_CELLS]


def _wire() -> Iterable[Cell]:
    skipped = {"pending", "last-write"}
    faults = {fault.key: fault for fault in WIRE}
    for table, points in POINTS.items():
        for point in points.values():
            # The node's side of a backup to S3 is that of a backup to a folder: once is enough.
            if point.key in skipped or (table.endswith("s3") and point.side != S3 and point.key not in _S3_OWN):
                continue
            for key in _wire_faults(point):
                yield Cell(faults[key], point)
    for table, key in (("backup-folder", "middle"), ("restore-folder", "upload-middle"), ("backup-s3", "s3-part")):
        yield Cell(GONE, POINTS[table][key])
    for table, key in (("backup-folder", "before-snapshot"), ("restore-folder", "after-create")):
        yield Cell(GONE, POINTS[table][key])


_S3_OWN = {"recover", "recovered"}


def _wire_faults(point: Point) -> tuple[str, ...]:
    if point.key in ("s3-part", "s3-part-sent"):
        more = ("500", "503", "429", "full", "fooled") if point.key == "s3-part" else ("lost", "500")
        return (_IN_A_BODY if point.key == "s3-part" else ()) + more
    if point.moment in (Moment.UPLOAD, Moment.DOWNLOAD):
        # The very last byte can be slow, too, but nobody would notice.
        return tuple(key for key in _IN_A_BODY if key != "slow" or point.where is None or point.where.at != -1)
    return _AT_ANSWER if point.moment == Moment.ANSWER else _AT_REQUEST


def _processes() -> Iterable[Cell]:
    for table, keys in _PROCESS_POINTS.items():
        for key in keys:
            chosen = _ALL_PROCESS_FAULTS if table.endswith("folder") else ("kill-worker", "kill-group", "term-group")
            yield from (Cell(fault, POINTS[table][key]) for fault in PROCESSES if fault.key in chosen)
    for table in ("backup-folder", "restore-folder"):
        for fault in PROCESSES:
            if fault.key in ("kill-main", "kill-group", "term-main", "term-group"):
                yield Cell(fault, POINTS[table]["pending"])


def _cancels() -> Iterable[Cell]:
    for table, keys in _CANCEL_POINTS.items():
        yield from (Cell(CANCEL, POINTS[table][key]) for key in keys)


def _others() -> Iterable[Cell]:
    backup, restore = POINTS["backup-folder"], POINTS["restore-folder"]
    some = [backup["middle"], backup["before-manifest"], backup["after-snapshot"], restore["upload-middle"]]
    ends = [backup["last-write"], restore["last-write"]]
    locked = DatabaseLocked("locked", "database locked for longer than a lease (6 s)")
    for point in [*some, restore["after-create"], backup["plan"]]:
        yield Cell(locked, point)
        yield Cell(locked, point, "short")
        yield Cell(locked, point, "postgres")
    for point in [*some, *ends, restore["after-create"], backup["plan"]]:
        yield Cell(DatabaseRestarted("restarted", "database crashed, back after 2 s"), point, "postgres")
    for fault in PROCESSES:
        for point in (backup["middle"], restore["upload-middle"]):
            yield Cell(fault, point, "postgres")
    tight = {key: Point(**{**vars(point), "table": "backup-tight"}) for key, point in backup.items()}
    for key in ("plan", "after-snapshot", "middle", "after-snapshot-2", "middle-2", "before-manifest"):
        yield Cell(StorageFull("disk-full", "disk of the storage full"), tight[key])
    for point in (*some, restore["after-create"]):
        yield Cell(DataFull("data-full", "disk of the database full for 3 s"), point, "short")
    for stolen in (
        LeaseStolen("stolen", "lease stolen; the first goes on afterwards"),
        LeaseStolen("stolen-at-once", "lease stolen; the first goes on at once", at_once=True),
    ):
        for point in (*some, restore["after-create"], backup["before-snapshot"], restore["uploaded"]):
            yield Cell(stolen, point)
        yield Cell(stolen, POINTS["backup-s3"]["s3-part"])
        yield Cell(stolen, POINTS["backup-s3"]["s3-complete"])
    for point in (backup["pending"], restore["pending"], *some):
        yield Cell(DeliveredTwice("twice", "delivered four times, two workers"), point)
    for web in (
        WebRestarted("web", "web server stopped and started"),
        WebRestarted("web-kill", "web server killed and started", kills=True),
    ):
        for point in (backup["middle"], restore["upload-middle"], backup["before-manifest"]):
            yield Cell(web, point)
    for point in (*some, backup["pending"], restore["after-create"]):
        yield Cell(ClockSet("clock-back", "clock set back by an hour"), point, "clock")
        if point.where is not None:
            yield Cell(ClockSet("clock-kill", "… and kill -9 of the group", kills=True), point, "clock")
    yield Cell(ClockSet("clock-on", "clock set forward by an hour", 3600), backup["middle"], "clock")
    yield Cell(ClockSet("clock-on", "clock set forward by an hour", 3600), restore["upload-middle"], "clock")
    for whom in ("all", "first", "last", "sentinel", "queue"):
        yield Cell(QueueWedged(f"wedged-{whom}", f"kill -9 of idle processes ({whom})", whom), backup["pending"])
