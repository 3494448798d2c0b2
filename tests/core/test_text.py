from __future__ import annotations

import pytest

from apps.core.text import format_duration, format_rate, format_size, plural


@pytest.mark.parametrize(
    ("size", "words"),
    [(None, "–"), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 30, "1.0 GiB"), (5 << 60, "5120.0 PiB")],
)
def test_sizes(size: float | None, words: str) -> None:
    assert format_size(size) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "–"), (0.04, "0.0 s"), (4.2, "4.2 s"), (59.4, "59 s"), (60, "1 min"), (95, "1 min 35 s"),
     (3600, "1 h"), (3725, "1 h 2 min"), (86400 * 3 + 7200, "3 d 2 h")],
)  # fmt: skip
def test_durations(seconds: float | None, words: str) -> None:
    assert format_duration(seconds) == words


def test_rates_and_counts() -> None:
    assert format_rate(1 << 20) == "1.0 MiB/s"
    assert format_rate(None) == "–"
    assert plural(1, "shard") == "1 shard"
    assert plural(2000, "index", "indexes") == "2,000 indexes"
