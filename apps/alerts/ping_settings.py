"""What to type in at the receiver of pings, so that both sides expect a run at the same times.

A cron or a grace that differs there gives false alarms: here they are to copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from fnmatch import fnmatchcase

from apps.alerts.models import Channel
from apps.alerts.pings import HEARTBEAT
from apps.alerts.targets import next_deadline
from apps.core.text import format_duration
from apps.schedules.advance import windows_of
from apps.schedules.models import Schedule
from apps.schedules.preview import duration_p95
from apps.schedules.timing.spec import Kind, TimingInvalid

#: More schedules than this are told by their number.
SHOWN = 50
HEARTBEAT_GRACE = timedelta(minutes=10)


@dataclass(frozen=True)
class PingSettings:
    """One schedule as its receiver has to expect it: `cron` and `zone`, or `period`; and the grace, in words."""

    schedule: str
    cluster: str
    cron: str
    zone: str
    period: str
    grace: str
    #: What the receiver cannot know, in a sentence; empty when there is nothing.
    note: str = ""


def ping_settings(schedule: Schedule, *, now: datetime) -> PingSettings | None:
    """Return what to type in for a schedule; None for one that does not run by itself, or cannot be planned."""
    windows = windows_of([schedule])[schedule.pk]
    try:
        due = next_deadline(schedule.timing(()), now, schedule.grace_seconds, duration_p95(schedule))
    except TimingInvalid:
        return None
    if schedule.kind == Kind.MANUAL or due.due_at is None or due.deadline_at is None:
        return None
    # The receiver counts from the nominal time, and knows nothing of the jitter that moves the start.
    grace = due.deadline_at - due.due_at + timedelta(seconds=schedule.jitter_seconds)
    is_cron = schedule.kind == Kind.CRON
    return PingSettings(
        schedule=schedule.name,
        cluster=schedule.cluster.name,
        cron=schedule.cron_resolved if is_cron else "",
        zone=schedule.tz if is_cron else "",
        period="" if is_cron else format_duration(schedule.interval_seconds),
        grace=format_duration(grace.total_seconds()),
        note="It has blackouts: runs that they move or leave out are missing at the receiver." if windows else "",
    )


def settings_of(channel: Channel, *, now: datetime) -> list[PingSettings]:
    """Return what to type in for a ping channel: its schedules, or the heartbeat. Nothing for other channels."""
    if not channel.is_ping:
        return []
    if not channel.schedules:
        heartbeat = format_duration(HEARTBEAT.total_seconds())
        return [PingSettings("", "", "", "", heartbeat, format_duration(HEARTBEAT_GRACE.total_seconds()))]
    rows = Schedule.objects.live().filter(enabled=True).select_related("cluster").order_by("name", "id")
    mine = [row for row in rows if any(fnmatchcase(row.name, glob) for glob in channel.schedules)]
    return [found for row in mine[:SHOWN] if (found := ping_settings(row, now=now)) is not None]
