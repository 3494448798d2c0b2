"""Dead-man pings in the protocol of healthchecks: `<base>`, `<base>/start`, `<base>/fail`, `<base>/log`, with `?rid=`.

Silence is the alarm: whoever receives them notices when they stop, even when this whole host is gone.
"""

from __future__ import annotations

from urllib.parse import urlencode, urlsplit, urlunsplit

from apps.alerts.models import Channel, Delivery
from apps.alerts.senders.http import call

#: What a receiver keeps by default; cut on a character.
MAX_BODY = 10_000


def ping_address(base: str, suffix: str, run_id: str) -> str:
    """`suffix` is '' for success, or 'start', 'fail', 'log'."""
    parts = urlsplit(base)
    path = parts.path.rstrip("/") + (f"/{suffix}" if suffix else "")
    query = "&".join(filter(None, [parts.query, urlencode({"rid": run_id}) if run_id else ""]))
    return urlunsplit((parts.scheme, parts.netloc, path, query, ""))


def send_ping(channel: Channel, delivery: Delivery) -> None:
    if delivery.kind != "ping":  # the test button
        call("POST", ping_address(channel.address.reveal(), "log", ""), body=delivery.text.encode()[:MAX_BODY])
        return
    suffix, run_id = str(delivery.payload.get("suffix", "")), str(delivery.payload.get("rid", ""))
    body = delivery.text.encode()[:MAX_BODY].decode("utf-8", "ignore").encode()
    call("POST", ping_address(channel.address.reveal(), suffix, run_id), body=body)
