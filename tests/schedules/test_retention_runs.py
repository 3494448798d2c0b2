"""Retention on rows: what goes, what waits, what can be taken back, and what is deleted for good."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from apps.backups.models import Backup, Hold, VerificationKind
from apps.backups.policies import RetentionPolicy
from apps.backups.verifications import Asker, Proof, record_proof
from apps.clusters.models import Cluster
from apps.core.errors import Conflict
from apps.jobs.cleaning import clean_leftovers
from apps.jobs.models import Job
from apps.jobs.services import JobRequest, create_job, delete_backup
from apps.schedules.models import Clock, RetentionRun
from apps.schedules.retention.apply import (
    NothingToUndo,
    PlanChanged,
    confirm_plan,
    delete_due,
    expire_dated,
    undo_run,
)
from apps.schedules.retention.plan import plan_policy
from apps.schedules.retention.work import run_sweep
from apps.storage.models import StorageConfig
from tests.schedules.conftest import NOW, make_backup, make_policy

DAY = timedelta(days=1)


@dataclass
class World:
    cluster: Cluster
    storage: StorageConfig
    policy: RetentionPolicy

    def backups(self, count: int, **fields: Any) -> list[Backup]:
        """Daily ones under the policy, the newest a day old; oldest first."""
        fields.setdefault("policy", self.policy)
        return [make_backup(self.cluster, self.storage, NOW - DAY * (count - n), **fields) for n in range(count)]

    def change_policy(self, **fields: Any) -> None:
        RetentionPolicy.objects.filter(pk=self.policy.pk).update(**fields)
        self.policy.refresh_from_db()


@pytest.fixture
def world(away: Cluster) -> World:
    return World(away, StorageConfig.objects.get(), make_policy())


def expired() -> set[Any]:
    return set(Backup.objects.filter(expired_at__isnull=False).values_list("pk", flat=True))


def test_what_the_rules_do_not_keep_goes_softly(world: World) -> None:
    backups = world.backups(5)

    run_sweep(now=NOW)

    assert expired() == {backup.pk for backup in backups[:2]}
    gone = Backup.objects.get(pk=backups[0].pk)
    assert gone.status == "completed"
    assert gone.delete_at == NOW + DAY
    assert gone.expire_reason == "policy: no-rule-keeps-it"
    run = RetentionRun.objects.get()
    assert (run.status, run.counts["kept"], run.counts["expired"]) == ("applied", 3, 2)
    assert [entry["id"] for entry in run.plan] == [str(backup.pk) for backup in backups[:2]]


def test_a_second_look_lets_nothing_more_go(world: World) -> None:
    world.backups(5)
    run_sweep(now=NOW)
    before = expired()

    run_sweep(now=NOW + timedelta(hours=6))

    assert expired() == before
    assert RetentionRun.objects.order_by("-created_at").first().status == "nothing"  # type: ignore[union-attr]


def test_the_preview_saves_nothing_and_is_what_is_carried_out(world: World) -> None:
    world.backups(5)

    plan = plan_policy(world.policy, now=NOW)
    assert expired() == set() and not RetentionRun.objects.exists()
    runs = confirm_plan(policy=world.policy, digest=plan.digest, now=NOW)

    assert {str(pk) for pk in expired()} == {key for one in plan.sets for key in one.expire}
    assert [run.digest for run in runs] == [one.digest for one in plan.sets]


def test_another_backup_that_changes_the_plan_makes_the_old_digest_worthless(world: World) -> None:
    world.backups(5)
    plan = plan_policy(world.policy, now=NOW)
    make_backup(world.cluster, world.storage, NOW - timedelta(hours=2), policy=world.policy)

    with pytest.raises(PlanChanged, match="look at the preview again"):
        confirm_plan(policy=world.policy, digest=plan.digest, now=NOW)

    assert expired() == set()


def test_the_first_plan_of_a_changed_policy_waits_for_a_confirmation(world: World) -> None:
    backups = world.backups(30)
    world.change_policy(keep_last=1, version=2)

    run_sweep(now=NOW)
    run_sweep(now=NOW + timedelta(hours=6))

    assert expired() == set()
    waiting = RetentionRun.objects.get(status="waiting")
    assert waiting.counts["expired"] == 29
    plan = plan_policy(world.policy, now=NOW + timedelta(hours=7))
    confirm_plan(policy=world.policy, digest=plan.digest, now=NOW + timedelta(hours=7))
    assert expired() == {backup.pk for backup in backups[:-1]}
    world.policy.refresh_from_db()
    assert world.policy.confirmed_version == 2
    assert not RetentionRun.objects.filter(status="waiting").exists()


def test_more_than_half_of_a_set_at_once_waits(world: World) -> None:
    world.backups(9)

    run_sweep(now=NOW)

    assert expired() == set()
    assert "6 of 9 backups at once" in RetentionRun.objects.get(status="waiting").reason


def test_one_set_can_be_confirmed_by_its_own_digest(world: World) -> None:
    world.backups(9)
    world.backups(9, collection_name="songs")
    run_sweep(now=NOW)
    waiting = RetentionRun.objects.get(status="waiting", collection_name="songs")

    confirm_plan(policy=world.policy, digest=waiting.digest, now=NOW)

    assert set(Backup.objects.filter(pk__in=expired()).values_list("collection_name", flat=True)) == {"songs"}


def test_undo_takes_all_back_and_the_policy_waits(world: World) -> None:
    world.backups(5)
    run_sweep(now=NOW)

    assert undo_run(run=RetentionRun.objects.get(), now=NOW) == 2

    assert expired() == set()
    run_sweep(now=NOW + timedelta(hours=6))
    assert expired() == set()
    assert RetentionRun.objects.filter(status="waiting").count() == 1


def test_undo_comes_too_late_when_they_are_being_deleted(world: World) -> None:
    world.backups(5)
    run_sweep(now=NOW)
    delete_due(now=NOW + DAY)

    with pytest.raises(NothingToUndo):
        undo_run(run=RetentionRun.objects.get(), now=NOW + DAY)


def test_after_the_grace_they_are_deleted_for_good(world: World) -> None:
    backups = world.backups(5)
    run_sweep(now=NOW)

    assert delete_due(now=NOW + DAY - timedelta(seconds=1)) == 0
    assert delete_due(now=NOW + DAY) == 2

    rows = Backup.objects.filter(pk__in=[backup.pk for backup in backups[:2]])
    assert set(rows.values_list("status", flat=True)) == {"deleting"}
    assert "Retention: policy: no-rule-keeps-it" in backups[0].tombstone.reason


GUARDS = {
    "held": "hold", "locked": "locked", "restored from": "in-use", "being verified": "in-use",
    "checked": "last-verified", "opened": "last-verified", "proven": "last-verified",
}  # fmt: skip


def guard(backup: Backup, how: str) -> None:
    if how == "held":
        Hold.objects.create(backup=backup, reason="audit", created_at=NOW)
    elif how == "locked":
        Backup.objects.filter(pk=backup.pk).update(locked_until=NOW + 30 * DAY)
    elif how == "restored from":
        create_job(request=JobRequest(type="restore", collection_name="films", backup=backup), now=NOW)
    elif how == "being verified":
        create_job(request=JobRequest(type="verify", collection_name="films", backup=backup), now=NOW)
    else:
        kind = {"checked": "checked", "opened": "opened", "proven": "restored"}[how]
        proof = Proof(kind=VerificationKind(kind), method="a test")
        record_proof(backup_id=backup.pk, proof=proof, asker=Asker(), now=NOW)


@pytest.mark.parametrize("how", GUARDS)
def test_guarded_ones_stay(world: World, how: str) -> None:
    backups = world.backups(5)
    oldest = backups[0]
    guard(oldest, how)

    (plan,) = plan_policy(world.policy, now=NOW).sets
    run_sweep(now=NOW)

    assert GUARDS[how] in plan.decision.verdicts[str(oldest.pk)].codes
    assert oldest.pk not in expired()
    assert backups[1].pk in expired()


@pytest.mark.parametrize("how", GUARDS)
def test_guards_hold_for_backups_with_a_date_of_their_own_as_well(world: World, how: str) -> None:
    dated, other = world.backups(2, policy=None, keep_until=NOW - timedelta(minutes=1))
    make_backup(world.cluster, world.storage, NOW - timedelta(hours=2))
    guard(dated, how)

    run_sweep(now=NOW)

    assert expired() == {other.pk}


@pytest.mark.parametrize("how", GUARDS)
def test_guards_that_come_after_letting_go_stop_the_deletion(world: World, how: str) -> None:
    backups = world.backups(5)
    run_sweep(now=NOW)
    guard(backups[0], how)

    delete_due(now=NOW + DAY)

    assert Backup.objects.get(pk=backups[0].pk).status == "completed"
    assert Backup.objects.get(pk=backups[1].pk).status == "deleting"


def test_the_stronger_proof_is_the_one_that_stays(world: World) -> None:
    backups = world.backups(6)
    guard(backups[0], "opened")
    guard(backups[1], "checked")

    run_sweep(now=NOW)

    assert backups[0].pk not in expired()
    assert backups[1].pk in expired()


def test_a_restore_between_letting_go_and_deleting_saves_the_backup(world: World) -> None:
    backups = world.backups(5)
    run_sweep(now=NOW)
    create_job(request=JobRequest(type="restore", collection_name="films", backup=backups[0]), now=NOW + DAY)

    delete_due(now=NOW + DAY)

    assert Backup.objects.get(pk=backups[0].pk).status == "completed"
    assert Backup.objects.get(pk=backups[1].pk).status == "deleting"


def test_one_that_became_the_newest_good_one_meanwhile_is_taken_back(world: World) -> None:
    backups = world.backups(5)
    run_sweep(now=NOW)
    Backup.objects.filter(pk__in=[backup.pk for backup in backups[2:]]).update(status="damaged")

    delete_due(now=NOW + DAY)

    back = Backup.objects.get(pk=backups[1].pk)
    assert (back.status, back.expired_at) == ("completed", None)


def test_the_newest_guard_looks_at_all_storages(world: World, tmp_path: Any) -> None:
    other = StorageConfig.objects.create(name="other", type="local", path=str(tmp_path))
    here = world.backups(3)
    world.change_policy(max_age="1h", keep_last=1)
    make_backup(world.cluster, other, NOW - timedelta(hours=3), policy=world.policy)

    plan = plan_policy(world.policy, now=NOW)

    by_storage = {one.key.storage_name: one for one in plan.sets}
    assert "newest" in {c for v in by_storage["other"].decision.verdicts.values() for c in v.codes}
    assert "newest" not in {c for v in by_storage["folder"].decision.verdicts.values() for c in v.codes}
    assert str(here[-1].pk) not in by_storage["folder"].expire  # its set's redundancy


def test_backups_that_somebody_asked_for_do_not_count_with_a_schedule(world: World) -> None:
    import uuid

    world.backups(3)
    scheduled = world.backups(3, schedule_id=uuid.uuid4())
    world.change_policy(keep_last=3)

    assert plan_policy(world.policy, now=NOW).expire_count == 0
    world.change_policy(keep_last=2)
    assert plan_policy(world.policy, now=NOW).expire_count == 2
    assert str(scheduled[0].pk) in {key for one in plan_policy(world.policy, now=NOW).sets for key in one.expire}


def test_backups_without_a_policy_are_kept_for_ever_and_dated_ones_until_then(world: World) -> None:
    kept = world.backups(2, policy=None)
    dated = make_backup(world.cluster, world.storage, NOW - 40 * DAY, keep_until=NOW - DAY)

    run_sweep(now=NOW)

    assert expired() == {dated.pk}
    assert kept[0].pk not in expired()


def test_a_dated_one_that_is_the_only_good_one_stays(world: World) -> None:
    make_backup(world.cluster, world.storage, NOW - 40 * DAY, keep_until=NOW - DAY)

    assert expire_dated(now=NOW) == 0


def test_a_collection_that_lost_its_points_keeps_its_history(world: World) -> None:
    world.backups(5, points_count=10_000)
    make_backup(world.cluster, world.storage, NOW - timedelta(hours=2), policy=world.policy, points_count=5)

    run_sweep(now=NOW)

    assert expired() == set()
    assert "holds 5 points and one before it 10,000" in RetentionRun.objects.get().reason


def test_nothing_goes_after_a_clock_jumped(world: World) -> None:
    world.backups(5)
    Clock.objects.create(last_tick_at=NOW, next_sweep_at=NOW, no_expiry_before=NOW + timedelta(hours=6))

    run_sweep(now=NOW)
    assert expired() == set()
    assert RetentionRun.objects.get().status == "held"

    run_sweep(now=NOW + timedelta(hours=6))
    assert len(expired()) == 2


def test_a_broken_policy_stops_no_other(world: World) -> None:
    world.backups(5)
    bad = make_policy("bad", keep_last=1)
    world.backups(5, policy=bad, collection_name="songs")
    RetentionPolicy.objects.filter(pk=bad.pk).update(keep_within="nonsense")

    run_sweep(now=NOW)

    assert len(expired()) == 2


def test_a_held_or_locked_backup_cannot_be_deleted_by_hand(world: World) -> None:
    held, locked = world.backups(2)
    Hold.objects.create(backup=held, reason="audit", created_at=NOW)
    Backup.objects.filter(pk=locked.pk).update(locked_until=NOW + DAY)

    with pytest.raises(Conflict, match="held .audit"):
        delete_backup(backup_id=held.pk, now=NOW)
    with pytest.raises(Conflict, match="locked until 2026-01-02"):
        delete_backup(backup_id=locked.pk, now=NOW)


def test_a_job_hands_its_policy_to_the_backup_that_it_makes(
    cluster: Cluster, storage: StorageConfig, collections: Any, run: Any
) -> None:
    collections.create("films", 5, shards=1)
    policy = make_policy()

    job: Job = run("backup", "films", policy=policy)

    assert job.backup is not None and job.backup.policy == policy


def test_a_suspect_goes_30_days_after_the_first_newer_good_one_however_soon_those_go(world: World) -> None:
    """With three daily ones kept, the oldest good one that is there is never older than three days."""
    suspect = make_backup(world.cluster, world.storage, NOW, policy=world.policy, status="damaged")
    gone_on = None
    for day in range(1, 40):
        now = NOW + DAY * day
        make_backup(world.cluster, world.storage, now - timedelta(hours=2), policy=world.policy)
        run_sweep(now=now)
        clean_leftovers(now=now)
        if gone_on is None and suspect.pk in expired():
            gone_on = day

    assert gone_on == 31
    assert not Backup.objects.filter(pk=suspect.pk).exists()
