"""What is left behind is removed, and nothing else."""

from __future__ import annotations

import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from apps.backups.leftovers import clean_up, leave_behind, retry_leftovers
from apps.backups.models import Leftover
from apps.backups.removing import StillThere, remove
from apps.backups.stamps import find_new_snapshot
from apps.backups.traces import CollectionTrace, FolderTrace, SnapshotTrace, Traces
from apps.clusters.models import Cluster
from apps.clusters.qdrant import QdrantNode
from apps.sandbox import SandboxNode
from apps.storage.models import StorageConfig
from tests.support import Collections

JOB = uuid.uuid4()


def trace(cluster: Cluster, **fields: Any) -> SnapshotTrace:
    values = {"cluster_id": str(cluster.pk), "collection": "films", "shard_id": 0}
    return SnapshotTrace(**(values | {"requested_at": timezone.now().isoformat()} | fields))


def test_traces_survive_the_database() -> None:
    traces = Traces(
        [
            SnapshotTrace("c", "films", 0, "2026-11-21T02:04:10+00:00", known=("a", "b"), name="x"),
            FolderTrace("s", "a/b/c"),
            CollectionTrace("c", "films", created=True),
        ]
    )

    assert Traces.from_json(traces.to_json()) == traces
    assert not Traces.from_json({})


class TestSnapshots:
    @pytest.fixture(autouse=True)
    def films(self, cluster: Cluster, collections: Collections) -> None:
        collections.create("films", points=20)

    def make(self, collections: Collections) -> str:
        return str(collections.call("POST", "/collections/films/shards/0/snapshots")["result"]["name"])

    def test_the_named_one_goes_and_its_neighbour_stays(self, cluster: Cluster, collections: Collections) -> None:
        import time

        theirs = self.make(collections)
        time.sleep(1.1)
        ours = self.make(collections)

        assert remove(trace(cluster, name=ours))
        assert not remove(trace(cluster, name=ours))
        assert collections.snapshots("films") == [theirs]

    def test_an_unnamed_one_is_the_only_new_one(self, cluster: Cluster, collections: Collections) -> None:
        ours = self.make(collections)

        assert remove(trace(cluster))
        assert ours not in collections.snapshots("films")

    def test_of_two_new_ones_none_is_ours(self, cluster: Cluster, collections: Collections) -> None:
        import time

        self.make(collections)
        time.sleep(1.1)
        self.make(collections)

        with QdrantNode(cluster.endpoint) as node:
            assert find_new_snapshot(node, trace(cluster)) is None
        assert len(collections.snapshots("films")) == 2

    def test_an_older_one_is_not_ours(self, cluster: Cluster, collections: Collections) -> None:
        self.make(collections)
        later = (timezone.now() + timedelta(hours=1)).isoformat()

        with QdrantNode(cluster.endpoint) as node:
            assert find_new_snapshot(node, trace(cluster, requested_at=later)) is None

    def test_one_that_may_still_appear_is_waited_for(self, cluster: Cluster) -> None:
        with pytest.raises(StillThere):
            remove(trace(cluster))

        assert not remove(trace(cluster, requested_at=(timezone.now() - timedelta(minutes=5)).isoformat()))


class TestCollections:
    def test_ours_goes(self, cluster: Cluster, collections: Collections) -> None:
        collections.create("half", points=5)

        assert remove(CollectionTrace(str(cluster.pk), "half", created=True))
        assert collections.names() == []

    def test_one_of_unknown_origin_goes_only_while_it_is_empty(
        self, cluster: Cluster, collections: Collections
    ) -> None:
        collections.create("theirs", points=5)
        collections.create("empty", points=0)

        assert not remove(CollectionTrace(str(cluster.pk), "theirs"))
        assert remove(CollectionTrace(str(cluster.pk), "empty"))
        assert collections.names() == ["theirs"]


class TestFolders:
    def test_unfinished_files_go_and_other_backups_stay(self, storage: StorageConfig, folder: Path) -> None:
        for name in ("a/films/1/shard-0.snapshot", "a/films/2/shard-0.snapshot"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"x")

        assert remove(FolderTrace(str(storage.pk), "a/films/1"))

        assert [str(path.relative_to(folder)) for path in folder.rglob("*.snapshot")] == ["a/films/2/shard-0.snapshot"]

    def test_nothing_is_there(self, storage: StorageConfig) -> None:
        assert not remove(FolderTrace(str(storage.pk), "a/films/1"))


class TestLeftovers:
    def test_what_resists_is_tried_again_until_it_is_gone(
        self, cluster: Cluster, collections: Collections, node: SandboxNode
    ) -> None:
        collections.create("half", points=5)
        node.faults.add(action="status", method="DELETE", path="/collections/half", status=503, body="later")
        told: list[tuple[str, bool]] = []
        traces = Traces([CollectionTrace(str(cluster.pk), "half", created=True)])

        clean_up(traces, job_id=JOB, tell=lambda text, gone: told.append((text, gone)))

        assert not traces
        assert told[0][1] is False
        assert "half" in told[0][0]
        left = Leftover.objects.get()
        assert retry_leftovers(now=timezone.now(), is_busy=lambda c, n: False) == 0, "too early"
        due = left.next_try_at + timedelta(seconds=1)
        assert retry_leftovers(now=due, is_busy=lambda c, n: False) == 0
        left.refresh_from_db()
        assert left.tries == 1
        assert "503" in left.last_error
        node.faults.clear()
        due = left.next_try_at + timedelta(seconds=1)
        assert retry_leftovers(now=due, is_busy=lambda c, n: True) == 0, "a job works on it"
        left.refresh_from_db()
        due = left.next_try_at + timedelta(seconds=1)
        assert retry_leftovers(now=due, is_busy=lambda c, n: False) == 1
        assert collections.names() == []
        assert not Leftover.objects.exists()

    def test_of_two_tickers_one_tries(self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
        leave_behind(Traces([CollectionTrace(str(cluster.pk), "x", created=True)]), job_id=JOB, reason="later")
        due = timezone.now() + timedelta(minutes=1)
        # The other one comes first, between our reading of the row and our claim.
        original = Leftover.objects.filter

        def slow(*args: Any, **kwargs: Any) -> Any:
            if "pk" in kwargs:
                original(next_try_at__lte=due).update(next_try_at=due + timedelta(hours=1))
            return original(*args, **kwargs)

        monkeypatch.setattr(Leftover.objects, "filter", slow)

        assert retry_leftovers(now=due, is_busy=lambda c, n: False) == 0
        assert Leftover.objects.get().tries == 0
