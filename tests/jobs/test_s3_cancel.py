"""A backup to S3 that is cancelled while the server keeps a call waiting."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from apps.backups.leftovers import retry_leftovers
from apps.backups.models import Backup, Leftover
from apps.jobs.models import Job
from apps.jobs.services import cancel_job
from apps.storage.models import StorageConfig
from apps.storage.services import open_store
from tests.support import REPOSITORY, Collections, RunJob, open_uploads, story

sys.path.insert(1, str(REPOSITORY / "scripts"))

from faultlib.proxy import Proxy
from faultlib.rules import Moment, Where
from faultlib.wire_faults import Hold

pytestmark = [pytest.mark.s3, pytest.mark.usefixtures("cluster"), pytest.mark.xdist_group("s3")]

MANIFEST = ".*/manifest[.]json"
#: Below every time-out of a job, and far above what a loaded machine needs.
SOON_SECONDS = 25.0


class Bucket:
    """A storage whose server stands behind a proxy."""

    def __init__(self, config: StorageConfig, proxy: Proxy) -> None:
        self.proxy = proxy
        self.direct = StorageConfig(**{field.attname: getattr(config, field.attname) for field in config._meta.fields})
        config.s3_endpoint = proxy.url
        config.save()

    def keys(self) -> list[str]:
        return sorted(stored.key for stored in open_store(self.direct).list(""))

    def uploads(self) -> list[str]:
        return open_uploads(self.direct)


@pytest.fixture
def bucket(transactional_db: None, s3_config: StorageConfig, collections: Collections) -> Iterator[Bucket]:
    collections.create("films", points=50)
    with Proxy(s3_config.s3_endpoint, "s3") as proxy:
        yield Bucket(s3_config, proxy)


def cancelled(run: RunJob, hold: Hold) -> Job:
    """Run a backup, and cancel it once a call is held."""

    def cancel() -> None:
        assert hold.reached.wait(60)
        try:
            cancel_job(job_id=Job.objects.get(status="running").pk, now=timezone.now())
        finally:
            connection.close()

    thread = threading.Thread(target=cancel, daemon=True)
    thread.start()
    job = run("backup", "films")
    thread.join()
    return job


@pytest.mark.parametrize(
    ("method", "moment"), [("HEAD", Moment.REQUEST), ("PUT", Moment.REQUEST), ("PUT", Moment.ANSWER)]
)
def test_it_ends_at_once_and_leaves_nothing(
    run: RunJob, bucket: Bucket, collections: Collections, settings: Any, method: str, moment: Moment
) -> None:
    settings.BACKUPMGR_LOST_ANSWER_SECONDS = 30
    hold = Hold()
    bucket.proxy.add(Where(method, MANIFEST, moment), hold)

    job = cancelled(run, hold)

    assert job.cancel_requested_at is not None
    assert job.completed_at is not None
    assert job.status == "cancelled", story(job)
    assert (job.completed_at - job.cancel_requested_at).total_seconds() < SOON_SECONDS
    assert not Backup.objects.exists()
    assert (bucket.keys(), bucket.uploads()) == ([], [])
    assert collections.snapshots("films") == []
    # The manifest that was under way may arrive yet: that is what the left-over is for.
    assert Leftover.objects.count() == (method == "PUT")
    hold.release()
    if moment == Moment.REQUEST and method == "PUT":
        deadline = time.monotonic() + 20
        while not bucket.keys() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(bucket.keys()) == 1
    later = timezone.now() + timedelta(minutes=2)
    assert retry_leftovers(now=later, is_busy=lambda cluster, collection: False) == 0
    assert bucket.keys() == []
    settings.BACKUPMGR_LOST_ANSWER_SECONDS = 0
    retry_leftovers(now=later + timedelta(hours=2), is_busy=lambda cluster, collection: False)
    assert not Leftover.objects.exists()


def test_a_server_that_says_nothing_at_all_keeps_it_no_longer(run: RunJob, bucket: Bucket, settings: Any) -> None:
    settings.BACKUPMGR_LOST_ANSWER_SECONDS = 0
    hold, silence = Hold(), Hold()
    bucket.proxy.add(Where("PUT", MANIFEST), hold)
    threading.Thread(
        target=lambda: hold.reached.wait(60) and bucket.proxy.add(Where(".*", ".*"), silence, times=None), daemon=True
    ).start()

    job = cancelled(run, hold)

    assert job.completed_at is not None and job.cancel_requested_at is not None
    assert job.status == "cancelled", story(job)
    assert (job.completed_at - job.cancel_requested_at).total_seconds() < SOON_SECONDS
    assert Leftover.objects.count() == 1
    bucket.proxy.clear()
    hold.release()
    silence.release()
    retry_leftovers(now=timezone.now() + timedelta(minutes=2), is_busy=lambda cluster, collection: False)
    assert not Leftover.objects.exists()
    assert bucket.keys() == []
