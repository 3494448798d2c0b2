"""Run: what a backup or restore needs of whoever runs it. The jobs room implements it; tests may too."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any, Protocol

from apps.backups.traces import Traces
from apps.backups.verifications import Asker
from apps.core.abort import Abort


class Run(Protocol):
    """One attempt at a job."""

    job_id: uuid.UUID
    attempt: int
    started_at: datetime
    #: Tripped when the job is cancelled, the worker stops, or the lease is lost.
    abort: Abort
    traces: Traces
    #: Who asked for it; kept with a verification.
    asker: Asker

    def now(self) -> datetime:
        """The time, in UTC."""

    def phase(self, name: str) -> None:
        """Say what is being done now, in a word or two; the step before is told with its time and its bytes."""

    def end_step(self, *, broke_off: bool = False) -> None:
        """Say that the calling thread has ended what it said last: a thread of its own says so before it ends."""

    def expect(self, bytes_total: int) -> None:
        """Say how many bytes this run will move in all."""

    def advance(self, count: int) -> None:
        """Count bytes moved; safe from any thread."""

    def tell(self, message: str, **data: Any) -> None:
        """Add a line to the job's story; safe from any thread.

        Data that is a time is called `seconds`, a size `bytes`, what lies behind an error `causes` (a list).
        """

    def warn(self, message: str, **data: Any) -> None:
        """Add a warning to the job's story."""

    def save_traces(self) -> None:
        """Write `traces` down, before the next thing is made. Raises when the lease is lost."""

    def confirm(self) -> None:
        """Make sure that this run still owns the job, before a step that cannot be taken back. Raises otherwise."""

    def owns(self) -> bool:
        """Tell whether this run still owns the job. One that does not must undo nothing: its successor may be at it."""
