"""Words and tones of schedules, runs and evaluations."""

from __future__ import annotations

from django.utils.safestring import SafeString

from apps.core.admin_cells import BAD, BUSY, OFF, OK, WAIT, WARN, state_cell
from apps.schedules.models import (
    ItemStatus,
    RetentionRun,
    RetentionStatus,
    RunItem,
    RunStatus,
    Schedule,
    ScheduleRun,
)

RUN_WORDS = {
    RunStatus.EXPANDING: ("Looking up collections", WAIT),
    RunStatus.RUNNING: ("Running", BUSY),
    RunStatus.OK: ("Succeeded", OK),
    RunStatus.PARTIAL: ("Partly failed", WARN),
    RunStatus.FAILED: ("Failed", BAD),
    RunStatus.SKIPPED_OVERLAP: ("Skipped: still running", WARN),
    RunStatus.FRESH_ENOUGH: ("Skipped: fresh enough", OFF),
    RunStatus.BLACKOUT: ("Skipped: blackout", OFF),
    RunStatus.EXPIRED: ("Expired", BAD),
    RunStatus.MISSED: ("Missed", BAD),
}
ITEM_WORDS = {
    ItemStatus.QUEUED: ("Queued or running", BUSY),
    ItemStatus.OK: ("Succeeded", OK),
    ItemStatus.FAILED: ("Failed", BAD),
    ItemStatus.CANCELLED: ("Cancelled", OFF),
    ItemStatus.EXPIRED: ("Expired", BAD),
    ItemStatus.SKIPPED_OVERLAP: ("Skipped: still running", WARN),
    ItemStatus.FRESH_ENOUGH: ("Skipped: fresh enough", OFF),
}
RETENTION_WORDS = {
    RetentionStatus.NOTHING: ("Nothing to do", OFF),
    RetentionStatus.WAITING: ("Waits for you", WARN),
    RetentionStatus.APPLIED: ("Applied", OK),
    RetentionStatus.SUPERSEDED: ("Superseded", OFF),
    RetentionStatus.HELD: ("Held back", WARN),
    RetentionStatus.FAILED: ("Failed", BAD),
    RetentionStatus.UNDONE: ("Undone", OFF),
}


def run_state(run: ScheduleRun) -> SafeString:
    word, tone = RUN_WORDS[RunStatus(run.status)]
    return state_cell(f"{word} ({run.missed_count} slots)" if run.missed_count > 1 else word, tone, title=run.error)


def item_state(item: RunItem) -> SafeString:
    word, tone = ITEM_WORDS[ItemStatus(item.status)]
    return state_cell(word, tone)


def retention_state(run: RetentionRun) -> SafeString:
    word, tone = RETENTION_WORDS[RetentionStatus(run.status)]
    return state_cell(word, tone, title=run.reason)


def schedule_state(schedule: Schedule) -> SafeString:
    if schedule.deleted_at is not None:
        return state_cell("Deleted", OFF)
    if schedule.error:
        return state_cell("Cannot run", BAD, title=schedule.error)
    if not schedule.enabled:
        return state_cell("Off", OFF)
    if schedule.is_paused:
        return state_cell("Paused", WARN, title=schedule.pause_reason)
    return state_cell("On", OK)
