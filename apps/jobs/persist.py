"""Short pieces of database work that must not fail because the database is locked or restarts for a moment."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from django.db import connection

from apps.core.abort import Abort
from apps.jobs.retry import DATABASE_AWAY

logger = logging.getLogger(__name__)

_PAUSE_SECONDS = 0.5

Result = TypeVar("Result")


def persist(action: Callable[[], Result], *, patience_seconds: float, abort: Abort | None = None) -> Result:
    """Do `action`, and again with a new connection while the database is away, for `patience_seconds`.

    An answer that got lost makes it happen twice: `action` must bear that. Inside a transaction it is done once, since
    what came before in it would be lost with the connection.
    Raises: OperationalError or InterfaceError when patience is over; the reason of `abort`; what `action` raises.
    """
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            return action()
        except DATABASE_AWAY as error:
            if connection.in_atomic_block or time.monotonic() > deadline:
                raise
            logger.warning("The database did not answer (%s); trying again", type(error).__name__)
            connection.close()
        if abort is None:
            time.sleep(_PAUSE_SECONDS)
        else:
            abort.sleep(_PAUSE_SECONDS)
