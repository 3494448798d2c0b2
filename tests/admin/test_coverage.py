"""Coverage: every collection with what protects it, the worst gap first; page, CSV and API say the same."""

from __future__ import annotations

import csv
import io
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone

from apps.clusters.models import Cluster, ClusterObservation, ObservedCollection
from apps.schedules.ages import set_age
from apps.schedules.models import Schedule
from apps.schedules.services import pause_schedule
from apps.storage.models import StorageConfig
from tests.admin.world import make_backup, make_job
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


@pytest.fixture
def orphans(berlin: Cluster) -> None:
    """dropped is gone from its cluster; old was on a cluster that is gone; unseen nobody ever saw there."""
    now, storage = timezone.now(), StorageConfig.objects.get()
    ObservedCollection.objects.create(cluster=berlin, name="dropped", first_seen_at=now, gone_at=now)
    ObservedCollection.objects.create(cluster=berlin, name="traceless", first_seen_at=now, gone_at=now)
    make_backup(berlin, storage, "dropped", restored_at=now)
    make_backup(berlin, storage, "dropped", status="damaged", checked_at=now)
    make_backup(berlin, storage, "unseen")
    lost = Cluster.objects.create(name="lost", url="http://127.0.0.1:9")
    make_backup(lost, storage, "old", checked_at=now)
    make_backup(lost, storage, "deleting", status="deleting")
    lost.delete()


def test_what_is_gone_while_its_backups_stay_is_orphaned(orphans: None, berlin: Cluster, admin_client: Client) -> None:
    found = {one["collection_name"]: one for one in items(admin_client, gap="orphaned")}

    assert list(found) == ["dropped", "unseen", "old"]
    dropped, unseen, old = found.values()
    assert (dropped["cluster_id"], old["cluster"], old["cluster_id"]) == (str(berlin.pk), "lost", None)
    assert dropped["gone_at"] and not unseen["gone_at"] and not old["gone_at"]
    assert dropped["proven_at"] and not dropped["tested_at"]  # a damaged backup proves nothing
    assert dropped["last_good_at"] and dropped["state"] is None and dropped["gaps"] == ["orphaned"]
    assert [one["collection_name"] for one in items(admin_client, gap="orphaned", cluster="berlin")] == [
        "dropped", "unseen",
    ]  # fmt: skip
    assert not {"dropped", "unseen", "old"} & {one["collection_name"] for one in items(admin_client)}

    page = admin_client.get(PAGE, {"gap": "orphaned"}).content.decode()
    assert page.index(">dropped</a>") < page.index(">old</a>")
    assert "a cluster that is gone as well" in page
    rows = list(csv.DictReader(io.StringIO(admin_client.get(PAGE, {"gap": "orphaned", "as": "csv"}).content.decode())))
    assert [(row["collection"], row["state"]) for row in rows] == [
        ("dropped", "orphaned"), ("unseen", "orphaned"), ("old", "orphaned"),
    ]  # fmt: skip
    for link in (row["address"] for row in admin_client.get(PAGE, {"gap": "orphaned"}).context["rows"]):
        assert admin_client.get(link).status_code == 200


def test_the_totals_equal_what_plain_sql_counts(orphans: None, berlin: Cluster, admin_client: Client) -> None:
    def count(sql: str) -> int:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT COUNT(*) FROM ({sql}) AS found")
            return int(cursor.fetchone()[0])

    live = "SELECT o.cluster_id, o.name FROM clusters_observedcollection o WHERE o.gone_at IS NULL"
    held = (
        "SELECT 1 FROM backups_backup b WHERE b.cluster_id = o.cluster_id AND b.collection_name = o.name "
        "AND b.status = 'completed' AND b.shard_id IS NULL AND b.expired_at IS NULL"
    )
    tested = "(b.checked_at IS NOT NULL OR b.restored_at IS NOT NULL)"
    wanted = {
        "unprotected": count(f"{live} AND NOT EXISTS ({held})"),
        "never_verified": count(f"{live} AND EXISTS ({held}) AND NOT EXISTS ({held} AND {tested})"),
        "stale": count(f"{live} AND EXISTS ({held}) AND NOT EXISTS ({held} AND b.started_at > '{_days_ago(2)}')"),
        "orphaned": count(
            "SELECT DISTINCT b.cluster_id, b.cluster_name, b.collection_name FROM backups_backup b "
            "WHERE b.status <> 'deleting' AND NOT EXISTS (SELECT 1 FROM clusters_observedcollection o "
            "WHERE o.cluster_id = b.cluster_id AND o.name = b.collection_name AND o.gone_at IS NULL)"
        ),
        "unscheduled": 1,  # what a schedule means is no SQL: loose
        "paused": 0,
    }

    page = admin_client.get(PAGE)

    assert {value: number for value, _, number in page.context["gaps"]} == wanted
    assert page.context["total"] == count(live)
    for gap, number in wanted.items():
        assert admin_client.get(API, {"gap": gap}).json()["result"]["total"] == number
        assert admin_client.get(PAGE, {"gap": gap}).context["listed"].paginator.count == number


def _days_ago(days: int) -> str:
    return (timezone.now() - timedelta(days=days)).strftime("%Y-%m-%d %H:%M:%S")


def test_what_fails_is_no_less_too_old(berlin: Cluster, admin_client: Client) -> None:
    make_job(berlin, StorageConfig.objects.get(), "late", status="failed", error="The node refused.")

    late = next(one for one in items(admin_client) if one["collection_name"] == "late")

    assert (late["state"], late["gaps"]) == ("failing", ["stale"])


@pytest.mark.parametrize(
    ("sort", "first", "last"),
    [
        ("collection", "=sum", "new"),
        ("-collection", "new", "=sum"),
        ("last_good", "new", ""),
        ("due", "late", "new"),
        ("-checked", "", "=sum"),
        ("nonsense", "new", ""),
    ],
)
def test_the_table_is_sorted_by_its_heads(
    berlin: Cluster, admin_client: Client, sort: str, first: str, last: str
) -> None:
    names = [row["facts"].name for row in admin_client.get(PAGE, {"sort": sort}).context["rows"]]

    assert not first or names[0] == first
    assert not last or names[-1] == last


def test_sorting_is_told_and_kept_by_filters_and_csv(berlin: Cluster, admin_client: Client) -> None:
    html = admin_client.get(PAGE, {"sort": "-collection"}).content.decode()

    assert 'aria-sort="descending"' in html
    assert "?sort=collection" in html
    assert "?gap=stale&amp;sort=-collection" in html
    rows = list(
        csv.DictReader(io.StringIO(admin_client.get(PAGE, {"sort": "-collection", "as": "csv"}).content.decode()))
    )
    assert [row["collection"] for row in rows] == ["new", "loose", "late", "fine", "'=sum"]


def test_a_cluster_can_be_chosen(berlin: Cluster, admin_client: Client) -> None:
    other = Cluster.objects.create(name="oslo", url="http://127.0.0.1:9")
    ObservedCollection.objects.create(cluster=other, name="far", first_seen_at=timezone.now())
    ClusterObservation.objects.create(cluster=other, next_check_at=timezone.now(), seen_at=timezone.now())

    page = admin_client.get(PAGE, {"cluster": str(other.pk)})

    assert [row["facts"].name for row in page.context["rows"]] == ["far"]
    assert {value: number for value, _, number in page.context["gaps"]}["unprotected"] == 1
    assert admin_client.get(PAGE, {"cluster": "x"}).context["total"] == 6


def test_adding_to_a_schedule_begins_with_the_collection_filled_in(berlin: Cluster, admin_client: Client) -> None:
    Cluster.objects.create(name="aachen", url="http://127.0.0.1:9", is_default=False)
    rows = admin_client.get(PAGE).context["rows"]
    address = next(row["add_address"] for row in rows if row["facts"].name == "loose")

    form = admin_client.get(address).context["form"]

    assert (form["cluster"].value(), form["include"].value()) == (berlin.pk, "loose")


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
