"""The outbox: takes deliveries one by one, sends them, tries again. Any number of workers may do so at once.

A delivery is claimed by one conditional UPDATE and sent outside any transaction: at least once. A sender that is killed
between sending and saying so is followed, after its lease, by one that sends the same message under the same key.
"""

from __future__ import annotations

import logging
import traceback
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import F, Q

from apps.alerts.models import Channel, Delivery, DeliveryKind, DeliveryState
from apps.alerts.senders import NotDelivered, send
from apps.core.crypto import UndecryptableSecret
from apps.core.errors import BackupmgrError
from apps.core.tally import add_up

logger = logging.getLogger(__name__)

#: Longer than any sender takes: its time-outs are a fraction of it.
LEASE = timedelta(seconds=60)
#: Waits before each further try; the last one is repeated until the delivery is given up.
PAUSES = (timedelta(minutes=1), timedelta(minutes=5), timedelta(minutes=15), timedelta(hours=1), timedelta(hours=6))
GIVEN_UP_AFTER = timedelta(hours=24)
#: A ping that comes too late says nothing.
PING_TRIES = 3
KEPT = timedelta(days=90)
ENDED = (DeliveryState.SENT, DeliveryState.DEAD, DeliveryState.WITHDRAWN)
#: The figure of deliveries that were given up, by channel (apps/core/tally.py).
DEAD_DELIVERIES = "dead_deliveries"
#: So many in one round.
AT_ONCE = 50


def deliver_due(*, clock: Callable[[], datetime], limit: int = AT_ONCE) -> int:
    """Send what is due; return how many went out. `clock` gives the time: sending takes some."""
    sent = 0
    now = clock()
    # Once the one before has ended it stays so: that need not be looked at again when the delivery is claimed.
    turn = Q(after=None) | Q(after__state__in=ENDED)
    due = Delivery.objects.filter(_due(now), turn).order_by("next_try_at", "created_at")
    for key in list(due.values_list("pk", flat=True)[:limit]):
        delivery = claim(key, now=clock())
        if delivery is not None:
            sent += send_claimed(delivery, clock)
    return sent


def _due(now: datetime) -> Q:
    return Q(state=DeliveryState.PENDING, next_try_at__lte=now) | Q(state=DeliveryState.SENDING, lease_until__lt=now)


def claim(key: uuid.UUID, *, now: datetime) -> Delivery | None:
    """Take the delivery; None when somebody else has it, or it is out."""
    taken = Delivery.objects.filter(_due(now), pk=key).update(
        state=DeliveryState.SENDING, lease_until=now + LEASE, attempts=F("attempts") + 1
    )
    return Delivery.objects.select_related("channel").get(pk=key) if taken else None


def send_claimed(delivery: Delivery, clock: Callable[[], datetime]) -> bool:
    """Send a delivery that this process has claimed; tell whether it went out."""
    held = Delivery.objects.filter(
        pk=delivery.pk, state=DeliveryState.SENDING, attempts=delivery.attempts, lease_until=delivery.lease_until
    )
    try:
        send(delivery.channel, delivery)
    except (NotDelivered, BackupmgrError, UndecryptableSecret) as error:
        _failed(delivery, held, str(error), clock())
        return False
    except Exception as error:  # noqa: BLE001 - a library may raise anything, and no message may stop the others
        # Where it happened, without what it says: that may be the channel's address.
        trace = "".join(traceback.format_tb(error.__traceback__))
        logger.error("Delivery %s failed with %s\n%s", delivery.pk, type(error).__name__, trace)
        _failed(delivery, held, f"Unforeseen fault ({type(error).__name__}); the log of the worker has it.", clock())
        return False
    now = clock()
    held.update(state=DeliveryState.SENT, sent_at=now, lease_until=None, error="")
    Channel.objects.filter(pk=delivery.channel_id).update(last_ok_at=now, last_error="")
    return True


def _failed(delivery: Delivery, held: object, error: str, now: datetime) -> None:
    error = error[:500]
    tries = delivery.attempts
    pause = PAUSES[min(tries, len(PAUSES)) - 1]
    if delivery.kind == DeliveryKind.PING:
        pause, over = timedelta(seconds=10), tries >= PING_TRIES
    elif delivery.kind == DeliveryKind.TEST:
        over = True
    else:
        over = now + pause - delivery.created_at > GIVEN_UP_AFTER
    changes = {"state": DeliveryState.DEAD} if over else {"state": DeliveryState.PENDING, "next_try_at": now + pause}
    with transaction.atomic():
        if held.update(error=error, lease_until=None, **changes) and over:  # type: ignore[attr-defined]
            add_up(DEAD_DELIVERIES, about=delivery.channel_id)
    Channel.objects.filter(pk=delivery.channel_id).update(last_error=error)


def forget_old(*, now: datetime) -> None:
    """Forget deliveries that ended long ago."""
    Delivery.objects.filter(state__in=ENDED, created_at__lt=now - KEPT).delete()
