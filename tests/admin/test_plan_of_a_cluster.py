"""What blocks a backup of a cluster and what only warns: said alike by the plan of the API, by the page before the
click, and by the job itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import requests
from django.test import Client
from django.urls import reverse

from apps.backups.models import Backup
from apps.clusters.models import Cluster
from apps.core.permissions import Scope
from apps.jobs.models import Job
from apps.sandbox import SandboxCluster, SandboxNode
from apps.storage.models import StorageConfig
from tests.api.conftest import V1, token_client
from tests.support import RunJob, assert_failed_cleanly, story, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

BODY = {"vectors": {"size": 2, "distance": "Dot"}, "shard_number": 3, "replication_factor": 2}


class World:
    """Three nodes with `films`: three shards on the nodes 0+1, 1+2 and 2+0."""

    def __init__(self, nodes: SandboxCluster, stranger: SandboxNode) -> None:
        self.nodes = nodes
        self.stranger = stranger
        nodes.plan_placement("films", [[0, 1], [1, 2], [2, 0]])
        self.call("PUT", "/collections/films", BODY)
        self.call("PUT", "/collections/films/points?wait=true", {"points": [{"id": 1, "vector": [1, 2]}]})
        #: The addresses to register.
        self.urls = list(nodes.urls)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        answer = requests.request(method, self.nodes.urls[0] + path, json=body, timeout=30)
        assert answer.ok, answer.text
        return answer.json()["result"]

    def peer(self, number: int) -> int:
        return self.nodes.peer_id(number)

    def register(self) -> Cluster:
        first, *others = self.urls
        return Cluster.objects.create(name="three", url=first, other_urls=others, is_default=True)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    place = tmp_path_factory.mktemp("cluster")
    with SandboxCluster(place / "nodes") as nodes, SandboxNode(place / "stranger") as stranger:
        yield World(nodes, stranger)


@pytest.fixture
def world(built: World) -> World:
    built.urls = list(built.nodes.urls)
    return built


Trouble = Callable[[World], Any]


@contextmanager
def consensus_stopped(world: World) -> Iterator[str]:
    world.nodes.report(1, thread_status={"consensus_thread_status": "stopped_with_err", "err": "disk full"})
    yield f"Consensus has stopped on peer {world.peer(1)}"
    world.nodes.report(1)


@contextmanager
def consensus_stopped_seen_through_one_address(world: World) -> Iterator[str]:
    world.urls = world.urls[:1]
    world.nodes.report(0, thread_status={"consensus_thread_status": "stopped"})
    yield f"Consensus has stopped on peer {world.peer(0)}"
    world.nodes.report(0)


@contextmanager
def operations_pending(world: World) -> Iterator[str]:
    world.nodes.report(1, pending_operations=7)
    yield f"7 consensus operations are pending on peer {world.peer(1)}"
    world.nodes.report(1)


@contextmanager
def versions_differ(world: World) -> Iterator[str]:
    node = world.nodes.node(2)
    before, node.version = node.version, "1.17.1"
    yield "run different versions of Qdrant (1.17.1 at"
    node.version = before


@contextmanager
def transfer_under_way(world: World) -> Iterator[str]:
    transfer = world.nodes.begin_transfer("films", 0, 0, 2)
    yield "Shards of 'films' are being moved or resharded"
    world.nodes.abort_transfer("films", transfer)
    world.nodes.settle()


@contextmanager
def resharding_under_way(world: World) -> Iterator[str]:
    node = world.nodes.node(1)
    seen = requests.get(f"{node.url}/collections/films/cluster", timeout=30).json()
    seen["result"]["resharding_operations"] = [
        {"uuid": "1", "direction": "up", "shard_id": 3, "peer_id": world.peer(1), "shard_key": None}
    ]
    node.faults.add("status", method="GET", path="/collections/films/cluster", status=200, body=seen)
    yield "Shards of 'films' are being moved or resharded"
    node.faults.clear()


def replica(state: str) -> Trouble:
    @contextmanager
    def trouble(world: World) -> Iterator[str]:
        world.nodes.hold()
        world.nodes.set_replica_state("films", 0, 0, state)
        yield f"The replica of shard 0 on peer {world.peer(0)} is {state}: nothing is read there."
        world.nodes.set_replica_state("films", 0, 0, "Active")
        world.nodes.release()

    return trouble


@contextmanager
def no_active_replica(world: World) -> Iterator[str]:
    world.nodes.hold()
    holders = world.nodes.holders("films", 0)
    for number, state in zip(holders, ("Dead", "Partial", "Dead"), strict=False):
        world.nodes.set_replica_state("films", 0, number, state)
    yield "No Active replica to back up 'films' from (shard 0 is"
    for number in holders:
        world.nodes.set_replica_state("films", 0, number, "Active")
    world.nodes.release()


@contextmanager
def peer_without_address(world: World) -> Iterator[str]:
    world.urls = world.urls[:2]
    yield f"Peer {world.peer(2)} (http://"


@contextmanager
def one_address_that_lacks_a_shard(world: World) -> Iterator[str]:
    world.urls = world.urls[:1]
    yield "shard 1 of 'films' live on other nodes of the cluster only"


@contextmanager
def address_of_another_cluster(world: World) -> Iterator[str]:
    world.urls.append(world.stranger.url)
    yield f"{world.stranger.url} answers as a standalone node"


@contextmanager
def two_addresses_of_one_peer(world: World) -> Iterator[str]:
    world.urls.append(world.urls[1].replace("127.0.0.1", "localhost"))
    yield f"are one and the same node (peer {world.peer(1)})"


@contextmanager
def node_down(world: World) -> Iterator[str]:
    world.nodes.stop(2, grace_seconds=0)
    yield f"{world.urls[2]} cannot be reached"
    world.nodes.start(2)
    world.nodes.settle()
    wait_until(
        lambda: all(state == "Active" for shard in world.nodes.states("films").values() for state in shard.values()),
        what="the replicas",
    )


@contextmanager
def old_version(world: World) -> Iterator[str]:
    before = [node.version for node in world.nodes.nodes]
    for node in world.nodes.nodes:
        node.version = "1.15.4"
    yield "may be stored with only a part of the change"
    for node, version in zip(world.nodes.nodes, before, strict=True):
        node.version = version


BLOCKS: list[Trouble] = [
    consensus_stopped,
    consensus_stopped_seen_through_one_address,
    versions_differ,
    transfer_under_way,
    resharding_under_way,
    no_active_replica,
    one_address_that_lacks_a_shard,
    address_of_another_cluster,
]
WARNS: list[Trouble] = [
    operations_pending,
    replica("Partial"),
    replica("Dead"),
    peer_without_address,
    two_addresses_of_one_peer,
    node_down,
]


@contextmanager
def registered(world: World, trouble: Trouble) -> Iterator[tuple[Cluster, str]]:
    with ExitStack() as stack:
        words = stack.enter_context(trouble(world))
        yield world.register(), words


def planned() -> dict[str, Any]:
    """The plan over the API, which creates nothing."""
    asked = {"type": "backup", "collection_name": "films"}
    answer = token_client(Scope.OPERATE).post(f"{V1}/jobs?dry_run=true", asked, format="json")
    assert answer.status_code == 200, answer.content
    assert not Job.objects.exists()
    found: dict[str, Any] = answer.json()["result"]["plan"]
    return found


def page(root: Client, cluster: Cluster, storage: StorageConfig) -> str:
    """The page before the click, as text."""
    form = {"cluster": cluster.pk, "collection": "films", "storage": storage.pk, "shard": "", "step": "check"}
    return unescape(root.post(reverse("admin:jobs_job_backup"), form).content.decode())


def name_of(trouble: Trouble) -> str:
    return getattr(trouble, "__name__", "replica")


@pytest.mark.parametrize("trouble", BLOCKS, ids=name_of)
def test_blocks_the_plan_the_page_and_the_job_with_the_same_words(
    trouble: Trouble, world: World, root: Client, storage: StorageConfig, run: RunJob, folder: Path
) -> None:
    with registered(world, trouble) as (cluster, words):
        plan = planned()
        shown = page(root, cluster, storage)
        job = run("backup", "films")

    assert words in plan["blocked"]
    assert plan["blocked"] not in plan["warnings"]
    assert words in shown
    assert "As things stand, it would be refused" in shown
    assert_failed_cleanly(job, words, folder)


@pytest.mark.parametrize("trouble", WARNS, ids=name_of)
def test_warns_in_the_plan_on_the_page_and_in_the_job_with_the_same_words(
    trouble: Trouble, world: World, root: Client, storage: StorageConfig, run: RunJob
) -> None:
    with registered(world, trouble) as (cluster, words):
        plan = planned()
        shown = page(root, cluster, storage)
        job = run("backup", "films")

    assert (plan["blocked"], plan["unknown"]) == ("", "")
    assert words in " ".join(plan["warnings"])
    assert words in shown
    assert "it would be refused" not in shown
    assert job.status == "completed", story(job)
    assert words in "\n".join(job.events.filter(level="warning").values_list("message", flat=True))
    assert Backup.objects.get().points_count == 1


def test_known_troubles_of_the_version_are_told_before_the_click(
    world: World, root: Client, storage: StorageConfig
) -> None:
    with registered(world, old_version) as (cluster, words):
        assert words in " ".join(planned()["warnings"])
        assert words in page(root, cluster, storage)


def test_the_page_tells_the_room(world: World, root: Client, storage: StorageConfig) -> None:
    shown = page(root, world.register(), storage)

    assert "what this first backup needs will be seen when it is made" in shown
    assert "How much room the disks of 3 nodes have is unknown" in shown


def test_a_node_that_goes_away_during_its_snapshot_is_replaced_by_another_replica(
    world: World, storage: StorageConfig, run: RunJob, settings: Any
) -> None:
    """The connection breaks, and the node is gone when it is looked for."""
    settings.BACKUPMGR_LOST_ANSWER_SECONDS = 1
    node = world.nodes.node(2)
    world.register()
    node.faults.add("reset", method="POST", path=".*/shards/[0-9]+/snapshots", bytes=0)
    node.faults.add("status", method="GET", path=".*/shards/[0-9]+/snapshots", status=503, body="down", after=1)
    try:
        job = run("backup", "films")
    finally:
        node.faults.clear()

    assert job.status == "completed", story(job)
    assert f"could not be copied from peer {world.peer(2)}" in story(job)
    assert Backup.objects.get().points_count == 1


def test_a_batch_tells_which_collections_match_and_what_is_wrong(world: World, storage: StorageConfig) -> None:
    world.register()
    client = token_client(Scope.OPERATE)

    def plan(name: str) -> dict[str, Any]:
        asked = {"type": "backup", "collection_name": "*", "collections": [name]}
        found: dict[str, Any] = client.post(f"{V1}/jobs?dry_run=true", asked, format="json").json()["result"]["plan"]
        return found

    assert "1 collection at this moment: films." in plan("f*")["steps"]
    assert "None of its collections matches g* now" in plan("g*")["blocked"]
    with consensus_stopped(world) as words:
        assert words in plan("*")["blocked"]
