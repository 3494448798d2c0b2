"""The verdict for programs: the same as the overview's, by API and /metrics."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from apps.clusters.models import Cluster, ClusterObservation, ObservedCollection
from apps.core.permissions import Scope
from apps.jobs.models import Worker
from apps.storage.models import StorageConfig
from tests.admin.world import DEAD_URL, make_backup, make_job, person
from tests.api.conftest import V1, token_client

pytestmark = pytest.mark.django_db


@pytest.fixture
def berlin(storage: StorageConfig) -> Cluster:
    """products is fine, users failed after a good backup, events was never backed up."""
    now = timezone.now()
    Worker.objects.create(host="here", pid=1, processes=1, started_at=now, seen_at=now)
    cluster = Cluster.objects.create(name="berlin", url=DEAD_URL)
    ClusterObservation.objects.create(cluster=cluster, next_check_at=now, tried_at=now, seen_at=now)
    for name in ("products", "users", "events"):
        ObservedCollection.objects.create(cluster=cluster, name=name, first_seen_at=now, points_count=5)
    make_backup(cluster, storage, "products", checked_at=now)
    make_backup(cluster, storage, "users", checked_at=now)
    make_job(cluster, storage, "users", status="failed", error="The disk is full.", completed_at=now)
    return cluster


def test_the_answer_names_the_worst_first_and_pages(berlin: Cluster) -> None:
    client = token_client(Scope.READ)

    answer = client.get(f"{V1}/protection?limit=2").json()["result"]

    assert answer["state"] == "failing"
    assert answer["sentence"] == "users has had no good backup for 1 h: The disk is full."
    assert {count["state"]: count["collections"] for count in answer["counts"] if count["collections"]} == {
        "failing": 1, "unprotected": 1, "protected": 1,
    }  # fmt: skip
    assert [(item["collection_name"], item["state"]) for item in answer["items"]] == [
        ("users", "failing"), ("events", "unprotected"),
    ]  # fmt: skip
    assert (answer["total"], answer["page"], answer["limit"]) == (3, 1, 2)
    assert answer["items"][1]["backup_id"] is None
    rest = client.get(f"{V1}/protection?limit=2&page=2").json()["result"]["items"]
    assert [item["collection_name"] for item in rest] == ["products"]


def test_filters_leave_the_verdict_alone(berlin: Cluster) -> None:
    client = token_client(Scope.READ)

    answer = client.get(f"{V1}/protection?state=protected&cluster=berlin").json()["result"]

    assert answer["state"] == "failing"
    assert [item["collection_name"] for item in answer["items"]] == ["products"]
    assert client.get(f"{V1}/protection?cluster=nowhere").status_code == 404
    assert client.get(f"{V1}/protection?state=fine").status_code == 400


def test_overview_api_and_metrics_say_the_same(berlin: Cluster) -> None:
    api = token_client(Scope.READ)
    root = Client()
    root.force_login(person(superuser=True))

    for _ in range(2):
        verdict = api.get(f"{V1}/protection").json()["result"]
        metrics = api.get("/metrics").content.decode()
        page = root.get("/admin/").content.decode()
        assert verdict["sentence"] in page
        assert f"icons/{verdict['state']}.svg" in page
        assert f'backupmgr_protection_state{{state="{verdict["state"]}"}} 1.0' in metrics
        assert metrics.count("backupmgr_protection_state{") == 7
        for count in verdict["counts"]:
            line = f'backupmgr_collections{{cluster="berlin",state="{count["state"]}"}} {count["collections"]}.0'
            assert line in metrics
        ClusterObservation.objects.update(seen_at=timezone.now() - timedelta(hours=6))
        ObservedCollection.objects.exclude(name="products").delete()
