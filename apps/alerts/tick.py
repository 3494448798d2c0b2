"""The tick of this room. Receivers may be slow, and the supervisor must not be: a thread of its own does the round."""

from __future__ import annotations

import logging
import threading
import time
from datetime import datetime

from django.db import DatabaseError, close_old_connections, connections
from django.utils import timezone

from apps.alerts.watch import EVERY, watch

logger = logging.getLogger(__name__)

_lock = threading.Lock()
_running: threading.Thread | None = None
_last_start = 0.0


def tick(*, now: datetime) -> None:
    """Begin a round beside the supervisor's work, unless one is under way or has just been made."""
    global _running, _last_start
    with _lock:
        if _running is not None and _running.is_alive():
            return
        if time.monotonic() - _last_start < EVERY.total_seconds() / 3:
            return
        _last_start = time.monotonic()
        _running = threading.Thread(target=_round, name="alerts", daemon=True)
        _running.start()


def _round() -> None:
    close_old_connections()
    try:
        watch(clock=timezone.now)
    except DatabaseError:
        logger.warning("The database did not answer; the alerts look again soon", exc_info=True)
    except Exception:
        logger.exception("The alerts' round failed")
    finally:
        connections.close_all()
