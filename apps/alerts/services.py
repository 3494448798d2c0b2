"""What can be done with channels and incidents."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from zoneinfo import available_timezones

from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, transaction

from apps.alerts.messages import delivery_key
from apps.alerts.models import (
    Channel,
    ChannelKind,
    Delivery,
    DeliveryKind,
    Digest,
    Incident,
    Rule,
    Severity,
)
from apps.alerts.outbox import claim, send_claimed
from apps.alerts.quiet import parse_quiet
from apps.alerts.senders.apprise import check_apprise_url
from apps.alerts.senders.ping import check_template
from apps.audit.trail import record_action
from apps.core.errors import BackupmgrError, Conflict, InvalidRequest, NotFound
from apps.core.outbound import current_guard

FIELDS = (
    "name", "kind", "enabled", "is_default", "tell_success", "address", "signing_key", "min_severity", "rules",
    "clusters", "collections", "tags", "quiet_hours", "digest", "time_zone", "schedules", "muted_until",
)  # fmt: skip
_SECRETS = ("address", "signing_key")


class ChannelInvalid(InvalidRequest):
    """The fields do not describe a channel; `problems` has a sentence for each."""

    def __init__(self, problems: Mapping[str, str]) -> None:
        self.problems = dict(problems)
        super().__init__(" ".join(self.problems.values()))


class ChannelNameTaken(Conflict):
    """There is a channel of that name."""


class ChannelNotFound(NotFound):
    """There is no such channel."""


class IncidentNotFound(NotFound):
    """There is no such incident."""


def save_channel(*, channel: Channel | None, data: Mapping[str, Any]) -> Channel:
    """Make a channel, or change the fields in `data`; secrets left out or empty stay.

    Raises: ChannelInvalid, ChannelNameTaken.
    """
    row = channel or Channel()
    before = (row.digest, row.time_zone)
    for field in FIELDS:
        if field in data and not (field in _SECRETS and not data[field]):
            setattr(row, field, data[field])
    check_channel(row)
    if (row.digest, row.time_zone) != before:
        row.next_digest_at = None  # reckoned anew with the next round
    try:
        with transaction.atomic():
            if row.is_default:  # the one before makes room
                Channel.objects.exclude(pk=row.pk).filter(is_default=True).update(is_default=False)
            row.save()
            record_action(
                "channel.change" if channel else "channel.create",
                f"{'Changed' if channel else 'Made'} the channel {row.name}.",
                about=row,
            )
    except IntegrityError as error:
        if Channel.objects.exclude(pk=row.pk).filter(name=row.name).exists():
            raise ChannelNameTaken(f"There is a channel named {row.name!r} already: choose another name.") from error
        if row.is_default:
            raise Conflict("Somebody else changed the default channel at the same moment: try again.") from error
        raise
    return row


def delete_channel(*, channel: Channel) -> None:
    """Forget a channel and its deliveries."""
    with transaction.atomic():
        record_action("channel.delete", f"Deleted the channel {channel.name}.", about=channel)
        channel.delete()


def test_channel(*, channel: Channel, now: datetime, clock: Callable[[], datetime]) -> Delivery:
    """Send a real message now; the delivery says what came of it. A saved channel only."""
    delivery = Delivery.objects.create(
        channel=channel,
        kind=DeliveryKind.TEST,
        key=delivery_key(channel.pk, "test", uuid.uuid4()),
        subject="[backupmgr] Test: this channel works",
        text="Somebody pressed the test button. When you read this, alerts of backupmgr reach you.",
        payload={"event": "test", "at": now.isoformat(), "incidents": []},
        next_try_at=now,
        created_at=now,
    )
    claimed = claim(delivery.pk, now=now)
    if claimed is not None:
        send_claimed(claimed, clock)
    delivery.refresh_from_db()
    record_action("channel.test", f"Tested the channel {channel.name}: {delivery.get_state_display()}.", about=channel)
    return delivery


def acknowledge_incident(*, incident_id: uuid.UUID, muted_until: datetime | None, who: str, now: datetime) -> Incident:
    """Note that somebody knows; no reminders until `muted_until` (or until it is over). Raises: IncidentNotFound."""
    changed = Incident.objects.filter(pk=incident_id, resolved_at=None).update(
        acknowledged_at=now,
        acknowledged_by=who[:150],
        muted_until=muted_until or datetime.max.replace(tzinfo=now.tzinfo),
    )
    found = Incident.objects.filter(pk=incident_id).first()
    if found is None:
        raise IncidentNotFound("There is no incident with this id.")
    if not changed:
        raise Conflict("This incident is over: there is nothing to acknowledge.")
    record_action("incident.acknowledge", f"Acknowledged: {found.summary}", about=found)
    return found


def check_channel(row: Channel) -> None:
    """Raises: ChannelInvalid."""
    problems: dict[str, str] = {}
    if not row.name or row.name != row.name.strip() or not row.name.isprintable() or len(row.name) > 100:
        problems["name"] = "Give the channel a name of up to 100 characters, without spaces at its ends."
    for field, known in (("kind", ChannelKind), ("min_severity", Severity), ("digest", Digest)):
        if getattr(row, field) not in known.values:
            problems[field] = f"{field} must be one of: {', '.join(known.values)}."
    if not isinstance(row.rules, list) or any(rule not in Rule.values for rule in row.rules):
        problems["rules"] = f"rules lists some of: {', '.join(Rule.values)}."
    for field in ("clusters", "collections", "schedules"):
        globs = getattr(row, field)
        if not isinstance(globs, list) or not all(isinstance(glob, str) and 0 < len(glob) <= 255 for glob in globs):
            problems[field] = f"{field} is a list of names, in which * and ? stand for anything."
    if not isinstance(row.tags, list) or not all(isinstance(tag, str) and 0 < len(tag) <= 50 for tag in row.tags):
        problems["tags"] = "tags is a list of tags of collections."
    if row.is_ping and row.is_default:
        problems["is_default"] = "A ping cannot be the default channel: it tells nobody what is wrong."
    if row.is_ping and row.tell_success:
        problems["tell_success"] = "A ping tells of runs anyway: name the schedules instead."
    try:
        if row.quiet_hours:
            parse_quiet(row.quiet_hours)
    except ValueError as error:
        problems["quiet_hours"] = str(error)
    if row.time_zone not in available_timezones():
        problems["time_zone"] = "time_zone must be an IANA name, for example Europe/Berlin."
    if "kind" not in problems and (said := _address_problem(row)):
        problems["address"] = said
    if problems:
        raise ChannelInvalid(problems)


def _address_problem(row: Channel) -> str:
    try:
        address = row.address.reveal()
        if not address:
            return "Where should it go? Enter an address."
        if row.kind == ChannelKind.EMAIL:
            for one in address.split(","):
                validate_email(one.strip())
        elif row.kind == ChannelKind.APPRISE:
            check_apprise_url(address)
        elif row.kind == ChannelKind.URL:
            check_template(address)
        else:
            current_guard(address)
    except ValidationError:
        return "Enter mail addresses, separated by commas."
    except (BackupmgrError, ValueError) as error:
        return str(error)
    return ""
