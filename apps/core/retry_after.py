"""Retry-After: when an overloaded server wants to be asked again."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

#: What a server may ask for; more is taken for a mistake, and cut.
LONGEST_SECONDS = 3600.0


def parse_retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds that a Retry-After header asks to wait, 0 to an hour; None when it says nothing usable.

    It holds seconds or a date (RFC 9110, 10.2.3).
    """
    text = (value or "").strip()
    if text.isascii() and text.isdecimal():
        return min(float(text), LONGEST_SECONDS)
    try:
        at = parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return max(0.0, min((at - (now or datetime.now(UTC))).total_seconds(), LONGEST_SECONDS))
