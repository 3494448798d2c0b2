"""Health, metrics, the schema and its pages."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import DatabaseError
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families
from rest_framework.test import APIClient

from apps.jobs.models import Job, Worker
from tests.api.conftest import NOW, V1, error_of


def test_liveness_needs_no_key(anonymous: APIClient) -> None:
    for path in ("/healthz", "/livez"):
        response = anonymous.get(path)
        assert response.status_code == 200
        assert response["Content-Type"].startswith("text/plain")
        assert anonymous.post(path).status_code == 405


def test_readiness_asks_database_migrations_and_workers(anonymous: APIClient, monkeypatch: pytest.MonkeyPatch) -> None:
    without = anonymous.get("/readyz")
    monkeypatch.setattr("apps.api.health.worker_state", lambda now: type("State", (), {"alive": 1})())
    ready = anonymous.get("/readyz")
    monkeypatch.setattr("apps.api.health._unapplied_migrations", lambda: 2)
    behind = anonymous.get("/readyz")

    assert (without.status_code, without.json()["ready"]) == (503, False)
    assert "worker" in without.json()["checks"]["worker"]
    assert (ready.status_code, ready.json()["ready"]) == (200, True)
    assert behind.status_code == 503
    assert "migrate" in behind.json()["checks"]["migrations"]


def test_readiness_without_a_database_is_503(anonymous: APIClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        raise DatabaseError("canary-password")

    monkeypatch.setattr("apps.api.health._unapplied_migrations", fail)

    response = anonymous.get("/readyz")

    assert response.status_code == 503
    assert "canary-password" not in response.content.decode()


def samples(response: Any) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(response.content.decode())
    return {(s.name, *(v for _, v in sorted(s.labels.items()))): s.value for f in families for s in f.samples}


def test_metrics_are_read_from_the_database(api: APIClient, make_job: Any, make_backup: Any) -> None:
    make_backup()
    make_job(status="completed", started_at=NOW, completed_at=NOW + timedelta(seconds=8), bytes_done=100)
    make_job(status="failed")
    make_job(not_before=timezone.now() - timedelta(seconds=50))

    for path in (f"{V1}/metrics", "/metrics"):
        response = api.get(path, HTTP_ACCEPT="text/plain")
        assert response.status_code == 200
        assert response["Content-Type"].startswith("text/plain")
        found = samples(response)
        assert found["backupmgr_jobs", "completed", "backup"] == 1
        assert found["backupmgr_jobs", "failed", "backup"] == 1
        assert found["backupmgr_jobs", "running", "restore"] == 0
        assert found["backupmgr_job_duration_seconds_avg", "backup"] == 8
        assert found["backupmgr_job_bytes", "backup"] == 100
        assert found["backupmgr_last_success_timestamp_seconds", "down", "films"] == NOW.timestamp() + 8
        assert found["backupmgr_backups", "completed", "folder"] == 1
        assert found["backupmgr_backup_bytes", "completed", "folder"] == 30
        assert 49 < found["backupmgr_queue_age_seconds",] < 90
        assert found["backupmgr_workers_alive",] == 0


def test_metrics_of_an_empty_installation(api: APIClient, anonymous: APIClient) -> None:
    assert samples(api.get("/metrics"))["backupmgr_queue_age_seconds",] == 0
    for path in (f"{V1}/metrics", "/metrics"):
        response = anonymous.get(path)
        assert response.status_code == 401
        assert error_of(response)
    assert not Job.objects.exists()
    assert not Worker.objects.exists()


def test_schema_comes_as_yaml_and_as_json(anonymous: APIClient) -> None:
    assert b"operationId: listJobs" in anonymous.get(f"{V1}/schema").content
    response = anonymous.get(f"{V1}/schema", HTTP_ACCEPT="application/json")
    assert response.json()["paths"]["/jobs"]["get"]["operationId"] == "listJobs"


def test_pages_load_nothing_from_outside(anonymous: APIClient) -> None:
    for path in (f"{V1}/docs", f"{V1}/redoc"):
        response = anonymous.get(path, HTTP_ACCEPT="text/html")
        page = response.content.decode()
        assert response.status_code == 200
        assert "drf_spectacular_sidecar" in page
        assert f"{V1}/schema" in page
        for outside in ("cdn.", "jsdelivr", "unpkg", "fonts.googleapis"):
            assert outside not in page
        assert "default-src 'self'" in response["Content-Security-Policy"]
        assert anonymous.post(path).status_code == 405
