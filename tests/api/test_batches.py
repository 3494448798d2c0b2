"""A backup of many collections over the API."""

from __future__ import annotations

from typing import Any

import pytest
from rest_framework.test import APIClient

from apps.jobs.models import Job
from apps.jobs.runner import run_job
from tests.api.conftest import V1, error_of, result_of
from tests.support import Collections

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def two(cluster: Any, storage: Any, collections: Collections) -> None:
    for name in ("films", "users"):
        collections.create(name, points=5, shards=1)


def test_batch_shows_its_children(api: APIClient, two: None) -> None:
    body = {"type": "backup", "collection_name": "*", "collections": ["f*", "users"], "exclude_collections": ["x"]}
    made = result_of(api.post(f"{V1}/jobs", body | {"metadata": {"ticket": "OPS-7"}}, format="json"))
    assert (made["collection_name"], made["collections"]) == ("f*, users", ["f*", "users"])
    assert made["exclude_collections"] == ["x"]
    assert made["children"] == dict.fromkeys(("total", "pending", "running", "completed", "failed", "cancelled"), 0)

    run_job(made["id"])
    running = result_of(api.get(f"{V1}/jobs/{made['id']}"))
    assert (running["status"], running["children"]["pending"]) == ("running", 2)
    parts = api.get(f"{V1}/jobs?parent_id={made['id']}").json()
    assert sorted(part["collection_name"] for part in parts["items"]) == ["films", "users"]
    assert {part["parent_id"] for part in parts["items"]} == {made["id"]}
    assert all(part["children"] is None and part["metadata"] == {"ticket": "OPS-7"} for part in parts["items"])
    while run_job("next"):
        pass

    done = result_of(api.get(f"{V1}/jobs/{made['id']}"))
    assert (done["status"], done["progress"], done["children"]["completed"]) == ("completed", 100, 2)


def test_batch_is_cancelled_and_retried(api: APIClient, two: None) -> None:
    made = result_of(api.post(f"{V1}/jobs", {"type": "backup", "collection_name": "*"}, format="json"))
    run_job(made["id"])

    cancelled = result_of(api.post(f"{V1}/jobs/{made['id']}/cancel"))
    again = result_of(api.post(f"{V1}/jobs/{made['id']}/retry"))

    assert (cancelled["status"], cancelled["children"]["cancelled"]) == ("cancelled", 2)
    assert (again["status"], again["children"]["pending"]) == ("running", 2)


@pytest.mark.parametrize(
    ("more", "status", "words"),
    [
        ({"collections": ["a/b"]}, 422, "cannot contain"),
        ({"collections": [""]}, 400, "collections"),
        ({"collections": ["x"] * 101}, 400, "collections"),
        ({"collections": ["a"], "collection_name": "films"}, 400, "collection_name"),
        ({"exclude_collections": ["a"], "collection_name": "films"}, 400, "exclude_collections"),
        ({"collections": ["a"], "type": "restore"}, 400, "Only a backup"),
        ({"collection_name": "a*\u0000"}, 400, "NUL"),
        ({"collection_name": "a*<"}, 422, "cannot contain"),
        ({"snapshot_name": "x"}, 400, "snapshot_name"),
    ],
)
def test_nonsense_is_refused(api: APIClient, two: None, more: dict[str, Any], status: int, words: str) -> None:
    response = api.post(f"{V1}/jobs", {"type": "backup", "collection_name": "*"} | more, format="json")

    assert response.status_code == status, response.content
    assert words in error_of(response)
    assert not Job.objects.exists()


def test_unknown_batch_has_no_parts_and_nonsense_is_400(api: APIClient, two: None) -> None:
    assert api.get(f"{V1}/jobs?parent_id=6f1c2f6e-0000-4000-8000-000000000000").json()["items"] == []
    assert api.get(f"{V1}/jobs?parent_id=x").status_code == 400


def test_metrics_count_children_and_not_the_batch(api: APIClient, two: None) -> None:
    made = result_of(api.post(f"{V1}/jobs", {"type": "backup", "collection_name": "*"}, format="json"))
    run_job(made["id"])
    while run_job("next"):
        pass

    text = api.get(f"{V1}/metrics").content.decode()

    assert 'collection="films"' in text
    assert 'collection="*"' not in text
