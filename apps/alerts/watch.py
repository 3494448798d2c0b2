"""The round: look what is wrong, settle incidents, write messages, send them. Held by one worker at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from django.db import IntegrityError, transaction
from django.db.models import Q

from apps.alerts.digests import write_digests
from apps.alerts.findings import look
from apps.alerts.incidents import settle_incidents
from apps.alerts.messages import tell
from apps.alerts.models import AlertClock
from apps.alerts.outbox import deliver_due, forget_old
from apps.alerts.pings import write_pings
from apps.alerts.successes import write_successes
from apps.alerts.targets import refresh_targets

logger = logging.getLogger(__name__)

#: Between two looks, and for how long a worker that died in one keeps the others from theirs.
EVERY = timedelta(seconds=15)


def watch(*, clock: Callable[[], datetime]) -> bool:
    """Do one round; tell whether this worker was the one to look. What is due is sent by everybody."""
    looked = look_and_tell(now=clock())
    deliver_due(clock=clock)
    return looked


def look_and_tell(*, now: datetime) -> bool:
    """Look and write down, unless somebody has just done so. All of it in one transaction: a kill loses nothing.

    Every part stands apart: a fault in one is logged, and the others have their turn.
    """
    if not take_round(now=now):
        return False
    try:
        refresh_targets(now=now)
    except Exception:
        logger.exception("The deadlines could not be worked out; those that are stored hold")
    findings, _, verdict = look(now)

    def incidents() -> None:
        settle_incidents(findings, now=now)
        tell(now=now)

    parts: list[Callable[[], None]] = [
        incidents,
        lambda: write_pings(verdict, now=now),
        lambda: write_successes(now=now),
        lambda: write_digests(verdict, now=now),
        lambda: forget_old(now=now),
    ]
    for part in parts:
        try:
            with transaction.atomic():
                part()
        except Exception:
            logger.exception("A part of the alerts' round failed")
    AlertClock.objects.update(looked_at=now)
    return True


def take_round(*, now: datetime) -> bool:
    """Take the next round by one conditional UPDATE; False when another worker has it."""
    due = AlertClock.objects.filter(Q(held_until__lte=now) | Q(held_until__gt=now + 4 * EVERY), pk=1)
    if due.update(held_until=now + EVERY):
        return True
    if AlertClock.objects.exists():
        return False
    try:
        with transaction.atomic():
            AlertClock.objects.create(pk=1, held_until=now + EVERY)
    except IntegrityError:
        return False
    return True
