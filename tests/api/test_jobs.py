"""Jobs over the API: create, list, look at, cancel, retry."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient

from apps.api import idempotency
from apps.api.models import IdempotencyKey
from apps.clusters.models import Cluster
from apps.core.permissions import Scope
from apps.jobs.models import Job, JobAttempt
from apps.storage.models import StorageConfig
from tests.api.conftest import NOW, V1, error_of, result_of, token_client

NO_UUIDS = ["1", "nope", "00000000", "%20", "..%2F", "x" * 300]
NOBODY = "6f1c2f6e-0000-4000-8000-000000000000"

CONTRACT_FIELDS = {
    "id", "type", "status", "collection_name", "shard_id", "snapshot_name", "storage_id", "progress", "error",
    "metadata", "created_at", "started_at", "completed_at",
}  # fmt: skip


@pytest.fixture
def post(api: APIClient, storage: StorageConfig, down: Cluster) -> Callable[..., Any]:
    return lambda **body: api.post(f"{V1}/jobs", body, format="json")


def test_backup_is_created_with_the_defaults(
    post: Callable[..., Any], api: APIClient, storage: StorageConfig, down: Cluster
) -> None:
    metadata = {"ключ": [1, 2.5, None, {"a": "b"}], "": True}

    job = result_of(post(type="backup", collection_name="films", metadata=metadata, whatever="ignored"))

    assert set(job) >= CONTRACT_FIELDS
    assert job | {"id": "", "created_at": ""} == {
        "id": "",
        "type": "backup",
        "status": "pending",
        "cluster": "down",
        "collection_name": "films",
        "shard_id": None,
        "snapshot_name": None,
        "storage_id": str(storage.pk),
        "backup_id": None,
        "target_cluster": None,
        "target_collection": None,
        "overwrite": False,
        "restore_aliases": False,
        "options": {},
        "plan": None,
        "parent_id": None,
        "collections": [],
        "exclude_collections": [],
        "policy_id": None,
        "keep_until": None,
        "children": None,
        "progress": 0,
        "phase": "",
        "bytes_done": 0,
        "bytes_total": 0,
        "rate_bytes_per_second": None,
        "eta_seconds": None,
        "attempt": 0,
        "next_attempt_at": None,
        "wait_reason": None,
        "cancel_requested": False,
        "error": None,
        "metadata": metadata,
        "created_at": "",
        "started_at": None,
        "completed_at": None,
    }
    assert result_of(api.get(f"{V1}/jobs/{job['id']}")) == job
    assert job["created_at"].endswith("Z")
    assert result_of(api.get(f"{V1}/jobs/{job['id']}/events"))[0]["message"].startswith("Created by")


def test_every_field_of_a_restore_arrives(post: Callable[..., Any], make_backup: Any, storage: StorageConfig) -> None:
    backup = make_backup()
    Cluster.objects.create(name="other", url="http://127.0.0.1:9")

    job = result_of(
        post(
            type="SHARD_Restore",
            collection_name="films",
            shard_id=1,
            backup_id=str(backup.pk),
            storage_id=str(storage.pk),
            cluster="down",
            target_cluster="other",
            target_collection="films 2",
            overwrite=True,
            restore_aliases=True,
        )
    )

    assert (job["type"], job["shard_id"], job["backup_id"]) == ("shard_restore", 1, str(backup.pk))
    assert (job["cluster"], job["target_cluster"], job["target_collection"]) == ("down", "other", "films 2")
    assert job["overwrite"] is True
    assert job["restore_aliases"] is True
    assert job["snapshot_name"] == backup.snapshot_name


def test_cluster_is_named_by_name_or_id(post: Callable[..., Any], down: Cluster) -> None:
    for reference in ("down", str(down.pk)):
        assert result_of(post(type="backup", collection_name="c", cluster=reference))["cluster"] == "down"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"type": "shard_backup", "collection_name": "c"}, 400),
        ({"type": "backup", "collection_name": "c", "shard_id": 0}, 400),
        ({"type": "restore", "collection_name": "c"}, 400),
        ({"type": "restore", "collection_name": "c", "snapshot_name": "none"}, 404),
        ({"type": "restore", "collection_name": "c", "snapshot_name": "../x"}, 404),
        ({"type": "restore", "collection_name": "c", "backup_id": NOBODY}, 404),
        ({"type": "restore", "collection_name": "c", "backup_id": "x"}, 404),
        ({"type": "backup", "collection_name": "c", "storage_id": NOBODY}, 404),
        ({"type": "backup", "collection_name": "c", "cluster": "unknown"}, 404),
        ({"type": "backup", "collection_name": "a/b"}, 422),
        ({"type": "backup", "collection_name": ".."}, 422),
        ({"type": "backup", "collection_name": "tab\t"}, 422),
        ({"type": "backup", "collection_name": "я" * 128}, 422),
        ({"type": "backup", "collection_name": "x" * 255}, 422),
        ({"type": "backup", "collection_name": "c", "metadata": {"a": "x" * 17000}}, 400),
    ],
)
def test_what_cannot_be_a_job_is_refused_before_it_is_one(
    post: Callable[..., Any], body: dict[str, Any], status: int
) -> None:
    response = post(**body)

    assert response.status_code == status, response.content
    assert error_of(response)
    assert not Job.objects.exists()


def test_without_cluster_or_storage_a_sentence_says_what_to_do(api: APIClient) -> None:
    response = api.post(f"{V1}/jobs", {"type": "backup", "collection_name": "c"}, format="json")

    assert response.status_code == 400
    assert "add one" in error_of(response)


def test_list_is_bare_and_newest_first(api: APIClient, make_job: Callable[..., Job]) -> None:
    old, new = make_job(), make_job()

    page = api.get(f"{V1}/jobs").json()

    assert set(page) == {"items", "total", "page", "limit"}
    assert [job["id"] for job in page["items"]] == [str(new.pk), str(old.pk)]
    assert (page["total"], page["page"], page["limit"]) == (2, 1, 20)


def test_list_pages_are_stable_when_times_are_equal(api: APIClient, make_job: Callable[..., Job]) -> None:
    jobs = {str(make_job(created_at=NOW).pk) for _ in range(7)}

    seen = [job["id"] for n in (1, 2, 3) for job in api.get(f"{V1}/jobs?limit=3&page={n}").json()["items"]]

    assert len(seen) == 7
    assert set(seen) == jobs


def test_list_filters(api: APIClient, make_job: Callable[..., Job], storage: StorageConfig, down: Cluster) -> None:
    other = Cluster.objects.create(name="other", url="http://127.0.0.1:9")
    first = make_job(status="failed", created_at=NOW)
    second = make_job(type="shard_backup", collection_name="b b", cluster=other, created_at=NOW + timedelta(hours=1))

    def ids(query: str) -> list[str]:
        return [job["id"] for job in api.get(f"{V1}/jobs?{query}").json()["items"]]

    one, two = str(first.pk), str(second.pk)
    assert ids("status=FAILED") == ids("type=backup") == ids("collection=films") == ids("cluster=down") == [one]
    assert ids("type=Shard_Backup") == ids("collection=b%20b") == ids(f"cluster={other.pk}") == [two]
    assert ids("created_after=2026-08-01T12:30:00Z") == [two]
    assert ids("created_before=2026-08-01T13:00:00%2B00:00") == [one]
    assert ids("sort=created_at") == ids(f"storage={storage.pk}&sort=CREATED_AT") == [one, two]
    assert ids("storage=folder&page=2") == []


@pytest.mark.parametrize(
    ("query", "status"),
    [
        *((query, 400) for query in (
            "page=0", "page=-1", "page=x", "page=", "page=1.5", "limit=0", "limit=101", "limit=x", "status=done",
            "status=", "type=x", "sort=x", "created_after=yesterday", "collection=%00", "cluster=", "cluster=%00",
            f"page={'9' * 2000}",
        )),
        *((query, 404) for query in ("cluster=unknown", f"cluster={NOBODY}", f"storage={NOBODY}", "storage=x")),
        *((query, 200) for query in (
            f"page={'9' * 30}", "limit=100", "collection=%ff", "collection='--", "unknown=1", "page=0&page=1",
            "created_after=0001-01-01T00:00:00Z", "created_before=9999-12-31T23:59:59Z",
        )),
    ],
)  # fmt: skip
def test_list_takes_only_what_makes_sense(api: APIClient, query: str, status: int) -> None:
    response = api.get(f"{V1}/jobs?{query}")

    assert response.status_code == status, response.content
    if status != 200:
        assert error_of(response)


def test_list_costs_the_same_queries_however_long_it_is(api: APIClient, make_job: Callable[..., Job]) -> None:
    make_job()
    api.get(f"{V1}/jobs")
    counts = []
    for _ in range(2):
        with CaptureQueriesContext(
            connection,
        ) as queries:
            assert api.get(f"{V1}/jobs?limit=100").status_code == 200
        counts.append(len(queries))
        for _ in range(30):
            make_job(target_cluster=Cluster.objects.get())

    assert counts == [4, 4]  # token, count, ids, rows


@pytest.mark.parametrize("id", [*NO_UUIDS, NOBODY])
def test_unknown_ids_are_404(api: APIClient, id: str) -> None:  # noqa: A002
    for method, path in (
        ("get", ""),
        ("post", "/cancel"),
        ("post", "/retry"),
        ("get", "/events"),
        ("get", "/attempts"),
    ):
        response = getattr(api, method)(f"{V1}/jobs/{id}{path}")

        assert response.status_code == 404
        assert error_of(response)


def test_cancel_ends_a_pending_job_asks_a_running_one_and_refuses_an_ended_one(
    api: APIClient, make_job: Callable[..., Job]
) -> None:
    pending, running, ended = make_job(), make_job(status="running"), make_job(status="completed")

    assert result_of(api.post(f"{V1}/jobs/{pending.pk}/cancel"))["status"] == "cancelled"
    told = result_of(api.post(f"{V1}/jobs/{running.pk}/cancel"))
    assert (told["status"], told["cancel_requested"]) == ("running", True)
    refused = api.post(f"{V1}/jobs/{ended.pk}/cancel")
    assert refused.status_code == 400
    assert "ended" in error_of(refused)


def test_retry_makes_failed_and_cancelled_jobs_pending_and_no_others(
    api: APIClient, make_job: Callable[..., Job]
) -> None:
    for status in ("failed", "cancelled"):
        job = make_job(status=status, error="why", attempt=1)
        again = result_of(api.post(f"{V1}/jobs/{job.pk}/retry"))
        assert (again["status"], again["error"]) == ("pending", None)
    for status in ("pending", "running", "completed"):
        job = make_job(status=status, collection_name=uuid.uuid4().hex, subject_collection=uuid.uuid4().hex)
        assert api.post(f"{V1}/jobs/{job.pk}/retry").status_code == 400


def test_a_job_that_waits_says_why_and_until_when_and_can_be_started_now(
    api: APIClient, make_job: Callable[..., Job]
) -> None:
    at = timezone.now() + timedelta(minutes=5)
    job = make_job(wait_reason="The storage did not answer.", not_before=at, attempt=1, retry_count=1)

    shown = result_of(api.get(f"{V1}/jobs/{job.pk}"))
    assert (shown["status"], shown["wait_reason"], shown["error"]) == ("pending", "The storage did not answer.", None)
    assert shown["next_attempt_at"] == at.isoformat().replace("+00:00", "Z")

    started = result_of(api.post(f"{V1}/jobs/{job.pk}/retry"))

    assert (started["status"], started["wait_reason"], started["next_attempt_at"]) == ("pending", None, None)
    job.refresh_from_db()
    assert job.not_before < at


def test_the_attempts_of_a_job_are_listed_with_the_error_of_each(api: APIClient, make_job: Callable[..., Job]) -> None:
    job = make_job(status="running", attempt=2)
    JobAttempt.objects.create(
        job=job,
        number=2,
        started_at=timezone.now(),
    )
    JobAttempt.objects.create(
        job=job,
        number=1,
        outcome="failed",
        started_at=NOW,
        ended_at=NOW + timedelta(seconds=90),
        bytes_moved=2**40,
        error="Qdrant did not answer.",
        error_category="qdrant_timeout",
        next_attempt_at=NOW + timedelta(seconds=150),
        worker="w",
    )

    first, second = result_of(api.get(f"{V1}/jobs/{job.pk}/attempts"))

    assert first == {
        "number": 1,
        "outcome": "failed",
        "started_at": "2026-08-01T12:00:00Z",
        "ended_at": "2026-08-01T12:01:30Z",
        "seconds": 90.0,
        "bytes_moved": 2**40,
        "error": "Qdrant did not answer.",
        "error_category": "qdrant_timeout",
        "next_attempt_at": "2026-08-01T12:02:30Z",
        "worker": "w",
    }
    assert (second["outcome"], second["ended_at"], second["error"], second["worker"]) == ("running", None, None, None)
    assert second["seconds"] >= 0


def test_progress_of_a_running_job(api: APIClient, make_job: Callable[..., Job]) -> None:
    job = make_job(
        status="running", phase="transfer", bytes_done=50, bytes_total=200, rate_bytes_per_second=25.0, attempt=2
    )

    shown = result_of(api.get(f"{V1}/jobs/{job.pk}"))

    assert (shown["progress"], shown["phase"], shown["eta_seconds"], shown["attempt"]) == (25, "transfer", 6.0, 2)


def test_times_are_utc_whatever_the_admin_shows(api: APIClient, make_job: Callable[..., Job], settings: Any) -> None:
    settings.TIME_ZONE = "Asia/Tokyo"

    shown = result_of(api.get(f"{V1}/jobs/{make_job(created_at=NOW).pk}"))

    assert shown["created_at"] == "2026-08-01T12:00:00Z"


def test_repeated_request_with_the_same_key_creates_one_job(
    api: APIClient, storage: StorageConfig, down: Cluster
) -> None:
    def send(key: str, client: APIClient = api, **body: Any) -> Any:
        body = {"type": "backup", "collection_name": "films", **body}
        return client.post(f"{V1}/jobs", body, format="json", HTTP_IDEMPOTENCY_KEY=key)

    first = result_of(send("nightly-1"))

    assert result_of(send("nightly-1")) == first
    assert result_of(send("nightly-2"))["id"] != first["id"]
    assert result_of(send("nightly-1", token_client(Scope.OPERATE)))["id"] != first["id"]  # another person's key
    changed = send("nightly-1", collection_name="other")
    assert changed.status_code == 409
    assert "Idempotency-Key" in error_of(changed)
    for key in ("", "x" * 201, "tab\there"):
        assert send(key).status_code == 400, key
    assert Job.objects.count() == 3


def test_request_that_failed_is_not_remembered(api: APIClient, storage: StorageConfig, down: Cluster) -> None:
    for status in (422, 422):
        response = api.post(
            f"{V1}/jobs", {"type": "backup", "collection_name": "a/b"}, format="json", HTTP_IDEMPOTENCY_KEY="k"
        )
        assert response.status_code == status
    assert not IdempotencyKey.objects.exists()


def test_of_two_requests_at_once_the_second_gets_the_job_of_the_first(
    api: APIClient, storage: StorageConfig, down: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"type": "backup", "collection_name": "films"}
    first = result_of(api.post(f"{V1}/jobs", body, format="json", HTTP_IDEMPOTENCY_KEY="k"))
    looks = iter([None])
    find = idempotency._find
    # The second request looked before the first one had finished.
    monkeypatch.setattr(idempotency, "_find", lambda *args: next(looks, find) and find(*args))

    second = result_of(api.post(f"{V1}/jobs", body, format="json", HTTP_IDEMPOTENCY_KEY="k"))

    assert second["id"] == first["id"]
    assert Job.objects.count() == 1
