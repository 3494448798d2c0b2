"""Dead-man pings: a heartbeat of this installation, and the beginning and end of each run of a schedule."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from fnmatch import fnmatchcase

from apps.alerts.messages import delivery_key
from apps.alerts.models import Channel, ChannelKind, Delivery, DeliveryKind
from apps.protection.judge import Verdict
from apps.schedules.models import RunStatus, ScheduleRun

HEARTBEAT = timedelta(minutes=5)
#: Runs that began or ended longer ago are no news: a channel that is made today does not ring for last week.
NEWS = timedelta(hours=1)

#: Success is a backup of everything that was to be backed up, not a process that lives.
_SUFFIX = {RunStatus.OK: "", RunStatus.FRESH_ENOUGH: ""}
_SILENT = (RunStatus.EXPANDING, RunStatus.RUNNING, RunStatus.BLACKOUT)


def write_pings(verdict: Verdict, *, now: datetime) -> None:
    """Write the pings that are due."""
    channels = list(Channel.objects.filter(enabled=True, kind=ChannelKind.PING))
    for channel in channels:
        if channel.is_muted(now):
            continue
        if channel.schedules:
            _runs(channel, now)
        elif channel.next_ping_at is None or channel.next_ping_at <= now:
            _write(channel, "", "", f"{verdict.sentence}\n{verdict.more}".strip(), now, now.isoformat())
            Channel.objects.filter(pk=channel.pk).update(next_ping_at=now + HEARTBEAT)


def _runs(channel: Channel, now: datetime) -> None:
    since = max(now - NEWS, channel.created_at)
    begun = ScheduleRun.objects.filter(created_at__gte=since).exclude(status__in=(RunStatus.MISSED, RunStatus.BLACKOUT))
    for run in _of(channel, begun):
        _write(channel, "start", str(run.pk), "", now, run.pk)
    ended = ScheduleRun.objects.filter(completed_at__gte=since).exclude(status__in=_SILENT)
    for run in _of(channel, ended):
        words = f"{run.schedule.name} {run.get_status_display()}. {run.error}"
        _write(channel, _SUFFIX.get(RunStatus(run.status), "fail"), str(run.pk), words, now, run.pk)


def _of(channel: Channel, runs: Iterable[ScheduleRun]) -> list[ScheduleRun]:
    found = runs.select_related("schedule").order_by("created_at")  # type: ignore[attr-defined]
    return [run for run in found if any(fnmatchcase(run.schedule.name, glob) for glob in channel.schedules)]


def _write(channel: Channel, suffix: str, run_id: str, text: str, now: datetime, *about: object) -> None:
    Delivery.objects.get_or_create(
        key=delivery_key(channel.pk, "ping", suffix, *about),
        defaults={
            "channel": channel,
            "kind": DeliveryKind.PING,
            "subject": f"ping {suffix or 'success'}",
            "text": text,
            "payload": {"suffix": suffix, "rid": run_id},
            "next_try_at": now,
            "created_at": now,
        },
    )
