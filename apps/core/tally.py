"""Figures that only grow, for /metrics: counted when something happens, since the rows that tell of it may go later."""

from __future__ import annotations

from django.db.models import F

from apps.core.models import Tally


def add_up(name: str, *, about: object = "", result: str = "", by: int = 1) -> None:
    """Add `by` to a figure; call it in the transaction of what is counted, last, so that its lock is short."""
    row = Tally.objects.filter(name=name, about=str(about), result=result)
    if not row.update(value=F("value") + by):
        # Of several that meet at the first time one makes the row; all of them add.
        Tally.objects.bulk_create([Tally(name=name, about=str(about), result=result)], ignore_conflicts=True)
        row.update(value=F("value") + by)


def tallies(name: str) -> dict[tuple[str, str], int]:
    """Return (about, result) → figure."""
    rows = Tally.objects.filter(name=name).values_list("about", "result", "value")
    return {(about, result): value for about, result, value in rows}
