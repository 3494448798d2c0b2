"""A run of a schedule in words, for who is told of it outside: counts, the first errors, a link."""

from __future__ import annotations

from django.conf import settings

from apps.core.text import plural
from apps.schedules.models import ItemStatus, RunStatus, ScheduleRun

#: More errors than this are told by their number.
ERRORS = 10
_FINE = (ItemStatus.OK, ItemStatus.FRESH_ENOUGH, ItemStatus.QUEUED)


def headline(run: ScheduleRun) -> str:
    """Which run of which schedule, and what came of it."""
    schedule = run.schedule
    words = run.get_status_display()
    return f"{schedule.name} on {schedule.cluster.name}, run of {run.slot:%Y-%m-%d %H:%M} UTC: {words}."


def describe_run(run: ScheduleRun) -> str:
    """Everything of it that fits a message; two queries for a run that was not fine, none for one that was."""
    lines = [headline(run)]
    if run.counts:
        found = [f"{number} {ItemStatus(status).label}" for status, number in sorted(run.counts.items())]
        lines.append(f"Collections: {', '.join(found)}.")
    if run.missed_count > 1:
        lines.append(f"It stands for {plural(run.missed_count, 'run')} since {run.missed_from:%Y-%m-%d %H:%M} UTC.")
    if run.status in (RunStatus.OK, RunStatus.FRESH_ENOUGH):
        return "\n".join([*lines, *_link(run)])
    bad = run.items.exclude(status__in=_FINE).order_by("collection_name", "id")
    errors = [f"- {item.collection_name}: {item.message or item.get_status_display()}" for item in bad[:ERRORS]]
    if errors:
        more = bad.count() - len(errors)
        lines += [*errors, *([f"- and {more} more"] if more > 0 else [])]
    elif run.error:
        lines.append(run.error)
    # The link comes before what may be cut off.
    return "\n".join([lines[0], *_link(run), *lines[1:]])


def _link(run: ScheduleRun) -> list[str]:
    base = settings.BACKUPMGR_PUBLIC_URL.rstrip("/")
    return [f"{base}/admin/schedules/schedulerun/{run.pk}/change/"] if base else []
