"""Who is told what: incidents in, deliveries out. One message for what belongs together, one each way."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from fnmatch import fnmatchcase

from django.conf import settings
from django.db.models import F, Q

from apps.alerts.models import Channel, Delivery, DeliveryKind, DeliveryState, Incident, Rule, Severity
from apps.alerts.quiet import quiet_until
from apps.clusters.models import ObservedCollection
from apps.core.text import plural
from apps.schedules.models import CollectionTag

#: What begins within this time is told in one message: a run that fails forty times is one event for a person.
GATHER = timedelta(seconds=60)
#: What is over has to stay over that long before it is told.
SURE = timedelta(seconds=60)
FIRST_REMINDER = timedelta(hours=24)
LONGEST_REMINDER = timedelta(days=7)
#: More lines than this are named by their number.
LINES = 10

_NAMESPACE = uuid.UUID("6d1a3f52-5c1e-4b0f-9a55-3a1f6b6f0c11")
_URGENCY = {Severity.WARNING: 0, Severity.CRITICAL: 1}


def delivery_key(*parts: object) -> uuid.UUID:
    """The key of a message: the same for the same parts, whoever writes it and how often."""
    return uuid.uuid5(_NAMESPACE, "\n".join(str(part) for part in parts))


def tell(*, now: datetime) -> None:
    """Write deliveries for what began, goes on, or is over. Call inside the transaction of `settle_incidents`."""
    channels = [one for one in Channel.objects.filter(enabled=True) if not one.is_ping]
    began = Incident.objects.filter(resolved_at=None, notified_at=None)
    _tell_each(DeliveryKind.ALERT, began, channels, now)
    reminded = Incident.objects.filter(resolved_at=None, next_reminder_at__lte=now).filter(
        Q(muted_until=None) | Q(muted_until__lte=now)
    )
    _tell_each(DeliveryKind.REMINDER, reminded, channels, now)
    # One whose message is being sent at this moment has its turn later: then it is known whether it arrived.
    over = Incident.objects.filter(resolved_at__lte=now - SURE, recovery_notified_at=None)
    _tell_each(DeliveryKind.RECOVERY, over.exclude(deliveries__state=DeliveryState.SENDING), channels, now)


def _tell_each(kind: DeliveryKind, rows: Iterable[Incident], channels: Sequence[Channel], now: datetime) -> None:
    groups: dict[str, list[Incident]] = defaultdict(list)
    for row in rows:
        groups[row.cluster_name].append(row)
    tags = collection_tags() if groups and any(channel.tags for channel in channels) else {}
    for group in groups.values():
        wanted = _share_out(kind, group, channels, tags, now)
        if kind == DeliveryKind.ALERT:
            # What begins within a minute of the first is one message. What nobody asks for waits for one who does.
            asked = {row.pk for found in wanted.values() for row in found}
            heard = [row for row in group if row.pk in asked]
            if not heard or min(row.opened_at for row in heard) > now - GATHER:
                continue
            group = heard
        for channel in channels:
            found = wanted[channel.pk]
            if kind == DeliveryKind.RECOVERY:
                found = _were_told(channel, found)
            if found:
                _write(kind, channel, found, now)
        told = Incident.objects.filter(pk__in=[row.pk for row in group])
        if kind == DeliveryKind.ALERT:
            told.update(notified_at=now, seq=F("seq") + 1, reminders=0, next_reminder_at=now + FIRST_REMINDER)
        elif kind == DeliveryKind.RECOVERY:
            told.update(recovery_notified_at=now, seq=F("seq") + 1, next_reminder_at=None)
        else:
            for row in group:
                wait = min(FIRST_REMINDER * 2 ** min(row.reminders + 1, 10), LONGEST_REMINDER)
                Incident.objects.filter(pk=row.pk).update(
                    reminders=F("reminders") + 1, seq=F("seq") + 1, next_reminder_at=now + wait
                )


def _share_out(
    kind: DeliveryKind,
    group: Sequence[Incident],
    channels: Sequence[Channel],
    tags: Mapping[tuple[str, str], Collection[str]],
    now: datetime,
) -> dict[uuid.UUID, list[Incident]]:
    """Channel → what it is to be told. What is critical and no channel asks for falls to the default one."""
    wanted: dict[uuid.UUID, list[Incident]] = {}
    for channel in channels:
        wanted[channel.pk] = [
            row for row in group if wants(channel, row, now, tags.get((row.cluster_name, row.collection_name), ()))
        ]
    default = next((channel for channel in channels if channel.is_default), None)
    if default is not None:
        mine = wanted[default.pk]
        # The end goes to whoever was told of the beginning, whoever asks for it by now.
        routed = [mine] if kind == DeliveryKind.RECOVERY else wanted.values()
        taken = {row.pk for found in routed for row in found}
        rest = [row for row in group if row.pk not in taken]
        mine += [row for row in rest if row.severity == Severity.CRITICAL and not _is_about(row, default)]
    return wanted


def collection_tags() -> dict[tuple[str, str], set[str]]:
    """(cluster, collection) → its tags."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for cluster, collection, tag in CollectionTag.objects.values_list("cluster__name", "collection_name", "tag"):
        found[(cluster, collection)].add(tag)
    return found


def wants(channel: Channel, incident: Incident, now: datetime, tags: Collection[str] = ()) -> bool:
    """Tell whether the channel is to be told of it; `tags` are those of the incident's collection.

    A channel is never told of its own silence.
    """
    if channel.is_muted(now) and incident.severity != Severity.CRITICAL:
        return False
    if _is_about(incident, channel):
        return False
    if _URGENCY[Severity(incident.severity)] < _URGENCY[Severity(channel.min_severity)]:
        return False
    if channel.rules and incident.rule not in channel.rules:
        return False
    collection = incident.collection_name
    if collection and channel.collections and not any(fnmatchcase(collection, glob) for glob in channel.collections):
        return False
    if collection and channel.tags and not set(channel.tags) & set(tags):
        return False
    name = incident.cluster_name
    return not channel.clusters or not name or any(fnmatchcase(name, glob) for glob in channel.clusters)


def _is_about(incident: Incident, channel: Channel) -> bool:
    return incident.rule == Rule.CHANNEL_BROKEN and incident.target_key == str(channel.pk)


def _were_told(channel: Channel, rows: list[Incident]) -> list[Incident]:
    """Those whose alert has reached the channel: nobody hears of the end of what they never heard of."""
    reached = set(
        Delivery.incidents.through.objects.filter(
            incident__in=[row.pk for row in rows],
            delivery__channel=channel,
            delivery__state=DeliveryState.SENT,
            delivery__kind__in=(DeliveryKind.ALERT, DeliveryKind.REMINDER),
        ).values_list("incident_id", flat=True)
    )
    # An alert that is still on its way would arrive after the recovery: it is taken back instead.
    Delivery.objects.filter(
        channel=channel,
        state=DeliveryState.PENDING,
        kind__in=(DeliveryKind.ALERT, DeliveryKind.REMINDER),
        incidents__in=[row for row in rows if row.pk not in reached],
    ).exclude(incidents__resolved_at=None).update(
        state=DeliveryState.WITHDRAWN, error="It was over before it could be delivered."
    )
    return [row for row in rows if row.pk in reached]


_WORDS = {DeliveryKind.ALERT: "", DeliveryKind.REMINDER: "Still: ", DeliveryKind.RECOVERY: "Over: "}


def _write(kind: DeliveryKind, channel: Channel, rows: list[Incident], now: datetime) -> None:
    rows = sorted(rows, key=lambda row: (-_URGENCY[Severity(row.severity)], row.summary))
    first = rows[0]
    subject = first.summary if len(rows) == 1 else f"{plural(len(rows), 'problem')}: {first.summary}"
    if len(rows) > 1 and len({row.rule for row in rows}) == 1:
        named = ", ".join(row.collection_name or row.summary for row in rows[:LINES])
        more = f" and {len(rows) - LINES} more" if len(rows) > LINES else ""
        subject = f"{_how_many(rows)}: {first.get_rule_display()}: {named}{more}"
    lines = [f"- {row.summary}" for row in rows[:LINES]]
    if len(rows) > LINES:
        lines.append(f"- and {len(rows) - LINES} more")
    text = "\n".join([f"{_WORDS[kind]}{subject}", "", *lines, "", f"As of {now:%Y-%m-%d %H:%M:%S} UTC.", *_link()])
    urgent = any(row.severity == Severity.CRITICAL for row in rows) and kind != DeliveryKind.RECOVERY
    delivery, made = Delivery.objects.get_or_create(
        key=delivery_key(channel.pk, kind, *sorted(f"{row.pk}:{row.seq}" for row in rows)),
        defaults={
            "channel": channel,
            "kind": kind,
            "subject": f"[backupmgr] {_WORDS[kind]}{subject}"[:300],
            "text": text,
            "payload": payload(kind, rows, now),
            "next_try_at": now if urgent else quiet_until(channel.quiet_hours, channel.time_zone, now) or now,
            "created_at": now,
        },
    )
    if made:
        delivery.incidents.add(*rows)


def _how_many(rows: Sequence[Incident]) -> str:
    """ "7 of 40 collections on berlin", when all are about collections of one cluster."""
    cluster = rows[0].cluster_name
    if not cluster or not all(row.collection_name for row in rows):
        return f"{len(rows)} ×{f' on {cluster}' if cluster else ''}"
    known = ObservedCollection.objects.filter(cluster__name=cluster, gone_at=None).count()
    of = f" of {known}" if known >= len(rows) else ""
    return f"{len(rows)}{of} collections on {cluster}"


def payload(kind: DeliveryKind, rows: Sequence[Incident], now: datetime) -> dict[str, object]:
    """What a program receives."""
    return {
        "event": kind.value,
        "at": now.isoformat(),
        "incidents": [
            {
                "id": str(row.pk),
                "rule": row.rule,
                "severity": row.severity,
                "summary": row.summary,
                "cluster": row.cluster_name,
                "collection": row.collection_name,
                "opened_at": row.opened_at.isoformat(),
                "resolved_at": row.resolved_at.isoformat() if row.resolved_at else None,
            }
            for row in rows
        ],
    }


def _link() -> list[str]:
    base = settings.BACKUPMGR_PUBLIC_URL.rstrip("/")
    return [f"{base}/admin/alerts/incident/"] if base else []
