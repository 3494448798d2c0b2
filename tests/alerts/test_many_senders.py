"""Senders that are killed at any moment: every message arrives, and a repeat carries the same key."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connections
from django.db.models import Sum
from werkzeug import Request, Response

from apps.alerts.messages import delivery_key
from apps.alerts.models import Channel, Delivery, DeliveryState
from apps.alerts.outbox import ENDED, LEASE, deliver_due
from tests.schedules.test_many_tickers import in_a_process

pytestmark = pytest.mark.django_db(transaction=True)

START = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
#: scripts/prove-schedules asks for more.
KILLS = int(os.environ.get("PROVE_KILLS", "60"))
#: So many at the beginning, and new ones while there are fewer than a few: the blows must fall into work.
MESSAGES, FEW = 60, 8


class Receiver:
    """Takes some time over each message, before and after it counts as received."""

    def __init__(self) -> None:
        self.keys: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, request: Request) -> Response:
        time.sleep(0.005)
        with self._lock:
            self.keys[request.headers["Idempotency-Key"]] += 1
        time.sleep(0.005)
        return Response("ok")


def write(channel: Channel, numbers: range, now: datetime) -> None:
    Delivery.objects.bulk_create(
        Delivery(
            channel=channel, kind="alert", key=delivery_key(channel.pk, number), subject=f"message {number}", text="x",
            next_try_at=now, created_at=now,
        )
        for number in numbers
    )  # fmt: skip


@pytest.mark.timeout(1800)
def test_senders_killed_at_any_moment_lose_nothing_and_repeat_under_the_same_key(
    channel: Callable[..., Channel], httpserver: Any
) -> None:
    receiver, dice = Receiver(), random.Random(17)
    httpserver.expect_request("/ops").respond_with_handler(receiver.take)
    made, now, written = channel(), START, MESSAGES
    write(made, range(written), now)

    def work() -> None:
        while True:
            deliver_due(clock=lambda: now, limit=5)

    killed, reach, seen = 0, 0.15, 0
    while killed < KILLS:
        processes = [in_a_process(work) for _ in range(2)]
        for process in processes:
            time.sleep(dice.uniform(0.0, reach))
            os.kill(process.pid, signal.SIGKILL)
            process.join(10)
            assert process.exitcode == -signal.SIGKILL
            killed += 1
        # Nobody who held a lease is alive: all of them may run out.
        now += LEASE + timedelta(seconds=1)
        done = sum(receiver.keys.values())
        reach, seen = (min(2.0, reach * 1.5) if done == seen else reach), done
        if Delivery.objects.exclude(state__in=ENDED).count() < FEW:
            write(made, range(written, written + FEW), now)
            written += FEW
        connections.close_all()
    interrupted = Delivery.objects.filter(state=DeliveryState.SENDING).count()
    while deliver_due(clock=lambda: now):
        pass

    keys = {str(delivery_key(made.pk, number)) for number in range(written)}
    assert set(receiver.keys) == keys  # none lost, none made up
    assert not Delivery.objects.exclude(state=DeliveryState.SENT).exists()
    repeats = sum(receiver.keys.values()) - written
    assert repeats <= killed
    tries = Delivery.objects.aggregate(tries=Sum("attempts"))["tries"]
    assert tries - written <= killed  # a try that was killed is followed by one more, and by no other
    # Who was told twice is among those that a kill fell into.
    for row in Delivery.objects.filter(key__in=[key for key, times in receiver.keys.items() if times > 1]):
        assert row.attempts >= receiver.keys[str(row.key)]
    assert tries > written  # some did
    print(
        f"{killed} kills, {written} messages, {repeats} repeats, {tries - written} tries cut, {interrupted} at the end"
    )
