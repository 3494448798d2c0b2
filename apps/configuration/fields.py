"""Fields: what an entry of the document may say, and how its words become values."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from apps.configuration.document import Entry, Located, Problem
from apps.configuration.references import Reference, ReferenceInvalid, parse_reference
from apps.schedules.timing.windows_text import parse_windows

_NUMBER = re.compile(r"[+-]?[0-9]{1,19}")
_MAX_TEXT = 100_000
_MAX_ITEMS = 10_000


class ValueInvalid(ValueError):
    """The value is not what the field holds; the message says what it does."""

    def __init__(self, sentence: str, line: int | None = None) -> None:
        super().__init__(sentence)
        self.line = line


Reader = Callable[[Located], Any]


@dataclass(frozen=True)
class Field:
    """A field of a section: its name in the document, and how it is read."""

    name: str
    read: Reader

    @property
    def is_secret(self) -> bool:
        return self.read is secret


def text(found: Located) -> str:
    """A text; null is the empty one."""
    if found.value is None:
        return ""
    if not isinstance(found.value, str):
        raise ValueInvalid("Give a text.")
    if len(found.value) > _MAX_TEXT or any((ord(c) < 32 and c not in "\n\r\t") or ord(c) == 127 for c in found.value):
        raise ValueInvalid("Give a text without control characters.")
    return found.value


def line(found: Located) -> str:
    """A text of one line, without spaces at its ends."""
    value = text(found)
    if any(character in value for character in "\n\r\t") or value != value.strip():
        raise ValueInvalid("Give a text of one line, without spaces at its ends.")
    return value


def number(found: Located) -> int:
    if not (found.is_plain and isinstance(found.value, str) and _NUMBER.fullmatch(found.value)):
        raise ValueInvalid("Give a whole number.")
    value = int(found.value)
    if abs(value) >= 2**62:
        raise ValueInvalid("This number is too large.")
    return value


def small_number(found: Located) -> int:
    """What an integer column holds on every database."""
    value = number(found)
    if abs(value) >= 2**31:
        raise ValueInvalid("This number is too large.")
    return value


def number_or_nothing(found: Located) -> int | None:
    return None if found.value is None else number(found)


def small_number_or_nothing(found: Located) -> int | None:
    return None if found.value is None else small_number(found)


def flag(found: Located) -> bool:
    if not (found.is_plain and found.value in ("true", "false")):
        raise ValueInvalid("Write true or false.")
    return bool(found.value == "true")


def lines(found: Located) -> list[str]:
    """A list of texts; null is the empty one."""
    if found.value is None:
        return []
    if not isinstance(found.value, list) or len(found.value) > _MAX_ITEMS:
        raise ValueInvalid("Give a list: one entry a line, each after a dash.")
    values = []
    for item in found.value:
        try:
            value = line(item)
        except ValueInvalid as error:
            raise ValueInvalid(str(error), item.line) from error
        if not value:
            raise ValueInvalid("An entry of the list is empty.", item.line)
        values.append(value)
    return values


def lists_by_name(found: Located) -> dict[str, list[str]]:
    """Names, each with a list of texts."""
    if found.value is None:
        return {}
    if not isinstance(found.value, dict) or len(found.value) > _MAX_ITEMS:
        raise ValueInvalid("Give names, each with a list.")
    values = {}
    for name, item in found.value.items():
        try:
            values[name] = lines(item)
        except ValueInvalid as error:
            raise ValueInvalid(str(error), error.line or item.line) from error
    return values


def numbers_by_name(low: int, high: int) -> Reader:
    """Names, each with a whole number from `low` to `high`."""

    def read(found: Located) -> dict[str, int]:
        if found.value is None:
            return {}
        if not isinstance(found.value, dict) or len(found.value) > _MAX_ITEMS:
            raise ValueInvalid("Give names, each with a number.")
        values = {}
        for name, item in found.value.items():
            try:
                values[name] = number(item)
            except ValueInvalid as error:
                raise ValueInvalid(f"{name}: {error}", item.line) from error
            if not low <= values[name] <= high:
                raise ValueInvalid(f"{name}: Give a number from {low} to {high}.", item.line)
        return values

    return read


def blackouts(found: Located) -> list[str]:
    """A list of blackouts as forms have them; each one can be read."""
    values = lines(found)
    for value, item in zip(values, found.value or (), strict=True):
        try:
            parse_windows(value)
        except ValueError as error:
            raise ValueInvalid(str(error), item.line) from error
    return values


def moment(found: Located) -> datetime | None:
    """A moment with its zone: 2026-01-01T00:00:00+00:00."""
    if found.value is None:
        return None
    try:
        value = datetime.fromisoformat(str(found.value))
    except ValueError:
        value = None
    if value is None or value.tzinfo is None:
        raise ValueInvalid("Give a moment with its zone: 2026-01-01T00:00:00+00:00.")
    return value


def secret(found: Located) -> Reference:
    """A reference to a secret, never the secret itself."""
    if found.value is not None and not isinstance(found.value, str):
        raise ValueInvalid("Give env:NAME or file:/path.")
    try:
        return parse_reference(found.value)
    except ReferenceInvalid as error:
        raise ValueInvalid(str(error)) from error


def read_fields(entry: Entry, known: dict[str, Field], section: str) -> tuple[dict[str, Any], list[Problem]]:
    """Return the values of an entry by field, and what is wrong with it."""
    values: dict[str, Any] = {}
    problems = []
    for name, found in entry.fields.items():
        one = known.get(name)
        if one is None:
            problems.append(Problem(found.line, f"{section} have no field {name!r}; they have {', '.join(known)}."))
            continue
        try:
            values[name] = one.read(found)
        except ValueInvalid as error:
            problems.append(Problem(error.line or found.line, f"{name}: {error}"))
    return values, problems
