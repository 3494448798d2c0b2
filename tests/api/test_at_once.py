"""Two clients that do the same thing at the same moment: one wins, the other is told so, and nothing is half-done."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone

from apps.api.services import create_token
from apps.clusters.models import Cluster
from apps.core.permissions import Scope
from apps.jobs.models import Job
from apps.jobs.services import JobRequest, create_job
from apps.storage.models import StorageConfig
from tests.api.conftest import V1, make_user

CLIENTS = 4


@pytest.fixture
def at_once(transactional_db: None) -> Callable[..., list[int]]:
    """Make one request from several clients at once; returns the status codes, sorted."""
    _, token = create_token(user=make_user(superuser=True), name="t", scope=Scope.ADMINISTER, now=timezone.now())

    def ask(method: str, path: str, body: dict[str, Any] | None = None, **headers: str) -> list[int]:
        barrier, codes = threading.Barrier(CLIENTS), []

        def one() -> None:
            try:
                barrier.wait(10)
                answer = Client(headers={"api-key": token, **headers}).generic(
                    method, V1 + path, "" if body is None else _json(body), content_type="application/json"
                )
                codes.append(answer.status_code)
            finally:
                connection.close()

        threads = [threading.Thread(target=one) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(codes) == CLIENTS
        return sorted(codes)

    return ask


def _json(body: dict[str, Any]) -> str:
    import json

    return json.dumps(body)


def test_one_of_many_makes_the_storage(at_once: Callable[..., list[int]], folder: Path) -> None:
    codes = at_once("POST", "/storage/config", {"name": "a", "type": "local", "path": str(folder / "a")})

    assert codes == [200] + [409] * (CLIENTS - 1)
    assert StorageConfig.objects.filter(is_default=True).count() == 1


def test_one_of_many_makes_the_cluster(at_once: Callable[..., list[int]]) -> None:
    codes = at_once("POST", "/clusters", {"name": "a", "url": "http://127.0.0.1:9"})

    assert codes == [200] + [409] * (CLIENTS - 1)
    assert Cluster.objects.filter(is_default=True).count() == 1


def test_one_of_many_deletes_the_storage(at_once: Callable[..., list[int]], folder: Path) -> None:
    for name in ("default", "spare"):
        StorageConfig.objects.create(name=name, type="local", path=str(folder / name))
    spare = StorageConfig.objects.get(name="spare")

    codes = at_once("DELETE", f"/storage/config/{spare.pk}")

    assert codes == [200] + [404] * (CLIENTS - 1)


def test_there_is_one_default_whoever_asks_for_another(at_once: Callable[..., list[int]], folder: Path) -> None:
    for name in ("first", "second"):
        StorageConfig.objects.create(name=name, type="local", path=str(folder / name))
    second = StorageConfig.objects.get(name="second")

    codes = at_once("PUT", f"/storage/config/{second.pk}", {"is_default": True})

    assert set(codes) <= {200, 409}
    assert 200 in codes
    assert StorageConfig.objects.get(is_default=True) == second


@pytest.fixture
def job(cluster: Cluster, storage: StorageConfig) -> Job:
    return create_job(request=JobRequest(type="backup", collection_name="films"), now=timezone.now())


def test_one_of_many_cancels_a_waiting_job(at_once: Callable[..., list[int]], job: Job) -> None:
    assert at_once("POST", f"/jobs/{job.pk}/cancel") == [200] + [400] * (CLIENTS - 1)
    assert job.events.filter(message__startswith="Cancelled").count() == 1


def test_one_of_many_retries_a_failed_job(at_once: Callable[..., list[int]], job: Job) -> None:
    Job.objects.filter(pk=job.pk).update(status="failed")

    assert at_once("POST", f"/jobs/{job.pk}/retry") == [200] + [400] * (CLIENTS - 1)
    assert job.events.filter(message__startswith="Retry").count() == 1


def test_one_key_makes_one_job(at_once: Callable[..., list[int]], cluster: Cluster, storage: StorageConfig) -> None:
    codes = at_once("POST", "/jobs", {"type": "backup", "collection_name": "films"}, **{"Idempotency-Key": "k"})

    assert set(codes) <= {200, 409}
    assert 200 in codes
    assert Job.objects.count() == 1


def test_a_foreign_host_name_is_answered_in_the_envelope(client: Client, db: None) -> None:
    answer = client.get(f"{V1}/jobs", headers={"host": "evil.example"})

    assert answer.status_code == 400
    assert answer["Content-Type"].startswith("application/json")
    assert "error" in answer.json()["status"]
