"""Apprise: chat and push services, one URL a channel. Needs the package of that name."""

from __future__ import annotations

import re
from typing import Any

from apps.alerts.models import Channel, Delivery
from apps.alerts.senders.errors import NotDelivered
from apps.core.outbound import current_guard

#: Services that carry words to people elsewhere. Not on it: what acts on this host (dbus, syslog, …), and everything
#: that reads files or includes other configurations.
ALLOWED = frozenset(
    {
        "slack", "discord", "tgram", "workflows", "ntfy", "ntfys", "gotify", "gotifys", "mmost", "mmosts", "matrix",
        "matrixs", "pagerduty", "opsgenie", "pover", "rocket", "rockets", "zulip", "sns", "twilio",
    }
)  # fmt: skip
#: Services on a host of the operator's own: the URL names it, and the outbound policy judges it.
_OWN_HOST = frozenset(
    {"ntfy", "ntfys", "gotify", "gotifys", "mmost", "mmosts", "matrix", "matrixs", "rocket", "rockets"}
)
_TIMEOUT = 4


def check_apprise_url(url: str) -> None:
    """Raises: ValueError with a sentence; AddressRefused."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in ALLOWED:
        raise ValueError(f"An Apprise URL begins with one of: {', '.join(sorted(ALLOWED))}.")
    host = re.split(r"[/?]", rest.rpartition("@")[2])[0]
    if scheme.lower() in _OWN_HOST and "." in host:
        current_guard(f"https://{host}")
    if _load().instantiate(_bounded(url)) is None:
        raise ValueError(f"Apprise cannot read this {scheme} URL: compare it with the service's page.")


def send_by_apprise(channel: Channel, delivery: Delivery) -> None:
    url = channel.address.reveal()
    try:
        check_apprise_url(url)
    except ValueError as error:
        raise NotDelivered(str(error)) from error
    library = _load()
    sender = library(asset=_asset())
    sender.add(_bounded(url))
    # Its result is true for success only; None (nothing to send to) and a failure do not say why.
    if not sender.notify(title=delivery.subject, body=delivery.text):
        raise NotDelivered(f"The service behind the {url.partition('://')[0]} URL did not take the message.")


def _bounded(url: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}cto={_TIMEOUT}&rto={_TIMEOUT}"


def _load() -> Any:
    try:
        from apprise import Apprise
    except ImportError as error:
        raise NotDelivered("Apprise is not installed: pip install 'backupmgr[apprise]'.") from error
    return Apprise


def _asset() -> Any:
    from apprise import AppriseAsset

    return AppriseAsset(app_id="backupmgr", secure_logging=True, async_mode=False, http_redirects=False)
