"""What makes retention wait, what a form says of policies and locks, and that its failures are nobody else's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from apps.alerts.schedule_findings import stale_policies
from apps.backups.models import Backup
from apps.backups.policies import RetentionPolicy
from apps.backups.retention.rules import Rules, Span
from apps.schedules.models import RetentionRun, Schedule
from apps.schedules.preview import preview_schedule
from apps.schedules.retention.lint import lock_of_storage, surely_kept
from apps.schedules.retention.work import after_backups, run_sweep
from apps.schedules.services import data_of, update_schedule
from apps.storage.models import StorageConfig
from apps.storage.stores import WITHOUT_END
from tests.schedules.conftest import NOW, make_backup, make_policy

DAY = timedelta(days=1)


@pytest.fixture
def schedule(make: Callable[..., Schedule]) -> Schedule:
    """Nightly, with five backups under a policy that keeps three and was confirmed."""
    made = make(policy=make_policy(), tz="UTC")
    for n in range(1, 6):
        backup_of(made, n)
    return made


def backup_of(schedule: Schedule, days: int, **fields: Any) -> Backup:
    storage, at = StorageConfig.objects.get(), NOW - days * DAY
    return make_backup(
        schedule.cluster, storage, at, **({"policy": schedule.policy, "schedule_id": schedule.pk} | fields)
    )


class TestEdits:
    @pytest.mark.parametrize(
        ("fields", "waits"),
        [
            ({"tz": "Europe/Berlin"}, True),
            ({"cron": "0 */2 * * *"}, True),  # the last three nights become six hours
            ({"kind": "interval", "cron": "", "interval_seconds": 3600, "anchor_at": NOW}, True),
            ({"cron": "0 4 * * *"}, False),
            ({"cron": "0 4 * * 0"}, False),
            ({"kind": "manual", "cron": ""}, False),
            ({"include": ["songs"]}, False),
            ({"name": "weekly", "priority": 9}, False),
        ],
    )
    def test_edits_by_which_the_rules_would_hold_less_wait(
        self, schedule: Schedule, fields: dict[str, Any], waits: bool
    ) -> None:
        update_schedule(schedule=schedule, data=replace(data_of(schedule), **fields), now=NOW)
        run_sweep(now=NOW)

        assert Backup.objects.filter(expired_at__isnull=False).exists() is not waits
        assert RetentionRun.objects.filter(status="waiting").exists() is waits

    def test_another_policy_waits(self, schedule: Schedule) -> None:
        other = make_policy("other", keep_last=1)

        update_schedule(schedule=schedule, data=replace(data_of(schedule), policy=other), now=NOW)
        run_sweep(now=NOW)

        assert not Backup.objects.filter(expired_at__isnull=False).exists()
        assert "a schedule of it" in RetentionRun.objects.get(status="waiting").reason


class TestFailures:
    def test_a_failed_evaluation_is_logged_and_reaches_nobody(
        self, schedule: Schedule, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(*unused: Any, **named: Any) -> None:
            raise RuntimeError("the database is on fire")

        monkeypatch.setattr("apps.schedules.retention.apply.plan_policy", broken)

        after_backups(str(schedule.policy_id))

        assert "the database is on fire" in caplog.text
        assert Backup.objects.filter(status="completed", expired_at=None).count() == 5

    def test_a_policy_that_cannot_be_read_is_told_for_each_of_its_sets_and_counts_as_no_look(
        self, schedule: Schedule
    ) -> None:
        backup_of(schedule, 1, collection_name="songs", schedule_id=None)
        RetentionPolicy.objects.filter(pk=schedule.policy_id).update(keep_within="nonsense", updated_at=NOW - 9 * DAY)

        run_sweep(now=NOW)

        rows = RetentionRun.objects.order_by("collection_name").values_list(
            "status", "collection_name", "is_scheduled", "storage__name"
        )
        assert list(rows) == [("failed", "films", True, "folder"), ("failed", "songs", False, "folder")]
        assert "cannot be read" in RetentionRun.objects.all()[0].error
        assert [policy.pk for policy in stale_policies(NOW + DAY)] == [schedule.policy_id]
        run_sweep(now=NOW + 15 * DAY)
        assert RetentionRun.objects.count() == 2, "old failures go"

    def test_a_set_that_fails_keeps_no_other_from_its_turn(
        self, schedule: Schedule, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from apps.schedules.retention import apply

        for n in range(1, 6):
            backup_of(schedule, n, collection_name="songs")
        consider = apply._consider

        def broken(policy: Any, plan: Any, *rest: Any) -> Any:
            if plan.key.group.collection_name == "films":
                raise RuntimeError("the secret is 42")
            return consider(policy, plan, *rest)

        monkeypatch.setattr(apply, "_consider", broken)

        run_sweep(now=NOW)

        failed, applied = RetentionRun.objects.order_by("collection_name")
        assert (failed.status, applied.status, applied.counts["expired"]) == ("failed", "applied", 2)
        assert failed.error == "RuntimeError: see the worker's log."

    def test_a_policy_that_is_gone_is_no_failure(self, db: None, caplog: pytest.LogCaptureFixture) -> None:
        after_backups("00000000-0000-0000-0000-000000000000")

        assert caplog.text == ""


class TestLint:
    def said(self, schedule: Schedule, **policy: Any) -> str:
        RetentionPolicy.objects.filter(pk=schedule.policy_id).update(**({"keep_last": 0, "keep_daily": 7} | policy))
        schedule.refresh_from_db()
        data = data_of(schedule)
        return " ".join(preview_schedule(data=data, now=NOW, schedule=schedule, with_collections=False).lint)

    def lock(self, **length: float) -> None:
        for backup in Backup.objects.all():
            Backup.objects.filter(pk=backup.pk).update(locked_until=backup.created_at + timedelta(**length))

    def test_the_last_of_each_period_does_not_fit_a_storage_that_locks(self, schedule: Schedule) -> None:
        assert "lock" not in self.said(schedule)
        self.lock(days=3)

        assert "The storage folder locks what is written" in self.said(schedule)
        assert "lock" not in self.said(schedule, pick="first")
        assert "keeps the last of each period" not in self.said(schedule, keep_daily=0, keep_last=9)

    def test_the_first_of_each_period_is_for_storages_that_lock(self, schedule: Schedule) -> None:
        assert "meant for storages that lock" in self.said(schedule, pick="first")
        Backup.objects.all().delete()
        assert "lock" not in self.said(schedule, pick="first"), "nobody knows yet"

    def test_a_lock_that_lasts_longer_than_the_rules_need_it(self, schedule: Schedule) -> None:
        self.lock(days=30)
        words = "locks backups for 30 d, and the policy policy surely keeps one for 7 d only"

        assert words in self.said(schedule, pick="first").replace(" 0 h", "")
        assert "surely keeps" not in self.said(schedule, pick="first", keep_daily=30)
        assert "surely keeps" not in self.said(schedule, pick="first", keep_within="30d")
        assert "surely keeps" in self.said(schedule, pick="first", keep_within="30d", max_age="20d")

    def test_a_legal_hold_says_nothing_about_the_bucket(self, schedule: Schedule) -> None:
        Backup.objects.update(locked_until=WITHOUT_END)

        assert lock_of_storage(StorageConfig.objects.get()) == timedelta()


@pytest.mark.parametrize(
    ("rules", "gap", "days"),
    [
        ({"keep_last": 7, "min_redundancy": 1}, DAY, 7),
        ({"keep_daily": 7, "min_redundancy": 1}, DAY, 7),
        ({"keep_daily": 7, "keep_last": 2, "min_redundancy": 1}, DAY / 4, 0.5),
        ({"keep_weekly": 4, "min_redundancy": 1}, DAY, 1),
        ({"keep_weekly": 4, "min_redundancy": 1}, 7 * DAY, 28),
        ({"keep_last": 1, "min_redundancy": 3}, DAY, 3),
        ({"keep_last": 3, "keep_within": Span(2, "w"), "min_redundancy": 1}, DAY, 14),
        ({"keep_last": 90, "max_age": Span(10, "d"), "min_redundancy": 1}, DAY, 10),
        ({"keep_within": Span(2, "w")}, None, 14),
        ({"keep_last": 3}, None, None),
    ],
)
def test_how_long_the_rules_surely_keep_one(rules: dict[str, Any], gap: timedelta | None, days: float | None) -> None:
    assert surely_kept(Rules(**rules), gap) == (None if days is None else days * DAY)
