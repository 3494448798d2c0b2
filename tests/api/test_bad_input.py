"""Every body of every operation, violated one field at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rest_framework.test import APIClient

from apps.clusters.models import Cluster
from apps.storage.models import StorageConfig
from tests.api.conftest import V1, error_of
from tests.api.test_contract import resolved

#: Per type of a field: values of another type.
WRONG: dict[str, list[Any]] = {
    "string": [None, 1, True, [], {}, 1.5],
    "integer": [None, "1", True, [], {}, 1.5, -1, 10**30],
    "boolean": [None, "true", 1, 0, [], {}],
    "object": [None, "x", 1, True, []],
    "array": [None, "x", 1, True, {}, [None], [1]],
}
#: Texts that may be refused or accepted, and must not break anything.
ODD = ["", " ", "x" * 10_000, "ключ🔑", "\x01\x02", "\u202e", "'; DROP TABLE--", "../../etc/passwd", "\r\nX: y", "%00"]

#: Operations whose bodies are violated by tests/api/test_schemathesis.py, and by the tests of their own rooms.
ELSEWHERE = {
    "acknowledgeIncident",
    "applyPolicy",
    "createChannel",
    "createHold",
    "createPolicy",
    "createSchedule",
    "pauseSchedule",
    "previewPolicy",
    "previewSchedule",
    "setClusterBlackouts",
    "setCollectionMaxAge",
    "setCollectionTags",
    "setTagMaxAge",
    "updateChannel",
    "updatePolicy",
    "updateSchedule",
}


@pytest.fixture
def bodies(storage: StorageConfig, down: Cluster, folder: Path, make_backup: Any, api: APIClient) -> dict[str, Any]:
    """operationId → (method, address, a body that is accepted)."""
    backup = make_backup()
    local = {"name": "n", "type": "local", "path": f"{folder}/n"}
    other = StorageConfig.objects.create(name="other", type="local", path=f"{folder}/o")
    snapshots = f"{V1}/collections/c/snapshots/recover"
    return {
        "createJob": ("POST", f"{V1}/jobs", {"type": "backup", "collection_name": "c"}),
        "createStorageConfig": ("POST", f"{V1}/storage/config", local),
        "testStorage": ("POST", f"{V1}/storage/test", local),
        "updateStorageConfig": ("PUT", f"{V1}/storage/config/{other.pk}", {}),
        "createCluster": ("POST", f"{V1}/clusters", {"name": "n", "url": "http://q"}),
        "updateCluster": ("PUT", f"{V1}/clusters/{down.pk}", {}),
        "testCluster": ("POST", f"{V1}/clusters/test", {"url": "http://127.0.0.1:9"}),
        "createToken": ("POST", f"{V1}/tokens", {"name": "n", "scope": "read"}),
        "restoreBackup": ("POST", f"{V1}/backups/{backup.pk}/restore", {}),
        "verifyBackup": ("POST", f"{V1}/backups/{backup.pk}/verify", {}),
        "recoverSnapshot": ("POST", snapshots, {"location": "http://x/y"}),
        "recoverShardSnapshot": ("POST", snapshots.replace("/c/", "/c/shards/0/"), {"location": "http://x/y"}),
    }


def test_no_operation_with_a_body_is_forgotten(schema: dict[str, Any], bodies: dict[str, Any]) -> None:
    found = {o["operationId"] for item in schema["paths"].values() for o in item.values() if "requestBody" in o}

    assert found == set(bodies) | ELSEWHERE
    assert not set(bodies) & ELSEWHERE


def test_each_field_wrong_by_itself(schema: dict[str, Any], bodies: dict[str, Any], api: APIClient) -> None:
    for item in schema["paths"].values():
        for operation in item.values():
            if "requestBody" not in operation or operation["operationId"] in ELSEWHERE:
                continue
            method, path, good = bodies[operation["operationId"]]
            body = resolved(schema, operation["requestBody"]["content"]["application/json"]["schema"])
            for name in body.get("required", []):
                missing = {key: value for key, value in good.items() if key != name}
                check_answer(api, method, path, missing, name, exactly=400)
            for name, field in body["properties"].items():
                kind = resolved(schema, field)["type"]
                for value in WRONG[kind]:
                    check_answer(api, method, path, good | {name: value}, name, exactly=400)
                if kind == "string":
                    for value in ODD:
                        check_answer(api, method, path, good | {name: value}, name)


def check_answer(api: APIClient, method: str, path: str, body: Any, name: str, exactly: int | None = None) -> None:
    response = getattr(api, method.lower())(path, body, format="json")
    # 503: what is accepted goes to the node, and the node of this test does not answer.
    assert response.status_code < 500 or (response.status_code == 503 and exactly is None), (path, body)
    if exactly is not None:
        assert response.status_code == exactly, (path, body, response.status_code, response.content)
        assert name in error_of(response), (path, body, response.content)
    elif response.status_code >= 400:
        assert error_of(response)


def test_unknown_fields_are_ignored_and_enums_take_any_case(bodies: dict[str, Any], api: APIClient) -> None:
    accepted = {"createJob", "createStorageConfig", "createCluster", "createToken", "restoreBackup", "testStorage"}
    for operation_id in sorted(accepted):
        method, path, good = bodies[operation_id]
        loud = {key: value.upper() if key in ("type", "scope") else value for key, value in good.items()}

        response = getattr(api, method.lower())(path, loud | {"nonsense": {"a": [1]}}, format="json")

        assert response.status_code == 200, (path, response.content)


def test_numbers_at_the_edge(bodies: dict[str, Any], api: APIClient) -> None:
    for value, status in ((0, 200), (2.0, 200), (2**31 - 1, 200), (2**31, 400), (-1, 400)):
        body = {"type": "shard_backup", "collection_name": "c", "shard_id": value}
        assert api.post(f"{V1}/jobs", body, format="json").status_code == status, value


def test_names_in_paths(api: APIClient, down: Cluster) -> None:
    for name, status in (
        ("..", 422), ("%2e%2e", 422), ("a%2Fb", 404), ("a%5Cb", 422), ("a%3Ab", 422), ("%00", 422), ("%0A", 422),
        ("x" * 256, 422), ("%D1%8F%20x.y", 503), ("%FF", 503),
    ):  # fmt: skip
        response = api.get(f"{V1}/collections/{name}/cluster")
        assert response.status_code == status, (name, response.content)
        assert error_of(response)
    for shard in ("x", "-1", "1.5", "99999999999", "٣", "%00"):
        response = api.get(f"{V1}/collections/c/shards/{shard}/snapshots")
        assert response.status_code == 400, shard
        assert error_of(response)
    for snapshot in ("%2e%2e", "%2e", "a%5Cb", "%00", "a%22b", "a%0Ab"):
        for method in ("get", "delete"):
            response = getattr(api, method)(f"{V1}/collections/c/snapshots/{snapshot}")
            assert response.status_code == 422, snapshot
            assert error_of(response)


def test_wait_and_cluster_parameters(api: APIClient, down: Cluster) -> None:
    for query, status in (
        ("wait=maybe", 400), ("wait=", 400), ("cluster=", 400), ("cluster=unknown", 404), ("cluster=%00", 400),
        ("wait=TRUE", 503), ("wait=false", 503), (f"cluster={down.pk}", 503), ("wait=0&cluster=down", 503),
    ):  # fmt: skip
        response = api.post(f"{V1}/collections/c/snapshots?{query}")
        assert response.status_code == status, (query, response.content)
        assert error_of(response)
