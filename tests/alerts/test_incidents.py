"""One message each way: what begins is told once, reminded of, and its end is told to those who heard of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import IntegrityError, transaction

from apps.alerts.findings import Finding
from apps.alerts.incidents import settle_incidents
from apps.alerts.messages import tell
from apps.alerts.models import Channel, Delivery, DeliveryKind, DeliveryState, Incident, Rule, Severity
from tests.alerts.conftest import NOW, finding

pytestmark = pytest.mark.django_db

MINUTE = timedelta(minutes=1)


def round_at(now: datetime, *findings: Finding) -> list[Delivery]:
    """One round of the watch, with what it found; return what it wrote. All of it counts as delivered."""
    before = set(Delivery.objects.values_list("pk", flat=True))
    with transaction.atomic():
        settle_incidents(findings, now=now)
        tell(now=now)
    written = list(Delivery.objects.exclude(pk__in=before).order_by("channel__name"))
    Delivery.objects.filter(pk__in=[row.pk for row in written]).update(state=DeliveryState.SENT)
    return written


def kinds(deliveries: Sequence[Delivery]) -> list[str]:
    return [delivery.kind for delivery in deliveries]


def test_forty_failures_are_one_message_for_each_channel(channel: Callable[..., Channel]) -> None:
    channel("ops")
    channel("chat")
    wrong = [finding(f"c{number:02}") for number in range(40)]

    assert round_at(NOW, *wrong) == []  # gathered first
    first, second = round_at(NOW + MINUTE, *wrong)

    assert (first.channel.name, second.channel.name) == ("chat", "ops")
    assert first.kind == DeliveryKind.ALERT
    assert first.subject.startswith("[backupmgr] 40 collections on berlin: backups of a collection fail: c00, c01,")
    assert "c09" in first.subject
    assert "and 30 more" in first.text
    assert len(first.payload["incidents"]) == 40
    assert round_at(NOW + 2 * MINUTE, *wrong) == []


def test_what_goes_on_is_one_alert_and_reminders_that_come_ever_less_often(channel: Callable[..., Channel]) -> None:
    channel()
    told: list[timedelta] = []
    for hour in range(24 * 30):
        now = NOW + timedelta(hours=hour)
        told += [now - NOW for _ in round_at(now, finding())]

    days = [round(moment / timedelta(days=1), 1) for moment in told]
    assert days[0] == 0.0  # with the second round
    assert days[1:] == [1.0, 3.0, 7.1, 14.1, 21.1, 28.1] or [round(day) for day in days[1:]] == [1, 3, 7, 14, 21, 28]
    assert Delivery.objects.filter(kind=DeliveryKind.ALERT).count() == 1


def test_the_end_is_told_once_and_only_to_who_heard_of_the_beginning(channel: Callable[..., Channel]) -> None:
    channel("ops")
    round_at(NOW, finding())
    assert kinds(round_at(NOW + MINUTE, finding())) == ["alert"]
    channel("late")

    assert round_at(NOW + 2 * MINUTE) == []
    (over,) = round_at(NOW + 4 * MINUTE)

    assert (over.kind, over.channel.name) == (DeliveryKind.RECOVERY, "ops")
    assert over.subject.startswith("[backupmgr] Over: products")
    assert round_at(NOW + 5 * MINUTE) == []


def test_what_is_over_at_once_is_told_to_nobody(channel: Callable[..., Channel]) -> None:
    channel()
    round_at(NOW, finding())
    round_at(NOW + timedelta(seconds=30))

    assert round_at(NOW + 5 * MINUTE) == []
    assert Incident.objects.get().resolved_at is not None


def test_flapping_goes_on_with_one_incident(channel: Callable[..., Channel]) -> None:
    channel()
    round_at(NOW, finding())
    round_at(NOW + MINUTE, finding())
    for step in range(2, 20, 2):  # gone for a round, back in the next: never over for long enough to be told
        round_at(NOW + step * MINUTE)
        round_at(NOW + step * MINUTE + timedelta(seconds=30), finding())

    assert Incident.objects.count() == 1
    assert Delivery.objects.count() == 1

    round_at(NOW + 30 * MINUTE)
    assert kinds(round_at(NOW + 32 * MINUTE)) == ["recovery"]
    assert kinds(round_at(NOW + 40 * MINUTE, finding())) == ["alert"]  # who heard that it is over has to hear this
    assert Incident.objects.count() == 1


def test_after_half_an_hour_it_is_a_new_incident(channel: Callable[..., Channel]) -> None:
    round_at(NOW, finding())
    round_at(NOW + MINUTE)
    round_at(NOW + 40 * MINUTE, finding())

    assert Incident.objects.count() == 2
    with pytest.raises(IntegrityError), transaction.atomic():
        Incident.objects.all().update(resolved_at=None)


@pytest.mark.parametrize(
    ("wants", "told"),
    [
        ({}, True),
        ({"min_severity": "critical"}, True),
        ({"rules": ["overdue"]}, False),
        ({"rules": ["overdue", "failing"]}, True),
        ({"clusters": ["ham*"]}, False),
        ({"clusters": ["ber*"]}, True),
        ({"enabled": False}, False),
    ],
)
def test_a_channel_is_told_of_what_it_asked_for(
    channel: Callable[..., Channel], wants: dict[str, Any], told: bool
) -> None:
    channel(**wants)
    round_at(NOW, finding())

    assert bool(round_at(NOW + MINUTE, finding())) == told


def test_mute_holds_all_but_what_is_critical(channel: Callable[..., Channel]) -> None:
    channel(muted_until=NOW + timedelta(days=1))
    warning = finding("small", severity=Severity.WARNING)
    round_at(NOW, warning)
    assert round_at(NOW + MINUTE, warning) == []
    round_at(NOW + 2 * MINUTE, warning, finding())

    assert [row.payload["incidents"][0]["collection"] for row in round_at(NOW + 4 * MINUTE, warning, finding())] == [
        "products"
    ]


def test_a_broken_channel_is_told_to_the_others(channel: Callable[..., Channel]) -> None:
    broken = channel("broken")
    channel("other")
    found = finding(rule=Rule.CHANNEL_BROKEN, target_key=str(broken.pk), cluster="", collection="")
    round_at(NOW, found)

    assert [row.channel.name for row in round_at(NOW + MINUTE, found)] == ["other"]


def test_ninety_healthy_days_are_silent(channel: Callable[..., Channel]) -> None:
    channel()
    for day in range(90):
        assert round_at(NOW + timedelta(days=day)) == []
    assert not Incident.objects.exists()
