"""Storages over the API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rest_framework.test import APIClient

from apps.storage.models import StorageConfig
from tests.api.conftest import V1, error_of, result_of

S3 = {
    "name": "offsite",
    "type": "s3",
    "s3_endpoint": "http://127.0.0.1:9",
    "s3_bucket": "backups",
    "s3_region": "eu-central-1",
    "s3_access_key": "AKIAEXAMPLE12345",
    "s3_secret_key": "canary-secret",
}
CONTRACT_FIELDS = {
    "id", "name", "type", "path", "s3_endpoint", "s3_bucket", "s3_region", "s3_access_key", "is_default",
    "created_at", "updated_at",
}  # fmt: skip


def test_folder_is_created_listed_changed_and_removed(api: APIClient, folder: Path) -> None:
    first = api.post(f"{V1}/storage/config", {"name": "a", "type": "LOCAL", "path": f"{folder}/a"}, format="json")
    made = result_of(first)
    second = result_of(
        api.post(f"{V1}/storage/config", {"name": "b", "type": "local", "path": f"{folder}/b"}, format="json")
    )

    assert set(made) >= CONTRACT_FIELDS
    assert (made["type"], made["path"], made["is_default"], made["s3_bucket"]) == ("local", f"{folder}/a", True, None)
    assert [s["name"] for s in result_of(api.get(f"{V1}/storage/config"))] == ["a", "b"]
    changed = result_of(api.put(f"{V1}/storage/config/{second['id']}", {"name": "c"}, format="json"))
    assert (changed["name"], changed["path"]) == ("c", second["path"])
    assert result_of(api.delete(f"{V1}/storage/config/{second['id']}")) is True
    refused = api.delete(f"{V1}/storage/config/{made['id']}")
    assert refused.status_code == 400
    assert "default" in error_of(refused)


def test_s3_comes_back_masked_and_without_its_secret(api: APIClient) -> None:
    response = api.post(f"{V1}/storage/config", S3, format="json")
    made = result_of(response)

    assert made["s3_access_key"] == "********2345"
    assert made["path"] is None
    for answer in (response, api.get(f"{V1}/storage/config")):
        assert "canary-secret" not in answer.content.decode()
        assert "AKIAEXAMPLE12345" not in answer.content.decode()
    assert StorageConfig.objects.get().s3_secret_key.reveal() == "canary-secret"


def test_what_was_shown_can_be_sent_back_without_harm(api: APIClient) -> None:
    made = result_of(api.post(f"{V1}/storage/config", S3, format="json"))
    shown = {key: value for key, value in made.items() if value is not None}

    result_of(api.put(f"{V1}/storage/config/{made['id']}", shown, format="json"))

    stored = StorageConfig.objects.get()
    assert stored.s3_access_key == S3["s3_access_key"]
    assert stored.s3_secret_key.reveal() == S3["s3_secret_key"]


def test_same_name_twice_is_409(api: APIClient, storage: StorageConfig, folder: Path) -> None:
    body = {"name": storage.name, "type": "local", "path": f"{folder}/x"}

    response = api.post(f"{V1}/storage/config", body, format="json")

    assert response.status_code == 409
    assert error_of(response)


def test_storage_with_backups_or_jobs_stays(
    api: APIClient, make_job: Any, storage: StorageConfig, folder: Path
) -> None:
    make_job()
    StorageConfig.objects.create(name="new", type="local", path=f"{folder}/n", is_default=True)

    response = api.delete(f"{V1}/storage/config/{storage.pk}")

    assert response.status_code == 409
    assert "job" in error_of(response)


@pytest.mark.parametrize("path", ["/etc", "relative", "{root}/../x", "/", ""])
def test_folders_outside_the_roots_are_refused(api: APIClient, folder: Path, path: str) -> None:
    body = {"name": "x", "type": "local", "path": path.format(root=folder)}

    for address in ("config", "test"):
        response = api.post(f"{V1}/storage/{address}", body, format="json")
        assert response.status_code in (400, 422), response.content
        assert error_of(response)
    assert not StorageConfig.objects.exists()


def test_incomplete_s3_is_refused_field_by_field(api: APIClient) -> None:
    for field in ("s3_endpoint", "s3_bucket", "s3_region", "s3_access_key", "s3_secret_key"):
        for address in ("config", "test"):
            response = api.post(f"{V1}/storage/{address}", {k: v for k, v in S3.items() if k != field}, format="json")
            assert response.status_code in (400, 422)
            assert error_of(response)


def test_probe_of_a_folder_succeeds_and_saves_nothing(api: APIClient, folder: Path) -> None:
    body = {"name": "x", "type": "local", "path": str(folder)}

    assert result_of(api.post(f"{V1}/storage/test", body, format="json"))["success"] is True
    assert not StorageConfig.objects.exists()
    assert list(folder.iterdir()) == []


def test_probe_of_an_unreachable_storage_is_200_with_the_reason(api: APIClient) -> None:
    response = api.post(f"{V1}/storage/test", S3, format="json")
    result = result_of(response)

    assert result["success"] is False
    assert result["message"]
    assert "canary-secret" not in response.content.decode()


@pytest.mark.parametrize("id", ["1", "x", "6f1c2f6e-0000-4000-8000-000000000000"])
def test_unknown_storage_is_404(api: APIClient, id: str) -> None:  # noqa: A002
    assert api.put(f"{V1}/storage/config/{id}", {"name": "x"}, format="json").status_code == 404
    assert api.delete(f"{V1}/storage/config/{id}").status_code == 404
