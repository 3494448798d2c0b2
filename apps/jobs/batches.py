"""A batch: one job that stands for the backups of many collections, and whose state is that of its children.

A worker lists the collections and makes a job of each (fanout.py). From then on nobody works on the batch itself: it
is running, without a lease, for as long as a child is, and whoever ends the last child ends the batch.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

from django.db import transaction
from django.db.models import Q, Sum

from apps.core.text import plural
from apps.jobs.events import record
from apps.jobs.models import EventLevel, Job
from apps.jobs.states import ACTIVE, ENDED, JobStatus

#: In a name that may be a pattern: neither can be in a collection's name.
WILDCARDS = frozenset("*?")
_FORBIDDEN = frozenset('<>:"/\\|')
MAX_PATTERNS = 100
#: More children than this are a mistake.
MAX_CHILDREN = 10_000
_NAMED_CHILDREN = 10
_SHOWN_REASON = 200


@dataclass(frozen=True)
class Summary:
    """How many children a batch has, by their state."""

    total: int = 0
    pending: int = 0
    running: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def ended(self) -> int:
        return self.completed + self.failed + self.cancelled

    @property
    def phase(self) -> str:
        """What a batch does, in at most 40 characters: '3 of 12 collections done'"""
        return f"{self.completed} of {plural(self.total, 'collection')} done"

    @property
    def sentence(self) -> str:
        """'3 of 12 collections done, 1 failed'"""
        bad = [f"{count} {word}" for count, word in ((self.failed, "failed"), (self.cancelled, "cancelled")) if count]
        return ", ".join([self.phase, *bad])


def is_pattern(name: str) -> bool:
    """Tell whether `name` stands for all collections that match it: it has a wildcard, * or ?."""
    return any(character in WILDCARDS for character in name)


def check_patterns(patterns: Sequence[str]) -> None:
    """Check names and patterns of collections. Raises: ValueError with a sentence."""
    if len(patterns) > MAX_PATTERNS:
        raise ValueError(f"At most {MAX_PATTERNS} names or patterns can be given.")
    for pattern in patterns:
        if not 0 < len(pattern) <= 255:
            raise ValueError("A name or pattern of collections has 1 to 255 characters.")
        bad = sorted({c for c in pattern if c in _FORBIDDEN or ord(c) < 32 or ord(c) == 127})
        if bad:
            raise ValueError(f"A name or pattern of collections cannot contain {' '.join(repr(c) for c in bad)}.")


def matching(names: Iterable[str], patterns: Sequence[str], excluded: Sequence[str] = ()) -> list[str]:
    """Return the names that one of the patterns means and none of `excluded`, sorted, each once.

    A pattern is a name, or one with *, ? and [..] as in a shell; case counts.
    """

    def meant(name: str, by: Sequence[str]) -> bool:
        return any(name == pattern or fnmatchcase(name, pattern) for pattern in by)

    return sorted({name for name in names if meant(name, patterns) and not meant(name, excluded)})


def summary_of(batch: Job) -> Summary:
    """Return the summary as it was last written down."""
    known = Summary.__dataclass_fields__.keys()
    return Summary(**{name: int(value) for name, value in batch.children_summary.items() if name in known})


def settle_batches(*, now: datetime) -> None:
    """Bring every running batch up to date. Run by the tick."""
    for batch_id in list(_handed_over().values_list("pk", flat=True)):
        settle_batch(batch_id=batch_id, now=now)


def settle_batch(*, batch_id: uuid.UUID, now: datetime) -> None:
    """Write down how far the children are, and end the batch when all of them have ended."""
    with transaction.atomic():
        # Locked: a child that is retried at the same moment would otherwise be overlooked (reopen_batch).
        batch = _handed_over().select_for_update().filter(pk=batch_id).first()
        if batch is None:
            return
        counts = Counter(batch.children.order_by().values_list("status", flat=True))
        summary = Summary(total=sum(counts.values()), **{status: counts[status] for status in JobStatus.values})
        moved = batch.children.aggregate(done=Sum("bytes_done"), total=Sum("bytes_total"))
        changes: dict[str, Any] = {
            "children_summary": asdict(summary),
            "phase": summary.phase,
            "bytes_done": moved["done"] or 0,
            "bytes_total": moved["total"] or 0,
        }
        if any(counts[status] for status in ACTIVE):
            if any(getattr(batch, name) != value for name, value in changes.items()):
                Job.objects.filter(pk=batch.pk).update(**changes)
            return
        status, error = _verdict(batch, summary)
        Job.objects.filter(pk=batch.pk).update(**changes | {"phase": ""}, status=status, error=error, completed_at=now)
        failed = status == JobStatus.FAILED
        record(
            batch,
            error or f"{'Completed' if status == JobStatus.COMPLETED else 'Cancelled'}: {summary.sentence}.",
            at=now,
            level=EventLevel.ERROR if failed else EventLevel.INFO,
            data=asdict(summary),
        )


def _verdict(batch: Job, summary: Summary) -> tuple[JobStatus, str]:
    """Return the state that a batch ends in, and the sentence that names what is missing.

    Completed means that every collection has its backup. Cancelled is a batch that was told to stop; a child that
    somebody cancelled by itself leaves a batch that is not what was asked for: it failed.
    """
    if summary.total and summary.completed == summary.total:
        return JobStatus.COMPLETED, ""
    missing = list(
        batch.children.exclude(status=JobStatus.COMPLETED)
        .order_by("collection_name")
        .values_list("collection_name", "status", "error")
    )
    named = [f"{name} ({_shortened(error) if error else status})" for name, status, error in missing[:_NAMED_CHILDREN]]
    more = len(missing) - len(named)
    rest = f", and {more} more" if more else ""
    sentence = (
        f"{len(missing)} of {plural(summary.total, 'collection')} {'was' if len(missing) == 1 else 'were'} not backed "
        f"up: {', '.join(named)}{rest}."
    )
    return (JobStatus.CANCELLED if batch.cancel_requested_at else JobStatus.FAILED), sentence


def _shortened(error: str) -> str:
    text = " ".join(error.split()).rstrip(".")
    return text if len(text) <= _SHOWN_REASON else f"{text[:_SHOWN_REASON]}…"


def hold_batch(batch_id: uuid.UUID | None) -> None:
    """Lock a batch before its children change, in the order that settling takes; None locks nothing."""
    if batch_id is not None:
        list(Job.objects.select_for_update().filter(pk=batch_id).values_list("pk"))


def reopen_batch(*, batch_id: uuid.UUID, now: datetime) -> None:
    """Have an ended batch run again, since a child does. Called in the transaction that made the child pending.

    It takes the two steps of any retried job (pending, running) at once: there is no work to wait for a worker with.
    """
    Job.objects.filter(pk=batch_id, is_batch=True, status__in=ENDED - {JobStatus.COMPLETED}).update(
        status=JobStatus.RUNNING,
        error="",
        phase="",
        cancel_requested_at=None,
        completed_at=None,
        started_at=now,
        lease_token=None,
        lease_until=None,
        worker="",
        pid=None,
    )


def _handed_over() -> Any:
    """The batches whose children are at work: running, and nobody's."""
    return Job.objects.filter(Q(is_batch=True, status=JobStatus.RUNNING, lease_token=None))
