"""Callers of every kind, and rows for them to look at."""

from __future__ import annotations

import itertools
import re
import tempfile
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from django.contrib.auth.models import Group, User
from django.core.cache import cache as django_cache
from django.core.management import call_command
from rest_framework.test import APIClient

from apps.api.services import create_token
from apps.backups.manifest import Manifest, PartFacts, ShardFacts
from apps.backups.models import Backup, Orphan, OrphanKind, Part
from apps.backups.reconcile.findings import Finding
from apps.backups.reconcile.recording import record_finding
from apps.backups.traces import FolderTrace
from apps.clusters.models import Cluster
from apps.core.permissions import Scope
from apps.jobs.models import Job
from apps.storage.models import StorageConfig
from apps.storage.services import open_store

NOW = datetime(2026, 8, 1, 12, 0, tzinfo=UTC)
V1 = "/api/v1"

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def empty_cache() -> None:
    django_cache.clear()


def make_user(group: str | None = None, *, superuser: bool = False) -> User:
    user = User.objects.create(username=f"user-{next(_numbers)}", is_superuser=superuser)
    if group:
        user.groups.add(Group.objects.get(name=group))
    return user


@cache
def generated_schema() -> dict[str, Any]:
    """The generated schema; making it fails on any warning."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "schema.yaml"
        call_command("spectacular", "--validate", "--fail-on-warn", "--file", str(path))
        loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded


@cache
def _answers() -> list[tuple[re.Pattern[str], str, dict[str, Any]]]:
    """Address, method and responses of every operation; fixed words before parameters, as in the URLs."""
    paths = sorted(generated_schema()["paths"].items(), key=lambda item: item[0].replace("{", "~"))
    return [
        (re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), method.upper(), operation["responses"])
        for path, item in paths
        for method, operation in item.items()
    ]


def _json_schema(schema: Any) -> Any:
    """Turn OpenAPI 3.0's `nullable` into JSON Schema."""
    if isinstance(schema, list):
        return [_json_schema(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    converted = {key: _json_schema(value) for key, value in schema.items()}
    return {"anyOf": [converted, {"type": "null"}]} if schema.get("nullable") is True else converted


@cache
def _components() -> Any:
    return _json_schema(generated_schema()["components"])


class CheckedClient(APIClient):
    """Compares every answer of an operation with the generated schema: code, type, and every field of the body."""

    def request(self, **environment: Any) -> Any:
        response = super().request(**environment)
        path, method = environment["PATH_INFO"], environment["REQUEST_METHOD"]
        for pattern, name, responses in _answers():
            if name == method and path.startswith(f"{V1}/") and pattern.fullmatch(path.removeprefix(V1)):
                self._compare(response, responses, f"{method} {path}")
                break
        return response

    def _compare(self, response: Any, responses: dict[str, Any], where: str) -> None:
        if response.status_code == 500:
            return  # a fault of ours: the test that provokes it looks by itself
        described = responses.get(str(response.status_code))
        assert described, f"{where} answered {response.status_code}, which the schema does not describe"
        content_type = response.get("Content-Type", "").partition(";")[0]
        content = described.get("content", {})
        assert content_type in content or (not content and not content_type), (where, content_type)
        if content_type == "application/json":
            schema = {**_json_schema(content[content_type]["schema"]), "components": _components()}
            jsonschema.validate(response.json(), schema, cls=jsonschema.Draft4Validator)


def client_with(secret: str) -> APIClient:
    client = CheckedClient(raise_request_exception=False)
    client.credentials(HTTP_API_KEY=secret)
    return client


def token_client(scope: Scope, user: User | None = None) -> APIClient:
    from django.utils import timezone

    _, secret = create_token(user=user or make_user(superuser=True), name="test", scope=scope, now=timezone.now())
    return client_with(secret)


@pytest.fixture
def api(db: None) -> APIClient:
    """A client that may do everything, and holds every answer against the schema."""
    return token_client(Scope.ADMINISTER)


@pytest.fixture
def anonymous(db: None) -> APIClient:
    return APIClient(raise_request_exception=False)


@pytest.fixture
def down(db: None) -> Cluster:
    """A cluster whose node does not answer."""
    return Cluster.objects.create(name="down", url="http://127.0.0.1:9")


@pytest.fixture
def make_job(storage: StorageConfig, down: Cluster) -> Callable[..., Job]:
    def make(**fields: Any) -> Job:
        values: dict[str, Any] = {
            "type": "backup",
            "cluster": down,
            "collection_name": "films",
            "storage": storage,
            "subject_cluster": down,
            "subject_collection": "films",
            "created_at": NOW + timedelta(seconds=next(_numbers)),
            "not_before": NOW,
            **fields,
        }
        return Job.objects.create(**values)

    return make


@pytest.fixture
def make_backup(storage: StorageConfig, down: Cluster) -> Callable[..., Backup]:
    def make(**fields: Any) -> Backup:
        name = f"20260801T120000Z-{uuid.uuid4()}"
        values: dict[str, Any] = {
            "storage": storage,
            "cluster": down,
            "cluster_name": down.name,
            "collection_name": "films",
            "snapshot_name": name,
            "path": f"down/films/{name}",
            "size_bytes": 30,
            "points_count": 3,
            "shard_count": 2,
            "manifest": {"format": 1},
            "manifest_sha256": "0" * 64,
            "started_at": NOW,
            "created_at": NOW + timedelta(seconds=next(_numbers)),
            **fields,
        }
        backup = Backup.objects.create(**values)
        for shard in (1, 0):
            Part.objects.create(
                backup=backup,
                shard_id=shard,
                key=f"{backup.path}/shard-{shard}.snapshot",
                size_bytes=15,
                sha256="1" * 64,
                points_count=1,
            )
        return backup

    return make


@pytest.fixture
def unknown_backup(storage: StorageConfig) -> Orphan:
    """A whole backup in the storage that the catalogue does not know, as the reconciler has found it."""
    job_id = uuid.uuid4()
    path = f"main/films/20260801T120000Z-{job_id}"
    manifest = Manifest(
        name=path.rpartition("/")[2], job_id=str(job_id), attempt=1, started_at=NOW, created_at=NOW,
        cluster_id=str(uuid.uuid4()), cluster_name="main", qdrant_version="1.18.3", peer_id=None,
        collection_name="films", shard_id=None, config={"params": {"vectors": {"size": 4, "distance": "Dot"}}},
        payload_schema={}, aliases=(), shards=(ShardFacts(0, None, 1, 1),),
        parts=(PartFacts(0, "shard-0.snapshot", 1, "a" * 64, "", "films-shard-0.snapshot"),),
    )  # fmt: skip
    store = open_store(storage)
    store.put(f"{path}/shard-0.snapshot", b"x")
    store.put(f"{path}/manifest.json", manifest.to_bytes())
    finding = Finding(
        kind=OrphanKind.BACKUP,
        name=path,
        reason="The catalogue does not know it.",
        storage_id=storage.pk,
        job_id=job_id,
        collection_name="films",
        size_bytes=1,
        trace=FolderTrace(storage_id=str(storage.pk), path=path),
    )
    return record_finding(finding, now=NOW)


@pytest.fixture(scope="session")
def schema() -> dict[str, Any]:
    return generated_schema()


def error_of(response: Any) -> str:
    """The sentence in an error envelope, once it is known to be one."""
    body = response.json()
    assert response["Content-Type"] == "application/json", response["Content-Type"]
    assert set(body) == {"status", "time"}, body
    assert set(body["status"]) == {"error"}, body
    assert body["status"]["error"], body
    assert isinstance(body["time"], float), body
    return str(body["status"]["error"])


def result_of(response: Any, status: int = 200) -> Any:
    """The result in a success envelope, once it is known to be one."""
    assert response.status_code == status, response.content[:2000]
    body = response.json()
    assert set(body) == {"status", "time", "result"}, body
    assert body["status"] == "ok"
    assert isinstance(body["time"], float)
    return body["result"]
