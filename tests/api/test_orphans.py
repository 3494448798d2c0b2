"""Orphans, left-overs and reconciliations over the API."""

from __future__ import annotations

import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient

from apps.audit.models import AuditEntry
from apps.backups.models import Backup, Leftover, Orphan, OrphanKind
from apps.backups.reconcile.findings import Finding
from apps.backups.reconcile.recording import record_finding
from apps.backups.traces import UploadTrace
from apps.core.permissions import Scope
from apps.jobs.reconciling import claim_run, is_due, reconcile
from apps.storage.models import StorageConfig
from tests.api.conftest import NOW, V1, error_of, result_of, token_client


def upload(storage: StorageConfig, key: str = "main/films/x") -> Orphan:
    trace = UploadTrace(storage_id=str(storage.pk), key=key)
    finding = Finding(kind=OrphanKind.UPLOAD, name=key, reason="Nobody knows it.", storage_id=storage.pk, trace=trace)
    return record_finding(finding, now=NOW)


def test_list_filters_and_costs_the_same_however_long_it_is(
    api: APIClient, storage: StorageConfig, unknown_backup: Orphan
) -> None:
    other = upload(storage)
    result_of(api.post(f"{V1}/orphans/{other.pk}/dismiss"))

    def ids(query: str) -> set[str]:
        return {item["id"] for item in result_of(api.get(f"{V1}/orphans?{query}"))["items"]}

    assert ids("") == ids("storage=folder") == {str(other.pk), str(unknown_backup.pk)}
    assert ids("state=OPEN") == ids("kind=backup") == {str(unknown_backup.pk)}
    assert ids("state=dismissed&kind=upload") == {str(other.pk)}
    assert api.get(f"{V1}/orphans?kind=x").status_code == 400
    assert api.get(f"{V1}/orphans?cluster=unknown").status_code == 404
    counts = []
    for _ in range(2):
        with CaptureQueriesContext(connection) as queries:
            api.get(f"{V1}/orphans?limit=100")
        counts.append(len(queries))
        for number in range(20):
            upload(storage, f"a/{number}")
    assert counts[0] == counts[1]


def test_a_found_backup_is_adopted_and_can_be_restored(api: APIClient, unknown_backup: Orphan, down: Any) -> None:
    adopted = result_of(api.post(f"{V1}/orphans/{unknown_backup.pk}/adopt"))

    backup = Backup.objects.get()
    assert (adopted["state"], adopted["backup_id"]) == ("adopted", str(backup.pk))
    assert result_of(api.get(f"{V1}/backups/{backup.pk}"))["status"] == "completed"
    assert result_of(api.post(f"{V1}/backups/{backup.pk}/restore"))["type"] == "restore"
    for decision in ("adopt", "dismiss", "delete"):
        refused = api.post(f"{V1}/orphans/{unknown_backup.pk}/{decision}")
        assert refused.status_code == 409
        assert "decided already: it is adopted" in error_of(refused)
    assert AuditEntry.objects.filter(action="orphan.adopt").count() == 1


def test_one_that_is_gone_cannot_be_adopted(api: APIClient, unknown_backup: Orphan, folder: Path) -> None:
    (folder / unknown_backup.name / "manifest.json").unlink()

    assert api.post(f"{V1}/orphans/{unknown_backup.pk}/adopt").status_code == 404
    assert result_of(api.get(f"{V1}/orphans/{unknown_backup.pk}"))["state"] == "open"
    assert not Backup.objects.exists()


def test_deletion_removes_it_or_leaves_a_tombstone(
    api: APIClient, unknown_backup: Orphan, folder: Path, settings: Any
) -> None:
    refused = api.post(f"{V1}/orphans/{unknown_backup.pk}/delete")
    assert refused.status_code == 409
    assert "written lately" in error_of(refused)
    settings.BACKUPMGR_RECONCILE_AGE_HOURS = 0

    deleted = result_of(api.post(f"{V1}/orphans/{unknown_backup.pk}/delete"))

    assert deleted["state"] == "cleaned"
    assert not [path for path in folder.rglob("*") if path.is_file()]
    assert not Leftover.objects.exists()


def test_what_a_storage_does_not_let_go_is_open_until_it_is_gone(
    api: APIClient, storage: StorageConfig, folder: Path
) -> None:
    orphan = upload(storage)
    folder.rename(away := folder.with_name("away"))

    assert result_of(api.post(f"{V1}/orphans/{orphan.pk}/delete"))["state"] == "open"
    assert "being removed already" in error_of(api.post(f"{V1}/orphans/{orphan.pk}/dismiss"))
    away.rename(folder)
    (left,) = result_of(api.get(f"{V1}/leftovers?kind=upload"))["items"]
    assert result_of(api.post(f"{V1}/leftovers/{left['id']}/retry")) is True
    assert result_of(api.get(f"{V1}/orphans/{orphan.pk}"))["state"] == "cleaned"


@pytest.mark.parametrize("decision", ["adopt", "dismiss", "delete"])
def test_only_administrators_decide(storage: StorageConfig, decision: str) -> None:
    orphan = upload(storage)

    assert token_client(Scope.RESTORE).post(f"{V1}/orphans/{orphan.pk}/{decision}").status_code == 403
    orphan.refresh_from_db()
    assert orphan.state == "open"


def test_reading_changes_nothing(api: APIClient, unknown_backup: Orphan) -> None:
    before = list(Orphan.objects.values())
    for path in ("orphans", f"orphans/{unknown_backup.pk}", "reconciliations", "leftovers"):
        assert api.get(f"{V1}/{path}").status_code == 200
    for decision in ("adopt", "dismiss", "delete"):
        assert api.get(f"{V1}/orphans/{unknown_backup.pk}/{decision}").status_code == 405

    assert list(Orphan.objects.values()) == before


def test_a_look_is_asked_for_once_and_can_be_followed(api: APIClient, storage: StorageConfig, settings: Any) -> None:
    settings.BACKUPMGR_RECONCILE_HOURS = 0
    assert not is_due(now=timezone.now())

    asked = result_of(api.post(f"{V1}/reconciliations"))
    again = result_of(api.post(f"{V1}/reconciliations"))

    assert asked["id"] == again["id"]
    assert (asked["status"], asked["trigger"]) == ("pending", "request")
    assert is_due(now=timezone.now())
    reconcile(trigger="schedule", now=timezone.now())
    done = result_of(api.get(f"{V1}/reconciliations/{asked['id']}"))
    assert (done["status"], done["trigger"], done["error"]) == ("completed", "request", None)
    assert [place["name"] for place in done["places"]] == ["folder"]
    assert result_of(api.get(f"{V1}/reconciliations"))["total"] == 1


def test_a_run_whose_process_died_is_failed_by_the_next(api: APIClient, db: None) -> None:
    died = claim_run(trigger="command", now=timezone.now() - timedelta(hours=1))

    claim_run(trigger="schedule", now=timezone.now())

    shown = result_of(api.get(f"{V1}/reconciliations/{died.pk}"))
    assert (shown["status"], shown["error"]) == ("failed", "Its process vanished.")


def test_unknown_is_404(api: APIClient) -> None:
    for nobody in ("x", str(uuid.uuid4())):
        for path in (f"orphans/{nobody}", f"reconciliations/{nobody}", f"leftovers/{nobody}"):
            assert api.get(f"{V1}/{path}").status_code == 404
        for decision in ("adopt", "dismiss", "delete"):
            assert api.post(f"{V1}/orphans/{nobody}/{decision}").status_code == 404
