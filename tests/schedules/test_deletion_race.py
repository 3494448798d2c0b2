"""A restore that is asked for while retention deletes its backup: either it has the backup, or it is refused."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections

from apps.backups.models import Backup, BackupStatus
from apps.clusters.models import Cluster
from apps.core.errors import Conflict, NotFound
from apps.jobs.models import Job
from apps.jobs.services import JobRequest, create_job
from apps.schedules.retention.apply import delete_due
from apps.storage.models import StorageConfig
from tests.schedules.conftest import NOW, make_backup, make_policy

#: scripts/prove-schedules asks for more.
INTERLEAVINGS = int(os.environ.get("PROVE_INTERLEAVINGS", "25"))
#: The most that each waits before it begins. A deletion takes longer to get to its lock: so both come first often.
DELETION_SECONDS, RESTORE_SECONDS = 0.02, 0.08
DAY = timedelta(days=1)


@pytest.mark.timeout(900)
@pytest.mark.django_db(transaction=True)
def test_of_a_restore_and_a_deletion_at_the_same_moment_one_wins_and_both_know(away: Cluster) -> None:
    storage, policy, dice = StorageConfig.objects.get(), make_policy(keep_last=1), random.Random(10)
    won = {"restore": 0, "deletion": 0}
    for _ in range(INTERLEAVINGS):
        make_backup(away, storage, NOW - DAY, policy=policy)
        row = make_backup(
            away, storage, NOW - 3 * DAY, policy=policy, expired_at=NOW - DAY, delete_at=NOW, expire_reason="test"
        )
        barrier, refused = threading.Barrier(2), list[Exception]()

        def restore(backup: Backup = row, refused: list[Exception] = refused) -> None:
            try:
                create_job(request=JobRequest(type="restore", collection_name="films", backup=backup), now=NOW)
            except (Conflict, NotFound) as error:
                refused.append(error)

        together(barrier, [(restore, RESTORE_SECONDS), (lambda: delete_due(now=NOW), DELETION_SECONDS)], dice)

        found = Backup.objects.get(pk=row.pk)
        made = Job.objects.filter(backup=row, status="pending").count()
        assert made + len(refused) == 1
        assert found.status == (BackupStatus.COMPLETED if made else BackupStatus.DELETING), refused
        won["restore" if made else "deletion"] += 1
        Job.objects.all().delete()
        Backup.objects.all().delete()
    assert sum(won.values()) == INTERLEAVINGS
    print(f"{INTERLEAVINGS} interleavings: {won}")
    if INTERLEAVINGS >= 100:
        assert min(won.values()) > 0, won


def together(barrier: threading.Barrier, works: list[tuple[Callable[[], Any], float]], dice: random.Random) -> None:
    """Do all works at about the same moment, each after up to so many seconds, over connections of their own.

    Raises: AssertionError with whatever they raise.
    """
    errors: list[BaseException] = []

    def do(work: Callable[[], Any], wait: float) -> None:
        try:
            barrier.wait(60)
            time.sleep(wait)
            work()
        except BaseException as error:
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=do, args=(work, dice.uniform(0, longest))) for work, longest in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not errors, errors
