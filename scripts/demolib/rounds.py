"""One round: back up, delete, restore, compare; and what it found."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from apps.core.text import format_duration, format_rate, format_size, plural

from .compare import Picture, differences
from .errors import DemoError
from .manager import Manager
from .node import Node
from .screen import Screen


@dataclass(frozen=True)
class Place:
    """A storage of the round: its id with us, and how to read a part without us."""

    label: str
    storage_id: str
    #: Part key → SHA-256 of the bytes that lie there.
    hash_of: Callable[[str], str]


@dataclass
class Outcome:
    """What a round found. It is good when `problems` is empty."""

    label: str
    problems: list[str] = field(default_factory=list)
    #: How the parts travelled on the restore, in the words of the job's events.
    ways: set[str] = field(default_factory=set)


def play_round(
    *, collection: str, place: Place, cluster: str, before: Picture, node: Node, manager: Manager, screen: Screen
) -> Outcome:
    """Back up, delete, restore and compare `collection`. Raises: DemoError when a step fails."""
    outcome = Outcome(place.label)
    backup = _back_up(collection, place, cluster, manager, screen, outcome)
    node.delete(collection)
    if node.exists(collection):
        raise DemoError(f"The node still has {collection!r} after it was deleted.")
    screen.done(f"Deleted the collection {collection!r} from the node")
    _restore(backup, manager, screen, outcome)
    node.settle(collection)
    with screen.counting("Reading every point again", len(before.points)) as moved:
        after = node.picture(collection, moved)
    found = differences(before, after)
    if found:
        screen.bad(f"The restored collection is not the same: {plural(len(found), 'difference')}")
    else:
        screen.done(
            f"Compared {plural(len(after.points), 'point')} (id, payload, every vector), the configuration, "
            f"{plural(len(after.payload_schema), 'payload index', 'payload indexes')} and "
            f"{plural(len(after.aliases), 'alias', 'aliases')}: all equal"
        )
    outcome.problems += found
    return outcome


def back_up(*, collection: str, storage_id: str, cluster: str, manager: Manager, screen: Screen) -> dict[str, Any]:
    """Run a backup job and return the job when it has completed. Raises: DemoError."""
    request = {"type": "backup", "collection_name": collection, "cluster": cluster, "storage_id": storage_id}
    with screen.job(f"Backing up {collection}") as show:
        return manager.wait(manager.start_job(request)["id"], show)


def _back_up(
    collection: str, place: Place, cluster: str, manager: Manager, screen: Screen, outcome: Outcome
) -> dict[str, Any]:
    job = back_up(collection=collection, storage_id=place.storage_id, cluster=cluster, manager=manager, screen=screen)
    if not job["backup_id"]:
        raise DemoError("The backup job completed and names no backup.")
    backup = manager.backup(job["backup_id"])
    screen.done(
        f"Backed up {plural(backup['points_count'], 'point')} in {plural(len(backup['parts']), 'part')}, "
        f"{_speed(backup['size_bytes'], job)}"
    )
    for part in backup["parts"]:
        stored = place.hash_of(part["key"])
        same = stored == part["sha256"]
        screen.line(f"shard {part['shard_id']}  {format_size(part['size_bytes'])}  SHA-256 {part['sha256']}")
        if not same:
            outcome.problems.append(f"{part['key']}: the stored bytes have SHA-256 {stored}, not {part['sha256']}")
    if outcome.problems:
        screen.bad("What is stored is not what was backed up")
    else:
        screen.done("Hashed the stored parts again, without backupmgr: each SHA-256 is the one that backupmgr tells")
    return backup


def _restore(backup: dict[str, Any], manager: Manager, screen: Screen, outcome: Outcome) -> None:
    collection = backup["collection_name"]
    request = {
        "type": "restore",
        "collection_name": collection,
        "snapshot_name": backup["snapshot_name"],
        "storage_id": backup["storage_id"],
        "restore_aliases": True,
    }
    with screen.job(f"Restoring {collection}") as show:
        job = manager.wait(manager.start_job(request)["id"], show)
    outcome.ways = {event["data"]["way"] for event in manager.events(job["id"]) if "way" in event["data"]}
    words = " and ".join(sorted(outcome.ways)) or "moved in a way that the job does not tell"
    screen.done(f"Restored, {_speed(backup['size_bytes'], job)}; the parts were {words}")


def _speed(size_bytes: int, job: dict[str, Any]) -> str:
    started, ended = (datetime.fromisoformat(job[name]) for name in ("started_at", "completed_at"))
    seconds = max((ended - started).total_seconds(), 1e-3)
    return f"{format_size(size_bytes)} in {format_duration(seconds)} ({format_rate(size_bytes / seconds)})"


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file. Raises: DemoError."""
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise DemoError(f"The stored part {path} cannot be read: {error.strerror}.") from error
