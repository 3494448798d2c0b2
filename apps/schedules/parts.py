"""Parts of a schedule's page that higher rooms draw: whoever knows more of a schedule registers (in its AppConfig's
`ready`), and the page shows what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.http import HttpRequest

from apps.schedules.models import Schedule


@dataclass(frozen=True)
class Part:
    """A section: its template, which gets this as `part`, and what it shows."""

    template: str
    context: dict[str, Any] = field(default_factory=dict)


#: Asked for each page of a schedule: a few queries, whatever there is. None when there is nothing to show (to them).
PartMaker = Callable[[HttpRequest, Schedule, datetime], Part | None]
#: What to think of before a schedule is deleted, in sentences.
Warner = Callable[[Schedule, datetime], list[str]]

_makers: list[PartMaker] = []
_warners: list[Warner] = []


def register(maker: PartMaker, warner: Warner | None = None) -> None:
    if maker not in _makers:
        _makers.append(maker)
    if warner is not None and warner not in _warners:
        _warners.append(warner)


def parts_of(request: HttpRequest, schedule: Schedule, now: datetime) -> list[Part]:
    return [part for part in (maker(request, schedule, now) for maker in _makers) if part is not None]


def warnings_of(schedule: Schedule, now: datetime) -> list[str]:
    return [sentence for warner in _warners for sentence in warner(schedule, now)]
