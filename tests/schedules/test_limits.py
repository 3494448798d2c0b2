"""Whose turn it is: ranks, priorities with ageing, round robin, and limits of cluster, node and storage."""

from __future__ import annotations

import threading
import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from apps.clusters.models import Cluster
from apps.jobs.lease import claim_next, startable
from apps.jobs.models import Job, Rank
from apps.jobs.services import JobRequest, Terms, create_job
from apps.storage.models import StorageConfig

SCHEDULE = uuid.uuid4()


def scheduled(name: str, cluster: Cluster | None = None, priority: int = 5, waiting_minutes: float = 0) -> Job:
    now = timezone.now()
    terms = Terms(schedule_id=SCHEDULE, due_at=now - timedelta(minutes=waiting_minutes), priority=priority)
    return create_job(request=JobRequest(type="backup", collection_name=name, cluster=cluster, terms=terms), now=now)


def manual(name: str) -> Job:
    return create_job(request=JobRequest(type="backup", collection_name=name), now=timezone.now())


def order() -> list[str]:
    names = []
    while (job := claim_next(worker="w", pid=1, now=timezone.now() + timedelta(seconds=1))) is not None:
        names.append(job.collection_name)
        Job.objects.filter(pk=job.pk).update(status="completed")
    return names


@pytest.mark.usefixtures("away")
class TestOrder:
    def test_restores_come_first_then_what_people_ask_for_then_schedules(self) -> None:
        scheduled("scheduled", priority=9)
        manual("manual")
        restore = manual("restore")
        Job.objects.filter(pk=restore.pk).update(rank=Rank.RESTORE)

        assert order() == ["restore", "manual", "scheduled"]

    def test_priority_and_half_an_hour_of_waiting_for_each_point(self) -> None:
        scheduled("five")
        scheduled("seven", priority=7)
        scheduled("old five", waiting_minutes=100)
        scheduled("nine", priority=9)

        assert order() == ["nine", "old five", "seven", "five"]

    def test_clusters_take_turns(self) -> None:
        other = Cluster.objects.create(name="other", url="http://127.0.0.1:9")
        Cluster.objects.update(max_jobs=4, max_jobs_per_node=4)
        StorageConfig.objects.update(max_jobs=9)
        for n in range(4):
            scheduled(f"main {n}")
        for n in range(2):
            scheduled(f"other {n}", other)

        names = []
        while (job := claim_next(worker="w", pid=1, now=timezone.now() + timedelta(seconds=1))) is not None:
            names.append(job.collection_name.split()[0])

        assert names == ["main", "other", "main", "other", "main", "main"]


@pytest.mark.usefixtures("away")
class TestLimits:
    def take_all(self) -> int:
        count = 0
        while claim_next(worker="w", pid=1, now=timezone.now() + timedelta(seconds=1)) is not None:
            count += 1
        return count

    def test_one_a_node_two_a_cluster(self) -> None:
        for n in range(5):
            scheduled(f"c{n}")
        assert self.take_all() == 1

        Cluster.objects.update(other_urls=["http://127.0.0.1:10", "http://127.0.0.1:11"])
        assert self.take_all() == 1
        assert Job.objects.filter(status="running").count() == 2
        assert not startable(timezone.now() + timedelta(seconds=1)).exists()

    def test_of_a_storage(self) -> None:
        Cluster.objects.update(max_jobs=9, max_jobs_per_node=9)
        StorageConfig.objects.update(max_jobs=3)
        for n in range(5):
            scheduled(f"c{n}")

        assert self.take_all() == 3

    def test_what_a_person_asks_for_is_not_held_back_and_counts(self) -> None:
        manual("mine")
        manual("mine too")
        scheduled("waits")

        assert self.take_all() == 2

    def test_a_full_cluster_does_not_keep_others_waiting(self) -> None:
        other = Cluster.objects.create(name="other", url="http://127.0.0.1:9")
        for n in range(250):
            scheduled(f"c{n}")
        scheduled("elsewhere", other)

        assert self.take_all() == 2


@pytest.mark.django_db(transaction=True)
def test_many_workers_at_once_keep_the_limits(folder: Any) -> None:
    StorageConfig.objects.create(name="folder", type="local", path=str(folder))
    Cluster.objects.create(name="main", url="http://127.0.0.1:9", max_jobs=3, max_jobs_per_node=3)
    for n in range(12):
        scheduled(f"c{n}")
    now = timezone.now() + timedelta(seconds=1)

    def race() -> None:
        try:
            for _ in range(5):
                claim_next(worker="w", pid=1, now=now)
        finally:
            connection.close()

    threads = [threading.Thread(target=race) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert Job.objects.filter(status="running").count() == 3
