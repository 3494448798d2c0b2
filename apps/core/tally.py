"""Figures that only grow, for /metrics: counted when something happens, since the rows that tell of it may go later."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from django.db.models import F

from apps.core.models import Tally


class Figure(NamedTuple):
    """Which figure: its name, what it is of, and what came of that."""

    name: str
    about: str = ""
    result: str = ""


def add_up(name: str, *, about: object = "", result: str = "", by: int = 1) -> None:
    """Add `by` to a figure; call it in the transaction of what is counted, last, so that its lock is short."""
    add_up_all({Figure(name, str(about), result): by})


def add_up_all(amounts: Mapping[Figure, int]) -> None:
    """Add to many figures at once, as `add_up` does: a few queries, however many they are."""
    keys = _keys(amounts)
    if missing := amounts.keys() - keys.keys():
        # Of several that meet at the first time one makes the row; all of them add.
        Tally.objects.bulk_create([Tally(**figure._asdict()) for figure in sorted(missing)], ignore_conflicts=True)
        keys = _keys(amounts)
    same: dict[int, list[int]] = defaultdict(list)
    for figure, key in keys.items():
        same[amounts[figure]].append(key)
    for by, which in same.items():
        Tally.objects.filter(pk__in=which).update(value=F("value") + by)


def _keys(amounts: Mapping[Figure, int]) -> dict[Figure, int]:
    """The keys of the rows that there are, locked in one order: two that count the same never wait for each other."""
    rows = Tally.objects.filter(
        name__in={figure.name for figure in amounts}, about__in={figure.about for figure in amounts}
    ).order_by("name", "about", "result")
    found = rows.select_for_update().values_list("name", "about", "result", "pk")
    return {figure: key for *columns, key in found if (figure := Figure(*columns)) in amounts}


def tallies(name: str) -> dict[tuple[str, str], int]:
    """Return (about, result) → figure."""
    rows = Tally.objects.filter(name=name).values_list("about", "result", "value")
    return {(about, result): value for about, result, value in rows}


def all_tallies() -> dict[str, dict[tuple[str, str], int]]:
    """Return all figures by name, each as `tallies` does; one query."""
    found: dict[str, dict[tuple[str, str], int]] = defaultdict(dict)
    for name, about, result, value in Tally.objects.values_list("name", "about", "result", "value"):
        found[name][(about, result)] = value
    return found
