"""When the next backup of a collection has to be there, and why.

Without schedules: a cluster's maximum age of backups. A room that knows better registers a provider (in its AppConfig's
`ready`), which then decides for the collections that it names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta


@dataclass(frozen=True)
class Expectation:
    """`expected_by` is None when no backup is expected (paused, excluded); `words` say why that moment."""

    expected_by: datetime | None
    #: For example "expected daily at 02:00 UTC".
    words: str = ""
    #: When the next run starts, when that is known.
    next_run_at: datetime | None = None


#: (cluster id as text, collection) → what is expected of it. Asked once for each verdict: must be a query or two.
Provider = Callable[[datetime], Mapping[tuple[str, str], Expectation]]

_providers: list[Provider] = []


def register(provider: Provider) -> None:
    """Ask `provider` from now on; of several that name a collection the one registered last decides."""
    if provider not in _providers:
        _providers.append(provider)


def expectations(now: datetime) -> dict[tuple[str, str], Expectation]:
    """What the providers expect."""
    found: dict[tuple[str, str], Expectation] = {}
    for provider in _providers:
        found.update(provider(now))
    return found


def by_age(data_at: datetime, max_age_hours: int) -> Expectation:
    """What is expected when nobody says better: the next backup before the newest one is too old."""
    return Expectation(data_at + timedelta(hours=max_age_hours), f"expected at least every {max_age_hours} h")


def earlier(one: Expectation, other: Expectation | None) -> Expectation:
    """Of two expectations the one that is due first; when the next run starts is kept from either."""
    if other is None:
        return one
    first = min((one, other), key=lambda expectation: (expectation.expected_by is None, expectation.expected_by))
    return replace(first, next_run_at=one.next_run_at or other.next_run_at)
