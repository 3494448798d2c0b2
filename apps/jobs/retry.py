"""Which failed jobs are tried again by themselves, and when. Every error says of itself whether it can pass
(`BackupmgrError.transient`); what nobody foresaw cannot.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import InterfaceError, OperationalError

from apps.core.errors import BackupmgrError

#: What the database raises when it is locked, restarted or away.
DATABASE_AWAY = (OperationalError, InterfaceError)
#: Category of an error that nobody foresaw.
INTERNAL = "internal"


@dataclass(frozen=True)
class NextTry:
    """The next attempt: the `number`-th automatic one of `limit`, at `at`."""

    number: int
    limit: int
    at: datetime

    @property
    def sentence(self) -> str:
        return f"Retry {self.number} of {self.limit} starts at {self.at:%H:%M:%S} UTC."


def next_try(*, error: BaseException, retries: int, now: datetime, before: datetime | None = None) -> NextTry | None:
    """Return when a job that ended with `error` is to be tried again; None when it is not.

    `retries` automatic retries were made already. An overloaded server may ask for a longer wait than ours. None is
    made at `before` or later.
    """
    delays = settings.BACKUPMGR_RETRY_DELAYS_SECONDS
    if not can_pass(error) or retries >= len(delays):
        return None
    asked = error.retry_after_seconds if isinstance(error, BackupmgrError) else None
    wait = timedelta(seconds=max(delays[retries], asked or 0.0))
    if before is not None and now + wait >= before:
        return None
    return NextTry(number=retries + 1, limit=len(delays), at=now + wait)


def can_pass(error: BaseException) -> bool:
    """Tell whether the same job may succeed later although nobody changes anything."""
    return error.transient if isinstance(error, BackupmgrError) else isinstance(error, DATABASE_AWAY)


def category_of(error: BaseException) -> str:
    """Return the kind of an error, for programs: the name of its class. QdrantTimeout -> 'qdrant_timeout'."""
    if isinstance(error, DATABASE_AWAY):
        return "database_away"
    if not isinstance(error, BackupmgrError):
        return INTERNAL
    name = type(error).__name__
    return "refused" if name == "BackupmgrError" else re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
