"""manage.py schedule: list, run, pause and resume schedules.

Exit codes: 0 done; 1 refused (unknown schedule, a backup is under way); 2 wrong arguments.
"""

from __future__ import annotations

import json
import sys
import uuid
from argparse import ArgumentParser
from datetime import datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from apps.core.errors import BackupmgrError, InvalidRequest
from apps.schedules.models import Schedule
from apps.schedules.services import ScheduleNotFound, find_schedule, pause_schedule, resume_schedule, run_now

MAX_HOURS = 366 * 24


class Command(BaseCommand):
    help = "Lists, runs, pauses and resumes schedules."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        for name, text in (
            ("list", "what there is, and when it runs next"),
            ("run", "run one now, besides its times"),
            ("pause", "pause one, with the reason"),
            ("resume", "end a pause"),
        ):
            action = actions.add_parser(name, help=text)
            action.add_argument("--json", action="store_true", help="answer in JSON")
            if name != "list":
                action.add_argument("schedule", help="id or name")
            if name == "pause":
                action.add_argument("--reason", required=True)
                action.add_argument("--hours", type=float, help="until somebody resumes it when left out")
            if name == "run":
                action.add_argument("--key", help="a repetition with the same key returns the first one's run")

    def handle(self, *args: Any, **options: Any) -> None:
        now = timezone.now()
        try:
            answer = getattr(self, options["action"])(options, now)
        except BackupmgrError as error:
            if options["json"]:
                self.stdout.write(json.dumps({"error": str(error)}))
                sys.exit(1)
            raise CommandError(str(error), returncode=1) from error
        if options["json"]:
            self.stdout.write(json.dumps(answer, indent=2))
            return
        for row in answer if isinstance(answer, list) else [answer]:
            self.stdout.write(_line(row))

    def list(self, options: dict[str, Any], now: datetime) -> list[dict[str, Any]]:
        rows = Schedule.objects.live().select_related("cluster").order_by("cluster__name", "name")
        return [_shown(row) for row in rows]

    def run(self, options: dict[str, Any], now: datetime) -> dict[str, Any]:
        run = run_now(schedule=_find(options["schedule"]), now=now, key=options["key"])
        return {"run": str(run.pk), "schedule": options["schedule"], "status": run.status}

    def pause(self, options: dict[str, Any], now: datetime) -> dict[str, Any]:
        hours = options["hours"]
        if hours is not None and not 0 < hours <= MAX_HOURS:
            raise InvalidRequest(f"hours: Give a number above 0 and up to {MAX_HOURS}.")
        until = now + timedelta(hours=hours) if hours is not None else None
        schedule = _find(options["schedule"])
        return _shown(pause_schedule(schedule=schedule, reason=options["reason"], until=until, now=now))

    def resume(self, options: dict[str, Any], now: datetime) -> dict[str, Any]:
        return _shown(resume_schedule(schedule=_find(options["schedule"]), now=now))


def _find(reference: str) -> Schedule:
    """Return the schedule with this id or name. Raises: InvalidRequest, ScheduleNotFound."""
    named = list(Schedule.objects.live().filter(name=reference)[:2])
    if len(named) > 1:
        raise InvalidRequest(f"Several clusters have a schedule named {reference!r}: give its id.")
    if named:
        return named[0]
    try:
        return find_schedule(uuid.UUID(reference))
    except ValueError:
        raise ScheduleNotFound(f"There is no schedule {reference!r}: manage.py schedule list names them.") from None


def _state(schedule: Schedule) -> str:
    if schedule.error:
        return "error"
    if not schedule.enabled:
        return "off"
    return "paused" if schedule.is_paused else "on"


def _shown(schedule: Schedule) -> dict[str, Any]:
    return {
        "id": str(schedule.pk),
        "name": schedule.name,
        "cluster": schedule.cluster.name,
        "state": _state(schedule),
        "next_run_at": schedule.next_run_at.isoformat() if schedule.next_run_at else None,
        "error": schedule.error,
        "pause_reason": schedule.pause_reason,
    }


def _line(row: dict[str, Any]) -> str:
    if "run" in row:
        return f"Run {row['run']} has begun."
    following = row["next_run_at"] or "–"
    why = row["error"] or row["pause_reason"]
    return f"{row['state']:<7} {following:<26} {row['cluster']}/{row['name']}  {row['id']}{f'  {why}' if why else ''}"
