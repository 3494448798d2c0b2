"""Nodes whose clock is wrong, and snapshots whose creation nobody answered: ours is found, no other one is taken."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from django.utils import timezone

from apps.backups.removing import remove
from apps.backups.stamps import begun_at, find_new_snapshot, may_be_of
from apps.backups.traces import SnapshotTrace
from apps.clusters.models import Cluster
from apps.clusters.qdrant import QdrantNode, SnapshotDescription
from apps.sandbox import SandboxNode, server, snapshots
from tests.support import Collections, RunJob, story

CREATE = "/collections/[^/]+/shards/[0-9]+/snapshots$"

pytestmark = pytest.mark.usefixtures("storage")


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[timedelta], None]:
    """Set the sandbox node's clock off: its Date header, and the stamps of its snapshots."""

    def set_off(offset: timedelta) -> None:
        class Shifted(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return datetime.now(tz) + offset

            @classmethod
            def fromtimestamp(cls, seconds: float, tz: Any = None) -> Any:
                return datetime.fromtimestamp(seconds, tz) + offset

        def date(self: Any, timestamp: Any = None) -> str:
            return format_datetime(datetime.now(UTC) + offset, usegmt=True)

        monkeypatch.setattr(snapshots, "datetime", Shifted)
        monkeypatch.setattr(server._Handler, "date_time_string", date)

    return set_off


@pytest.fixture
def films(cluster: Cluster, collections: Collections) -> Collections:
    collections.create("films", points=20, shards=1)
    return collections


def make(collections: Collections) -> str:
    return str(collections.call("POST", "/collections/films/shards/0/snapshots")["result"]["name"])


@pytest.mark.parametrize("offset", [timedelta(hours=-3), timedelta(minutes=25), timedelta(days=400)])
def test_a_lost_answer_of_a_node_whose_clock_is_off_is_found(
    run: RunJob, films: Collections, node: SandboxNode, set_clock: Callable[[timedelta], None], offset: timedelta
) -> None:
    set_clock(offset)
    node.faults.add(action="drop_result", method="POST", path=CREATE, times=1)

    job = run("backup", "films")

    assert job.status == "completed", story(job)
    assert "looking whether it makes one all the same" in story(job)
    assert films.snapshots("films", shards=1) == []


def test_a_node_tells_its_time(cluster: Cluster, set_clock: Callable[[timedelta], None]) -> None:
    set_clock(timedelta(hours=5))
    now = timezone.now()
    with QdrantNode(cluster.endpoint) as asked:
        assert asked.time(now) is None, "it has not said anything yet"
        asked.info()

        told = asked.time(now)

    assert told is not None
    assert abs(told - now - timedelta(hours=5)) < timedelta(seconds=3)


@pytest.mark.parametrize("header", [None, "", "yesterday", "Sat, 99 Nov 2026 06:00:00 GMT"])
def test_a_header_that_is_no_date_tells_nothing(cluster: Cluster, header: str | None) -> None:
    with QdrantNode(cluster.endpoint) as asked:
        asked._look_at_clock(header)

        assert asked.time(timezone.now()) is None


def trace(cluster: Cluster, **fields: Any) -> SnapshotTrace:
    values = {"cluster_id": str(cluster.pk), "collection": "films", "shard_id": 0}
    return SnapshotTrace(**(values | {"requested_at": timezone.now().isoformat()} | fields))


def test_what_somebody_made_long_after_the_request_is_theirs(cluster: Cluster, films: Collections) -> None:
    """The worker died while it asked, the node never heard of it, and nobody cleaned up for a day."""
    theirs = make(films)
    yesterday = (timezone.now() - timedelta(days=1)).isoformat()

    for asked in (trace(cluster, requested_at=yesterday), trace(cluster, requested_at=yesterday, node_time=yesterday)):
        assert not remove(asked)

    assert films.snapshots("films", shards=1) == [theirs]


def test_what_was_there_a_minute_before_is_theirs_by_the_node_s_clock(cluster: Cluster, films: Collections) -> None:
    theirs = make(films)
    time.sleep(0.1)
    later = (timezone.now() + timedelta(minutes=1)).isoformat()

    with QdrantNode(cluster.endpoint) as asked:
        assert find_new_snapshot(asked, trace(cluster, node_time=later)) is None
        assert find_new_snapshot(asked, trace(cluster)) == theirs


def described(name: str, creation_time: str | None = None) -> SnapshotDescription:
    return SnapshotDescription(name=name, size_bytes=1, checksum=None, creation_time=creation_time)


@pytest.mark.parametrize(
    ("name", "creation_time", "begun"),
    [
        ("films-shard-0-2026-11-21-02-04-10.snapshot", "2026-11-21T09:00:00", "2026-11-21T02:04:10"),
        ("a-2020-01-01-00-00-00.snapshot-shard-0-2026-11-21-02-04-10.snapshot", None, "2026-11-21T02:04:10"),
        ("films-shard-0-2026-13-41-02-04-10.snapshot", "2026-11-21T09:00:00", "2026-11-21T09:00:00"),
        ("mine.snapshot", "2026-11-21T09:00:00", "2026-11-21T09:00:00"),
        ("mine.snapshot", None, "2000-01-01T00:00:00"),
    ],
)
def test_the_name_says_when_it_was_begun(name: str, creation_time: str | None, begun: str) -> None:
    default = datetime(2000, 1, 1, tzinfo=UTC)

    assert begun_at(described(name, creation_time), default).isoformat() == f"{begun}+00:00"


@pytest.mark.parametrize(
    ("told", "seconds", "ours"),
    [
        (True, -6, False),
        (True, -4, True),
        (True, 0, True),
        (True, 590, True),
        (True, 620, False),
        (False, -590, True),
        (False, -620, False),
        (False, 1190, True),
        (False, 1220, False),
    ],
)
def test_the_window_is_narrow_where_the_node_tells_its_time(told: bool, seconds: int, ours: bool) -> None:
    asked = datetime(2026, 11, 21, 2, 4, 10, tzinfo=UTC)
    stamp = (asked + timedelta(seconds=seconds)).strftime("%Y-%m-%d-%H-%M-%S")
    made = SnapshotTrace("c", "films", 0, asked.isoformat(), node_time=asked.isoformat() if told else "")

    assert may_be_of(made, described(f"films-shard-0-{stamp}.snapshot")) is ours
