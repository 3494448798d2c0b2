"""The digest: how everything stands, daily or weekly, sent also when all is well. Its absence is a message, too."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from django.db.models import Count, Sum

from apps.alerts.messages import delivery_key
from apps.alerts.models import PING_KINDS, Channel, Delivery, DeliveryKind, Digest, Incident
from apps.backups.models import Backup
from apps.core.text import format_size, plural
from apps.jobs.models import Job
from apps.jobs.states import JobStatus
from apps.protection.judge import State, Verdict

HOUR = 8


def next_digest(kind: str, zone: str, after: datetime) -> datetime:
    """The next 08:00 in the zone after `after`; of a weekly one, on a Monday. In UTC."""
    local = after.astimezone(ZoneInfo(zone))
    day = local.date()
    while True:
        at = datetime(day.year, day.month, day.day, HOUR, tzinfo=ZoneInfo(zone)).astimezone(UTC)
        if at > after and (kind == Digest.DAILY or day.weekday() == 0):
            return at
        day += timedelta(days=1)


def write_digests(verdict: Verdict, *, now: datetime) -> None:
    """Write the digests that are due, one a channel, however long nobody wrote any."""
    wanted = Channel.objects.filter(enabled=True).exclude(digest=Digest.NONE).exclude(kind__in=PING_KINDS)
    for channel in wanted:
        following = next_digest(channel.digest, channel.time_zone, now)
        if channel.next_digest_at is not None and channel.next_digest_at <= now:
            _write(channel, verdict, channel.next_digest_at, now)
        if channel.next_digest_at is None or channel.next_digest_at <= now:
            Channel.objects.filter(pk=channel.pk).update(next_digest_at=following)


def _write(channel: Channel, verdict: Verdict, due: datetime, now: datetime) -> None:
    days = 1 if channel.digest == Digest.DAILY else 7
    since = now - timedelta(days=days)
    jobs = Job.objects.filter(completed_at__gte=since, completed_at__lt=now).order_by()
    ended = Counter(dict(jobs.values_list("status").annotate(Count("pk"))))
    size = Backup.objects.filter(created_at__gte=since).aggregate(size=Sum("size_bytes"))["size"] or 0
    going = Backup.objects.filter(delete_at__isnull=False, delete_at__lt=now + timedelta(days=days)).count()
    counts = {state.value: verdict.counts.get(state, 0) for state in State if verdict.counts.get(state)}
    subject = (
        f"[backupmgr] {ended[JobStatus.COMPLETED]} ok, {ended[JobStatus.FAILED]} failed, "
        f"{counts.get('overdue', 0)} overdue, {counts.get('unprotected', 0)} unprotected, "
        f"{counts.get('unproven', 0)} unproven, {format_size(size)}"
    )
    wrong = list(Incident.objects.filter(resolved_at=None).order_by("-severity", "opened_at")[:20])
    lines = [
        verdict.sentence,
        verdict.more,
        "",
        f"In the last {'day' if days == 1 else '7 days'}: {ended[JobStatus.COMPLETED]} jobs succeeded, "
        f"{ended[JobStatus.FAILED]} failed, {ended[JobStatus.CANCELLED]} were cancelled; "
        f"{format_size(size)} backed up.",
        f"Retention deletes {plural(going, 'backup')} in the {'day' if days == 1 else '7 days'} to come.",
        "Collections: " + (", ".join(f"{count} {state}" for state, count in counts.items()) or "none") + ".",
        "",
        *(f"- {row.summary}" for row in wrong),
    ]
    Delivery.objects.get_or_create(
        key=delivery_key(channel.pk, "digest", due.isoformat()),
        defaults={
            "channel": channel,
            "kind": DeliveryKind.DIGEST,
            "subject": subject[:300],
            "text": "\n".join(lines).strip(),
            "payload": {
                "event": "digest",
                "at": now.isoformat(),
                "collections": counts,
                "jobs": dict(ended),
                "bytes": size,
            },
            "next_try_at": now,
            "created_at": now,
        },
    )
