"""Object lock, on a real S3 server: what the bucket keeps is known, left alone and told; afterwards it really goes."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from django.utils import timezone

from apps.backups.deletion import lock_of
from apps.backups.leftovers import retry_leftovers
from apps.backups.models import Backup, BackupStatus, DeletedBackup, Leftover
from apps.backups.policies import RetentionPolicy
from apps.core.errors import Conflict
from apps.core.text import format_size
from apps.jobs.services import delete_backup
from apps.schedules.models import RetentionRun
from apps.schedules.retention.apply import delete_due
from apps.schedules.retention.plan import plan_policy
from apps.schedules.retention.work import look_at_legal_holds, run_sweep
from apps.storage.keys import manifest_key
from apps.storage.models import StorageConfig
from apps.storage.probe import probe_store
from apps.storage.services import open_store
from apps.storage.stores import WITHOUT_END
from tests.support import Collections, RunJob, story

pytestmark = [pytest.mark.s3, pytest.mark.usefixtures("cluster"), pytest.mark.xdist_group("s3")]

DAY = timedelta(days=1)


@pytest.fixture
def client(s3_server: Any) -> Any:
    return boto3.client(
        "s3", endpoint_url=s3_server.endpoint, aws_access_key_id=s3_server.access_key,
        aws_secret_access_key=s3_server.secret_key, region_name=s3_server.region,
        config=Config(s3={"addressing_style": "path"}),
    )  # fmt: skip


@pytest.fixture
def locking(transactional_db: None, s3_config: StorageConfig, client: Any) -> StorageConfig:
    """A storage whose bucket locks everything for a day (so that somebody with the right to may lift it)."""
    s3_config.s3_bucket = f"locking-{secrets.token_hex(4)}"
    client.create_bucket(Bucket=s3_config.s3_bucket, ObjectLockEnabledForBucket=True)
    rule = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}
    client.put_object_lock_configuration(
        Bucket=s3_config.s3_bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
    )
    s3_config.save()
    return s3_config


@pytest.fixture
def backup(run: RunJob, locking: StorageConfig, collections: Collections) -> Backup:
    collections.create("films", points=50)
    job = run("backup", "films")
    assert job.status == "completed", story(job)
    return Backup.objects.get()


def full_keys(client: Any, storage: StorageConfig) -> list[str]:
    return [found["Key"] for found in client.list_objects_v2(Bucket=storage.s3_bucket).get("Contents", [])]


def lift(client: Any, storage: StorageConfig) -> None:
    """Shorten every lock to a moment, as only the bucket's owner may."""
    for key in full_keys(client, storage):
        client.put_object_retention(
            Bucket=storage.s3_bucket, Key=key, BypassGovernanceRetention=True,
            Retention={"Mode": "GOVERNANCE", "RetainUntilDate": datetime.now(UTC) + timedelta(seconds=1)},
        )  # fmt: skip


def until_gone(wanted: Callable[[], bool]) -> None:
    import time

    deadline = time.monotonic() + 30
    while not wanted():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def held(client: Any, storage: StorageConfig) -> list[str]:
    """Every version and every marker in the bucket: what takes up room."""
    listed = client.list_object_versions(Bucket=storage.s3_bucket)
    return [found["Key"] for found in [*listed.get("Versions", []), *listed.get("DeleteMarkers", [])]]


def test_how_long_the_bucket_keeps_a_backup_is_written_down_and_retention_lets_it_be(
    backup: Backup, run: RunJob
) -> None:
    assert backup.locked_until is not None
    assert timedelta(hours=23) < backup.locked_until - timezone.now() <= DAY
    policy = RetentionPolicy.objects.create(
        name="one", keep_last=1, min_redundancy=1, min_age_seconds=0, confirmed_version=1, grace_days=0
    )
    assert run("backup", "films").status == "completed"
    Backup.objects.update(policy=policy)

    run_sweep(now=timezone.now())

    assert not Backup.objects.filter(expired_at__isnull=False).exists()
    (plan,) = plan_policy(policy, now=timezone.now()).sets
    assert "locked" in plan.decision.verdicts[str(backup.pk)].codes
    assert plan.bytes_locked == sum(Backup.objects.values_list("size_bytes", flat=True))
    assert RetentionRun.objects.get().counts["bytes_locked"] == plan.bytes_locked
    after = plan_policy(policy, now=timezone.now() + 2 * DAY)
    assert [key for one in after.sets for key in one.expire] == [str(backup.pk)]


def test_a_deletion_is_refused_in_words_until_the_lock_is_lifted_and_then_frees_every_version(
    backup: Backup, locking: StorageConfig, client: Any
) -> None:
    with pytest.raises(Conflict, match="keeps the backup locked until 20"):
        delete_backup(backup_id=backup.pk, now=timezone.now(), wait=True)
    assert Backup.objects.get().status == BackupStatus.COMPLETED
    assert len(full_keys(client, locking)) == 3

    lift(client, locking)
    until_gone(lambda: _deleted(backup))

    assert not Backup.objects.exists() and not Leftover.objects.exists()
    assert held(client, locking) == []


def _deleted(backup: Backup) -> bool:
    try:
        return delete_backup(backup_id=backup.pk, now=timezone.now(), wait=True) is None
    except Conflict:
        return False


def test_a_lock_that_nobody_knew_of_keeps_the_tombstone_with_its_date_and_nothing_goes_by_halves(
    backup: Backup, locking: StorageConfig, client: Any
) -> None:
    Backup.objects.update(locked_until=None)  # as one that was locked after it was made
    until = backup.locked_until
    assert until is not None

    tombstone = delete_backup(backup_id=backup.pk, now=timezone.now(), wait=True)

    assert tombstone is not None and tombstone.next_try_at == until
    assert "The storage keeps it locked until" in tombstone.last_error
    assert f"{format_size(backup.size_bytes)} are still held" in tombstone.last_error
    assert (Backup.objects.get().status, Backup.objects.get().locked_until) == (BackupStatus.DELETING, until)
    assert len(full_keys(client, locking)) == 3
    assert retry_leftovers(now=timezone.now() + DAY / 2, is_busy=lambda *name: False) == 0
    assert Leftover.objects.get().tries == tombstone.tries  # not tried before it can help

    lift(client, locking)
    until_gone(lambda: retry_leftovers(now=until + DAY, is_busy=lambda *name: False) == 1)

    assert held(client, locking) == []
    assert not Backup.objects.exists()


def test_a_legal_hold_has_no_end_and_is_noticed_when_it_is_lifted(
    backup: Backup, locking: StorageConfig, client: Any
) -> None:
    manifest = next(key for key in full_keys(client, locking) if key.endswith("manifest.json"))

    def hold(status: str) -> None:
        client.put_object_legal_hold(Bucket=locking.s3_bucket, Key=manifest, LegalHold={"Status": status})

    hold("ON")
    with pytest.raises(Conflict, match="locked by a legal hold"):
        delete_backup(backup_id=backup.pk, now=timezone.now())
    assert Backup.objects.get().locked_until == WITHOUT_END
    hold("OFF")
    lift(client, locking)

    look_at_legal_holds()

    found = Backup.objects.get().locked_until
    assert found is not None and found < timezone.now() + DAY


def test_what_retention_let_go_and_the_bucket_keeps_is_tried_again_after_the_lock(
    backup: Backup, locking: StorageConfig, client: Any
) -> None:
    now = timezone.now()
    Backup.objects.update(expired_at=now, delete_at=now, expire_reason="test")

    assert delete_due(now=now) == 0

    row = Backup.objects.get()
    assert row.status == BackupStatus.COMPLETED
    assert row.delete_at == backup.locked_until
    assert row.delete_at is not None
    after = row.delete_at
    run_sweep(now=after - timedelta(seconds=1))
    assert Backup.objects.get().status == BackupStatus.COMPLETED, "not tried before it can help"

    lift(client, locking)
    keys = [manifest_key(backup.path), *backup.parts.values_list("key", flat=True)]
    until_gone(lambda: (lock_of(open_store(locking), keys) or timezone.now()) <= timezone.now())
    run_sweep(now=after)
    retry_leftovers(now=after, is_busy=lambda *name: False)

    assert held(client, locking) == []
    assert not Backup.objects.exists()
    assert DeletedBackup.objects.get().backup_id == backup.pk


def test_the_connection_test_says_that_the_bucket_locks(locking: StorageConfig, client: Any) -> None:
    result = probe_store(locking)

    assert result.success
    assert "It locks what is written (object lock)" in result.message


def test_keys_that_may_not_delete_are_told_so(
    locking: StorageConfig, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(locking)
    store.put("a/b", b"x")

    def refuse(**unused: Any) -> None:
        raise ClientError(
            {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}},  # type: ignore[typeddict-item]
            "DeleteObject",
        )

    monkeypatch.setattr(store._bucket.client, "delete_object", refuse)

    with pytest.raises(Exception, match="refused to delete a/b: an object lock keeps it, or the keys may not delete"):
        store.delete("a/b")
