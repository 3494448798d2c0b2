"""Webhooks: a JSON body, an Idempotency-Key, and a signature over time and body."""

from __future__ import annotations

import hashlib
import hmac
import json
import time

from apps.alerts.models import Channel, Delivery
from apps.alerts.senders.http import call


def signature(key: str, timestamp: str, body: bytes) -> str:
    """HMAC-SHA256 in hex over `<timestamp>.<body>`: a receiver can refuse what is forged, and what is old."""
    return hmac.new(key.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def send_webhook(channel: Channel, delivery: Delivery) -> None:
    body = json.dumps(
        {"id": str(delivery.key), "subject": delivery.subject, "text": delivery.text, **delivery.payload}
    ).encode()
    stamp = str(int(time.time()))
    headers = {
        "Content-Type": "application/json",
        "Idempotency-Key": str(delivery.key),
        "X-Backupmgr-Timestamp": stamp,
    }
    if channel.signing_key:
        headers["X-Backupmgr-Signature"] = f"sha256={signature(channel.signing_key.reveal(), stamp, body)}"
    call("POST", channel.address.reveal(), body=body, headers=headers)
