"""Dead-man pings: a heartbeat of this installation, and the beginning, waits and end of each run of a schedule."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from functools import partial
from uuid import UUID

from django.db.models import Q

from apps.alerts.messages import delivery_key
from apps.alerts.models import PING_KINDS, Channel, Delivery, DeliveryKind
from apps.alerts.run_words import describe_run
from apps.alerts.senders.ping import takes
from apps.jobs.states import JobStatus
from apps.protection.judge import Verdict
from apps.schedules.models import ItemStatus, RunItem, RunStatus, ScheduleRun
from apps.schedules.models.run import OPEN

HEARTBEAT = timedelta(minutes=5)
#: Runs that began or ended longer ago are no news: a channel that is made today does not ring for last week.
NEWS = timedelta(hours=1)
#: No run takes longer; its beginning is what the index knows.
LONGEST = timedelta(days=8)
#: More waits than this are told by their number.
WAITS = 10

#: Success is a backup of everything that was to be backed up, not a process that lives.
_SUFFIX = {RunStatus.OK: "", RunStatus.FRESH_ENOUGH: ""}
_NO_START = (RunStatus.MISSED, RunStatus.BLACKOUT)
_SILENT = (*OPEN, RunStatus.BLACKOUT)


@dataclass(frozen=True)
class _Ping:
    """One to send. `about` tells it from the others of its run; the words are made when it is new."""

    suffix: str
    run: ScheduleRun
    about: str
    words: Callable[[], str]


def write_pings(verdict: Verdict, *, now: datetime) -> None:
    """Write the pings that are due."""
    channels = [one for one in Channel.objects.filter(enabled=True, kind__in=PING_KINDS) if not one.is_muted(now)]
    for channel in channels:
        if not channel.schedules and (channel.next_ping_at is None or channel.next_ping_at <= now):
            text = f"{verdict.sentence}\n{verdict.more}".strip()
            _write(channel, delivery_key(channel.pk, "ping", "", now.isoformat()), "", "", text, now)
            Channel.objects.filter(pk=channel.pk).update(next_ping_at=now + HEARTBEAT)
    told = [channel for channel in channels if channel.schedules]
    if told:
        pings = list(_of_runs(now))
        for channel in told:
            _tell(channel, pings, now)


def _of_runs(now: datetime) -> Iterator[_Ping]:
    """What there is to tell of runs, of each in the order in which it happened: two queries."""
    since = now - NEWS
    recent = ScheduleRun.objects.filter(created_at__gte=since - LONGEST).filter(
        Q(created_at__gte=since) | Q(completed_at__gte=since) | Q(status__in=OPEN)
    )
    runs = list(recent.select_related("schedule__cluster").order_by("created_at", "id"))
    waits = _waits()
    for run in runs:
        if run.created_at >= since and run.status not in _NO_START:
            yield _Ping("start", run, "", str)
        if run.status in OPEN:
            yield from _log(run, waits.get(run.pk, []))
        elif run.completed_at is not None and run.completed_at >= since and run.status not in _SILENT:
            yield _Ping(_SUFFIX.get(RunStatus(run.status), "fail"), run, "", partial(describe_run, run))


def _waits() -> dict[UUID, list[RunItem]]:
    """What of the runs under way waits for another try, what has waited longest first."""
    items = RunItem.objects.filter(status=ItemStatus.QUEUED, run__status=RunStatus.RUNNING)
    waiting = items.filter(job__status=JobStatus.PENDING).exclude(job__wait_reason="").select_related("job")
    found: dict[UUID, list[RunItem]] = defaultdict(list)
    for item in waiting.order_by("job__heartbeat_at", "collection_name", "id"):
        found[item.run_id].append(item)
    return found


def _log(run: ScheduleRun, waits: list[RunItem]) -> Iterator[_Ping]:
    """One ping when something new begins to wait; it names all that waits. Not one for each: receivers drop floods."""
    if run.status == RunStatus.EXPANDING and run.error and run.claimed_until is not None:
        again = f"{run.error} It is tried again at {run.claimed_until:%H:%M} UTC."
        yield _Ping("log", run, f"expand {run.expand_count}", lambda: again)
    if waits and waits[-1].job is not None:
        newest = waits[-1].job
        yield _Ping("log", run, f"{newest.pk} {newest.attempt} {newest.retry_count}", partial(_waiting, waits))


def _waiting(waits: list[RunItem]) -> str:
    lines = [
        f"{item.collection_name}: {item.job.wait_reason} It is tried again at {item.job.not_before:%H:%M} UTC."
        for item in waits[:WAITS]
        if item.job is not None
    ]
    return "\n".join([*lines, *([f"And {len(waits) - WAITS} more."] if len(waits) > WAITS else [])])


def _tell(channel: Channel, pings: list[_Ping], now: datetime) -> None:
    """Write those that are new to the channel, each after the one before it of its run."""
    mine = {
        delivery_key(channel.pk, "ping", ping.suffix, ping.run.pk, *filter(None, [ping.about])): ping
        for ping in pings
        if _concerns(channel, ping) and takes(channel, ping.suffix)
    }
    known = dict(Delivery.objects.filter(key__in=mine).values_list("key", "pk")) if mine else {}
    last: dict[UUID, UUID] = {}
    for key, ping in mine.items():
        before = last.get(ping.run.pk)
        last[ping.run.pk] = known.get(key) or _write(
            channel, key, ping.suffix, str(ping.run.pk), ping.words(), now, before
        )


def _concerns(channel: Channel, ping: _Ping) -> bool:
    """Whether the channel asks for the schedule, and was there when it happened."""
    run = ping.run
    at = run.created_at if ping.suffix == "start" else run.completed_at
    there = at is None or at >= channel.created_at
    return there and any(fnmatchcase(run.schedule.name, glob) for glob in channel.schedules)


def _write(
    channel: Channel, key: UUID, suffix: str, run_id: str, text: str, now: datetime, after: UUID | None = None
) -> UUID:
    delivery, _ = Delivery.objects.get_or_create(
        key=key,
        defaults={
            "channel": channel,
            "kind": DeliveryKind.PING,
            "subject": f"ping {suffix or 'success'}",
            "text": text,
            "payload": {"suffix": suffix, "rid": run_id},
            "after_id": after,
            "next_try_at": now,
            "created_at": now,
        },
    )
    return delivery.pk
