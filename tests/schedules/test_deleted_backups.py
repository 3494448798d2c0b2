"""What stays on record of backups that are gone: by a rule, with their schedule, and for how long."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.contrib.auth.models import User

from apps.backups.models import Backup, DeletedBackup
from apps.clusters.models import Cluster
from apps.jobs.cleaning import clean_leftovers
from apps.schedules.models import Clock, RetentionRun, Schedule
from apps.schedules.retention.apply import confirm_plan, delete_due
from apps.schedules.retention.plan import plan_policy
from apps.schedules.retention.policies import update_policy
from apps.schedules.retention.work import run_sweep
from apps.schedules.services import KeepBackups, delete_schedule
from apps.storage.models import StorageConfig
from tests.schedules.conftest import NOW, make_backup, make_policy

DAY = timedelta(days=1)


def delete_what_is_due(when: Any) -> None:
    delete_due(now=when)
    clean_leftovers(now=when)


def test_what_a_rule_let_go_is_told_with_the_rule_as_it_was(away: Cluster) -> None:
    storage, policy = StorageConfig.objects.get(), make_policy()
    backups = [make_backup(away, storage, NOW - DAY * n, policy=policy) for n in (5, 4, 3, 2, 1)]
    run_sweep(now=NOW)
    run = RetentionRun.objects.get()
    update_policy(policy=policy, data={"keep_last": 4, "name": "renamed"})

    # Had it been let go under the new rules, the guard of the second look would have taken it back.
    delete_what_is_due(NOW + DAY)

    record = DeletedBackup.objects.get()
    assert record.backup_id == backups[0].pk
    assert (record.retention_run_id, record.let_go_at) == (run.pk, NOW)
    assert (record.policy_id, record.policy_name, record.policy_version) == (policy.pk, "policy", 1)
    assert (record.policy_rules["keep_last"], record.policy_rules["pick"]) == (3, "last")
    assert record.reason == "Retention: policy: no-rule-keeps-it"
    assert record.deleted_by == ""


def test_who_confirmed_a_plan_stands_with_what_it_let_go(away: Cluster) -> None:
    storage, policy = StorageConfig.objects.get(), make_policy(confirmed_version=0)
    for n in (5, 4, 3, 2, 1):
        make_backup(away, storage, NOW - DAY * n, policy=policy)
    ana = User.objects.create(username="ana")

    confirm_plan(policy=policy, digest=plan_policy(policy, now=NOW).digest, now=NOW, user=ana)
    delete_what_is_due(NOW + DAY)

    assert set(DeletedBackup.objects.values_list("deleted_by", flat=True)) == {"ana"}
    assert DeletedBackup.objects.count() == 2


def test_backups_that_went_with_their_schedule_say_so(away: Cluster, make: Callable[..., Schedule]) -> None:
    storage, schedule = StorageConfig.objects.get(), make(policy=make_policy())
    for n in (3, 2, 1):
        make_backup(away, storage, NOW - DAY * n, policy=schedule.policy, schedule_id=schedule.pk)
    ana = User.objects.create(username="ana")

    delete_schedule(schedule=schedule, backups=KeepBackups.EXPIRE, now=NOW, user=ana)
    delete_what_is_due(NOW + 2 * DAY)

    assert Backup.objects.count() == 1, "the newest good one stays"
    records = list(DeletedBackup.objects.all())
    assert len(records) == 2
    assert {record.schedule_id for record in records} == {schedule.pk}
    assert {record.reason for record in records} == {
        "Retention: The schedule nightly was deleted, and its backups with it."
    }
    assert {record.deleted_by for record in records} == {"ana"}
    assert {record.policy_name for record in records} == {""}


def test_records_go_after_400_days_and_not_when_a_clock_jumped(away: Cluster) -> None:
    storage, policy = StorageConfig.objects.get(), make_policy()
    for n in (5, 4, 3, 2, 1):
        make_backup(away, storage, NOW - DAY * n, policy=policy)
    run_sweep(now=NOW)
    delete_what_is_due(NOW + DAY)
    DeletedBackup.objects.update(created_at=NOW + DAY)
    clock = Clock.objects.create(last_tick_at=NOW, next_sweep_at=NOW, no_expiry_before=NOW + 402 * DAY)

    run_sweep(now=NOW + 401 * DAY + timedelta(seconds=1))
    assert DeletedBackup.objects.count() == 2
    clock.no_expiry_before = None
    clock.save()
    run_sweep(now=NOW + 401 * DAY)
    assert DeletedBackup.objects.count() == 2
    run_sweep(now=NOW + 401 * DAY + timedelta(seconds=1))
    assert not DeletedBackup.objects.exists()
