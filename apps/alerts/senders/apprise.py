"""Apprise: chat and push services, one URL a channel. Needs the package of that name."""

from __future__ import annotations

import logging
import re
import threading
from typing import Any
from urllib.parse import quote, unquote

from apps.alerts.models import Channel, Delivery
from apps.alerts.senders.errors import NotDelivered
from apps.core.outbound import current_guard, current_policy

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
#: Modes of these in which the host of the URL is a topic or a token, and the service one of somebody else's.
_ELSEWHERE = frozenset({"cloud", "t2bot"})
_TIMEOUT = 4
#: What Apprise tells goes to its logger, which is the same for all who send: one at a time, or reasons get mixed up.
_one_at_a_time = threading.Lock()


def check_apprise_url(url: str) -> str:
    """Return the address on a host of the operator's own that it leads to; '' for a service of somebody else's.

    Raises: ValueError with a sentence; AddressRefused.
    """
    scheme, separator, _ = url.partition("://")
    if not separator or scheme.lower() not in ALLOWED:
        raise ValueError(f"An Apprise URL begins with one of: {', '.join(sorted(ALLOWED))}.")
    sender = _load().instantiate(_bounded(url))
    if sender is None:
        raise ValueError(f"Apprise cannot read this {scheme} URL: compare it with the service's page.")
    return _own_host(scheme, sender)


def _own_host(scheme: str, sender: Any) -> str:
    """Return the address that Apprise will call, as far as the policy has to judge it; '' for a service of somebody
    else's. What Apprise reads in the URL counts, and not what another reader would. Raises: AddressRefused."""
    if scheme.lower() not in _OWN_HOST or getattr(sender, "mode", "") in _ELSEWHERE:
        return ""
    address = f"https://{sender.host}"
    current_guard(address)
    return address


def send_by_apprise(channel: Channel, delivery: Delivery) -> None:
    url = channel.address.reveal()
    try:
        address = check_apprise_url(url)
        if address:
            # The library makes the connection, out of the guard's sight: the name is looked up before.
            current_policy().check_url(address)
    except ValueError as error:
        raise NotDelivered(str(error)) from error
    library = _load()
    sender = library(asset=_asset())
    sender.add(_bounded(url))
    from apprise import LogCapture

    # Its result is true for success only; None (nothing to send to) and a failure do not say why. Its log may.
    with _one_at_a_time, LogCapture(level=logging.WARNING, fmt="%(message)s") as said:
        taken = sender.notify(title=delivery.subject, body=delivery.text)
        told = said.getvalue()
    if not taken:
        words = f"The service behind the {url.partition('://')[0]} URL did not take the message."
        raise NotDelivered(f"{words} {without_secrets(told, url)}".strip())


def without_secrets(text: str, url: str) -> str:
    """Return the text in one line, without any part of the URL: which of them are secret differs by service."""
    pieces = {piece for piece in re.split(r"[/?&=:@#,]+", url.partition("://")[2]) if len(piece) > 2}
    pieces |= {unquote(piece) for piece in pieces} | {quote(piece, safe="") for piece in pieces}
    text = " ".join(text.split())
    for piece in sorted(pieces, key=len, reverse=True):
        text = re.sub(re.escape(piece), "…", text, flags=re.IGNORECASE)
    return text[:400]


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
