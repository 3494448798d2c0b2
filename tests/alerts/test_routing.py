"""Who is told of what, and when: collections, tags, and quiet hours on the channel's own clock."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import IntegrityError, transaction

from apps.alerts.incidents import settle_incidents
from apps.alerts.messages import tell
from apps.alerts.models import Channel, Delivery, Incident, Rule, Severity
from apps.alerts.outbox import deliver_due
from apps.alerts.quiet import quiet_until
from apps.alerts.services import ChannelInvalid
from apps.clusters.models import Cluster, ObservedCollection
from apps.schedules.tags import set_tags
from tests.alerts.conftest import NOW, finding

pytestmark = pytest.mark.django_db

MINUTE = timedelta(minutes=1)


def told(now: datetime, *findings: Any) -> list[Delivery]:
    """What is written of findings that have been there for a minute at `now`."""
    for moment in (now - MINUTE, now):
        with transaction.atomic():
            settle_incidents(findings, now=moment)
            tell(now=moment)
    return list(Delivery.objects.order_by("channel__name"))


@pytest.mark.parametrize(
    ("wants", "reached"),
    [
        ({"tags": ["gold"]}, True),
        ({"tags": ["silver"]}, False),
        ({"tags": ["silver", "gold"]}, True),
        ({"collections": ["prod*"]}, True),
        ({"collections": ["film*"]}, False),
        ({"collections": ["prod*"], "tags": ["silver"]}, False),
    ],
)
def test_a_channel_is_told_of_its_collections(
    channel: Callable[..., Channel], wants: dict[str, Any], reached: bool
) -> None:
    berlin = Cluster.objects.create(name="berlin", url="http://127.0.0.1:9")
    set_tags(cluster=berlin, collection="products", tags=["gold"])
    set_tags(cluster=Cluster.objects.create(name="paris", url=berlin.url), collection="products", tags=["silver"])
    channel(**wants)

    assert bool(told(NOW, finding())) == reached


def test_what_is_about_no_collection_is_told_to_everybody(channel: Callable[..., Channel]) -> None:
    channel(tags=["gold"], collections=["film*"])

    assert told(NOW, finding(rule=Rule.NO_WORKER, target_key="workers", cluster="", collection=""))


NIGHT = datetime(2026, 3, 2, 22, 30, tzinfo=UTC)  # 23:30 in Berlin
MORNING = datetime(2026, 3, 3, 6, 0, tzinfo=UTC)


def test_a_warning_waits_for_the_end_of_the_quiet_hours_and_is_then_sent(
    channel: Callable[..., Channel], httpserver: Any
) -> None:
    httpserver.expect_request("/ops").respond_with_data("ok")
    channel(quiet_hours="22:00-07:00", time_zone="Europe/Berlin")
    (delivery,) = told(NIGHT, finding(severity=Severity.WARNING))

    assert delivery.next_try_at == MORNING
    assert deliver_due(clock=lambda: MORNING - MINUTE) == 0
    assert deliver_due(clock=lambda: MORNING) == 1


def test_what_is_critical_does_not_wait(channel: Callable[..., Channel]) -> None:
    channel(quiet_hours="22:00-07:00", time_zone="Europe/Berlin")
    (delivery,) = told(NIGHT, finding())

    assert delivery.next_try_at == NIGHT


def test_what_is_over_before_the_quiet_hours_are_is_never_sent(channel: Callable[..., Channel]) -> None:
    channel(quiet_hours="22:00-07:00", time_zone="Europe/Berlin")
    told(NIGHT, finding(severity=Severity.WARNING))
    (delivery,) = told(NIGHT + 5 * MINUTE)

    assert delivery.state == "withdrawn"


@pytest.mark.parametrize(
    ("at", "until"),
    [
        (datetime(2026, 3, 2, 20, 59, tzinfo=UTC), None),
        (datetime(2026, 3, 2, 21, 0, tzinfo=UTC), MORNING),
        (datetime(2026, 3, 3, 5, 59, tzinfo=UTC), MORNING),
        (MORNING, None),
        # The night in which clocks go forward is an hour shorter.
        (datetime(2026, 3, 28, 23, 0, tzinfo=UTC), datetime(2026, 3, 29, 5, 0, tzinfo=UTC)),
    ],
)
def test_quiet_hours_follow_the_clock_on_the_wall(at: datetime, until: datetime | None) -> None:
    assert quiet_until("22:00-07:00", "Europe/Berlin", at) == until


def test_quiet_hours_within_a_day() -> None:
    assert quiet_until("12:00-13:00", "UTC", NOW) == NOW + timedelta(hours=1)
    assert quiet_until("12:00-13:00", "UTC", NOW + timedelta(hours=1)) is None
    assert quiet_until("", "UTC", NOW) is None


@pytest.mark.parametrize("text", ["22-7", "22:00-22:00", "25:00-07:00", "22:00 - 7:00", "٢٢:00-07:00"])
def test_quiet_hours_that_nobody_can_read_are_refused(channel: Callable[..., Channel], text: str) -> None:
    with pytest.raises(ChannelInvalid) as refused:
        channel(quiet_hours=text)
    assert "quiet_hours" in refused.value.problems


# --- the default channel -----------------------------------------------------------------------------------
def names(deliveries: list[Delivery]) -> list[tuple[str, str]]:
    return sorted((row.channel.name, row.kind) for row in deliveries)


def test_what_is_critical_and_nobody_asks_for_falls_to_the_default_channel(channel: Callable[..., Channel]) -> None:
    channel("hamburg", clusters=["ham*"])
    channel("default", rules=["overdue"], is_default=True)
    warning = finding("small", severity=Severity.WARNING)

    (delivery,) = told(NOW, finding(), warning)

    assert delivery.channel.name == "default"
    assert [row["collection"] for row in delivery.payload["incidents"]] == ["products"]  # the warning is nobody's


def test_what_another_channel_asks_for_does_not_fall_to_the_default_one(channel: Callable[..., Channel]) -> None:
    channel("berlin", clusters=["ber*"])
    channel("default", rules=["overdue"], is_default=True)

    assert names(told(NOW, finding())) == [("berlin", "alert")]


def test_the_default_channel_hears_the_end_of_what_it_was_told_and_of_nothing_else(
    channel: Callable[..., Channel],
) -> None:
    channel("default", rules=["overdue"], is_default=True)
    told(NOW, finding())
    Delivery.objects.update(state="sent")
    channel("berlin", clusters=["ber*"])  # somebody asks for it by now
    other = finding("people")
    told(NOW + 3 * MINUTE, finding(), other)
    Delivery.objects.update(state="sent")
    told(NOW + 6 * MINUTE)

    assert names(list(Delivery.objects.all())) == [
        ("berlin", "alert"), ("berlin", "recovery"), ("default", "alert"), ("default", "recovery"),
    ]  # fmt: skip
    for row in Delivery.objects.all():
        about = [one["collection"] for one in row.payload["incidents"]]
        assert about == (["products"] if row.channel.name == "default" else ["people"])


def test_a_default_channel_that_is_broken_is_not_told_of_itself(channel: Callable[..., Channel]) -> None:
    made = channel("default", is_default=True)

    assert told(NOW, finding(rule=Rule.CHANNEL_BROKEN, target_key=str(made.pk), cluster="", collection="")) == []


def test_what_nobody_was_told_is_told_to_the_first_who_asks(channel: Callable[..., Channel]) -> None:
    assert told(NOW, finding()) == []
    assert Incident.objects.get().notified_at is None  # and does not claim to have been told
    channel("late")

    assert names(told(NOW + 90 * MINUTE, finding())) == [("late", "alert")]


def test_there_is_one_default_channel_and_another_takes_its_place(channel: Callable[..., Channel]) -> None:
    first = channel("first", is_default=True)
    channel("second", is_default=True)

    first.refresh_from_db()
    assert not first.is_default
    with pytest.raises(IntegrityError), transaction.atomic():
        Channel.objects.update(is_default=True)


def test_what_becomes_critical_is_told_to_those_who_ask_for_that_only(channel: Callable[..., Channel]) -> None:
    channel("urgent", min_severity="critical")
    channel("all")
    assert names(told(NOW, finding(severity=Severity.WARNING))) == [("all", "alert")]
    Delivery.objects.update(state="sent")

    assert ("urgent", "alert") in names(told(NOW + 5 * MINUTE, finding()))
    told(NOW + 8 * MINUTE, finding(severity=Severity.WARNING))
    assert Incident.objects.get().severity == Severity.CRITICAL  # until it is over
    assert Delivery.objects.filter(channel__name="urgent").count() == 1


# --- one message for what belongs together ----------------------------------------------------------------------
def test_what_begins_within_a_minute_on_a_cluster_is_one_message_that_says_of_how_many(
    channel: Callable[..., Channel],
) -> None:
    """As a run ends: its collections fail one after the other, and rounds of the watch fall between."""
    channel()
    berlin = Cluster.objects.create(name="berlin", url="http://127.0.0.1:9")
    for number in range(40):
        ObservedCollection.objects.create(cluster=berlin, name=f"c{number:02}", first_seen_at=NOW)
    wrong: list[Any] = []
    for second in range(0, 75, 15):
        if second < 60:
            wrong += [finding(f"c{len(wrong) + step:02}") for step in range(3)]
        with transaction.atomic():
            settle_incidents(wrong, now=NOW + timedelta(seconds=second))
            tell(now=NOW + timedelta(seconds=second))

    (delivery,) = Delivery.objects.all()
    assert delivery.subject.startswith("[backupmgr] 12 of 40 collections on berlin: backups of a collection fail: c00")
    assert delivery.text.count("\n- ") == 11  # ten are named
    assert "- and 2 more" in delivery.text
    assert len(delivery.payload["incidents"]) == 12


def test_clusters_are_told_apart(channel: Callable[..., Channel]) -> None:
    channel()

    assert len(told(NOW, finding("a"), finding("b"), finding("c", cluster="paris", target_key="paris/c"))) == 2


def test_an_end_waits_until_it_is_known_whether_the_beginning_arrived(channel: Callable[..., Channel]) -> None:
    channel()
    told(NOW, finding())
    Delivery.objects.update(state="sending")
    told(NOW + 3 * MINUTE)
    assert names(list(Delivery.objects.all())) == [("ops", "alert")]
    Delivery.objects.update(state="sent")

    assert names(told(NOW + 5 * MINUTE)) == [("ops", "alert"), ("ops", "recovery")]
