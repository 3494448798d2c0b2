"""How a job looks in a table, on its page and on the dashboard: one place, so that they agree.

Every live cell has an id made of the job's; the poll (live.py) sends the same cells again with `swap`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from apps.core.admin_cells import CANCELLING, NOTHING, RETRYING, RUN_STATES, state_cell
from apps.core.text import format_duration, format_rate, format_size
from apps.jobs.models import Job
from apps.jobs.states import BACKUP_TYPES, RESTORE_TYPES, JobStatus, JobType

#: An estimate from the first few percent is a guess: none is shown before.
ETA_FROM_PERCENT = 5
_SWAP = SafeString(' hx-swap-oob="true"')


def state_words(job: Job) -> tuple[str, str]:
    """The word for the job's state, and its tone."""
    if job.status == JobStatus.RUNNING and job.cancel_requested_at:
        return CANCELLING
    if job.is_waiting:
        return RETRYING
    return RUN_STATES[job.status]


def job_state(job: Job, *, swap: bool = False) -> SafeString:
    word, tone = state_words(job)
    return state_cell(word, tone, element_id=f"state-{job.pk}", swap=swap)


def name_of(job: Job) -> str:
    """'Backup of products', 'Restore of products into products-2, shard 1', 'Backup of all collections'"""
    if job.type == JobType.VERIFY:
        return f"Verification of {job.collection_name}"
    if job.is_batch:
        return "Backup of " + ("all collections" if job.collections == ["*"] else f"collections {job.collection_name}")
    verb = "Backup" if job.type in BACKUP_TYPES else "Restore"
    shard = f", shard {job.shard_id}" if job.shard_id is not None else ""
    into = ""
    if job.type in RESTORE_TYPES and job.target_collection and job.target_collection != job.collection_name:
        into = f" into {job.target_collection}"
    return f"{verb} of {job.collection_name}{into}{shard}"


def route_of(job: Job) -> str:
    """From where to where: 'prod → S3-eu'"""
    if job.type == JobType.VERIFY:
        return job.storage.name
    if job.type in RESTORE_TYPES:
        return f"{job.storage.name} → {(job.target_cluster or job.cluster).name}"
    return f"{job.cluster.name} → {job.storage.name}"


def eta_words(job: Job) -> str:
    """'about 6 min left'; empty when nobody can tell yet."""
    seconds = job.eta_seconds
    if seconds is None or job.progress < ETA_FROM_PERCENT:
        return ""
    if seconds < 60:
        return f"about {max(5, round(seconds / 5) * 5)} s left"
    if seconds < 3600:
        return f"about {round(seconds / 60)} min left"
    return f"about {format_duration(round(seconds / 600) * 600)} left"


def figures(job: Job) -> str:
    """Bytes, rate and time left of a running job; the bytes of one that has ended."""
    if job.status != JobStatus.RUNNING:
        return format_size(job.bytes_done) if job.bytes_done else ""
    if job.is_batch:
        return " · ".join([job.phase, *([format_size(job.bytes_done)] if job.bytes_done else [])])
    if not job.bytes_total:
        return job.phase
    pieces = [f"{format_size(job.bytes_done)} of {format_size(job.bytes_total)}"]
    if job.rate_bytes_per_second:
        pieces.append(format_rate(job.rate_bytes_per_second))
    if words := eta_words(job):
        pieces.append(words)
    return " · ".join(pieces)


def progress_cell(job: Job, *, swap: bool = False, big: bool = False) -> SafeString:
    """A bar with its figures while it runs, the figures alone otherwise."""
    bar = SafeString("")
    if job.status == JobStatus.RUNNING:
        value = format_html(' value="{}"', job.progress) if job.bytes_total or job.is_batch else ""
        bar = format_html('<progress max="100"{} aria-label="Progress of {}"></progress>', value, name_of(job))
    percent = f"{job.progress} % · " if big and job.status == JobStatus.RUNNING and job.bytes_total else ""
    return format_html(
        '<div class="bm-progress{}" id="progress-{}"{}>{}<span class="bm-figures">{}{}</span></div>',
        " bm-progress-big" if big else "",
        job.pk,
        _SWAP if swap else "",
        bar,
        percent,
        figures(job),
    )


def duration_cell(job: Job, now: datetime, *, swap: bool = False) -> SafeString:
    seconds = job.duration_seconds(now)
    words = NOTHING if seconds is None else format_duration(seconds if job.is_ended else round(seconds))
    return format_html('<span class="bm-nowrap" id="took-{}"{}>{}</span>', job.pk, _SWAP if swap else "", words)


def wait_words(job: Job) -> str:
    """'Retry starts at 14:20: Qdrant did not answer.'; empty for a job that does not wait for its next attempt."""
    if not job.is_waiting:
        return ""
    at = timezone.localtime(job.not_before)
    day = "" if at.date() == timezone.localdate() else f"{at:%d %b} "
    return f"Retry starts at {day}{at:%H:%M %Z}: {job.wait_reason}"


def result_cell(job: Job, *, swap: bool = False) -> SafeString:
    """The sentence of a failed job, or of one that waits to be tried again; the phase of a running one."""
    words = job.error if job.is_ended else wait_words(job) or (job.phase if job.bytes_total else "")
    return format_html(
        '<span class="bm-sentence" id="result-{}" title="{}"{}>{}</span>',
        job.pk,
        words if len(words) > 160 else "",
        _SWAP if swap else "",
        f"{words[:160]}…" if len(words) > 160 else words,
    )


def row_cells(job: Job, now: datetime, *, changed: bool) -> SafeString:
    """The cells of a row that move, for swapping; the state only when it changed, so that it is not read out again."""
    cells = [
        progress_cell(job, swap=True),
        duration_cell(job, now, swap=True),
        result_cell(job, swap=True),
        *([job_state(job, swap=True)] if changed else []),
    ]
    return SafeString("".join(cells))


def poll_address(jobs: Iterable[Job]) -> str:
    """Where the page asks for news of those jobs that may still move; empty when none may."""
    moving = [f"{job.pk}.{state_words(job)[0]}" for job in jobs if job.is_active]
    return f"{reverse('admin:jobs_job_live')}?jobs={','.join(moving)}" if moving else ""
