"""manage.py incidents: what is wrong, and noting that somebody knows.

Exit codes: 0 done, nothing is wrong; 1 refused (unknown incident, one that is over); 2 wrong arguments; 3 `list` found
something that is wrong now (so that a script can tell).
"""

from __future__ import annotations

import getpass
import json
import sys
import uuid
from argparse import ArgumentParser
from datetime import datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from apps.alerts.models import Incident, Rule
from apps.alerts.services import IncidentNotFound, acknowledge_incident
from apps.core.errors import BackupmgrError, InvalidRequest
from apps.core.text import plural

FOUND = 3
#: Of those that are over, at most so many are listed.
MAX_LISTED = 1000
MAX_HOURS = 366 * 24


class Command(BaseCommand):
    help = "Lists what is wrong, and notes that somebody knows."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        listing = actions.add_parser("list", help="what is wrong now; changes nothing")
        listing.add_argument("--all", action="store_true", help=f"also what is over, the newest {MAX_LISTED}")
        listing.add_argument("--rule", choices=Rule.values)
        noting = actions.add_parser("acknowledge", help="somebody knows: no reminders until it is over")
        noting.add_argument("incident", help="id")
        noting.add_argument("--hours", type=float, help="remind again after so many hours")
        noting.add_argument("--by", default="", help="who knows; the user of this shell when left out")
        for action in (listing, noting):
            action.add_argument("--json", action="store_true", help="answer in JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        now = timezone.now()
        try:
            rows = [_acknowledge(options, now)] if options["action"] == "acknowledge" else _listed(options)
        except BackupmgrError as error:
            if options["json"]:
                self.stdout.write(json.dumps({"error": str(error)}))
                sys.exit(1)
            raise CommandError(str(error), returncode=1) from error
        shown = [_shown(row) for row in rows]
        if options["json"]:
            self.stdout.write(json.dumps(shown if options["action"] == "list" else shown[0], indent=2))
        else:
            for row in rows:
                self.stdout.write(_line(row))
        open_count = sum(row.is_open for row in rows)
        if options["action"] == "list":
            if not options["json"]:
                self.stdout.write(f"{plural(open_count, 'thing')} wrong now." if open_count else "Nothing is wrong.")
            if open_count:
                sys.exit(FOUND)


def _listed(options: dict[str, Any]) -> list[Incident]:
    rows = Incident.objects.order_by("-opened_at", "-id")
    if options["rule"]:
        rows = rows.filter(rule=options["rule"])
    if not options["all"]:
        return list(rows.filter(resolved_at=None))
    open_ones = list(rows.filter(resolved_at=None))
    return open_ones + list(rows.filter(resolved_at__isnull=False)[:MAX_LISTED])


def _acknowledge(options: dict[str, Any], now: datetime) -> Incident:
    hours = options["hours"]
    if hours is not None and not 0 < hours <= MAX_HOURS:
        raise InvalidRequest(f"hours: Give a number above 0 and up to {MAX_HOURS}.")
    try:
        key = uuid.UUID(options["incident"])
    except ValueError:
        raise IncidentNotFound(
            f"There is no incident {options['incident']!r}: manage.py incidents list names them."
        ) from None
    return acknowledge_incident(
        incident_id=key,
        muted_until=now + timedelta(hours=hours) if hours is not None else None,
        who=options["by"].strip() or _shell_user(),
        now=now,
    )


def _shell_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "command line"


def _shown(row: Incident) -> dict[str, Any]:
    def moment(value: datetime | None) -> str | None:
        return value.isoformat() if value else None

    return {
        "id": str(row.pk),
        "rule": row.rule,
        "severity": row.severity,
        "summary": row.summary,
        "cluster": row.cluster_name,
        "collection": row.collection_name,
        "opened_at": moment(row.opened_at),
        "last_seen_at": moment(row.last_seen_at),
        "resolved_at": moment(row.resolved_at),
        "acknowledged_at": moment(row.acknowledged_at),
        "acknowledged_by": row.acknowledged_by,
    }


def _line(row: Incident) -> str:
    state = "known" if row.acknowledged_at and row.is_open else "open" if row.is_open else "over"
    by = f" (known to {row.acknowledged_by})" if row.acknowledged_by else ""
    return f"{state:<5} {row.severity:<8} {row.opened_at:%Y-%m-%d %H:%M} UTC  {row.pk}  {row.summary}{by}"
