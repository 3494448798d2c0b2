"""What runs of schedules add to the figures for /metrics: how many ended how, and how long they took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from apps.core.tally import Figure, add_up_all
from apps.schedules.models import RunStatus, ScheduleRun

RUNS, RUN_COUNT, RUN_MILLISECONDS = "runs", "run_count", "run_milliseconds"

#: They ran, and so took a time.
_RAN = (RunStatus.OK, RunStatus.PARTIAL, RunStatus.FAILED)


def count_ended(runs: Iterable[ScheduleRun]) -> None:
    """Count the ones that have ended; a row that stands for several slots counts as so many.

    Call it in the transaction that ended them.
    """
    found: Counter[Figure] = Counter()
    for run in runs:
        if run.completed_at is None:
            continue
        about = str(run.schedule_id)
        found[Figure(RUNS, about, run.status)] += run.missed_count or 1
        if run.status in _RAN:
            found[Figure(RUN_COUNT, about)] += 1
            found[Figure(RUN_MILLISECONDS, about)] += max(0, round(run.duration_seconds(run.completed_at) * 1000))
    if found:
        add_up_all(found)
