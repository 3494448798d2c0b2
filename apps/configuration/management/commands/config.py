"""manage.py config: the configuration as a document: written out, compared, carried out.

Exit codes: 0 done, or the document is what there is; 1 refused, with every reason and its line; 2 wrong arguments; 3
`import` without --apply found something to change (so that a script can tell).
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from apps.configuration.document import MAX_BYTES, DocumentInvalid, Problem, write_document
from apps.configuration.importing import (
    DELETE,
    MAKE,
    PRUNE_LIMIT,
    Change,
    ImportRefused,
    Outcome,
    export_configuration,
    import_configuration,
)

FOUND = 3
_MARKS = {MAKE: "+", DELETE: "-"}
_LONGEST = 200


class Command(BaseCommand):
    help = "Exports and imports clusters, storages, policies, schedules and channels as one YAML document."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        exporting = actions.add_parser("export", help="write the document, without secrets")
        exporting.add_argument("--output", metavar="FILE", help="instead of standard output")
        importing = actions.add_parser("import", help="show what the document would change; with --apply change it")
        importing.add_argument("file", help="the document; - for standard input")
        how = importing.add_mutually_exclusive_group()
        how.add_argument("--apply", action="store_true", help="carry it out")
        how.add_argument("--dry-run", action="store_true", help="change nothing (as without --apply)")
        importing.add_argument(
            "--prune", action="store_true", help="also delete what the document's sections do not name"
        )
        importing.add_argument(
            "--prune-limit", type=int, default=PRUNE_LIMIT, metavar="N", help=f"at most so many ({PRUNE_LIMIT})"
        )
        importing.add_argument("--json", action="store_true", help="answer in JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["action"] == "export":
            self._export(options["output"])
            return
        try:
            outcome = import_configuration(
                _read(options["file"]),
                now=timezone.now(),
                apply=options["apply"],
                prune=options["prune"],
                prune_limit=options["prune_limit"],
            )
        except (DocumentInvalid, ImportRefused) as error:
            self._refuse(error.problems, as_json=options["json"])
        else:
            self._show(outcome, applied=options["apply"], as_json=options["json"])
            if outcome.changes and not options["apply"]:
                sys.exit(FOUND)

    def _export(self, output: str | None) -> None:
        text = write_document(export_configuration())
        if output is None:
            self.stdout.write(text, ending="")
            return
        try:
            Path(output).write_text(text)
        except OSError as error:
            raise CommandError(f"{output} cannot be written: {error.strerror}.", returncode=1) from error

    def _refuse(self, problems: list[Problem], *, as_json: bool) -> None:
        if as_json:
            shown = [{"line": problem.line or None, "message": problem.sentence} for problem in problems]
            self.stdout.write(json.dumps({"error": "Nothing was changed.", "problems": shown}, indent=2))
            sys.exit(1)
        words = "\n".join(map(str, problems))
        raise CommandError(f"{words}\nNothing was changed.", returncode=1)

    def _show(self, outcome: Outcome, *, applied: bool, as_json: bool) -> None:
        if as_json:
            shown = {
                "applied": applied,
                "unchanged": outcome.unchanged,
                "changes": [
                    {
                        "what": change.what,
                        "kind": change.noun,
                        "name": change.name,
                        "fields": {one.field: {"before": one.before, "after": one.after} for one in change.differences},
                    }
                    for change in outcome.changes
                ],
            }
            self.stdout.write(json.dumps(shown, indent=2))
            return
        for change in outcome.changes:
            self._show_change(change)
        if not outcome.changes:
            self.stdout.write("Nothing to change.")
        elif applied:
            words = outcome.words.replace("to make", "made").replace("to change", "changed")
            self.stdout.write(f"{words.replace('to delete', 'deleted')}.")
        else:
            self.stdout.write(f"{outcome.words}. Nothing was changed: repeat it with --apply.")

    def _show_change(self, change: Change) -> None:
        self.stdout.write(f"{_MARKS.get(change.what, '~')} {change.noun} {change.name}")
        for one in change.differences:
            before = "" if change.what == MAKE else f"{_short(one.before)} → "
            self.stdout.write(f"    {one.field}: {before}{_short(one.after)}")


def _short(value: Any) -> str:
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _read(name: str) -> str:
    """Return the text of the document. Raises: CommandError."""
    try:
        if name == "-":
            return sys.stdin.read(MAX_BYTES + 1)
        with Path(name).open(encoding="utf-8-sig") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise CommandError(f"{name} cannot be read: {error.strerror}.", returncode=1) from error
    except UnicodeDecodeError as error:
        raise CommandError(f"{name} is no text in UTF-8.", returncode=1) from error
