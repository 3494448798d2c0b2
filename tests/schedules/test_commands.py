"""manage.py schedule and retention: what they answer, in words and JSON, and their exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from apps.audit.models import AuditEntry
from apps.backups.models import Backup
from apps.backups.policies import RetentionPolicy
from apps.clusters.models import Cluster
from apps.schedules.models import Schedule, ScheduleRun
from apps.storage.models import StorageConfig
from tests.schedules.conftest import make_backup, make_policy


def call(*arguments: str) -> tuple[int, str]:
    out = StringIO()
    try:
        call_command(*arguments, stdout=out)
    except SystemExit as done:
        return int(done.code or 0), out.getvalue()
    return 0, out.getvalue()


def test_list_pause_resume_and_run(make: Callable[..., Schedule]) -> None:
    schedule = make(now=timezone.now())

    code, text = call("schedule", "list")
    assert code == 0 and "main/nightly" in text and text.startswith("on ")
    code, text = call("schedule", "pause", "nightly", "--reason", "migration", "--json")
    assert code == 0 and json.loads(text)["state"] == "paused"
    code, text = call("schedule", "list")
    assert "migration" in text
    code, text = call("schedule", "resume", str(schedule.pk), "--json")
    assert json.loads(text)["next_run_at"]
    code, text = call("schedule", "run", "nightly", "--key", "k", "--json")
    again = call("schedule", "run", "nightly", "--key", "k", "--json")
    assert json.loads(text)["run"] == json.loads(again[1])["run"] == str(ScheduleRun.objects.get().pk)
    code, text = call("schedule", "run", "nightly", "--json")
    assert code == 1 and "just begun" in json.loads(text)["error"]


@pytest.mark.parametrize("hours", ["0", "-1", "nan", "inf", "1e300"])
def test_a_length_that_is_none_is_refused(make: Callable[..., Schedule], hours: str) -> None:
    make(now=timezone.now())

    code, text = call("schedule", "pause", "nightly", "--reason", "x", f"--hours={hours}", "--json")

    assert code == 1 and "hours: Give a number above 0" in json.loads(text)["error"]
    assert not Schedule.objects.get().is_paused


def test_what_is_done_on_the_command_line_is_in_the_audit_trail(make: Callable[..., Schedule]) -> None:
    schedule = make(now=timezone.now())
    call("schedule", "pause", "nightly", "--reason", "migration")
    call("schedule", "resume", "nightly")
    call("schedule", "run", "nightly")

    told = AuditEntry.objects.filter(object_id=str(schedule.pk)).order_by("id")

    assert [(entry.action, entry.via) for entry in told] == [
        ("schedule.create", "system"), ("schedule.pause", "system"), ("schedule.resume", "system"),
        ("schedule.run", "system"),
    ]  # fmt: skip
    assert "migration" in told[1].summary


@pytest.mark.django_db
@pytest.mark.parametrize("arguments", [("schedule", "run", "nothing"), ("retention", "preview", "nothing")])
def test_what_is_not_there_is_named(arguments: tuple[str, ...]) -> None:
    with pytest.raises(CommandError, match="nothing") as caught:
        call(*arguments)
    assert caught.value.returncode == 1


def test_retention_is_previewed_and_then_applied(away: Cluster) -> None:
    storage, policy = StorageConfig.objects.get(), make_policy()
    for day in range(1, 6):
        make_backup(away, storage, timezone.now() - timedelta(days=day), policy=policy)

    code, text = call("retention", "preview", "policy", "--json")
    plan: dict[str, Any] = json.loads(text)
    assert code == 3 and plan["expired"] == 2
    code, text = call("retention", "preview", "policy")
    assert text.count("GO  ") == 2 and text.count("keep ") == 3
    with pytest.raises(CommandError, match="look at the preview again"):
        call("retention", "apply", "policy", "--confirm", "0" * 64)
    code, text = call("retention", "apply", "policy", "--confirm", plan["digest"])
    assert code == 0 and "2 backups let go" in text
    assert Backup.objects.filter(expired_at__isnull=False).count() == 2
    assert call("retention", "preview", "policy")[0] == 0


@pytest.mark.parametrize("arguments", [("preview", "policy"), ("apply", "policy", "--confirm", "0" * 64)])
def test_a_policy_that_cannot_be_read_is_refused_with_the_reason(away: Cluster, arguments: tuple[str, ...]) -> None:
    make_backup(away, StorageConfig.objects.get(), timezone.now() - timedelta(days=1), policy=make_policy())
    RetentionPolicy.objects.update(keep_within="nonsense")

    with pytest.raises(CommandError, match="The policy 'policy' cannot be read, correct it: ") as caught:
        call("retention", *arguments)
    assert caught.value.returncode == 1
