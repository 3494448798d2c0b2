from __future__ import annotations

from datetime import UTC, datetime

import pytest

from apps.core.retry_after import parse_retry_after

NOW = datetime(2026, 11, 21, 2, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120),
        (" 0 ", 0),
        ("999999999", 3600),
        ("Sat, 21 Nov 2026 02:00:30 GMT", 30),
        ("Sat, 21 Nov 2026 01:00:00 GMT", 0),
        ("Sat, 21 Nov 2037 01:00:00 GMT", 3600),
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("²", None),
    ],
)
def test_seconds_and_dates_are_read_within_bounds(header: str | None, seconds: float | None) -> None:
    assert parse_retry_after(header, NOW) == seconds
