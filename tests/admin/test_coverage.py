"""Coverage: every collection with what protects it, the worst gap first; page, CSV and API say the same."""

from __future__ import annotations

import csv
import io
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from apps.clusters.models import Cluster, ClusterObservation, ObservedCollection
from apps.schedules.ages import set_age
from apps.schedules.models import Schedule
from apps.schedules.services import pause_schedule
from apps.storage.models import StorageConfig
from tests.admin.world import make_backup
from tests.schedules.conftest import maker

pytestmark = pytest.mark.django_db

PAGE = "/admin/clusters/observedcollection/coverage/"
API = "/api/v1/coverage"


@pytest.fixture
def berlin(db: None, folder: Any) -> Cluster:
    """fine is in a schedule and tested; loose is in none; late is too old; new has no backup; =sum is untested."""
    now = timezone.now()
    storage = StorageConfig.objects.create(name="vault", type="local", path=str(folder))
    cluster = Cluster.objects.create(name="berlin", url="http://127.0.0.1:9")
    ClusterObservation.objects.create(cluster=cluster, next_check_at=now, seen_at=now)
    for name in ("fine", "loose", "late", "new", "=sum"):
        ObservedCollection.objects.create(cluster=cluster, name=name, first_seen_at=now)
    for name, fields in {
        "fine": {"checked_at": now}, "loose": {"checked_at": now}, "=sum": {},
        "late": {"checked_at": now, "created_at": now - timedelta(days=9)},
    }.items():  # fmt: skip
        make_backup(cluster, storage, name, **fields)
    maker(cluster)(now=now, include=["fine", "late", "=sum", "n*"])
    set_age(cluster=cluster, collection="fine", hours=48)
    return cluster


def items(client: Client, **query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get(API, query).json()["result"]["items"]
    return found


def test_every_collection_is_there_once_and_the_unprotected_come_first(berlin: Cluster, admin_client: Client) -> None:
    found = items(admin_client)

    assert [one["collection_name"] for one in found[:2]] == ["new", "loose"]
    assert len(found) == ObservedCollection.objects.count()
    gaps = {one["collection_name"]: one["gaps"] for one in found}
    assert gaps == {
        "new": ["unprotected"], "loose": ["unscheduled"], "late": ["stale"], "=sum": ["never_verified"], "fine": [],
    }  # fmt: skip
    fine = next(one for one in found if one["collection_name"] == "fine")
    assert [schedule["name"] for schedule in fine["schedules"]] == ["nightly"]
    assert (fine["storages"], fine["max_age_hours"]) == (["vault"], 48)


def test_a_filter_shows_what_lacks_that_and_a_paused_schedule_is_a_gap(berlin: Cluster, admin_client: Client) -> None:
    assert [one["collection_name"] for one in items(admin_client, gap="stale")] == ["late"]
    pause_schedule(schedule=Schedule.objects.get(), reason="Move.", until=None, now=timezone.now())

    paused = {one["collection_name"] for one in items(admin_client, gap="paused", cluster="berlin")}
    assert paused == {"fine", "late", "=sum", "new"}
    assert admin_client.get(API, {"gap": "x"}).status_code == 400


def test_the_page_says_the_same_and_leads_to_a_schedule(berlin: Cluster, admin_client: Client) -> None:
    html = admin_client.get(PAGE).content.decode()

    assert html.index(">new</a>") < html.index(">loose</a>") < html.index(">fine</a>")
    assert f"/admin/schedules/schedule/add/?cluster={berlin.pk}&amp;collection=loose" in html
    assert "48 h" in html
    assert ">late</a>" not in admin_client.get(PAGE, {"gap": "unscheduled"}).content.decode()
    assert "Nothing is missing here" in admin_client.get(PAGE, {"gap": "paused"}).content.decode()


def test_the_csv_has_every_collection_and_no_formula(berlin: Cluster, admin_client: Client) -> None:
    answer = admin_client.get(PAGE, {"as": "csv"})

    assert answer["Content-Type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.content.decode())))
    assert [row["collection"] for row in rows[:2]] == ["new", "loose"]
    assert "'=sum" in {row["collection"] for row in rows}
    assert len(rows) == 5


def test_the_page_is_for_people_who_may_look(berlin: Cluster, client: Client) -> None:
    assert client.get(PAGE).status_code == 302
    assert client.get(API).status_code == 401


def test_as_many_queries_for_many_collections(
    berlin: Cluster, admin_client: Client, django_assert_max_num_queries: Any
) -> None:
    now = timezone.now()
    ObservedCollection.objects.bulk_create(
        ObservedCollection(cluster=berlin, name=f"n{number}", first_seen_at=now) for number in range(500)
    )
    with django_assert_max_num_queries(30):
        assert admin_client.get(PAGE).status_code == 200
