"""Sizes, rates and durations the way people read them: the one place where numbers become words."""

from __future__ import annotations

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def format_size(size_bytes: float | None) -> str:
    """1536 -> '1.5 KiB'. None becomes an en dash."""
    if size_bytes is None:
        return "–"
    value = float(size_bytes)
    for unit in _UNITS:
        if abs(value) < 1024 or unit == _UNITS[-1]:
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def format_rate(bytes_per_second: float | None) -> str:
    """1048576 -> '1.0 MiB/s'. None becomes an en dash."""
    return format_size(bytes_per_second) + ("/s" if bytes_per_second is not None else "")


def format_duration(seconds: float | None) -> str:
    """3725 -> '1 h 2 min', 95 -> '1 min 35 s', 4.2 -> '4.2 s'. None becomes an en dash."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def plural(count: int, noun: str, nouns: str | None = None) -> str:
    """(1, 'shard') -> '1 shard', (2, 'shard') -> '2 shards'."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"
