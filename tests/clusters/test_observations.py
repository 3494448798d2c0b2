"""What is kept of a cluster between two looks at it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from apps.clusters.models import Cluster
from apps.clusters.observations import Sight, keep, observe_cluster, observe_due
from apps.clusters.observed import ClusterObservation, ObservedCollection

NOW = datetime(2026, 11, 21, 3, 0, tzinfo=UTC)

pytestmark = pytest.mark.django_db


def names(cluster: Cluster) -> list[str]:
    return list(ObservedCollection.objects.filter(cluster=cluster, gone_at=None).values_list("name", flat=True))


def test_a_check_keeps_node_collections_and_figures(cluster: Cluster, collections: Any) -> None:
    collections.create("products", 30)
    collections.create("users", 10, shards=1)

    row = observe_cluster(cluster, now=NOW)

    assert (row.seen_at, row.problem, row.version) == (NOW, "", "1.18.3")
    assert [node["role"] for node in row.nodes] == ["standalone"]
    assert names(cluster) == ["products", "users"]
    found = ObservedCollection.objects.get(name="products")
    assert (found.points_count, found.shard_count, found.inactive_replicas) == (30, 2, 0)
    assert found.asked_at == found.first_seen_at == NOW


def test_a_collection_that_was_deleted_is_gone_and_may_come_back(cluster: Cluster, collections: Any) -> None:
    collections.create("products", 3)
    observe_cluster(cluster, now=NOW)
    collections.delete("products")
    observe_cluster(cluster, now=NOW + timedelta(minutes=1))
    assert names(cluster) == []
    assert ObservedCollection.objects.get().gone_at == NOW + timedelta(minutes=1)

    collections.create("products", 5)
    observe_cluster(cluster, now=NOW + timedelta(minutes=2))

    row = ObservedCollection.objects.get()
    assert (row.gone_at, row.first_seen_at, row.points_count) == (None, NOW + timedelta(minutes=2), 5)


def test_a_cluster_that_stops_answering_keeps_what_was_known_and_says_since_when(
    cluster: Cluster, collections: Any, node: Any
) -> None:
    collections.create("products", 3)
    observe_cluster(cluster, now=NOW)
    node.stop()

    observe_cluster(cluster, now=NOW + timedelta(minutes=1))
    row = observe_cluster(cluster, now=NOW + timedelta(minutes=2))

    assert (row.seen_at, row.tried_at, row.failing_since) == (
        NOW,
        NOW + timedelta(minutes=2),
        NOW + timedelta(minutes=1),
    )
    assert "cannot be reached" in row.problem
    assert names(cluster) == ["products"]


def test_only_clusters_whose_turn_it_is_are_asked_and_by_one_worker(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def look(one: Cluster, *, now: datetime) -> None:
        asked.append(one.name)
        observe_due(now=now)  # another worker, at the same moment

    monkeypatch.setattr("apps.clusters.observations.observe_cluster", look)

    assert observe_due(now=NOW) == 1
    assert observe_due(now=NOW + timedelta(seconds=59)) == 0
    assert observe_due(now=NOW + timedelta(seconds=60)) == 1
    assert asked == ["main", "main"]


def test_checks_can_be_switched_off(cluster: Cluster, settings: Any) -> None:
    settings.BACKUPMGR_CHECK_SECONDS = 0

    assert observe_due(now=NOW) == 0
    assert not ClusterObservation.objects.exists()


def test_one_cluster_that_breaks_a_check_does_not_keep_the_others_from_theirs(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, collections: Any
) -> None:
    Cluster.objects.create(name="broken", url="http://127.0.0.1:9", api_key="k")
    Cluster.objects.filter(name="broken").update(api_key="not encrypted by us")

    observe_due(now=NOW)

    assert ClusterObservation.objects.get(cluster=cluster).seen_at == NOW


def test_ten_thousand_collections_are_kept_with_few_statements(
    cluster: Cluster, django_assert_max_num_queries: Callable[..., Any]
) -> None:
    many = tuple(f"c{number:05}" for number in range(10_000))
    with django_assert_max_num_queries(150):
        keep(cluster, Sight(version="1.18.3", names=many), now=NOW)
    with django_assert_max_num_queries(60):
        keep(cluster, Sight(version="1.18.3", names=many[:5_000]), now=NOW)

    assert len(names(cluster)) == 5_000
