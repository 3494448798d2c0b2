"""Notices of success: a message for each run that backed up all it was to, to the channels that ask for that."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from uuid import UUID

from django.db.models import Sum

from apps.alerts.messages import collection_tags, delivery_key
from apps.alerts.models import PING_KINDS, Channel, Delivery, DeliveryKind
from apps.alerts.quiet import quiet_until
from apps.alerts.run_words import describe_run, headline
from apps.core.text import format_duration, format_size
from apps.schedules.models import RunStatus, ScheduleRun

#: Runs that ended longer ago are no news.
NEWS = timedelta(hours=1)
#: No run takes longer; its beginning is what the index knows.
LONGEST = timedelta(days=8)


def write_successes(*, now: datetime) -> None:
    """Write what is to be told. What was skipped, missed or only partly done is no success."""
    channels = list(Channel.objects.filter(enabled=True, tell_success=True).exclude(kind__in=PING_KINDS))
    if not channels:
        return
    ended = ScheduleRun.objects.filter(
        created_at__gte=now - NEWS - LONGEST, completed_at__gte=now - NEWS, completed_at__lte=now, status=RunStatus.OK
    )
    runs = list(ended.exclude(counts={}).select_related("schedule__cluster").order_by("completed_at", "id"))
    tags = collection_tags() if any(channel.tags for channel in channels) else {}
    for channel in channels:
        mine = {
            delivery_key(channel.pk, "success", run.pk): run
            for run in runs
            if run.completed_at and run.completed_at >= channel.created_at and _wants(channel, run, tags, now)
        }
        known = set(Delivery.objects.filter(key__in=mine).values_list("key", flat=True)) if mine else set()
        for key, run in mine.items():
            if key not in known:
                _write(channel, key, run, now)


def _wants(channel: Channel, run: ScheduleRun, tags: dict[tuple[str, str], set[str]], now: datetime) -> bool:
    cluster = run.schedule.cluster.name
    if channel.is_muted(now) or not _fits(channel.clusters, [cluster]) or not _fits(channel.collections, run.matched):
        return False
    return not channel.tags or any(set(channel.tags) & tags.get((cluster, name), set()) for name in run.matched)


def _fits(globs: Collection[str], names: Collection[str]) -> bool:
    return not globs or any(fnmatchcase(name, glob) for name in names for glob in globs)


def _write(channel: Channel, key: UUID, run: ScheduleRun, now: datetime) -> None:
    size = run.items.aggregate(size=Sum("job__backup__size_bytes"))["size"] or 0
    took = run.duration_seconds(now)
    figures = f"{format_size(size)} in {format_duration(took)}."
    Delivery.objects.get_or_create(
        key=key,
        defaults={
            "channel": channel,
            "kind": DeliveryKind.SUCCESS,
            "subject": f"[backupmgr] {headline(run)}"[:300],
            "text": f"{describe_run(run)}\n{figures}",
            "payload": {
                "event": DeliveryKind.SUCCESS.value,
                "at": now.isoformat(),
                "run": str(run.pk),
                "schedule": run.schedule.name,
                "cluster": run.schedule.cluster.name,
                "slot": run.slot.isoformat(),
                "counts": run.counts,
                "bytes": size,
                "seconds": round(took, 3),
                "incidents": [],
            },
            "next_try_at": quiet_until(channel.quiet_hours, channel.time_zone, now) or now,
            "created_at": now,
        },
    )
