"""The watchdog from end to end: healthy months, workers that die and come back, and a channel that nobody hears."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from apps.alerts.models import AlertClock, Channel, Delivery, DeliveryState, Incident, Rule
from apps.alerts.watch import look_and_tell, watch
from apps.clusters.models import Cluster, ClusterObservation, ObservedCollection
from apps.jobs.models import Worker
from apps.protection.facts import forget_verdict
from apps.schedules.models import ItemStatus, RunItem, RunStatus, ScheduleRun
from apps.storage.models import StorageConfig
from tests.admin.world import make_backup, make_job
from tests.schedules.conftest import maker

pytestmark = pytest.mark.django_db

SECOND, MINUTE, HOUR, DAY = (timedelta(seconds=seconds) for seconds in (1, 60, 3600, 86400))


class World:
    """A schedule that backs products up every hour, ten minutes of grace; its last backup is `age` old."""

    def __init__(self, folder: Any, age: timedelta) -> None:
        self.now = timezone.now()
        self.storage = StorageConfig.objects.create(name="vault", type="local", path=str(folder))
        self.cluster = Cluster.objects.create(name="berlin", url="http://127.0.0.1:9")
        ClusterObservation.objects.create(
            cluster=self.cluster, next_check_at=self.now, seen_at=self.now + 400 * DAY
        )  # in touch throughout
        ObservedCollection.objects.create(cluster=self.cluster, name="products", first_seen_at=self.now - 30 * DAY)
        self.schedule = maker(self.cluster)(
            now=self.now - 9 * DAY, kind="interval", interval_seconds=3600, anchor_at=self.now - age,
            grace_seconds=600,
        )  # fmt: skip
        self.worker = Worker.objects.create(host="a", pid=1, processes=1, started_at=self.now, seen_at=self.now)
        self.backed_up(self.now - age)

    def backed_up(self, at: Any) -> None:
        """A run of the slot `at` that backed everything up, and the test of its backup."""
        run = ScheduleRun.objects.create(
            schedule=self.schedule, slot=at, created_at=at, completed_at=at, status=RunStatus.OK, counts={"ok": 1}
        )
        RunItem.objects.create(
            run=run, collection_name="products", storage=self.storage, status=ItemStatus.OK, settled_at=at
        )
        make_backup(self.cluster, self.storage, created_at=at, started_at=at, checked_at=at)

    def round(self, at: Any) -> None:
        """A worker is alive, looks and sends."""
        Worker.objects.update(seen_at=at)
        AlertClock.objects.update(held_until=at)
        watch(clock=lambda: at)


def events(httpserver: Any, path: str) -> list[str]:
    return [request.json["event"] for request, _ in httpserver.log if request.path == path]


def test_workers_die_readers_see_it_the_heartbeat_stops_and_the_end_is_told_once(
    folder: Any, channel: Callable[..., Channel], httpserver: Any, admin_client: Any
) -> None:
    world = World(folder, HOUR + 10 * MINUTE + SECOND)  # due an hour later: its deadline passed a second ago
    for path in ("/ops", "/chat", "/heart"):
        httpserver.expect_request(path).respond_with_data("ok")
    channel("ops")
    channel("chat")
    channel("heart", kind="ping")
    died = world.now - 40 * MINUTE
    for minute in range(0, 30, 5):
        world.round(died - (30 - minute) * MINUTE)
    beats = len(httpserver.log)
    assert beats == 6
    assert not Incident.objects.exists()

    # All workers are dead by now, and nobody has written anything since.
    forget_verdict()
    page = admin_client.get("/admin/clusters/observedcollection/").content.decode()
    assert "Overdue" in page
    items = admin_client.get("/api/v1/protection").json()["result"]["items"]
    assert [item["state"] for item in items] == ["overdue"]
    metrics = admin_client.get("/metrics").content.decode()
    assert 'collection="products",schedule="nightly",state="overdue"} 1.0' in metrics
    assert "backupmgr_workers_alive 0.0" in metrics
    assert admin_client.get("/readyz").status_code == 503
    assert len(httpserver.log) == beats  # whoever waits for the heartbeat hears nothing, and rings

    for step in range(0, 180, 15):
        world.round(world.now + step * SECOND)
    assert (events(httpserver, "/ops"), events(httpserver, "/chat")) == (["alert"], ["alert"])
    world.backed_up(world.now + 3 * MINUTE)
    for step in range(180, 600, 15):
        world.round(world.now + step * SECOND)

    assert events(httpserver, "/ops") == events(httpserver, "/chat") == ["alert", "recovery"]
    assert {(row.rule, row.is_open) for row in Incident.objects.all()} == {(Rule.OVERDUE, False)}
    assert sum(request.path == "/heart" for request, _ in httpserver.log) > beats
    forget_verdict()
    assert admin_client.get("/api/v1/protection").json()["result"]["items"][0]["state"] == "protected"


def test_ninety_days_of_backups_in_time_are_silent(folder: Any, channel: Callable[..., Channel]) -> None:
    """Looked at twice a day, at the worst moments: just before the grace is over, and just after a run."""
    world = World(folder, timedelta())
    type(world.schedule).objects.filter(pk=world.schedule.pk).update(interval_seconds=86400)
    channel()
    for day in range(1, 91):
        due = world.now + day * DAY
        for at in (due + 9 * MINUTE, due + 11 * MINUTE):
            Worker.objects.update(seen_at=at)
            AlertClock.objects.update(held_until=at)
            if at > due + 10 * MINUTE:
                world.backed_up(due)
            assert look_and_tell(now=at)

    assert not Incident.objects.exists()
    assert not Delivery.objects.exists()


def test_a_paused_schedule_owes_nothing_and_the_age_rings_all_the_same(
    folder: Any, channel: Callable[..., Channel]
) -> None:
    from apps.schedules.ages import set_age
    from apps.schedules.services import pause_schedule

    world = World(folder, timedelta())
    channel()
    set_age(cluster=world.cluster, collection="products", hours=12)
    pause_schedule(schedule=world.schedule, reason="Move.", until=None, now=world.now)
    for hour in (2, 11):
        world.round(world.now + hour * HOUR)
    assert not Incident.objects.exists()
    world.round(world.now + 13 * HOUR)

    (incident,) = Incident.objects.all()
    assert incident.rule == Rule.OVERDUE
    assert "no older than 12 h" in incident.summary


def test_a_channel_that_is_dead_for_a_day_is_shown_and_told_to_another(
    folder: Any, channel: Callable[..., Channel], httpserver: Any, admin_client: Any
) -> None:
    httpserver.expect_request("/dead").respond_with_data("no", status=500)
    httpserver.expect_request("/other").respond_with_data("ok")
    world = World(folder, timedelta())
    type(world.schedule).objects.update(interval_seconds=40 * 86400)
    channel("dead", rules=["failing", "channel_broken"])
    channel("other", rules=["channel_broken"])
    make_job(world.cluster, world.storage, status="failed", error="Full.", completed_at=world.now + SECOND)
    for minute in (1, 3, *range(30, 60 * 25, 30)):
        world.round(world.now + minute * MINUTE)

    assert events(httpserver, "/dead")[:1] == ["alert"]
    given_up = Delivery.objects.get(channel__name="dead", kind="alert")
    assert given_up.state == DeliveryState.DEAD
    told = Delivery.objects.get(channel__name="other")
    assert told.kind == "alert"
    assert "The channel dead does not deliver: The receiver answered 500: no." in told.text
    assert not Delivery.objects.filter(channel__name="dead", text__contains="does not deliver").exists()
    assert "Does not deliver" in admin_client.get("/admin/alerts/channel/").content.decode()
    assert 'backupmgr_deliveries_dead_total{channel="dead"}' in admin_client.get("/metrics").content.decode()
