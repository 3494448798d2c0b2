"""Jobs on a cluster of three nodes in which something is wrong, or goes wrong on the way."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from apps.backups import creating
from apps.backups.models import Backup
from apps.clusters.models import Cluster
from apps.jobs.admin.preview import preview_restore
from apps.sandbox import SandboxCluster, SandboxNode
from apps.storage.models import StorageConfig
from tests.support import RunJob, assert_failed_cleanly, files, story, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

BODY = {"vectors": {"size": 4, "distance": "Dot", "on_disk": True}, "shard_number": 3, "replication_factor": 2}


class Films:
    """A collection of three shards on the nodes 0+1, 1+2 and 2+0, with 60 points."""

    def __init__(self, cluster: SandboxCluster) -> None:
        self.cluster = cluster
        cluster.plan_placement("films", [[0, 1], [1, 2], [2, 0]])
        self.call("PUT", "/collections/films", BODY)
        self.call("PUT", "/collections/films/index?wait=true", {"field_name": "n", "field_schema": "integer"})
        points = [{"id": n, "vector": [n, 1, 2, 3], "payload": {"n": n}} for n in range(60)]
        self.call("PUT", "/collections/films/points?wait=true", {"points": points})

    def call(self, method: str, path: str, body: Any = None, node: int = 0) -> Any:
        answer = requests.request(method, self.cluster.urls[node] + path, json=body, timeout=30)
        assert answer.ok, answer.text
        return answer.json()["result"]

    def count(self, name: str = "films", node: int = 0) -> int:
        return int(self.call("POST", f"/collections/{name}/points/count", {"exact": True}, node=node)["count"])

    def names(self) -> list[str]:
        return sorted(one["name"] for one in self.call("GET", "/collections")["collections"])


@pytest.fixture
def films(sandbox_cluster: SandboxCluster) -> Films:
    return Films(sandbox_cluster)


@pytest.fixture
def register(films: Films) -> Callable[..., Cluster]:
    def make(*urls: str, **fields: Any) -> Cluster:
        first, *others = urls or films.cluster.urls
        return Cluster.objects.create(name="three", url=first, other_urls=others, is_default=True, **fields)

    return make


@pytest.fixture
def three(register: Callable[..., Cluster]) -> Cluster:
    return register()


@contextmanager
def when_it_fires(cluster: SandboxCluster, number: int, then: Callable[[], None]) -> Iterator[None]:
    """Do something as soon as the newest fault of a node has struck."""
    done = threading.Event()

    def watch() -> None:
        wait_until(lambda: done.is_set() or cluster.node(number).faults.describe()[-1]["fired"], what="the fault")
        if not done.is_set():
            then()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


class TestBackup:
    def test_the_nodes_work_at_the_same_time(
        self, films: Films, three: Cluster, run: RunJob, storage: StorageConfig
    ) -> None:
        nodes = films.cluster.nodes
        for node in nodes:
            node.faults.add("delay", method="POST", path=".*/shards/[0-9]+/snapshots", seconds=1)

        def snapshots() -> tuple[int, int]:
            """How many were begun, and how many are done."""
            begun = sum(node.faults.describe()[0]["fired"] for node in nodes)
            calls = [entry for node in nodes for entry in node.log()]
            return begun, sum(one["method"] == "POST" and one["path"].endswith("/snapshots") for one in calls)

        seen: set[tuple[int, int]] = set()
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.02):
                seen.add(snapshots())

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            job = run("backup", "films")
        finally:
            done.set()
            watcher.join()
        assert job.status == "completed", story(job)
        assert (3, 0) in seen, "all three nodes were at it before the first had done"

    def test_an_address_less_costs_nothing_while_the_others_have_every_shard(
        self, films: Films, register: Callable[..., Cluster], run: RunJob, storage: StorageConfig
    ) -> None:
        register(*films.cluster.urls[:2])
        job = run("backup", "films")
        assert job.status == "completed", story(job)
        assert str(films.cluster.peer_id(2)) in story(job)
        assert Backup.objects.get().points_count == 60

    def test_two_addresses_less_block_and_the_shard_and_its_peers_are_named(
        self, films: Films, register: Callable[..., Cluster], run: RunJob, storage: StorageConfig, folder: Path
    ) -> None:
        register(films.cluster.urls[0])
        assert_failed_cleanly(run("backup", "films"), "shard 1 of 'films'", folder)

    def test_an_address_of_another_cluster_blocks(
        self, films: Films, register: Callable[..., Cluster], run: RunJob, storage: StorageConfig, tmp_path: Path
    ) -> None:
        with SandboxCluster(tmp_path / "other", nodes=1) as other:
            register(*films.cluster.urls, other.urls[0])
            job = run("backup", "films")
        assert job.status == "failed"
        assert "registered wrongly" in job.error
        assert not Backup.objects.exists()

    def test_two_addresses_of_one_node_do_no_harm(
        self, films: Films, register: Callable[..., Cluster], run: RunJob, storage: StorageConfig
    ) -> None:
        same = films.cluster.urls[0].replace("127.0.0.1", "localhost")
        register(*films.cluster.urls, same)
        assert run("backup", "films").status == "completed"

    def test_a_load_balancer_is_no_node(
        self, films: Films, register: Callable[..., Cluster], run: RunJob, storage: StorageConfig
    ) -> None:
        with films.cluster.balancer() as url:
            register(url)
            job = run("backup", "films")
        assert job.status == "failed", story(job)
        assert not Backup.objects.exists()

    @pytest.mark.parametrize("state", ["Partial", "Dead", "Recovery", "ManualRecovery", "SomethingNew"])
    def test_a_replica_in_another_state_is_not_read(
        self, state: str, films: Films, three: Cluster, run: RunJob, storage: StorageConfig
    ) -> None:
        films.cluster.agreed("films").placement.shards[0].states[films.cluster.peer_id(0)] = state
        films.cluster.hold()
        job = run("backup", "films")
        assert job.status == "completed", story(job)
        asked = [one["path"] for one in films.cluster.node(0).log() if one["method"] == "POST"]
        assert "/collections/films/shards/0/snapshots" not in asked
        assert Backup.objects.get().points_count == 60

    def test_a_shard_without_an_active_replica_blocks_and_is_named(
        self, films: Films, three: Cluster, run: RunJob, storage: StorageConfig, folder: Path
    ) -> None:
        for number in (1, 2):
            films.cluster.set_replica_state("films", 1, number, "Dead")
        assert_failed_cleanly(run("backup", "films"), "shard 1 is Dead", folder)

    def test_a_transfer_that_runs_blocks(
        self, films: Films, three: Cluster, run: RunJob, storage: StorageConfig, folder: Path
    ) -> None:
        films.cluster.begin_transfer("films", 0, 0, 2)
        assert_failed_cleanly(run("backup", "films"), "are being moved or resharded", folder)

    def test_a_transfer_that_starts_midway_fails_the_backup(
        self, films: Films, three: Cluster, run: RunJob, storage: StorageConfig, folder: Path
    ) -> None:
        films.cluster.node(2).faults.add("delay", method="POST", path=".*/shards/[0-9]+/snapshots", seconds=1)
        with when_it_fires(films.cluster, 2, lambda: void(films.cluster.begin_transfer("films", 0, 0, 2))):
            job = run("backup", "films")
        assert_failed_cleanly(job, "are being moved or resharded", folder)

    def test_a_node_that_fails_on_its_snapshot_is_replaced(
        self, films: Films, three: Cluster, run: RunJob, storage: StorageConfig
    ) -> None:
        films.cluster.node(1).faults.add("status", method="POST", path=".*/snapshots", status=500, body="disk full")
        job = run("backup", "films")
        assert job.status == "completed", story(job)
        assert "taking the replica of peer" in story(job)
        assert Backup.objects.get().points_count == 60

    def test_a_shard_that_no_node_can_give_is_named(
        self, films: Films, three: Cluster, run: RunJob, storage: StorageConfig, folder: Path
    ) -> None:
        for number in (1, 2):
            films.cluster.node(number).faults.add(
                "status", method="POST", path=".*/shards/1/snapshots", status=500, body="disk full"
            )
        job = run("backup", "films")
        assert_failed_cleanly(job, "Shard 1 of 'films' could not be copied from any node that holds it", folder)
        for number in range(3):
            for shard in films.call("GET", "/collections/films/cluster", node=number)["local_shards"]:
                path = f"/collections/films/shards/{shard['shard_id']}/snapshots"
                assert films.call("GET", path, node=number) == []

    def test_a_key_that_one_node_refuses_is_told(
        self, films: Films, three: Cluster, run: RunJob, storage: StorageConfig, folder: Path
    ) -> None:
        for node in films.cluster.nodes[:2]:
            node.set_keys("secret")
        job = run("backup", "films")
        assert job.status == "failed", story(job)
        assert files(folder) == []


class TestRestore:
    def test_a_node_that_is_down_blocks_before_anything_is_touched(
        self, films: Films, three: Cluster, run: RunJob, storage: StorageConfig
    ) -> None:
        name = run("backup", "films").snapshot_name
        films.cluster.stop(2, grace_seconds=0)
        job = run("restore", "films", snapshot_name=name, target_collection="copy")
        assert job.status == "failed"
        assert str(films.cluster.peer_id(2)) in job.error
        assert films.names() == ["films"]

    def test_a_node_that_dies_midway_leaves_no_half_collection(
        self, films: Films, three: Cluster, run: RunJob, storage: StorageConfig
    ) -> None:
        name = run("backup", "films").snapshot_name
        films.cluster.node(2).faults.add("stall", on="request", method="POST", path=".*/upload", bytes=1000)
        with when_it_fires(films.cluster, 2, lambda: films.cluster.stop(2, grace_seconds=0)):
            job = run("restore", "films", snapshot_name=name, target_collection="copy")
        assert job.status == "failed", story(job)
        assert films.names() == ["films"]
        films.cluster.start(2)
        films.cluster.settle()
        assert films.count() == 60

    def test_replicas_that_never_become_active_fail_it_and_are_named(
        self, films: Films, three: Cluster, run: RunJob, storage: StorageConfig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        name = run("backup", "films").snapshot_name
        for name_of, module in list(sys.modules.items()):
            if name_of.startswith("apps.backups.") and hasattr(module, "ACTIVE_WITHIN_SECONDS"):
                monkeypatch.setattr(module, "ACTIVE_WITHIN_SECONDS", 2.0)
        # The nodes 1 and 2 have the last shard; when one of them gets it the others are long done.
        films.cluster.plan_placement("copy", [[0, 1], [0, 2], [1, 2]])
        films.cluster.node(1).faults.add("delay", method="POST", path=".*/shards/2/.*upload", seconds=2)

        def sicken() -> None:
            films.cluster.settle()
            films.cluster.set_replica_state("copy", 0, 0, "Partial")

        with when_it_fires(films.cluster, 1, sicken):
            job = run("restore", "films", snapshot_name=name, target_collection="copy")
        assert job.status == "failed", story(job)
        assert "shard 0 is Partial" in job.error
        assert films.names() == ["films"]

    def test_a_target_with_other_vectors_is_left_alone(
        self, films: Films, three: Cluster, run: RunJob, storage: StorageConfig
    ) -> None:
        name = run("backup", "films").snapshot_name
        films.call("PUT", "/collections/copy", {**BODY, "vectors": {"size": 8, "distance": "Dot"}})
        job = run("restore", "films", snapshot_name=name, target_collection="copy", overwrite=True)
        assert job.status == "failed"
        assert "exists with another configuration" in job.error
        assert films.count("copy") == 0

    def test_fewer_nodes_than_replicas_are_told_and_enough(
        self, films: Films, three: Cluster, run: RunJob, storage: StorageConfig, tmp_path: Path
    ) -> None:
        name = run("backup", "films").snapshot_name
        with SandboxNode(tmp_path / "one") as node:
            one = Cluster.objects.create(name="one", url=node.url)
            job = run("restore", "films", snapshot_name=name, target_cluster=one)
            assert job.status == "completed", story(job)
            assert "asks for 2 replicas of each shard, and the target has 1 node" in story(job)

    def test_another_number_of_replicas_is_made_and_every_one_filled(
        self, films: Films, three: Cluster, run: RunJob, storage: StorageConfig
    ) -> None:
        name = run("backup", "films").snapshot_name
        job = run("restore", "films", snapshot_name=name, target_collection="copy", replication_factor=3)
        assert job.status == "completed", story(job)
        assert "60 points in 3 shards (9 replicas)" in story(job)
        refused = run("restore", "films", snapshot_name=name, target_collection="more", replication_factor=4)
        assert "4 replicas of each shard were asked for, and the target has 3 nodes" in refused.error
        assert films.names() == ["copy", "films"]

    def test_a_key_that_may_not_restore_is_refused_before_anything_is_touched(
        self, films: Films, three: Cluster, run: RunJob, storage: StorageConfig
    ) -> None:
        name = run("backup", "films").snapshot_name
        for node in films.cluster.nodes:
            node.set_keys("full", "only-reads")
        for key, words in (("only-reads", "may not recover collections"), ("wrong", "does not accept the API key")):
            three.restore_api_key = key
            three.api_key = "full"
            three.save()
            job = run("restore", "films", snapshot_name=name, target_collection="copy")
            assert job.status == "failed"
            assert words in job.error, job.error
        for node in films.cluster.nodes:
            node.set_keys(None, None)
        assert films.names() == ["films"]

    def test_an_old_version_on_the_target_is_refused(
        self, films: Films, three: Cluster, run: RunJob, storage: StorageConfig
    ) -> None:
        name = run("backup", "films").snapshot_name
        for node in films.cluster.nodes:
            node.version = "1.17.1"
        job = run("restore", "films", snapshot_name=name, target_collection="copy")
        assert job.status == "failed"
        assert "made by Qdrant 1.18.3, the target is 1.17.1" in job.error
        assert films.names() == ["films"]

    def test_a_node_that_hears_of_shard_keys_later_is_waited_for(
        self, films: Films, three: Cluster, run: RunJob, storage: StorageConfig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        films.call("PUT", "/collections/tenants", {"vectors": BODY["vectors"], "sharding_method": "custom"})
        for key in ("filler", "b"):
            films.call("PUT", "/collections/tenants/shards", {"shard_key": key})
        films.call("POST", "/collections/tenants/shards/delete", {"shard_key": "filler"})
        films.call(
            "PUT", "/collections/tenants/points?wait=true",
            {"points": [{"id": 1, "vector": [1, 2, 3, 4]}], "shard_key": "b"},
        )  # fmt: skip
        name = run("backup", "tenants").snapshot_name
        genuine, asked = creating.merge, []

        def late(placements: Any) -> Any:
            """Show the filler for a while after it is gone."""
            topology = genuine(placements)
            asked.append(topology)
            gone = replace(topology.replicas[0], shard_id=1, shard_key="backupmgr-filler-1")
            return replace(topology, replicas=(gone, *topology.replicas)) if len(asked) < 3 else topology

        monkeypatch.setattr(creating, "merge", late)
        job = run("restore", "tenants", snapshot_name=name, target_collection="copy")
        assert job.status == "completed", story(job)
        assert len(asked) == 3
        monkeypatch.setattr(creating, "KEYS_WITHIN_SECONDS", 1.0)
        asked.clear()
        monkeypatch.setattr(creating, "merge", lambda placements: replace(genuine(placements), replicas=()))
        job = run("restore", "tenants", snapshot_name=name, target_collection="other")
        assert job.status == "failed"
        assert "other ids" in job.error
        assert films.names() == ["copy", "films", "tenants"]

    def test_the_preview_asks_every_node(
        self, films: Films, three: Cluster, run: RunJob, storage: StorageConfig
    ) -> None:
        """A replica that only its own node calls Dead, and a node that is down, are in the plan of the page."""
        backup = Backup.objects.get(pk=run("backup", "films").backup_id)
        fine = preview_restore(backup=backup, cluster=three, collection="films", overwrite=True, shard_id=None)
        assert (fine.blocked, fine.exists) == ("", True)
        films.cluster.set_replica_state("films", 1, 2, "Dead")
        sick = preview_restore(backup=backup, cluster=three, collection="films", overwrite=True, shard_id=None)
        assert "shard 1 is Dead" in sick.blocked
        films.cluster.stop(2, grace_seconds=0)
        down = preview_restore(backup=backup, cluster=three, collection="copy", overwrite=False, shard_id=None)
        assert "Not every node of the cluster 'three' can be reached" in down.blocked
        assert str(films.cluster.peer_id(2)) in down.blocked

    def test_a_replica_that_is_not_active_blocks_an_overwrite(
        self, films: Films, three: Cluster, run: RunJob, storage: StorageConfig
    ) -> None:
        name = run("backup", "films").snapshot_name
        films.cluster.set_replica_state("films", 0, 1, "Dead")
        job = run("restore", "films", snapshot_name=name, overwrite=True)
        assert job.status == "failed"
        assert "shard 0 is Dead" in job.error

    def test_keys_with_other_ids_block_an_overwrite(
        self, films: Films, three: Cluster, run: RunJob, storage: StorageConfig
    ) -> None:
        custom = {"vectors": BODY["vectors"], "sharding_method": "custom"}
        for name, keys in (("tenants", ("a", "b")), ("mixed", ("b", "a"))):
            films.call("PUT", f"/collections/{name}", custom)
            for key in keys:
                films.call("PUT", f"/collections/{name}/shards", {"shard_key": key})
                point = {"points": [{"id": 1, "vector": [1, 2, 3, 4]}], "shard_key": key}
                films.call("PUT", f"/collections/{name}/points?wait=true", point)
        backup = run("backup", "tenants").snapshot_name
        job = run("restore", "tenants", snapshot_name=backup, target_collection="mixed", overwrite=True)
        assert job.status == "failed"
        assert "its points would come under another key" in job.error


def void(value: object) -> None:
    """Return nothing of what a call gives."""
