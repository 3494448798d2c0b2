"""A clock that is set back must not keep anything waiting until it comes by again."""

from __future__ import annotations

import os
import uuid
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone
from django_q.models import OrmQ

from apps.backups.leftovers import leave_behind
from apps.backups.models import Leftover
from apps.backups.removing import _may_still_come
from apps.backups.traces import FolderTrace, Traces
from apps.clusters.models import Cluster
from apps.jobs.health import worker_state
from apps.jobs.lease import claim, extend, release
from apps.jobs.models import Job, Worker
from apps.jobs.operations import NodeOperation, OperationStatus
from apps.jobs.services import JobRequest, create_job
from apps.jobs.setback import mend_setback
from apps.jobs.states import JobStatus
from apps.jobs.tick import tick
from apps.storage.models import StorageConfig

NOW = timezone.now().replace(microsecond=0)
#: What the clock showed before it was set back.
BEFORE = NOW + timedelta(hours=1)


@pytest.fixture(autouse=True)
def here(db: None, folder: Any, settings: Any) -> None:
    settings.BACKUPMGR_LEASE_SECONDS = 30
    Cluster.objects.create(name="main", url="http://127.0.0.1:9")
    StorageConfig.objects.create(name="folder", type="local", path=str(folder))


def created(now: datetime = BEFORE) -> Job:
    return create_job(request=JobRequest(type="backup", collection_name="films"), now=now)


def taken(now: datetime = BEFORE) -> Job:
    job = claim(job_id=created(now).pk, worker="gone", pid=os.getpid(), now=now)
    assert job is not None
    return job


def test_a_lease_of_a_worker_that_is_gone_ends_after_a_lease() -> None:
    job = taken()

    tick(worker="other", now=NOW)
    job.refresh_from_db()
    assert (job.status, job.lease_until) == (JobStatus.RUNNING, NOW + timedelta(seconds=30))
    tick(worker="other", now=NOW + timedelta(seconds=31))

    job.refresh_from_db()
    assert job.status == JobStatus.PENDING
    assert job.not_before < NOW + timedelta(seconds=60)


def test_a_worker_that_is_there_keeps_its_job() -> None:
    job = taken()
    assert job.lease_token is not None

    tick(worker="other", now=NOW)
    extend(job_id=job.pk, token=job.lease_token, now=NOW + timedelta(seconds=20))
    tick(worker="other", now=NOW + timedelta(seconds=31))

    job.refresh_from_db()
    assert (job.status, job.attempt) == (JobStatus.RUNNING, 1)


def test_a_job_that_waits_since_before_is_delivered_and_taken() -> None:
    job = created()
    assert OrmQ.objects.filter(lock__lte=NOW).count() == 0

    tick(worker="other", now=NOW)

    assert OrmQ.objects.filter(lock__lte=timezone.now()).count() == 1
    assert claim(job_id=job.pk, worker="w", pid=1, now=NOW) is not None


def test_a_retry_waits_as_long_as_it_was_to() -> None:
    job = taken()
    assert job.lease_token is not None
    release(
        job_id=job.pk,
        token=job.lease_token,
        status=JobStatus.PENDING,
        now=BEFORE,
        not_before=BEFORE + timedelta(seconds=300),
    )

    for seconds in (0, 1, 2):
        tick(worker="other", now=NOW + timedelta(seconds=seconds))

    job.refresh_from_db()
    assert job.not_before == NOW + timedelta(seconds=300)


def test_what_lies_ahead_for_good_reason_stays() -> None:
    job = taken(NOW)
    assert job.lease_token is not None
    later = NOW + timedelta(hours=3)
    release(job_id=job.pk, token=job.lease_token, status=JobStatus.PENDING, now=NOW, not_before=later)
    leave_behind(Traces([FolderTrace(str(StorageConfig.objects.get().pk), "a/b/c")]), job_id=job.pk, reason="away")
    tries = Leftover.objects.filter(job_id=job.pk)
    tries.update(tries=9, next_try_at=NOW + timedelta(seconds=3500))

    assert mend_setback(now=NOW) == 0

    job.refresh_from_db()
    assert job.not_before == later
    assert tries.get().next_try_at == NOW + timedelta(seconds=3500)


def test_a_left_over_is_tried_now() -> None:
    Leftover.objects.create(
        kind="folder",
        job_id=uuid.uuid4(),
        subject={},
        next_try_at=BEFORE,
        storage=StorageConfig.objects.get(),
    )

    assert mend_setback(now=NOW) == 1
    assert Leftover.objects.get().next_try_at == NOW
    assert mend_setback(now=NOW) == 0


def test_operations_and_workers_of_before_do_not_look_alive_for_an_hour() -> None:
    Worker.objects.create(host="h", pid=1, processes=1, started_at=BEFORE, seen_at=BEFORE)
    assert worker_state(NOW).alive == 0
    operation = NodeOperation.objects.create(
        kind="create_snapshot",
        cluster=Cluster.objects.get(),
        collection_name="films",
        status=OperationStatus.RUNNING,
        created_at=BEFORE,
        queued_at=BEFORE,
        seen_at=BEFORE,
    )

    tick(worker="other", now=NOW)
    tick(worker="other", now=NOW + timedelta(seconds=31))

    operation.refresh_from_db()
    assert operation.status == OperationStatus.FAILED


@pytest.mark.parametrize(("seconds_ago", "expected"), [(5, True), (31, False), (-5, True), (-3600, False)])
def test_an_answer_is_not_waited_for_until_the_clock_comes_by_again(seconds_ago: int, expected: bool) -> None:
    asked = timezone.now() - timedelta(seconds=seconds_ago)

    assert _may_still_come(asked.isoformat(), 30) is expected
