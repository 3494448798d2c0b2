"""How a run ends that does not complete: cancelled, given back, failed, or pending again for another try."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import F

from apps.core.causes import causes_of
from apps.core.errors import BackupmgrError
from apps.jobs.attempts import AttemptOutcome, end_attempt
from apps.jobs.events import record
from apps.jobs.jobrun import Cancelled, Drained, JobRun
from apps.jobs.lease import release
from apps.jobs.models import EventLevel, Job
from apps.jobs.retry import DATABASE_AWAY, NextTry, category_of, next_try
from apps.jobs.states import JobStatus

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class End:
    """The end of a run, decided and not yet written down."""

    at: datetime
    status: JobStatus
    outcome: AttemptOutcome
    #: For the story.
    text: str
    level: EventLevel = EventLevel.INFO
    #: Fields of the job.
    changes: dict[str, object] = field(default_factory=dict)
    failure: Failure | None = None
    again: NextTry | None = None


@dataclass(frozen=True)
class Failure:
    """What went wrong: in a sentence, for programs, and what lies behind it, nearest first."""

    sentence: str
    category: str
    causes: tuple[str, ...]


def end_of(job: Job, error: BaseException, now: datetime) -> End:
    """Decide how a run ends that `error` ended."""
    if isinstance(error, Cancelled):
        return End(at=now, status=JobStatus.CANCELLED, outcome=AttemptOutcome.CANCELLED, text="Cancelled.")
    anew: dict[str, object] = {"not_before": now, "bytes_done": 0, "bytes_total": 0}
    if isinstance(error, Drained):
        text = "The worker is being stopped; the job goes back to the queue."
        return End(at=now, status=JobStatus.PENDING, outcome=AttemptOutcome.RETURNED, text=text, changes=anew)
    failure = Failure(_sentence(job, error), category_of(error), tuple(causes_of(error)))
    again = next_try(error=error, retries=job.retry_count, now=now, before=job.retry_by)
    if again is None:
        tried = f" Tried {job.retry_count + 1} times." if job.retry_count else ""
        if job.retry_by is not None and next_try(error=error, retries=job.retry_count, now=now) is not None:
            tried += f" Not tried again: the next run of its schedule is due at {job.retry_by:%Y-%m-%d %H:%M} UTC."
        return End(
            at=now,
            status=JobStatus.FAILED,
            outcome=AttemptOutcome.FAILED,
            text=failure.sentence + tried,
            level=EventLevel.ERROR,
            changes={"error": failure.sentence},
            failure=failure,
        )
    return End(
        at=now,
        status=JobStatus.PENDING,
        outcome=AttemptOutcome.FAILED,
        text=f"{failure.sentence} {again.sentence}",
        level=EventLevel.WARNING,
        changes=anew
        | {
            "not_before": again.at,
            "wait_reason": failure.sentence,
            "retry_count": F("retry_count") + 1,
            "queued_at": None,
        },
        failure=failure,
        again=again,
    )


def write_end(run: JobRun, end: End) -> None:
    """Write it down: job, attempt and story in one transaction. Raises: LeaseLost, and nothing is written then."""
    data: dict[str, Any] = {"seconds": round(run.seconds, 3), "bytes": run.bytes_moved}
    if end.failure is not None:
        data |= {"category": end.failure.category, "causes": list(end.failure.causes)}
    if end.again is not None:
        data["next_attempt_at"] = end.again.at.isoformat()
    with transaction.atomic():
        release(
            job_id=run.job_id, token=run.token, status=end.status, now=end.at, phase="", checkpoint={}, **end.changes
        )
        end_attempt(
            job_id=run.job_id,
            number=run.attempt,
            outcome=end.outcome,
            at=end.at,
            bytes_moved=run.bytes_moved,
            error=end.failure.sentence if end.failure else "",
            error_category=end.failure.category if end.failure else "",
            next_attempt_at=end.again.at if end.again else None,
        )
        record(run.job, end.text, at=end.at, level=end.level, data=data)


def _sentence(job: Job, error: BaseException) -> str:
    if isinstance(error, BackupmgrError):
        return str(error)
    logger.error("Job %s failed in a way nobody foresaw", job.pk, exc_info=error)
    if isinstance(error, DATABASE_AWAY):
        return "The database of backupmgr did not answer while the job ran: look at its log, and at its disk."
    return f"An internal error stopped the job ({type(error).__name__}); the worker's log has the details."
