"""Presets of the form: every hour, day, week, month as people say it, and the cron expression that it means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import time
from typing import Any

HOURLY, DAILY, WEEKLY, MONTHLY = "hourly", "daily", "weekly", "monthly"
PRESETS = (HOURLY, DAILY, WEEKLY, MONTHLY)
WEEKDAYS = (
    ("1", "Monday"), ("2", "Tuesday"), ("3", "Wednesday"), ("4", "Thursday"), ("5", "Friday"), ("6", "Saturday"),
    ("0", "Sunday"),
)  # fmt: skip
DAYS = (*((str(day), str(day)) for day in range(1, 32)), ("L", "the last one"))

_SHAPE = re.compile(r"(\d{1,2}) (\d{1,2}|\*) (\d{1,2}|L|\*) \* ([0-6](?:,[0-6])*|\*)")


def to_cron(preset: str, data: Mapping[str, Any]) -> str:
    """Return the expression of a preset with its fields `at`, `weekdays` and `day`."""
    at: time = data["at"]
    if preset == HOURLY:
        return f"{at.minute} * * * *"
    if preset == WEEKLY:
        return f"{at.minute} {at.hour} * * {','.join(sorted(data['weekdays']))}"
    if preset == MONTHLY:
        return f"{at.minute} {at.hour} {data['day']} * *"
    return f"{at.minute} {at.hour} * * *"


def of_cron(cron: str) -> dict[str, Any]:
    """Return the fields of the preset that is written just so, and none for any other expression."""
    shape = _SHAPE.fullmatch(cron)
    if shape is None:
        return {}
    minute, hour, day, weekdays = shape.groups()
    if int(minute) > 59 or (hour != "*" and int(hour) > 23):
        return {}
    at = time(0 if hour == "*" else int(hour), int(minute))
    found: dict[str, Any] = {"at": at}
    if hour == "*":
        found["kind"] = HOURLY
    elif weekdays != "*":
        found |= {"kind": WEEKLY, "weekdays": weekdays.split(",")}
    elif day != "*":
        found |= {"kind": MONTHLY, "day": day}
    else:
        found["kind"] = DAILY
    return found | {"at": f"{at:%H:%M}"} if to_cron(found["kind"], found) == cron else {}
