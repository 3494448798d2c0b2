"""The worker's reconciler: a process of its own, so that neither the supervisor nor a job ever waits for it."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import datetime

from django.conf import settings

from apps.backups.models import Reconciliation, ReconciliationStatus
from apps.jobs.reconciling import is_due

#: How long after its start a worker begins to look by itself; how soon again after a look that came to nothing, by
#: itself and when somebody asked.
AFTER_SECONDS = 300.0
AGAIN_SECONDS = 60.0
ASKED_AGAIN_SECONDS = 10.0
STOP_SECONDS = 10.0


class ReconcilerProcess:
    """Begins `manage.py reconcile --if-due` when a run is due; of several workers one run goes on."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._not_before = time.monotonic() + AFTER_SECONDS
        self._not_before_asked = 0.0

    def look(self, now: datetime) -> None:
        """Part of the tick. Raises: DatabaseError."""
        if self._process is not None and self._process.poll() is None:
            return
        self._process = None
        if not is_due(now=now):
            return
        asked = Reconciliation.objects.filter(status=ReconciliationStatus.PENDING).exists()
        if time.monotonic() < (self._not_before_asked if asked else self._not_before):
            return
        # Should it end at once, it is not started again with every tick.
        self._not_before = time.monotonic() + AGAIN_SECONDS
        self._not_before_asked = time.monotonic() + ASKED_AGAIN_SECONDS
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, str(settings.BASE_DIR / "manage.py"), "reconcile", "--if-due"], stdout=subprocess.DEVNULL
        )

    def stop(self) -> None:
        """End it at once: what it was removing stands in tombstones."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(STOP_SECONDS)
