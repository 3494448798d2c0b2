"""The whole round: deadlines of schedules, findings from the verdict, pings, digests; and who holds the round."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection

from apps.alerts.digests import next_digest
from apps.alerts.findings import look
from apps.alerts.models import AlertClock, Channel, Delivery, Incident, Rule, Target
from apps.alerts.senders.ping import MAX_BODY, ping_address
from apps.alerts.targets import next_deadline, refresh_targets
from apps.alerts.watch import look_and_tell, take_round, watch
from apps.clusters.models import Cluster, ObservedCollection
from apps.protection.facts import read_facts
from apps.protection.judge import State, judge
from apps.schedules.models import ItemStatus, RunItem, RunStatus, Schedule, ScheduleRun
from apps.schedules.services import pause_schedule
from apps.schedules.timing.spec import Kind, Timing
from apps.storage.models import StorageConfig
from tests.admin.world import make_backup
from tests.schedules.conftest import maker

pytestmark = pytest.mark.django_db

#: A Thursday.
NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def berlin(db: None, folder: Any) -> Cluster:
    """A cluster with one collection that was backed up an hour ago, and that has just answered."""
    StorageConfig.objects.create(name="vault", type="local", path=str(folder))
    cluster = Cluster.objects.create(name="berlin", url="http://127.0.0.1:9")
    ObservedCollection.objects.create(cluster=cluster, name="products", first_seen_at=NOW - timedelta(days=9))
    return cluster


def ran(schedule: Schedule, slot: datetime, status: str = ItemStatus.OK) -> ScheduleRun:
    """A run of the schedule that backed up products, or not."""
    bad = status != ItemStatus.OK
    run = ScheduleRun.objects.create(
        schedule=schedule, slot=slot, created_at=slot, status=RunStatus.FAILED if bad else RunStatus.OK,
        completed_at=slot + timedelta(minutes=5), counts={str(status): 1},
    )  # fmt: skip
    RunItem.objects.create(
        run=run, collection_name="products", storage=StorageConfig.objects.get(), status=status, settled_at=slot
    )
    return run


def state_at(now: datetime) -> State:
    return judge(read_facts(now)).standings[0].state


WEEKDAYS = Timing(kind=Kind.CRON, cron="0 22 * * 1-5", zone="Europe/Berlin")


def test_an_irregular_cron_has_no_false_alarm_in_a_year_and_finds_a_missed_tuesday_by_wednesday() -> None:
    slot = datetime(2026, 1, 1, 21, 0, tzinfo=UTC)  # Thursday 22:00 in Berlin
    for _ in range(260):
        due = next_deadline(WEEKDAYS, slot, None, None).deadline_at
        assert due is not None
        following = next_deadline(WEEKDAYS, slot, 0, None).deadline_at
        assert following is not None
        assert following < due  # a backup at its time is there before anybody is told
        assert due - following <= timedelta(hours=6)
        slot = following
    monday = datetime(2026, 1, 5, 21, 0, tzinfo=UTC)
    tuesday = next_deadline(WEEKDAYS, monday, None, None).deadline_at
    assert tuesday is not None
    assert tuesday < monday + timedelta(days=2)


def test_a_deadline_is_stored_and_seen_to_pass_by_readers_alone(berlin: Cluster) -> None:
    schedule = maker(berlin)(now=NOW - timedelta(days=3))
    ran(schedule, datetime(2026, 1, 1, 2, 30, tzinfo=UTC))
    make_backup(berlin, StorageConfig.objects.get(), created_at=datetime(2026, 1, 1, 2, 31, tzinfo=UTC))
    refresh_targets(now=NOW)

    target = Target.objects.get()
    assert target.deadline_at == datetime(2026, 1, 2, 2, 30, tzinfo=UTC) + timedelta(hours=6)
    assert state_at(target.deadline_at - timedelta(seconds=1)) != State.OVERDUE
    # Nothing runs any more, and yet:
    assert state_at(target.deadline_at + timedelta(seconds=1)) == State.OVERDUE


def test_a_paused_schedule_expects_nothing_and_the_age_still_counts(berlin: Cluster) -> None:
    schedule = maker(berlin)(now=NOW - timedelta(days=3))
    ran(schedule, datetime(2026, 1, 1, 2, 30, tzinfo=UTC))
    make_backup(berlin, StorageConfig.objects.get(), created_at=datetime(2026, 1, 1, 2, 31, tzinfo=UTC))
    pause_schedule(schedule=schedule, reason="Move of the cluster.", until=None, now=NOW)
    refresh_targets(now=NOW)

    assert not Target.objects.exists()
    assert state_at(NOW + timedelta(hours=12)) != State.OVERDUE
    assert state_at(NOW + timedelta(hours=30)) == State.OVERDUE  # 26 h, whatever the schedule does


def test_refreshing_again_writes_nothing(berlin: Cluster, django_assert_max_num_queries: Any) -> None:
    maker(berlin)(now=NOW - timedelta(days=3))
    refresh_targets(now=NOW)
    with django_assert_max_num_queries(9):
        refresh_targets(now=NOW)
    written = [query["sql"] for query in connection.queries if query["sql"].startswith(("UPDATE", "INSERT", "DELETE"))]
    assert all("alerts_alertclock" in sql for sql in written)


def test_what_the_verdict_says_is_what_is_found(berlin: Cluster) -> None:
    findings, facts, verdict = look(NOW)

    assert verdict == judge(facts)
    assert {finding.rule for finding in findings} == {Rule.UNPROTECTED, Rule.UNREACHABLE}


def test_from_a_broken_backup_to_a_message_and_back(
    berlin: Cluster, channel: Callable[..., Channel], httpserver: Any
) -> None:
    httpserver.expect_request("/ops").respond_with_data("ok")
    channel(rules=["unprotected"])
    times = iter([NOW, NOW, NOW + timedelta(minutes=2), *[NOW + timedelta(minutes=2)] * 5])

    watch(clock=lambda: next(times, NOW + timedelta(minutes=2)))
    watch(clock=lambda: next(times, NOW + timedelta(minutes=2)))
    assert len(httpserver.log) == 1
    make_backup(berlin, StorageConfig.objects.get(), created_at=NOW)
    for minute in (5, 7):
        moment = NOW + timedelta(minutes=minute)
        watch(clock=lambda moment=moment: moment)

    events = [request.json["event"] for request, _ in httpserver.log]
    assert events == ["alert", "recovery"]
    assert Incident.objects.get(rule=Rule.UNPROTECTED).resolved_at is not None


def test_one_worker_at_a_time_looks(db: None) -> None:
    assert take_round(now=NOW)
    assert not take_round(now=NOW + timedelta(seconds=1))
    assert take_round(now=NOW + timedelta(seconds=16))
    # A clock that was far ahead must not keep everybody waiting for it.
    AlertClock.objects.update(held_until=NOW + timedelta(days=300))
    assert take_round(now=NOW + timedelta(seconds=40))


def test_a_fault_in_one_part_leaves_the_others_their_turn(
    berlin: Cluster, channel: Callable[..., Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    channel("heart", kind="ping")

    def fail(*args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("apps.alerts.watch.settle_incidents", fail)
    monkeypatch.setattr("apps.alerts.watch.refresh_targets", fail)

    assert look_and_tell(now=NOW)
    assert Delivery.objects.filter(kind="ping").count() == 1


# --- pings -------------------------------------------------------------------------------------------------
def test_the_heartbeat_comes_every_five_minutes(berlin: Cluster, channel: Callable[..., Channel]) -> None:
    channel("heart", kind="ping")
    for second in range(0, 1800, 20):
        look_and_tell(now=NOW + timedelta(seconds=second))

    assert 5 <= Delivery.objects.filter(kind="ping").count() <= 7


def test_a_run_is_told_from_its_start_to_its_end_under_one_id(
    berlin: Cluster, channel: Callable[..., Channel], httpserver: Any
) -> None:
    httpserver.expect_request("/pings").respond_with_data("OK")
    httpserver.expect_request("/pings/start").respond_with_data("OK")
    httpserver.expect_request("/pings/fail").respond_with_data("OK")
    made = channel("pings", kind="ping", schedules=["night*"])
    Channel.objects.filter(pk=made.pk).update(created_at=NOW - timedelta(days=1))
    schedule = maker(berlin)(now=NOW - timedelta(days=3))
    maker(berlin)("other", now=NOW - timedelta(days=3))
    run = ran(schedule, NOW - timedelta(minutes=10), ItemStatus.FAILED)
    RunItem.objects.update(message="ö" * 9000)

    for _ in range(2):
        watch(clock=lambda: NOW)
        AlertClock.objects.update(held_until=NOW)

    told = [(request.path, request.args["rid"]) for request, _ in httpserver.log]
    assert sorted(told) == [("/pings/fail", str(run.pk)), ("/pings/start", str(run.pk))]
    body = next(request.data for request, _ in httpserver.log if request.path.endswith("fail"))
    assert len(body) <= MAX_BODY
    assert body.decode().endswith("ö")


@pytest.mark.parametrize("status", [404, 409, 500])
def test_a_ping_that_fails_is_given_up_soon(
    berlin: Cluster, channel: Callable[..., Channel], httpserver: Any, status: int
) -> None:
    httpserver.expect_request("/heart").respond_with_data("no", status=status)
    channel("heart", kind="ping")
    for second in range(0, 60, 15):
        moment = NOW + timedelta(seconds=second)
        watch(clock=lambda moment=moment: moment)

    assert len(httpserver.log) == 3
    assert Delivery.objects.get().state == "dead"


def test_addresses_of_pings() -> None:
    run = str(uuid.uuid4())
    assert ping_address("https://hc.example.com/ping/abc", "", "") == "https://hc.example.com/ping/abc"
    assert ping_address("https://hc/k/slug?create=1", "start", run) == f"https://hc/k/slug/start?create=1&rid={run}"
    assert ping_address("https://hc/k/", "fail", run) == f"https://hc/k/fail?rid={run}"


# --- digests -----------------------------------------------------------------------------------------------
def test_the_digest_is_sent_every_day_also_when_nothing_ran(
    berlin: Cluster, channel: Callable[..., Channel], httpserver: Any
) -> None:
    channel(digest="daily", time_zone="Europe/Berlin", rules=["overdue"])
    for hour in range(24 * 4):
        look_and_tell(now=NOW + timedelta(hours=hour))

    digests = Delivery.objects.filter(kind="digest").order_by("created_at")
    assert [row.created_at.hour for row in digests] == [7] * 4  # 08:00 in Berlin
    assert digests[0].subject == "[backupmgr] 0 ok, 0 failed, 0 overdue, 1 unprotected, 0 unproven, 0 B"
    assert "products" in digests[0].text


def test_digests_keep_to_the_clock_on_the_wall() -> None:
    before = datetime(2026, 3, 28, 12, tzinfo=UTC)  # the clocks go forward in the night
    assert next_digest("daily", "Europe/Berlin", before) == datetime(2026, 3, 29, 6, tzinfo=UTC)
    assert next_digest("weekly", "UTC", before) == datetime(2026, 3, 30, 8, tzinfo=UTC)
