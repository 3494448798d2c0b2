"""Calendars of a schedule, a cluster and a collection, and today's line: what each day says, and where it leads."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from apps.clusters.models import Cluster, ObservedCollection
from apps.schedules.admin.calendar import (
    Calendar,
    Day,
    calendar_of,
    calendar_of_cluster,
    calendar_of_collection,
)
from apps.schedules.admin.month import month_of
from apps.schedules.admin.today import today_of
from apps.schedules.models import ItemStatus, RunItem, RunStatus, Schedule, ScheduleRun
from apps.schedules.services import pause_schedule
from apps.storage.models import StorageConfig
from tests.schedules.conftest import maker

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 3, 18, 12, 0, tzinfo=UTC)  # a Wednesday


@pytest.fixture
def nightly(cluster: Cluster, storage: StorageConfig) -> Schedule:
    return maker(cluster)(now=NOW, tz="Europe/Berlin")


def ran(schedule: Schedule, slot: datetime, status: str = "ok", **fields: Any) -> ScheduleRun:
    values = {"created_at": slot, "completed_at": slot + timedelta(minutes=5)} | fields
    return ScheduleRun.objects.create(schedule=schedule, slot=slot, status=status, **values)


def days(calendar: Calendar) -> dict[date, Day]:
    """Those with something on them."""
    return {cell.day: cell for _, cells in calendar.rows for cell in cells if cell.tone}


def test_a_year_has_53_weeks_under_their_months_and_days_to_come_are_hidden(nightly: Schedule) -> None:
    calendar = calendar_of(nightly, NOW)

    assert [name for name, _ in calendar.rows] == ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
    assert {len(cells) for _, cells in calendar.rows} == {53}
    assert sum(weeks for _, weeks in calendar.months) == 53
    assert (calendar.months[0][0], calendar.months[-1][0]) == ("Mar", "Mar")
    ahead = [cell.day for _, cells in calendar.rows for cell in cells if cell.is_future]
    assert ahead == [date(2026, 3, day) for day in (19, 20, 21, 22)]


def test_a_day_is_one_of_the_schedules_zone_and_says_its_worst(nightly: Schedule) -> None:
    ran(nightly, datetime(2026, 3, 9, 23, 30, tzinfo=UTC))  # the 10th in Berlin
    ran(nightly, datetime(2026, 3, 10, 1, 30, tzinfo=UTC), RunStatus.FAILED)
    ran(nightly, datetime(2026, 3, 11, 1, 30, tzinfo=UTC))
    ran(nightly, datetime(2026, 3, 11, 9, 30, tzinfo=UTC), RunStatus.BLACKOUT)
    ran(nightly, datetime(2026, 3, 12, 1, 30, tzinfo=UTC), RunStatus.BLACKOUT)

    found = days(calendar_of(nightly, NOW))

    assert {day.day: one.tone for day, one in found.items()} == {10: "bad", 11: "ok", 12: "off"}
    assert found[date(2026, 3, 10)].words == "10 Mar 2026: 1 failed, 1 succeeded"


@pytest.mark.parametrize("zone", ["Asia/Kathmandu", "Australia/Lord_Howe", "America/St_Johns"])
def test_zones_that_are_no_full_hours_away_have_their_days_too(nightly: Schedule, zone: str) -> None:
    Schedule.objects.update(tz=zone)
    nightly.refresh_from_db()
    midnight = datetime(2026, 3, 10, tzinfo=ZoneInfo(zone))
    ran(nightly, midnight - timedelta(minutes=1))
    ran(nightly, midnight, RunStatus.FAILED)

    found = days(calendar_of(nightly, NOW))

    assert {day.day: one.tone for day, one in found.items()} == {9: "ok", 10: "bad"}


def test_one_row_of_missed_slots_marks_each_of_its_days(
    nightly: Schedule, cluster: Cluster, admin_client: Client
) -> None:
    first = datetime(2026, 3, 2, 1, 30, tzinfo=UTC)
    missed = ran(nightly, first + timedelta(days=4), RunStatus.MISSED, missed_count=5, missed_from=first)

    for calendar in (calendar_of(nightly, NOW), calendar_of_cluster(cluster, NOW)):
        found = days(calendar)
        assert {day.day: one.tone for day, one in found.items()} == dict.fromkeys(range(2, 7), "missed")
        # Also the first of them leads to the row, which stands at the last slot.
        page = admin_client.get(found[date(2026, 3, 2)].link)
        assert [run.pk for run in page.context["cl"].result_list] == [missed.pk]
    marked = [day.day.day for week in month_of(date(2026, 3, 1), NOW) for day in week if day.done and day.in_month]
    assert marked == [2, 3, 4, 5, 6]


def test_missed_slots_that_are_days_apart_are_spread_as_they_were(nightly: Schedule) -> None:
    first = datetime(2026, 2, 3, 3, 0, tzinfo=UTC)
    ran(nightly, first + timedelta(weeks=3), RunStatus.MISSED, missed_count=4, missed_from=first)

    assert [(day.month, day.day) for day in sorted(days(calendar_of(nightly, NOW)))] == [
        (2, 3), (2, 10), (2, 17), (2, 24),
    ]  # fmt: skip


def test_a_day_opens_its_runs_and_names_itself(nightly: Schedule, cluster: Cluster, admin_client: Client) -> None:
    other = maker(cluster)("other", now=NOW)
    mine = ran(nightly, datetime(2026, 3, 9, 23, 30, tzinfo=UTC))
    theirs = ran(other, datetime(2026, 3, 10, 12, 0, tzinfo=UTC))
    ran(nightly, datetime(2026, 3, 10, 23, 30, tzinfo=UTC))  # the 11th in Berlin

    page = admin_client.get(days(calendar_of(nightly, NOW))[date(2026, 3, 10)].link)
    assert [run.pk for run in page.context["cl"].result_list] == [mine.pk]
    assert "Runs of 10 Mar 2026" in page.content.decode()

    with timezone.override(ZoneInfo("Europe/Berlin")):
        page = admin_client.get(days(calendar_of_cluster(cluster, NOW))[date(2026, 3, 10)].link)
        assert {run.pk for run in page.context["cl"].result_list} == {mine.pk, theirs.pk}
        month = {day.day: day for week in month_of(date(2026, 3, 1), NOW) for day in week}
        page = admin_client.get(month[date(2026, 3, 10)].link)
        assert {run.pk for run in page.context["cl"].result_list} == {mine.pk, theirs.pk}


def test_a_collection_shows_what_became_of_it_and_what_was_missed(
    nightly: Schedule, cluster: Cluster, storage: StorageConfig, admin_client: Client
) -> None:
    seen = datetime(2026, 3, 4, tzinfo=UTC)
    ObservedCollection.objects.create(cluster=cluster, name="films", first_seen_at=seen)
    run = ran(nightly, datetime(2026, 3, 10, 1, 30, tzinfo=UTC), RunStatus.PARTIAL)
    for name, status in (("films", ItemStatus.OK), ("songs", ItemStatus.FAILED)):
        RunItem.objects.create(run=run, collection_name=name, storage=storage, status=status)
    ran(nightly, datetime(2026, 3, 11, 1, 30, tzinfo=UTC), RunStatus.FAILED)  # as a whole: nothing was listed
    at = datetime(2026, 3, 12, 1, 30, tzinfo=UTC)
    missed = ran(nightly, at, RunStatus.MISSED, missed_count=1, missed_from=at)
    ran(nightly, datetime(2026, 3, 3, 1, 30, tzinfo=UTC), RunStatus.FAILED)  # before it was there
    elsewhere = maker(cluster)("elsewhere", now=NOW, include=["songs"])
    ran(elsewhere, datetime(2026, 3, 13, 1, 30, tzinfo=UTC), RunStatus.FAILED)

    found = days(calendar_of_collection(cluster, "films", NOW))

    assert {day.day: one.tone for day, one in found.items()} == {10: "ok", 11: "bad", 12: "missed"}
    for day, pk in ((10, run.pk), (12, missed.pk)):
        page = admin_client.get(found[date(2026, 3, day)].link)
        assert [one.pk for one in page.context["cl"].result_list] == [pk]
    assert {day.day for day in days(calendar_of_collection(cluster, "songs", NOW))} >= {10, 13}
    assert days(calendar_of_collection(cluster, "nothing", NOW)).keys() == {
        date(2026, 3, day) for day in (3, 11, 12)
    }  # never seen, and meant by *


def test_what_is_due_and_was_not_run_is_no_empty_day(nightly: Schedule, cluster: Cluster) -> None:
    due = NOW - timedelta(days=2)
    Schedule.objects.update(next_fire_at=due, next_run_at=due)
    nightly.refresh_from_db()
    ObservedCollection.objects.create(cluster=cluster, name="films", first_seen_at=NOW)

    for calendar in (
        calendar_of(nightly, NOW), calendar_of_cluster(cluster, NOW), calendar_of_collection(cluster, "films", NOW),
    ):  # fmt: skip
        found = days(calendar)
        assert found.keys() == {date(2026, 3, 16)}
        assert found[date(2026, 3, 16)].tone == "missed"
        assert found[date(2026, 3, 16)].words == "16 Mar 2026: 1 due and not run"
    paused = pause_schedule(schedule=nightly, reason="x", now=NOW)
    assert not days(calendar_of(paused, NOW)) and not days(calendar_of_cluster(cluster, NOW))


def test_each_calendar_counts_by_one_query(nightly: Schedule, cluster: Cluster, storage: StorageConfig) -> None:
    ObservedCollection.objects.create(cluster=cluster, name="films", first_seen_at=NOW - timedelta(days=300))
    for day in range(1, 200):
        run = ran(nightly, NOW - timedelta(days=day))
        RunItem.objects.create(run=run, collection_name="films", storage=storage, status=ItemStatus.OK)

    for make in (
        lambda: calendar_of(nightly, NOW),
        lambda: calendar_of_cluster(cluster, NOW),
        lambda: calendar_of_collection(cluster, "films", NOW),
    ):
        with CaptureQueriesContext(connection) as asked:
            assert len(days(make())) == 199
        assert sum("GROUP BY" in query["sql"] for query in asked) == 1
        assert len(asked) <= 5


class TestToday:
    def test_runs_and_plans_stand_on_the_viewers_day(self, nightly: Schedule, cluster: Cluster) -> None:
        hourly = maker(cluster)("hourly", now=NOW, cron="0 * * * *")
        ran(nightly, datetime(2026, 3, 18, 1, 30, tzinfo=UTC), RunStatus.FAILED)
        ran(nightly, datetime(2026, 3, 17, 1, 30, tzinfo=UTC))  # yesterday
        running = ran(hourly, NOW - timedelta(minutes=30), RunStatus.RUNNING, completed_at=None)

        today = today_of(NOW)

        lines = {line.schedule.name: line for line in today.lines}
        assert lines["nightly"].words == "1 run so far, 1 of them failed or missed; no other today"
        assert lines["hourly"].words == "1 run so far; running now; next at 13:00 and 10 more"
        assert str(lines["hourly"].line).count("planned</title>") == 11
        assert "11:30: running, 30 min" in str(lines["hourly"].line)
        assert today.left_out == 0
        with timezone.override(ZoneInfo("Asia/Tokyo")):  # there it is 21:00, and the day began at 15:00 UTC
            lines = {line.schedule.name: line for line in today_of(NOW).lines}
            assert lines["hourly"].words.endswith("next at 22:00 and 1 more")
            assert lines["nightly"].words.startswith("1 run so far")
        assert running.is_open

    def test_paused_and_other_clusters_stay_out(self, nightly: Schedule, cluster: Cluster) -> None:
        hourly = maker(cluster)("hourly", now=NOW, cron="0 * * * *")
        other = Cluster.objects.create(name="oslo", url="http://127.0.0.1:9")

        assert [line.schedule.name for line in today_of(NOW, cluster).lines] == ["hourly"]
        assert today_of(NOW, other).lines == ()
        pause_schedule(schedule=hourly, reason="x", now=NOW)
        assert today_of(NOW).lines == ()

    def test_a_skipped_run_and_a_long_day_are_drawn_as_they_are(self, nightly: Schedule) -> None:
        """On the day when clocks go back the line has 25 hours."""
        now = datetime(2026, 10, 25, 12, 0, tzinfo=UTC)
        ran(nightly, datetime(2026, 10, 25, 0, 30, tzinfo=UTC), RunStatus.BLACKOUT)
        with timezone.override(ZoneInfo("Europe/Berlin")):
            line = str(today_of(now).lines[0].line)

        assert 'viewBox="0 0 500 20"' in line
        assert 'class="bm-c-off" x="50.0"' in line  # 2.5 h after midnight

    def test_as_many_queries_for_many_schedules(self, nightly: Schedule, cluster: Cluster) -> None:
        def count() -> int:
            with CaptureQueriesContext(connection) as asked:
                today_of(NOW)
            return len(asked)

        for number in range(3):
            ran(maker(cluster)(f"s{number}", now=NOW, cron="0 * * * *"), NOW - timedelta(hours=1))
        few = count()
        for number in range(3, 50):
            ran(maker(cluster)(f"s{number}", now=NOW, cron="0 * * * *"), NOW - timedelta(hours=1))

        assert count() == few
        assert today_of(NOW).left_out == 10


def test_the_pages_show_their_calendars(nightly: Schedule, cluster: Cluster, admin_client: Client) -> None:
    now = timezone.now()
    ObservedCollection.objects.create(cluster=cluster, name="films", first_seen_at=now - timedelta(days=30))
    at = now - timedelta(days=3)
    ran(nightly, at, RunStatus.MISSED, missed_count=1, missed_from=at)
    Schedule.objects.update(next_run_at=now + timedelta(hours=1))
    month = reverse("admin:schedules_month")

    for address in (
        reverse("admin:schedules_schedule_change", args=[nightly.pk]),
        f"{month}?cluster={cluster.pk}",
        f"{reverse('admin:clusters_collection')}?cluster={cluster.pk}&name=films",
    ):
        page = admin_client.get(address).content.decode()
        assert page.count('class="bm-day-missed"') == 1, address
        assert page.count('<th scope="row">') >= 7
    assert 'id="calendar"' not in admin_client.get(month).content.decode()
    assert admin_client.get(f"{month}?cluster=x").status_code == 200
    for address in (
        reverse("admin:index"),
        reverse("admin:schedules_schedule_changelist"),
        reverse("admin:clusters_cluster_overview", args=[cluster.pk]),
    ):
        assert month in admin_client.get(address).content.decode()


def test_a_month_of_one_cluster_leaves_the_others_out(nightly: Schedule, cluster: Cluster) -> None:
    other = Cluster.objects.create(name="oslo", url="http://127.0.0.1:9")
    ran(maker(other)("far", now=NOW), NOW - timedelta(days=1))

    def names(of: Cluster | None) -> set[str]:
        weeks = month_of(date(2026, 3, 1), NOW, of)
        return {name for week in weeks for day in week for _, name, _ in day.done} | {
            name for week in weeks for day in week for name, _ in day.planned
        }

    assert names(None) == {"nightly", "far"}
    assert names(cluster) == {"nightly"}
    assert names(other) == {"far"}


def test_a_day_with_many_schedules_names_some_and_counts_the_others(
    nightly: Schedule, cluster: Cluster, admin_client: Client
) -> None:
    now = timezone.now()
    for number in range(9):
        ran(maker(cluster)(f"s{number}", now=now), now - timedelta(minutes=1))

    page = admin_client.get(reverse("admin:schedules_month")).content.decode()

    assert "and 3 more<" in page
    assert "and 4 more planned" in page


def test_the_month_of_very_many_schedules_counts_their_runs_together(
    nightly: Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Schedule.objects.get(pk=nightly.pk)
    other.pk, other.name, other._state.adding = uuid.uuid4(), "other", True
    other.save()
    for schedule, status in ((nightly, "ok"), (other, "ok"), (other, "failed")):
        ScheduleRun.objects.create(
            schedule=schedule, slot=datetime(2026, 3, 3, len(status), tzinfo=UTC), status=status, created_at=NOW,
            completed_at=NOW,
        )  # fmt: skip

    def third() -> list[tuple[str, int]]:
        day = next(day for week in month_of(date(2026, 3, 1), NOW) for day in week if day.day == date(2026, 3, 3))
        assert day.link
        return [(name, count) for _, name, count in day.done]

    assert third() == [("other", 1), (nightly.name, 1), ("other", 1)]
    monkeypatch.setattr("apps.schedules.admin.month.MOST_APART", 1)
    assert third() == [("all schedules", 1), ("all schedules", 2)]
