"""The main job with a real S3 server."""

from __future__ import annotations

import os
from typing import Any

import pytest
import requests

from apps.backups.models import Backup, Leftover
from apps.sandbox import SandboxNode
from apps.storage.models import StorageConfig
from apps.storage.services import open_store
from tests.support import Collections, RunJob, assert_failed_cleanly, open_uploads, story

pytestmark = [pytest.mark.s3, pytest.mark.usefixtures("cluster"), pytest.mark.xdist_group("s3")]

DOWNLOAD = "/collections/[^/]+/shards/[0-9]+/snapshots/[^/]+[.]snapshot"


@pytest.fixture
def bucket(transactional_db: None, s3_config: StorageConfig) -> StorageConfig:
    s3_config.save()
    return s3_config


def keys(bucket: StorageConfig) -> list[str]:
    return sorted(stored.key for stored in open_store(bucket).list(""))


@pytest.fixture
def films(collections: Collections) -> Collections:
    collections.create("films", points=200)
    return collections


def test_a_collection_goes_to_s3_and_the_node_fetches_it_back_by_itself(
    run: RunJob, bucket: StorageConfig, films: Collections, node: SandboxNode
) -> None:
    before = films.points("films")

    backup = run("backup", "films")
    assert backup.status == "completed", story(backup)
    assert len(keys(bucket)) == 3
    films.delete("films")
    node.clear_log()
    job = run("restore", "films", snapshot_name=backup.snapshot_name)

    assert job.status == "completed", story(job)
    assert films.points("films") == before
    assert story(job).count("pulled by the node") == 2
    assert not any(entry["path"].endswith("/upload") for entry in node.log())


def test_parts_of_many_megabytes_arrive_whole(run: RunJob, bucket: StorageConfig, collections: Collections) -> None:
    collections.create("large", points=1500, payload_bytes=32_000, shards=1)
    backup = run("backup", "large")
    assert backup.status == "completed", story(backup)
    assert Backup.objects.get().size_bytes > 2 * 16 * 1024 * 1024
    before = collections.points("large")
    collections.delete("large")

    job = run("restore", "large", snapshot_name=backup.snapshot_name)

    assert job.status == "completed", story(job)
    assert collections.points("large") == before
    assert open_uploads(bucket) == []


def test_a_node_that_may_not_fetch_is_sent_the_bytes(
    run: RunJob, bucket: StorageConfig, films: Collections, node: SandboxNode
) -> None:
    before = films.points("films")
    backup = run("backup", "films")
    films.delete("films")
    refusal = {"status": {"error": "Forbidden: Snapshot URL recovery is disabled"}, "time": 0}
    node.faults.add(action="status", method="PUT", path=".*/snapshots/recover", status=403, body=refusal)

    job = run("restore", "films", snapshot_name=backup.snapshot_name)

    assert job.status == "completed", story(job)
    assert story(job).count("sent to the node") == 2
    assert films.points("films") == before


def test_the_signed_address_shows_nowhere(run: RunJob, bucket: StorageConfig, films: Collections) -> None:
    backup = run("backup", "films")

    job = run("restore", "films", snapshot_name=backup.snapshot_name, target_collection="copy")

    text = story(backup) + story(job) + backup.error + job.error + repr(Backup.objects.get().manifest)
    for secret in ("X-Amz-Signature", bucket.s3_access_key, bucket.s3_secret_key.reveal()):
        assert secret not in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"s3_secret_key": "wrong-secret"}, "check both keys"),
        ({"s3_access_key": "nobody"}, "check both keys"),
        ({"s3_bucket": "no-such-bucket"}, "bucket"),
        ({"s3_endpoint": "http://127.0.0.1:9"}, "127.0.0.1:9"),
    ],
)
def test_a_storage_that_cannot_be_used(
    run: RunJob, bucket: StorageConfig, films: Collections, change: dict[str, str], words: str
) -> None:
    for name, value in change.items():
        setattr(bucket, name, value)
    bucket.save()

    job = run("backup", "films")

    assert_failed_cleanly(job, words)
    assert films.snapshots("films") == []
    assert "wrong-secret" not in job.error


def test_a_download_that_dies_leaves_no_upload_open(
    run: RunJob, bucket: StorageConfig, collections: Collections, node: SandboxNode
) -> None:
    collections.create("large", points=1500, payload_bytes=32_000, shards=1)
    node.faults.add(action="truncate", method="GET", path=DOWNLOAD, bytes=0, after=1)
    node.faults.add(action="truncate", method="GET", path=DOWNLOAD, bytes=20_000_000, times=1)

    job = run("backup", "large")

    node.faults.clear()
    assert_failed_cleanly(job, "broke off after")
    assert keys(bucket) == []
    assert open_uploads(bucket) == []
    assert collections.snapshots("large", shards=1) == []


def test_a_flipped_bit_in_the_bucket_is_found_before_the_target_is_touched(
    run: RunJob, bucket: StorageConfig, films: Collections
) -> None:
    backup = run("backup", "films")
    store = open_store(bucket)
    key = next(key for key in keys(bucket) if key.endswith("shard-0.snapshot"))
    url = store.presign(key, 60)
    assert url is not None
    data = bytearray(requests.get(url, timeout=10).content)
    data[len(data) // 2] ^= 1
    store.delete(key)
    store.put(key, bytes(data))

    job = run("restore", "films", snapshot_name=backup.snapshot_name, target_collection="copy")

    assert job.status == "failed"
    assert "shard-0.snapshot was altered" in job.error
    assert films.names() == ["films"]


def test_environment_credentials_are_not_used(
    run: RunJob, bucket: StorageConfig, films: Collections, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.setitem(os.environ, name, "from-the-environment")

    assert run("backup", "films").status == "completed"
    assert not Leftover.objects.exists()


def test_the_catalogue_is_rebuilt_from_the_bucket(run: RunJob, bucket: StorageConfig, films: Collections) -> None:
    from django.core.management import call_command

    name = run("backup", "films").snapshot_name
    Backup.objects.all().delete()

    call_command("rescan", bucket.name)

    assert Backup.objects.get().snapshot_name == name
    job: Any = run("restore", "films", snapshot_name=name, target_collection="copy")
    assert job.status == "completed", story(job)
