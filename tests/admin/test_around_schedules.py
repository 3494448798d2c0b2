"""Tags and maximum age of a collection, and blackouts of a cluster: as pages, and over the API."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.audit.models import AuditEntry
from apps.clusters.models import Cluster, ClusterObservation, ObservedCollection
from apps.schedules.admin.month import month_of
from apps.schedules.ages import age_of_collection
from apps.schedules.models import Blackout, MaximumAge, RunStatus, Schedule, ScheduleRun
from apps.schedules.tags import set_tags, tags_of_collection
from apps.storage.models import StorageConfig
from tests.admin.world import person
from tests.schedules.conftest import maker

pytestmark = pytest.mark.django_db

COLLECTION = "/admin/schedules/schedule/collection/"


@pytest.fixture
def berlin(db: None, folder: Any) -> Cluster:
    now = timezone.now()
    StorageConfig.objects.create(name="vault", type="local", path=str(folder))
    cluster = Cluster.objects.create(name="berlin", url="http://127.0.0.1:9")
    ClusterObservation.objects.create(cluster=cluster, next_check_at=now, seen_at=now)
    ObservedCollection.objects.create(cluster=cluster, name="products", first_seen_at=now)
    return cluster


def test_tags_and_age_are_set_and_taken_away_on_one_page(berlin: Cluster, admin_client: Client) -> None:
    where = f"{COLLECTION}?cluster={berlin.pk}&name=products"
    page = admin_client.get("/admin/clusters/observedcollection/coverage/").content.decode()
    assert where.replace("&", "&amp;") in page

    assert admin_client.post(where, {"tags": "gold, eu", "hours": "12"}).status_code == 302
    assert tags_of_collection(cluster=berlin, collection="products") == ["eu", "gold"]
    age = age_of_collection(cluster=berlin, collection="products")
    assert age is not None
    assert age.hours == 12
    assert 'value="12"' in admin_client.get(where).content.decode()
    assert "printable" in admin_client.post(where, {"tags": "a" * 60}).content.decode()
    assert admin_client.post(where, {"tags": "", "hours": ""}).status_code == 302
    assert age_of_collection(cluster=berlin, collection="products") is None
    assert admin_client.get(f"{COLLECTION}?cluster=x&name=products").status_code == 404


def test_these_pages_are_for_those_who_may_change_schedules(berlin: Cluster, client: Client) -> None:
    client.force_login(person("viewer"))

    assert client.get(f"{COLLECTION}?cluster={berlin.pk}&name=products").status_code == 403
    assert client.get(f"/admin/schedules/schedule/blackouts/{berlin.pk}/").status_code == 403
    ages = reverse("admin:schedules_cluster_ages", args=[berlin.pk])
    assert client.get(ages).status_code == 403
    assert client.post(ages, {"of": "tag", "name": "gold", "hours": "12"}).status_code == 403
    client.force_login(person("administrator"))
    assert client.post(ages, {"of": "tag", "name": "gold", "hours": "12"}).status_code == 302
    assert client.get(reverse("admin:schedules_cluster_ages", args=[uuid.uuid4()])).status_code == 404


def test_all_ages_of_a_cluster_are_set_and_taken_away_on_one_page(berlin: Cluster, admin_client: Client) -> None:
    where = reverse("admin:schedules_cluster_ages", args=[berlin.pk])
    set_tags(cluster=berlin, collection="products", tags=["gold"])
    assert "None is set on berlin" in admin_client.get(where).content.decode()

    assert admin_client.post(where, {"of": "tag", "name": "gold", "hours": "12"}).status_code == 302
    assert admin_client.post(where, {"of": "collection", "name": "archive", "hours": "200"}).status_code == 302
    age = age_of_collection(cluster=berlin, collection="products")
    assert age is not None and (age.hours, age.tag) == (12, "gold")
    page = admin_client.get(where).content.decode()
    assert "tag, 1 collection<" in page and ">archive</th>" in page
    admin_client.post(where, {"of": "tag", "name": "gold", "hours": "6"})
    assert MaximumAge.objects.get(tag="gold").hours == 6
    assert MaximumAge.objects.count() == 2

    admin_client.post(where, {"remove": "1", "of": "tag", "name": "gold"})
    assert list(MaximumAge.objects.values_list("collection_name", flat=True)) == ["archive"]
    assert AuditEntry.objects.filter(action="age.change").count() == 4


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"of": "tag", "name": "gold", "hours": "0"}, "greater than or equal to 1"),
        ({"of": "tag", "name": "gold", "hours": "x"}, "whole number"),
        ({"of": "tag", "name": " gold", "hours": "1"}, "no spaces at its ends"),
        ({"of": "tag", "name": "g" * 51, "hours": "1"}, "50 printable characters"),
        ({"of": "collection", "name": "a/b", "hours": "1"}, "cannot contain"),
        ({"of": "nothing", "name": "a", "hours": "1"}, "not one of the available choices"),
        ({"remove": "1", "of": "tag", "name": ""}, "Name either a collection or a tag"),
        ({"remove": "1", "of": "collection", "name": "a\x00"}, "cannot contain"),
    ],
)
def test_an_age_that_makes_no_sense_is_refused_at_its_field(
    berlin: Cluster, admin_client: Client, body: dict[str, str], said: str
) -> None:
    page = admin_client.post(reverse("admin:schedules_cluster_ages", args=[berlin.pk]), body)

    assert page.status_code == 200
    assert said in page.content.decode()
    assert not MaximumAge.objects.exists()


def test_a_clusters_blackout_moves_the_next_run_of_its_schedules(berlin: Cluster, admin_client: Client) -> None:
    now = timezone.now()
    schedule = maker(berlin)(now=now)
    before = Schedule.objects.get().next_run_at
    assert before is not None
    start, end = before - timedelta(minutes=5), before + timedelta(minutes=30)
    body = {"blackouts": [{"starts_at": start.isoformat(), "ends_at": end.isoformat()}]}

    where = f"/api/v1/clusters/{berlin.pk}/blackouts"
    answer = admin_client.put(where, body, content_type="application/json")

    assert answer.status_code == 200, answer.content
    assert Schedule.objects.get().next_run_at == end
    assert AuditEntry.objects.filter(action="cluster.blackouts").count() == 1
    assert len(admin_client.get(where).json()["result"]["blackouts"]) == 1
    page = f"/admin/schedules/schedule/blackouts/{berlin.pk}/"
    assert admin_client.get(page).status_code == 200
    assert Schedule.objects.get().next_run_at == end  # looking changes nothing
    assert admin_client.post(page, {"blackouts": ""}).status_code == 302
    assert not Blackout.objects.exists()
    assert Schedule.objects.get(pk=schedule.pk).next_run_at == before


def test_blackouts_that_make_no_sense_are_refused(berlin: Cluster, admin_client: Client) -> None:
    where = f"/api/v1/clusters/{berlin.pk}/blackouts"
    at = datetime(2026, 1, 1, tzinfo=UTC).isoformat()
    for blackouts in ([{"starts_at": at, "ends_at": at}], [{"weekday": "monday"}], "x", [{}]):
        answer = admin_client.put(where, {"blackouts": blackouts}, content_type="application/json")
        assert answer.status_code == 400, blackouts
    page = admin_client.post(f"/admin/schedules/schedule/blackouts/{berlin.pk}/", {"blackouts": "sometimes"})
    assert page.status_code == 200
    assert not Blackout.objects.exists()


def test_a_month_shows_what_ran_and_what_is_planned(berlin: Cluster, admin_client: Client) -> None:
    now = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
    schedule = maker(berlin)(now=now)
    for day, status in ((8, RunStatus.OK), (9, RunStatus.FAILED)):
        slot = datetime(2026, 3, day, 2, 30, tzinfo=UTC)
        ScheduleRun.objects.create(schedule=schedule, slot=slot, created_at=slot, completed_at=slot, status=status)

    days = {day.day.day: day for week in month_of(now.date().replace(day=1), now) for day in week if day.in_month}

    assert len(days) == 31
    assert "Succeeded" in str(days[8].done[0][0]) or "ok" in str(days[8].done[0][0]).lower()
    assert "Failed" in str(days[9].done[0][0])
    assert [day for day, one in days.items() if one.planned] == list(range(11, 32))
    assert days[10].is_today
    often = maker(berlin)("often", now=now, cron="*/5 * * * *")
    busy = {day.day.day: day for week in month_of(now.date().replace(day=1), now) for day in week if day.in_month}
    assert dict(busy[10].planned)[often.name].isdigit()
    assert any(count.endswith("+") for day in busy.values() for name, count in day.planned if name == "often")


@pytest.mark.parametrize("month", ["", "2026-02", "2026-13", "x", "0001-01", "9999-12"])
def test_the_page_of_a_month_opens_for_any_month(berlin: Cluster, admin_client: Client, month: str) -> None:
    maker(berlin)(now=timezone.now())
    html = admin_client.get("/admin/schedules/schedule/month/", {"month": month}).content.decode()

    assert 'id="month"' in html
    assert "Month after" in html


def test_the_schedules_page_leads_to_the_month(berlin: Cluster, admin_client: Client) -> None:
    schedule = maker(berlin)(now=timezone.now())

    assert (
        "/admin/schedules/schedule/month/"
        in admin_client.get(f"/admin/schedules/schedule/{schedule.pk}/change/").content.decode()
    )


def test_the_pages_of_a_cluster_and_of_a_collection_lead_there(
    berlin: Cluster, admin_client: Client, client: Client
) -> None:
    pages = [
        reverse("admin:clusters_cluster_overview", args=[berlin.pk]),
        reverse("admin:clusters_cluster_overview", args=[berlin.pk]),
        f"{reverse('admin:clusters_collection')}?cluster={berlin.pk}&name=products",
    ]
    ages = reverse("admin:schedules_cluster_ages", args=[berlin.pk])
    links = [f"/admin/schedules/schedule/blackouts/{berlin.pk}/", ages, COLLECTION]
    client.force_login(person("viewer"))

    for page, link in zip(pages, links, strict=True):
        assert link in admin_client.get(page).content.decode()
        assert link not in client.get(page).content.decode()
