"""One module a kind of channel. Each sends one message, or says in a sentence why it could not."""

from __future__ import annotations

from collections.abc import Callable

from apps.alerts.models import Channel, ChannelKind, Delivery
from apps.alerts.senders.apprise import send_by_apprise
from apps.alerts.senders.email import send_email
from apps.alerts.senders.errors import NotDelivered as NotDelivered
from apps.alerts.senders.ping import send_ping
from apps.alerts.senders.webhook import send_webhook

_SENDERS: dict[str, Callable[[Channel, Delivery], None]] = {
    ChannelKind.EMAIL: send_email,
    ChannelKind.WEBHOOK: send_webhook,
    ChannelKind.APPRISE: send_by_apprise,
    ChannelKind.PING: send_ping,
    ChannelKind.KUMA: send_ping,
    ChannelKind.URL: send_ping,
}


def send(channel: Channel, delivery: Delivery) -> None:
    """Send it. Raises: NotDelivered, BackupmgrError (outbound policy), crypto.UndecryptableSecret."""
    _SENDERS[channel.kind](channel, delivery)
