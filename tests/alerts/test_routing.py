"""Who is told of what, and when: collections, tags, and quiet hours on the channel's own clock."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import transaction

from apps.alerts.incidents import settle_incidents
from apps.alerts.messages import tell
from apps.alerts.models import Channel, Delivery, Rule, Severity
from apps.alerts.outbox import deliver_due
from apps.alerts.quiet import quiet_until
from apps.alerts.services import ChannelInvalid
from apps.clusters.models import Cluster
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
