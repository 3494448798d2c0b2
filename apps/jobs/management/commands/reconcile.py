"""manage.py reconcile: find what was left behind or got lost, in storages and on nodes."""

from __future__ import annotations

import json
import os
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from apps.backups.models import OrphanState
from apps.backups.reconcile.findings import Finding
from apps.clusters.models import Cluster
from apps.core.errors import BackupmgrError
from apps.core.text import format_size, plural
from apps.jobs.reconciling import Outcome, ReconciliationRunning, is_due, reconcile
from apps.jobs.worker import die_with_parent
from apps.storage.models import StorageConfig

#: Something is left for a person to decide; a place could not be looked at.
LEFT_FOR_A_PERSON = 2
NOT_EVERYTHING_SEEN = 3


class Command(BaseCommand):
    help = (
        "Find what was left behind or got lost: files of unfinished backups, uploads, snapshots on nodes, backups that "
        "the catalogue does not know, backups whose files are gone or changed. Removes what is provably ours and old, "
        "and lists the rest. Exit codes: 0 nothing is left to decide, 1 it could not run, 2 something is left to "
        "decide, 3 a storage or node could not be looked at."
    )
    requires_migrations_checks = True

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--cluster", action="append", metavar="NAME", help="only this cluster; may be repeated")
        parser.add_argument("--storage", action="append", metavar="NAME", help="only this storage; may be repeated")
        parser.add_argument("--dry-run", action="store_true", help="say what would be done, and change nothing at all")
        parser.add_argument("--json", action="store_true", help="print one JSON document")
        parser.add_argument("--if-due", action="store_true", help="do nothing unless a periodic run is due")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["if_due"]:
            die_with_parent(os.getppid())
            if not is_due(now=timezone.now()):
                return
        clusters = _named(Cluster, options["cluster"], "cluster")
        storages = _named(StorageConfig, options["storage"], "storage")
        printer = _JsonPrinter(self.stdout) if options["json"] else _Printer(self.stdout)
        try:
            outcome = reconcile(
                trigger="schedule" if options["if_due"] else "command",
                now=timezone.now(),
                clusters=clusters,
                storages=storages,
                dry_run=options["dry_run"],
                tell=printer.tell,
            )
        except ReconciliationRunning as error:
            if options["if_due"]:
                return
            raise CommandError(str(error)) from error
        except BackupmgrError as error:
            raise CommandError(str(error)) from error
        printer.end(outcome)
        if outcome.failed:
            sys.exit(NOT_EVERYTHING_SEEN)
        if printer.left:
            sys.exit(LEFT_FOR_A_PERSON)


def _named(model: Any, names: list[str] | None, word: str) -> list[Any] | None:
    if names is None:
        return None
    found = list(model.objects.filter(name__in=names))
    unknown = sorted(set(names) - {row.name for row in found})
    if unknown:
        raise CommandError(f"No such {word}: {', '.join(unknown)}.")
    return found


class _Printer:
    """A line for each finding, as it is found."""

    def __init__(self, out: Any) -> None:
        self._out = out
        self.left = 0

    def tell(self, finding: Finding, state: str) -> None:
        self.left += state == OrphanState.OPEN
        size = f" ({format_size(finding.size_bytes)})" if finding.size_bytes is not None else ""
        where = f"{finding.node_url} " if finding.node_url else ""
        self._out.write(f"{state}: {finding.kind.label} {where}{finding.name}{size}: {finding.reason}")

    def end(self, outcome: Outcome) -> None:
        for place in outcome.places:
            told = f"could not be looked at: {place.error}" if place.error else "looked at"
            self._out.write(
                f"{place.kind} {place.name}: {told}, {plural(place.orphans, 'orphan')} found, {place.cleaned} removed"
            )


class _JsonPrinter(_Printer):
    """One JSON document, written as it is found: however long it gets, it is never in memory as a whole."""

    def __init__(self, out: Any) -> None:
        super().__init__(out)
        self._count = 0
        out.write('{"orphans": [', ending="")

    def tell(self, finding: Finding, state: str) -> None:
        self.left += state == OrphanState.OPEN
        entry = {
            "kind": str(finding.kind),
            "state": state,
            "name": finding.name,
            "storage_id": str(finding.storage_id) if finding.storage_id else None,
            "cluster_id": str(finding.cluster_id) if finding.cluster_id else None,
            "node": finding.node_url or None,
            "collection_name": finding.collection_name or None,
            "shard_id": finding.shard_id,
            "job_id": str(finding.job_id) if finding.job_id else None,
            "size_bytes": finding.size_bytes,
            "is_ours": finding.is_ours,
            "reason": finding.reason,
        }
        self._out.write(("," if self._count else "") + "\n  " + json.dumps(entry, ensure_ascii=False), ending="")
        self._count += 1

    def end(self, outcome: Outcome) -> None:
        places = json.dumps([place.as_json() for place in outcome.places], ensure_ascii=False)
        self._out.write(f'\n], "found": {outcome.found}, "cleaned": {outcome.cleaned}, "places": {places}}}')
