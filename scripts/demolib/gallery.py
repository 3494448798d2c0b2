"""What the pictures of the admin show: a cluster of three nodes, two storages, backups, a restore, a schedule."""

from __future__ import annotations

import time
from contextlib import ExitStack

from . import sample
from .bucket import Bucket
from .errors import DemoError
from .installation import Installation
from .lively import Scene, keep_by_schedule, lose_a_disk, make_history
from .manager import Manager
from .node import Node
from .pictures import POLICY, Shown
from .rounds import Place, back_up, hash_file, play_round
from .screen import Screen

CLUSTER = "shop"
_NODES = 3
#: Collection → points. The last one is never backed up: the pages have to say so.
_COLLECTIONS = {"catalogue": 2000, "articles": 600, "faces": 400, "support tickets": 200, "drafts": 120}
_LEFT_OUT = "drafts"
_FAILING = "faces"
_ROUND = "catalogue"
_LOOK_SECONDS = 150.0


def furnish(installation: Installation, stack: ExitStack, screen: Screen) -> Shown:
    """Start everything and fill it, through the REST API alone. Raises: DemoError."""
    urls, key = installation.start_nodes(_NODES)
    node = Node(urls[0], key)
    screen.done(f"A cluster of {_NODES} sandbox nodes")
    for name, count in _COLLECTIONS.items():
        node.create(name, sample.CLUSTER_CONFIG, sample.INDEXES, "storefront" if name == _ROUND else "")
        node.load(name, sample.points(count), lambda moved: None)
        node.settle(name)
        screen.done(f"{count:,} points in {name!r}")

    installation.prepare()
    installation.start(None)
    screen.done("A web server and a worker")
    manager = Manager(installation.url, installation.token, installation.check)
    cluster_id = manager.add_cluster(name=CLUSTER, urls=urls, api_key=key)
    root = installation.storages / "folder"
    config = {"name": "folder", "type": "local", "path": str(root)}
    folder = Place("folder", manager.add_storage(config)[0], lambda part: hash_file(root / part))
    bucket = Bucket(installation.folder / "s3", stack)
    s3 = Place("s3", manager.add_storage(bucket.storage_config())[0], bucket.hash_of)
    scene = Scene(CLUSTER, folder.storage_id, installation.storages, node, manager, screen)
    keep_by_schedule(scene, policy=POLICY, include=["*"], exclude=[_LEFT_OUT], storages=["folder", "s3"])
    for name in _COLLECTIONS:
        if name not in (_ROUND, _LEFT_OUT):
            for place in (folder, s3):
                back_up(collection=name, storage_id=place.storage_id, cluster=CLUSTER, manager=manager, screen=screen)
    before = node.picture(_ROUND)
    outcome = play_round(
        collection=_ROUND, place=s3, cluster=CLUSTER, before=before, node=node, manager=manager, screen=screen
    )
    if outcome.problems:
        raise DemoError(f"The restore is not equal, so there is nothing to show: {outcome.problems[0]}")
    backup_id = make_history(scene, _ROUND)
    lose_a_disk(scene, _FAILING)
    _wait_for_a_look(manager)
    return Shown(cluster_id, _ROUND, backup_id, manager.newest_job("restore"))


def _wait_for_a_look(manager: Manager) -> None:
    """Wait until a worker has looked at all collections: the overview tells what it saw. Raises: DemoError."""
    deadline = time.monotonic() + _LOOK_SECONDS
    while manager.protected_collections() < len(_COLLECTIONS):
        if time.monotonic() > deadline:
            raise DemoError("No worker has looked at the cluster's collections: see logs/worker.log.")
        time.sleep(1)
