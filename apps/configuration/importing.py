"""Import: makes the installation what the document says, in one transaction; the plan is the same, taken back again.

Because plan and import are one code path, what is shown is what happens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import transaction

from apps.audit.trail import record_action
from apps.configuration.document import Entry, Problem, read_document
from apps.configuration.fields import read_fields
from apps.configuration.kinds import KINDS, EntryInvalid, Given, Kind
from apps.configuration.references import STORED, Reference, SecretMissing
from apps.core.errors import BackupmgrError, InvalidRequest
from apps.core.text import plural
from apps.storage.models import StorageConfig
from apps.storage.services import make_folder

SECTIONS = tuple(kind.section for kind in KINDS)
#: A prune that would delete more than this at once is refused unless the caller says a higher number.
PRUNE_LIMIT = 3

MAKE, CHANGE, DELETE = "make", "change", "delete"


class ImportRefused(InvalidRequest):
    """The document cannot be carried out; nothing was changed. `problems` says what is wrong in which line."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = sorted(problems)
        super().__init__(" ".join(map(str, self.problems)))


@dataclass(frozen=True)
class Difference:
    """A field that changes: before and after, without secrets."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Change:
    """What becomes of one thing: `what` is make, change or delete."""

    what: str
    noun: str
    name: str
    differences: tuple[Difference, ...] = ()


@dataclass
class Outcome:
    """What an import did, or would do."""

    changes: list[Change] = field(default_factory=list)
    unchanged: int = 0

    def count(self, what: str) -> int:
        return sum(change.what == what for change in self.changes)

    @property
    def words(self) -> str:
        """'2 to make, 1 to change, 0 to delete'"""
        return f"{self.count(MAKE)} to make, {self.count(CHANGE)} to change, {self.count(DELETE)} to delete"


class _TakenBack(Exception):
    """Ends the transaction of a plan."""


def export_configuration() -> dict[str, list[dict[str, Any]]]:
    """Return the entries of every section, without secrets."""
    return {kind.section: [kind.show(row) for row in kind.all()] for kind in KINDS}


def import_configuration(
    text: str, *, now: datetime, apply: bool, prune: bool = False, prune_limit: int = PRUNE_LIMIT
) -> Outcome:
    """Carry the document out, or with `apply` off say what that would do and change nothing.

    `prune` also deletes what the sections of the document do not name; the backups of a schedule that goes stay
    under its policy. Raises: DocumentInvalid, ImportRefused; nothing was changed then.
    """
    document = read_document(text, SECTIONS)
    outcome = Outcome()
    written: list[StorageConfig] = []
    try:
        with transaction.atomic():
            _carry_out(document, outcome, written, now=now, prune_limit=prune_limit if prune else None)
            if not apply:
                raise _TakenBack
            if outcome.changes:
                made, changed, gone = (outcome.count(what) for what in (MAKE, CHANGE, DELETE))
                words = f"Imported a configuration: {made} made, {changed} changed, {gone} deleted."
                record_action("configuration.import", words)
    except _TakenBack:
        return outcome
    for storage in written:
        make_folder(storage)
    return outcome


def _carry_out(
    document: Mapping[str, list[Entry]],
    outcome: Outcome,
    written: list[StorageConfig],
    *,
    now: datetime,
    prune_limit: int | None,
) -> None:
    """Raises: ImportRefused with everything that is wrong."""
    problems: list[Problem] = []
    named: dict[str, set[Any]] = {}
    for kind in KINDS:
        if kind.section not in document:
            continue
        named[kind.section] = set()
        for entry, values in _read_section(kind, document[kind.section], problems):
            try:
                row = _write_entry(kind, entry, values, outcome, now)
            except EntryInvalid as error:
                problems += [
                    Problem(entry.line_of(name), f"{name}: {sentence}" if name else sentence)
                    for name, sentence in error.problems.items()
                ]
                row = kind.find(values)
            except BackupmgrError as error:
                problems.append(Problem(entry.line, str(error)))
                row = kind.find(values)
            if isinstance(row, StorageConfig):
                written.append(row)
            if row is not None:
                named[kind.section].add(row.pk)
    if problems:
        raise ImportRefused(problems)
    if prune_limit is not None:
        _prune(named, outcome, now, prune_limit)


def _read_section(kind: Kind, entries: list[Entry], problems: list[Problem]) -> list[tuple[Entry, dict[str, Any]]]:
    """Return the entries that can be read, the new default first: then the old one no longer is it."""
    found: dict[str, tuple[Entry, dict[str, Any]]] = {}
    for entry in entries:
        values, wrong = read_fields(entry, kind.by_name, kind.section.capitalize())
        missing = [name for name in kind.key if not values.get(name)]
        if missing and not any(name in entry.fields for name in missing):
            wrong.append(Problem(entry.line, f"A {kind.noun} needs a {missing[0]}."))
        elif missing and not wrong:
            wrong.append(Problem(entry.line_of(missing[0]), f"{missing[0]}: It must not be empty."))
        problems += wrong
        if wrong:
            continue
        name = kind.name_of(values)
        if name in found:
            line = found[name][0].line
            problems.append(Problem(entry.line, f"The {kind.noun} {name} is there twice, first in line {line}."))
            continue
        found[name] = (entry, values)
    defaults = [entry for entry, values in found.values() if values.get("is_default")]
    for entry in defaults[1:]:
        words = (
            f"is_default: One {kind.noun} is the default, and the document says so of one in line {defaults[0].line}."
        )
        problems.append(Problem(entry.line_of("is_default"), words))
    return sorted(found.values(), key=lambda pair: not pair[1].get("is_default", False))


def _write_entry(kind: Kind, entry: Entry, values: dict[str, Any], outcome: Outcome, now: datetime) -> Any:
    """Make or change one thing; a service that changes nothing that the document knows is taken back."""
    row = kind.find(values)
    before = kind.show(row) if row is not None else None
    plain, secrets = _secrets(kind, entry, values, row)
    wanted = {name: value for name, value in values.items() if not isinstance(value, Reference)} | plain
    with transaction.atomic():
        after_row = kind.write(row, Given(wanted, now))
        after_row = kind.find(values) or after_row
        after = kind.show(after_row)
        differences = secrets + [
            Difference(name, (before or {}).get(name), after.get(name))
            for name in (field.name for field in kind.fields)
            if name not in plain and (before or {}).get(name) != after.get(name)
        ]
        changes = before is None or bool(differences)
        if not changes:
            transaction.set_rollback(True)
    name = kind.name_of(values)
    if not changes:
        outcome.unchanged += 1
        return kind.find(values)
    what = MAKE if before is None else CHANGE
    if before is None:
        differences = [one for one in differences if one.after not in (None, "", [], {})]
    outcome.changes.append(Change(what, kind.noun, name, tuple(differences)))
    return after_row


def _secrets(
    kind: Kind, entry: Entry, values: Mapping[str, Any], row: Any | None
) -> tuple[dict[str, str], list[Difference]]:
    """Return the secrets that change, in clear and by name, and what is said of them. Raises: EntryInvalid."""
    plain: dict[str, str] = {}
    said: list[Difference] = []
    problems: dict[str, str] = {}
    for name, reference in values.items():
        if not isinstance(reference, Reference):
            continue
        is_set = row is not None and bool(getattr(row, name))
        if reference.kind == STORED:
            if not is_set:
                problems[name] = "None is stored here: give env:NAME or file:/path."
        elif reference.kind == "nothing":
            if is_set and name not in kind.removable:
                problems[name] = "It can be replaced, not removed: leave the field out, or give another one."
            elif is_set:
                plain[name] = ""
                said.append(Difference(name, "set", "not set"))
        else:
            try:
                secret = reference.resolve()
            except SecretMissing as error:
                problems[name] = str(error)
                continue
            if not is_set or not kind.holds(row, name, secret):
                plain[name] = secret
                said.append(Difference(name, "set" if is_set else "not set", f"another one, from {reference}"))
    if problems:
        raise EntryInvalid(problems)
    return plain, said


def _prune(named: Mapping[str, set[Any]], outcome: Outcome, now: datetime, limit: int) -> None:
    """Delete what the sections of the document do not name. Raises: ImportRefused."""
    problems: list[Problem] = []
    # From the other end: schedules go before what they use.
    for kind in reversed(KINDS):
        if kind.section not in named:
            continue
        for row in list(kind.all()):
            if row.pk in named[kind.section]:
                continue
            shown = kind.show(row)
            outcome.changes.append(Change(DELETE, kind.noun, kind.name_of(shown)))
            try:
                kind.delete(row, now)
            except BackupmgrError as error:
                problems.append(Problem(0, str(error)))
    if outcome.count(DELETE) > limit:
        what = plural(outcome.count(DELETE), "thing")
        problems.append(
            Problem(0, f"This would delete {what}, more than {limit}: if that is meant, say so with --prune-limit.")
        )
    if problems:
        raise ImportRefused(problems)
