"""What makes an installation look lived in, done for real: nothing is written into the database by hand.

A schedule, a verified backup, a collection that nobody has backed up, and a storage whose folder went away, so that a
backup to it has failed with its reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from . import sample
from .errors import DemoError
from .manager import Manager
from .node import Node
from .rounds import back_up
from .screen import Screen

#: More of the first one, so that its page has a history.
_TIMES = 3


@dataclass(frozen=True)
class Scene:
    """Where it plays: the cluster by its name with us, the storage that works, and where folders of storages lie."""

    cluster: str
    storage_id: str
    storages: Path
    node: Node
    manager: Manager
    screen: Screen


def leave_unprotected(scene: Scene, name: str, config: dict[str, object], count: int = 120) -> None:
    """Make a collection that is never backed up."""
    scene.node.create(name, config, sample.INDEXES, "")
    scene.node.load(name, sample.points(count), lambda moved: None)
    scene.node.settle(name)
    scene.screen.done(f"{name!r} has {count} points and no backup: the overview says so")


def make_history(scene: Scene, name: str) -> str:
    """Back a collection up some more times, have the last backup opened and counted, and return its id."""
    backup_id = ""
    for _ in range(_TIMES):
        job = back_up(
            collection=name, storage_id=scene.storage_id, cluster=scene.cluster, manager=scene.manager,
            screen=scene.screen,
        )  # fmt: skip
        backup_id = str(job["backup_id"])
    scene.manager.wait(scene.manager.verify(backup_id)["id"], lambda shown: None)
    scene.screen.done(f"Backed up {name!r} {_TIMES} times more, and had Qdrant's engine open the newest backup")
    return backup_id


def keep_by_schedule(scene: Scene, *, policy: str, include: list[str], exclude: list[str], storages: list[str]) -> None:
    """A schedule for every night, with a retention policy."""
    scene.manager.add_policy({"name": policy, "keep_last": 3, "keep_daily": 14, "keep_weekly": 8, "min_redundancy": 1})
    scene.manager.add_schedule(
        {"name": "nightly", "cluster": scene.cluster, "storages": storages, "cron": "30 2 * * *",
         "tz": "Europe/Berlin", "include": include, "exclude": exclude, "policy": policy}
    )  # fmt: skip
    scene.screen.done(f"A schedule 'nightly', with the retention policy {policy!r}")


def lose_a_disk(scene: Scene, name: str) -> None:
    """Back a collection up to a folder of its own, take the folder away, and have the next backup fail of that."""
    archive = scene.storages / "archive"
    archive.mkdir()
    storage_id, _ = scene.manager.add_storage({"name": "archive", "type": "local", "path": str(archive)})
    back_up(collection=name, storage_id=storage_id, cluster=scene.cluster, manager=scene.manager, screen=scene.screen)
    archive.rename(archive.with_name(f"{archive.name} (unplugged)"))
    asked = {"type": "backup", "collection_name": name, "cluster": scene.cluster, "storage_id": storage_id}
    ended = scene.manager.end_of(scene.manager.start_job(asked)["id"])
    if ended["status"] != "failed":
        raise DemoError(f"A backup into a folder that is gone has {ended['status']}: it should have failed.")
    scene.screen.done(
        f"The folder of the storage 'archive' went away, and a backup of {name!r} failed: {ended['error']}"
    )
