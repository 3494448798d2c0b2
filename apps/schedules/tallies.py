"""What runs of schedules add to the figures for /metrics: how many ended how, and how long they took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from apps.core.tally import add_up
from apps.schedules.models import RunStatus, ScheduleRun

RUNS, RUN_COUNT, RUN_MILLISECONDS = "runs", "run_count", "run_milliseconds"

#: They ran, and so took a time.
_RAN = (RunStatus.OK, RunStatus.PARTIAL, RunStatus.FAILED)


def count_ended(runs: Iterable[ScheduleRun]) -> None:
    """Count the ones that have ended; a row that stands for several slots counts as so many.

    Call it in the transaction that ended them. In a fixed order: two tickers never wait for each other's rows.
    """
    found: Counter[tuple[str, str, str]] = Counter()
    for run in runs:
        if run.completed_at is None:
            continue
        about = str(run.schedule_id)
        found[(RUNS, about, run.status)] += run.missed_count or 1
        if run.status in _RAN:
            found[(RUN_COUNT, about, "")] += 1
            found[(RUN_MILLISECONDS, about, "")] += max(0, round(run.duration_seconds(run.completed_at) * 1000))
    for (name, about, result), by in sorted(found.items()):
        add_up(name, about=about, result=result, by=by)
