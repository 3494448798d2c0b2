"""Dead-man pings, in three ways. Silence is the alarm: whoever receives them notices when they stop, even when this
whole host is gone.

- healthchecks: `<base>`, `<base>/start`, `<base>/fail`, `<base>/log`, with `?rid=`; the words are the body.
- Uptime Kuma, push: `?status=up|down&msg=…&ping=`; it knows neither beginnings nor log lines.
- any URL with placeholders: `{state}` (success, fail, start, log), `{rid}` and `{message}`, each URL-encoded. Without
  `{state}` the receiver cannot tell a failure from a success: then only successes are sent.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from apps.alerts.models import Channel, ChannelKind, Delivery, DeliveryKind
from apps.alerts.senders.http import call
from apps.core.crypto import UndecryptableSecret
from apps.core.outbound import current_guard

#: What a receiver keeps by default, in bytes; cut on a character.
MAX_BODY = 10_000
#: Characters of a message within an address.
MAX_MESSAGE = 250
_PLACEHOLDER = re.compile(r"\{(\w*)\}")
_KNOWN = ("state", "rid", "message")
_KUMA_OWN = frozenset({"status", "msg", "ping"})


def takes(channel: Channel, suffix: str) -> bool:
    """Tell whether the receiver can be told that: `suffix` is '' for success, or 'start', 'fail', 'log'."""
    if channel.kind == ChannelKind.KUMA:
        return suffix in ("", "fail")
    if channel.kind == ChannelKind.URL:
        try:
            return suffix == "" or "{state}" in channel.address.reveal()
        except UndecryptableSecret:
            return True  # said when it is sent
    return True


def check_template(url: str) -> None:
    """Raises: ValueError with a sentence; AddressRefused."""
    unknown = [name for name in _PLACEHOLDER.findall(url) if name not in _KNOWN]
    rest = _PLACEHOLDER.sub("", url)
    if unknown or "{" in rest or "}" in rest:
        raise ValueError("The address may hold the placeholders {state}, {rid} and {message}, and no other { or }.")
    host = urlsplit(url).netloc
    if "{" in host:
        raise ValueError("Placeholders stand in the path or after the question mark, not in the host.")
    current_guard(fill(url, "success", "", ""))


def fill(template: str, state: str, run_id: str, message: str) -> str:
    """Put the values into the placeholders, in one pass: what a value holds is no placeholder."""
    values = {"state": state, "rid": run_id, "message": _line(message)}
    return _PLACEHOLDER.sub(lambda found: quote(values.get(found[1], ""), safe=""), template)


def ping_address(base: str, suffix: str, run_id: str) -> str:
    """`suffix` is '' for success, or 'start', 'fail', 'log'."""
    parts = urlsplit(base)
    path = parts.path.rstrip("/") + (f"/{suffix}" if suffix else "")
    query = "&".join(filter(None, [parts.query, urlencode({"rid": run_id}) if run_id else ""]))
    return urlunsplit((parts.scheme, parts.netloc, path, query, ""))


def kuma_address(base: str, status: str, message: str) -> str:
    """The push address with status and message; Kuma shows one to copy that has these already, and they give way."""
    parts = urlsplit(base)
    kept = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] not in _KUMA_OWN]
    query = urlencode([*kept, ("status", status), ("msg", _line(message)), ("ping", "")], quote_via=quote, safe="")
    return urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))


def send_ping(channel: Channel, delivery: Delivery) -> None:
    is_test = delivery.kind != DeliveryKind.PING
    suffix = "log" if is_test else str(delivery.payload.get("suffix", ""))
    run_id = str(delivery.payload.get("rid", ""))
    address = channel.address.reveal()
    if channel.kind == ChannelKind.KUMA:
        call("GET", kuma_address(address, "down" if suffix == "fail" else "up", delivery.text))
    elif channel.kind == ChannelKind.URL:
        call("GET", fill(address, suffix or "success", run_id, delivery.text))
    else:
        call("POST", ping_address(address, suffix, run_id), body=_cut(delivery.text))


def _cut(text: str) -> bytes:
    """At most MAX_BODY bytes of UTF-8, whole characters."""
    return text.encode()[:MAX_BODY].decode("utf-8", "ignore").encode()


def _line(text: str) -> str:
    """The first words of a message, as one line."""
    words = " ".join(text.split())
    return words if len(words) <= MAX_MESSAGE else f"{words[: MAX_MESSAGE - 1]}…"
