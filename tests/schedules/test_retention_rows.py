"""Retention and the rows: what is confirmed is what was seen, in random cases, and nothing else removes a backup."""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, connection, models, transaction
from django.db.models import ProtectedError, RestrictedError
from django.db.models.deletion import Collector

from apps.backups.models import Backup, Hold, Leftover, Verification
from apps.backups.policies import RetentionPolicy
from apps.clusters.models import Cluster
from apps.jobs.models import Job
from apps.jobs.services import JobRequest, create_job
from apps.schedules.models import RetentionRun, RunItem, Schedule, ScheduleRun
from apps.schedules.retention.apply import confirm_plan, undo_run
from apps.schedules.retention.plan import plan_policy
from apps.schedules.retention.work import run_sweep
from apps.schedules.services import run_now
from apps.storage.models import StorageConfig
from tests.schedules.conftest import NOW, make_backup, make_policy

DAY = timedelta(days=1)
#: scripts/prove-schedules asks for more.
DIGESTS = int(os.environ.get("PROVE_DIGESTS", "40"))


# --- what was seen is what is done ----------------------------------------------------------------------------------
def random_rows(dice: random.Random, cluster: Cluster, policy: RetentionPolicy) -> None:
    step, schedule = dice.choice((timedelta(hours=5), DAY, 3 * DAY)), uuid.uuid4()
    storages = list(StorageConfig.objects.order_by("name"))
    rows = []
    for n in range(dice.randrange(0, 40)):
        taken_at = NOW - n * step - timedelta(minutes=dice.randrange(0, 240))
        name = f"{n}-{uuid.uuid4()}"
        rows.append(
            Backup(
                cluster=cluster, cluster_name=cluster.name, storage=dice.choice(storages[:1] * 5 + storages),
                collection_name=dice.choice(("films",) * 5 + ("songs",)), snapshot_name=name, path=name, shard_count=1,
                size_bytes=dice.randrange(1, 100), points_count=1, manifest={}, manifest_sha256="0" * 64,
                started_at=taken_at, created_at=taken_at, policy=policy,
                schedule_id=dice.choice((None,) + (schedule,) * 5),
                status=dice.choice(("completed",) * 8 + ("damaged",)),
                checked_at=dice.choice((None, None, NOW)),
                locked_until=dice.choice((None,) * 6 + (NOW + DAY, NOW - DAY)),
            )
        )  # fmt: skip
    Backup.objects.bulk_create(rows)
    for backup in rows:
        if dice.random() < 0.05:
            Hold.objects.create(backup=backup, reason="audit", created_at=NOW)


def random_policy(dice: random.Random) -> RetentionPolicy:
    return make_policy(
        f"policy {uuid.uuid4()}", confirmed_version=0,
        keep_last=dice.choice((0, 1, 3)), keep_daily=dice.choice((0, 2, 7)), keep_weekly=dice.choice((0, 2)),
        keep_monthly=dice.choice((1, 2)), keep_within=dice.choice(("", "36h", "5d")),
        max_age=dice.choice(("", "", "20d")), size_cap_bytes=dice.choice((None, None, 300)),
        cap_action=dice.choice(("warn", "delete")), min_redundancy=dice.choice((1, 2)),
        pick=dice.choice(("last", "first")), tz=dice.choice(("UTC", "Europe/Berlin")),
    )  # fmt: skip


@pytest.mark.timeout(1800)
def test_the_digest_of_the_preview_is_that_of_what_is_carried_out(away: Cluster, tmp_path: Any) -> None:
    StorageConfig.objects.create(name="other", type="local", path=str(tmp_path))
    went = 0
    for seed in range(DIGESTS):
        dice = random.Random(seed)
        policy = random_policy(dice)
        random_rows(dice, away, policy)

        seen = plan_policy(policy, now=NOW)
        runs = confirm_plan(policy=policy, digest=seen.digest, now=NOW + timedelta(seconds=dice.randrange(0, 60)))

        rows = Backup.objects.filter(policy=policy, expired_at__isnull=False)
        assert [run.digest for run in runs] == [one.digest for one in seen.sets], f"seed {seed}"
        assert {str(pk) for pk in rows.values_list("pk", flat=True)} == {
            key for one in seen.sets for key in one.expire
        }, f"seed {seed}"
        assert {entry["id"] for run in runs for entry in run.plan} == {key for one in seen.sets for key in one.expire}
        assert plan_policy(policy, now=NOW).expire_count == 0, f"seed {seed}: a second look"
        went += len(rows)
        Hold.objects.all().delete()
        Backup.objects.all().delete()
        RetentionRun.objects.all().delete()
    assert went > 4 * DIGESTS
    print(f"{DIGESTS:,} plans carried out as seen; {went:,} backups let go")


def test_of_thirty_all_come_back_and_nothing_had_gone_unconfirmed(away: Cluster) -> None:
    policy, storage = make_policy(keep_last=30), StorageConfig.objects.get()
    for n in range(1, 31):
        make_backup(away, storage, NOW - n * DAY, policy=policy)
    run_sweep(now=NOW)
    RetentionPolicy.objects.filter(pk=policy.pk).update(keep_last=1, version=2)
    policy.refresh_from_db()
    let_go = Backup.objects.filter(expired_at__isnull=False)

    for hours in (1, 7, 13):
        run_sweep(now=NOW + timedelta(hours=hours))
        assert not let_go.exists()
    plan = plan_policy(policy, now=NOW)
    (run,) = confirm_plan(policy=policy, digest=plan.digest, now=NOW)
    assert let_go.count() == 29
    assert undo_run(run=run, now=NOW + DAY - timedelta(seconds=1)) == 29

    assert not let_go.exists()
    assert Backup.objects.filter(delete_at=None, expire_reason="").count() == 30
    run_sweep(now=NOW + 2 * DAY)
    assert Backup.objects.filter(status="completed", expired_at=None).count() == 30, "it waits again"


# --- nothing else removes a backup ----------------------------------------------------------------------------------
def test_no_key_of_a_backup_cascades() -> None:
    found = {
        field.name: field.remote_field.on_delete
        for field in Backup._meta.get_fields()
        if isinstance(field, models.ForeignKey)
    }

    assert found == {"storage": models.PROTECT, "cluster": models.SET_NULL, "policy": models.PROTECT}


@pytest.fixture
def linked(make: Callable[..., Schedule]) -> list[models.Model]:
    """A backup with everything that can point at it or be pointed at; returned are the others."""
    user = User.objects.create(username="ana")
    policy = make_policy()
    schedule = make(policy=policy)
    storage, cluster = StorageConfig.objects.get(), schedule.cluster
    run = run_now(schedule=schedule, now=NOW, user=user)
    maker = create_job(request=JobRequest(type="backup", collection_name="films", cluster=cluster), now=NOW)
    backup = make_backup(cluster, storage, NOW, policy=policy, schedule_id=schedule.pk, job_id=maker.pk)
    reader = create_job(request=JobRequest(type="verify", collection_name="films", backup=backup), now=NOW)
    item = RunItem.objects.create(run=run, collection_name="films", storage=storage, job=maker)
    hold = Hold.objects.create(backup=backup, reason="audit", created_by=user, created_at=NOW)
    proof = Verification.objects.create(backup=backup, kind="checked", result="ok", created_at=NOW, user=user)
    tombstone = Leftover.objects.create(
        kind="backup", storage=storage, backup=backup, subject={}, next_try_at=NOW, created_by=user
    )
    run_sweep(now=NOW)
    return [
        user, policy, schedule, storage, cluster, run, maker, reader, item, hold, proof, tombstone,
        RetentionRun.objects.get(),
    ]  # fmt: skip


def test_whatever_else_is_deleted_the_backup_stays(linked: list[models.Model]) -> None:
    refused, gone = set(), set()
    for other in linked:
        with transaction.atomic():
            try:
                other.delete()
                gone.add(type(other).__name__)
            except (ProtectedError, RestrictedError):
                refused.add(type(other).__name__)
            assert Backup.objects.count() == 1, other
            transaction.set_rollback(True)

    assert {"StorageConfig", "RetentionPolicy"} <= refused
    assert {"User", "Job", "RunItem", "Hold", "Verification", "Leftover", "RetentionRun"} <= gone


def test_nor_does_the_database_itself_take_it_along(linked: list[models.Model]) -> None:
    for other in linked:
        with transaction.atomic():
            try:
                with transaction.atomic(), connection.cursor() as cursor:
                    table = connection.ops.quote_name(other._meta.db_table)
                    key = connection.ops.quote_name(other._meta.pk.column)  # type: ignore[union-attr]
                    value = other._meta.pk.get_db_prep_value(other.pk, connection)  # type: ignore[union-attr]
                    cursor.execute(f"DELETE FROM {table} WHERE {key} = %s", [value])
                    assert cursor.rowcount == 1, other
                    assert Backup.objects.count() == 1, other
                    transaction.set_rollback(True)
            except IntegrityError:
                pass
            assert Backup.objects.count() == 1, other


def test_of_all_tables_only_backups_themselves_would_take_backups_along(linked: list[models.Model]) -> None:
    taken = set()
    for other in [*linked, *ScheduleRun.objects.all(), *Job.objects.all()]:
        collector = Collector(using="default", origin=other)
        try:
            collector.collect([other])
        except (ProtectedError, RestrictedError):
            continue
        if Backup in collector.data:
            taken.add(type(other))

    assert taken == set()
