"""A schedule's page shows its targets and incidents, and its deletion warns of what it owes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from apps.alerts.models import Incident, Rule, Severity, Target
from apps.clusters.models import Cluster, ObservedCollection
from apps.protection.facts import forget_verdict
from apps.schedules.models import RunStatus, Schedule, ScheduleRun
from apps.schedules.services import pause_schedule
from apps.storage.models import StorageConfig
from tests.admin.world import person
from tests.schedules.conftest import maker

pytestmark = pytest.mark.django_db


@pytest.fixture
def nightly(db: None, folder: Any) -> Schedule:
    now = timezone.now()
    StorageConfig.objects.create(name="vault", type="local", path=str(folder))
    cluster = Cluster.objects.create(name="berlin", url="http://127.0.0.1:9")
    schedule = maker(cluster)(now=now)
    for name, hours in (("films", 5), ("songs", 7)):
        ObservedCollection.objects.create(cluster=cluster, name=name, first_seen_at=now)
        owes(schedule, name, hours)
    return schedule


def owes(schedule: Schedule, name: str, hours: float) -> None:
    now = timezone.now()
    at = now + timedelta(hours=hours)
    Target.objects.create(
        schedule=schedule, collection_name=name, first_seen_at=now, last_ok_slot=now - timedelta(days=1), due_at=at,
        deadline_at=at,
    )  # fmt: skip


def incident(schedule: Schedule, **fields: Any) -> Incident:
    now = timezone.now()
    values = {
        "rule": Rule.OVERDUE, "target_key": f"{schedule.cluster_id}/films", "severity": Severity.CRITICAL,
        "summary": "films on berlin: 7 h late.", "cluster_name": "berlin", "collection_name": "films",
        "opened_at": now, "last_seen_at": now,
    }  # fmt: skip
    return Incident.objects.create(**(values | fields))


def page_of(schedule: Schedule, client: Client) -> str:
    forget_verdict()
    answer = client.get(reverse("admin:schedules_schedule_change", args=[schedule.pk]))
    return str(answer.content.decode())


def test_targets_stand_with_their_deadlines_the_most_pressing_first(nightly: Schedule, admin_client: Client) -> None:
    other = maker(nightly.cluster)("other", now=timezone.now())
    owes(other, "books", 1)
    owes(nightly, "late", -3)

    page = page_of(nightly, admin_client)

    assert page.index(">late</a>") < page.index(">films</a>") < page.index(">songs</a>")
    assert "books" not in page
    assert ">Overdue</span>" in page and ">In time</span>" in page
    assert "in 4 h" in page and "3 h ago</time>, late" in page
    assert "3 collections, and by when" in page


def test_open_incidents_of_it_and_of_its_collections_are_linked(
    nightly: Schedule, admin_client: Client, client: Client
) -> None:
    mine = incident(nightly)
    broken = incident(
        nightly, rule=Rule.SCHEDULE_BROKEN, target_key=str(nightly.pk), collection_name="", severity=Severity.WARNING,
        summary="Schedule nightly cannot be planned.",
    )  # fmt: skip
    elsewhere = incident(nightly, target_key="oslo/films", cluster_name="oslo", summary="films on oslo: late.")
    over = incident(nightly, target_key="over", resolved_at=timezone.now(), summary="It was late.")

    page = page_of(nightly, admin_client)

    links = [reverse("admin:alerts_incident_change", args=[one.pk]) for one in (mine, broken, elsewhere, over)]
    assert [link in page for link in links] == [True, True, False, False]
    assert page.index(links[0]) < page.index(links[1])  # the critical one first
    client.force_login(person("viewer"))
    assert links[0] in page_of(nightly, client)


def test_a_paused_schedule_says_that_nothing_is_expected(nightly: Schedule, admin_client: Client) -> None:
    pause_schedule(schedule=nightly, reason="move", now=timezone.now())

    assert "It is paused: no backup is expected of it" in page_of(nightly, admin_client)


def test_the_page_asks_as_often_for_many_targets_as_for_few(nightly: Schedule, admin_client: Client) -> None:
    def count() -> int:
        page_of(nightly, admin_client)
        with CaptureQueriesContext(connection) as asked:
            page_of(nightly, admin_client)
        return len(asked)

    few = count()
    for number in range(120):
        owes(nightly, f"c{number}", 9)

    assert count() == few
    page = page_of(nightly, admin_client)
    assert "122 collections" in page and "The 50 most pressing are shown." in page


def test_the_deletion_of_an_overdue_schedule_warns(nightly: Schedule, admin_client: Client) -> None:
    where = reverse("admin:schedules_schedule_remove", args=[nightly.pk])
    Schedule.objects.update(next_fire_at=None, next_run_at=timezone.now() + timedelta(hours=1))
    assert "bm-notice-warn" not in admin_client.get(where).content.decode()

    owes(nightly, "late", -3)
    forget_verdict()
    page = admin_client.get(where).content.decode()
    assert "1 collection of it is overdue, since" in page and ": late. This schedule will not back it up" in page

    for number in range(7):
        owes(nightly, f"late-{number}", -4)
    Schedule.objects.update(next_fire_at=None, next_run_at=timezone.now() - timedelta(minutes=1))
    page = admin_client.get(where).content.decode()
    assert "8 collections of it are overdue" in page and "and 3 more. This schedule" in page
    assert "A run of it is due and has not begun" in page
    admin_client.post(where, {"backups": "policy"})
    assert Schedule.objects.get().deleted_at is not None  # warned, not forbidden


def test_the_last_runs_stand_as_a_strip_that_leads_to_them(nightly: Schedule, admin_client: Client) -> None:
    now = timezone.now()
    for day in range(40):
        at = now - timedelta(days=day)
        status = RunStatus.FAILED if day == 1 else RunStatus.MISSED if day == 2 else RunStatus.OK
        missed = {"missed_count": 3, "missed_from": at} if day == 2 else {}
        ScheduleRun.objects.create(schedule=nightly, slot=at, created_at=at, completed_at=at, status=status, **missed)
    newest = ScheduleRun.objects.order_by("-slot").first()
    assert newest is not None

    page = page_of(nightly, admin_client)

    strip = page.partition('class="bm-strip"')[2].partition("</svg>")[0]
    assert strip.count("<a href") == 30
    assert strip.count("bm-c-bad") == 1 and strip.count("bm-c-hollow") == 1 and "3 slots" in strip
    assert strip.rindex("<a href") == strip.index(reverse("admin:schedules_schedulerun_change", args=[newest.pk])) - 9
