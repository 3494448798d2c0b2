"""manage.py incidents: what is wrong, in words and JSON, its exit codes, and what acknowledging leaves behind."""

from __future__ import annotations

import json
import uuid
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from apps.alerts.incidents import settle_incidents
from apps.alerts.models import Incident
from apps.audit.models import AuditEntry
from tests.alerts.conftest import NOW, finding

pytestmark = pytest.mark.django_db


def call(*arguments: str) -> tuple[int, str]:
    out = StringIO()
    try:
        call_command("incidents", *arguments, stdout=out)
    except SystemExit as done:
        return int(done.code or 0), out.getvalue()
    return 0, out.getvalue()


def test_the_exit_code_tells_whether_something_is_wrong() -> None:
    assert call("list") == (0, "Nothing is wrong.\n")
    assert call("list", "--json") == (0, "[]\n")

    settle_incidents([finding("products"), finding("people")], now=NOW)

    code, text = call("list")
    assert code == 3
    assert text.count("open  critical 2026-03-02 12:00 UTC") == 2
    assert text.endswith("2 things wrong now.\n")
    assert call("list", "--rule", "overdue")[0] == 0


def test_what_is_over_is_listed_when_asked_for_and_wrong_no_more() -> None:
    settle_incidents([finding("products")], now=NOW)
    settle_incidents([], now=NOW + timedelta(hours=1))

    assert call("list", "--json") == (0, "[]\n")
    code, text = call("list", "--all", "--json")
    assert code == 0
    assert json.loads(text)[0]["resolved_at"] == "2026-03-02T13:00:00+00:00"


def test_acknowledging_keeps_reminders_away_and_says_who() -> None:
    settle_incidents([finding("products")], now=NOW)
    row = Incident.objects.get()

    code, text = call("acknowledge", str(row.pk), "--hours", "8", "--by", "ana", "--json")

    assert (code, json.loads(text)["acknowledged_by"]) == (0, "ana")
    row.refresh_from_db()
    assert row.muted_until is not None
    assert timedelta(hours=7, minutes=59) < row.muted_until - timezone.now() <= timedelta(hours=8)
    assert AuditEntry.objects.get(action="incident.acknowledge").object_id == str(row.pk)
    assert "(known to ana)" in call("list")[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["7"], "manage.py incidents list names them"),
        ([str(uuid.uuid4())], "no incident with this id"),
        ([str(uuid.uuid4()), "--hours=nan"], "Give a number above 0"),
        ([str(uuid.uuid4()), "--hours=1e300"], "Give a number above 0"),
    ],
)
def test_what_cannot_be_done_is_said_with_exit_code_1(arguments: list[str], said: str) -> None:
    with pytest.raises(CommandError, match=said) as caught:
        call("acknowledge", *arguments)
    assert caught.value.returncode == 1

    code, text = call("acknowledge", *arguments, "--json")
    assert code == 1 and said in json.loads(text)["error"]


def test_one_that_is_over_cannot_be_acknowledged() -> None:
    settle_incidents([finding("products")], now=NOW)
    settle_incidents([], now=NOW + timedelta(hours=1))

    code, text = call("acknowledge", str(Incident.objects.get().pk), "--json")

    assert code == 1 and "is over" in json.loads(text)["error"]
