"""Backups over the API."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient

from apps.audit.models import AuditEntry
from apps.backups.models import Backup, VerificationKind
from apps.backups.verifications import Asker, Proof, record_failure, record_proof
from apps.clusters.models import Cluster
from tests.api.conftest import V1, error_of, result_of
from tests.backups.test_manifest import MANIFEST

NOBODY = "6f1c2f6e-0000-4000-8000-000000000000"


def test_list_filters_and_pages(api: APIClient, make_backup: Callable[..., Backup]) -> None:
    one, two = make_backup(), make_backup(collection_name="b", status="damaged")

    def ids(query: str = "") -> list[str]:
        return [backup["id"] for backup in result_of(api.get(f"{V1}/backups?{query}"))["items"]]

    assert ids() == [str(two.pk), str(one.pk)]
    assert ids("collection=films") == ids("status=COMPLETED") == ids("page=2&limit=1") == [str(one.pk)]
    assert ids("collection=b&cluster=down&storage=folder") == [str(two.pk)]
    for query, status in (("status=x", 400), ("page=0", 400), ("limit=101", 400), ("cluster=unknown", 404)):
        assert api.get(f"{V1}/backups?{query}").status_code == status


def test_list_costs_the_same_queries_however_long_it_is(api: APIClient, make_backup: Callable[..., Backup]) -> None:
    make_backup()
    api.get(f"{V1}/backups")
    counts = []
    for _ in range(2):
        with CaptureQueriesContext(connection) as queries:
            assert api.get(f"{V1}/backups?limit=100").status_code == 200
        counts.append(len(queries))
        for _ in range(20):
            make_backup()

    assert counts == [4, 4]  # token, count, ids, rows


def test_detail_has_parts_in_order_and_the_manifest(api: APIClient, make_backup: Callable[..., Backup]) -> None:
    backup = make_backup(cluster=None)

    shown = result_of(api.get(f"{V1}/backups/{backup.pk}"))

    assert [part["shard_id"] for part in shown["parts"]] == [0, 1]
    assert shown["manifest"] == {"format": 1}
    assert shown["origin"] == {"nodes": [], "keys": [], "replicas": []}
    assert (shown["cluster"], shown["cluster_id"], shown["storage"]) == ("down", None, "folder")


def test_detail_tells_nodes_keys_and_which_replica_was_taken_and_why(
    api: APIClient, make_backup: Callable[..., Backup]
) -> None:
    backup = make_backup(manifest=MANIFEST.to_json())

    shown = result_of(api.get(f"{V1}/backups/{backup.pk}"))["origin"]

    assert shown == {
        "nodes": [
            {"peer_id": 7, "url": "http://qdrant-0:6333", "version": "1.18.3"},
            {"peer_id": 2**53, "url": "", "version": ""},
        ],
        "keys": [{"shard_key": "acme", "shard_ids": [1], "points_min": 270, "points_max": 272}],
        "replicas": [
            {"shard_id": 0, "peer_id": 7, "state": "Active", "taken": True, "why": "the least to do"},
            {"shard_id": 0, "peer_id": 2**53, "state": "Dead", "taken": False, "why": ""},
            {"shard_id": 1, "peer_id": 7, "state": "Active", "taken": True, "why": "it has the only replica"},
        ],
    }


def test_restore_starts_a_job(api: APIClient, make_backup: Callable[..., Backup], down: Cluster) -> None:
    backup = make_backup()
    body = {"target_collection": "again", "overwrite": True, "target_cluster": str(down.pk), "metadata": {"a": 1}}

    job = result_of(api.post(f"{V1}/backups/{backup.pk}/restore", body, format="json"))
    plain = result_of(api.post(f"{V1}/backups/{backup.pk}/restore"))
    shard = result_of(api.post(f"{V1}/backups/{backup.pk}/restore", {"shard_id": 1}, format="json"))

    assert (job["type"], job["backup_id"], job["target_collection"]) == ("restore", str(backup.pk), "again")
    assert (job["overwrite"], job["metadata"]) == (True, {"a": 1})
    assert (plain["type"], plain["target_collection"]) == ("restore", "films")
    assert (shard["type"], shard["shard_id"]) == ("shard_restore", 1)


def test_verify_starts_a_job_that_is_named_in_the_answer(api: APIClient, make_backup: Callable[..., Backup]) -> None:
    backup = make_backup(status="damaged", status_reason="A part is gone.")

    response = api.post(f"{V1}/backups/{backup.pk}/verify", {"metadata": {"a": 1}}, format="json")
    quick = api.post(f"{V1}/backups/{backup.pk}/verify", {"hashes_only": True}, format="json")

    assert (response.status_code, quick.status_code) == (202, 202)
    job = result_of(api.get(response["Location"]))
    assert job["id"] == response.json()["result"]["id"]
    assert (job["type"], job["backup_id"], job["status"]) == ("verify", str(backup.pk), "pending")
    told = AuditEntry.objects.get(object_id=job["id"])
    assert told.object_name == backup.collection_name
    assert f"verification of {backup.collection_name} on " in told.summary
    assert (job["options"], job["metadata"]) == ({"hashes_only": False}, {"a": 1})
    assert quick.json()["result"]["options"] == {"hashes_only": True}
    assert api.post(f"{V1}/backups/{NOBODY}/verify").status_code == 404


def test_verifications_are_listed_and_the_strongest_is_the_proof(
    api: APIClient, make_backup: Callable[..., Backup]
) -> None:
    backup, other = make_backup(), make_backup()
    now = timezone.now()
    hashes = Proof(kind=VerificationKind.CHECKED, method="m")
    restored = Proof(kind=VerificationKind.RESTORED, method="m", points_compared=7)
    asker = Asker(by="ana")

    assert result_of(api.get(f"{V1}/backups/{backup.pk}"))["proof"] is None
    record_proof(backup_id=backup.pk, proof=restored, asker=asker, now=now - timedelta(days=9))
    record_proof(backup_id=backup.pk, proof=hashes, asker=Asker(), now=now)
    shown = result_of(api.get(f"{V1}/backups/{backup.pk}"))
    assert (shown["proof"], shown["checked_at"][:19]) == ("restored", now.isoformat()[:19])
    record_failure(backup_id=backup.pk, kind=VerificationKind.CHECKED, reason="Gone.", asker=asker, now=now)

    listed = result_of(api.get(f"{V1}/backups/{backup.pk}/verifications"))["items"]
    assert [(one["kind"], one["result"], one["by"]) for one in listed[2:]] == [("restored", "ok", "ana")]
    assert {(one["result"], one["reason"]) for one in listed[:2]} == {("ok", ""), ("failed", "Gone.")}
    assert listed[2]["points_compared"] == 7
    assert result_of(api.get(f"{V1}/backups/{backup.pk}"))["status"] == "damaged"
    assert result_of(api.get(f"{V1}/backups/{other.pk}/verifications"))["total"] == 0


def test_damaged_backup_is_not_restored(api: APIClient, make_backup: Callable[..., Backup]) -> None:
    backup = make_backup(status="damaged", status_reason="A part is gone.")

    response = api.post(f"{V1}/backups/{backup.pk}/restore")

    assert response.status_code == 409
    assert "A part is gone." in error_of(response)


def test_delete_removes_it_and_refuses_while_a_restore_uses_it(
    api: APIClient, make_backup: Callable[..., Backup], make_job: Any, folder: Path
) -> None:
    backup = make_backup()
    job = make_job(type="restore", backup=backup)

    kept = folder / "down" / "films" / "kept.txt"
    stored = folder / backup.path / "manifest.json"
    stored.parent.mkdir(parents=True)
    for path in (kept, stored, stored.with_name("shard-0.snapshot")):
        path.write_bytes(b"{}")

    refused = api.delete(f"{V1}/backups/{backup.pk}")
    job.delete()

    assert refused.status_code == 409
    assert error_of(refused)
    assert result_of(api.delete(f"{V1}/backups/{backup.pk}")) is True
    assert api.get(f"{V1}/backups/{backup.pk}").status_code == 404
    assert [path for path in folder.rglob("*") if path.is_file()] == [kept]


def test_delete_of_what_the_storage_does_not_let_go_is_202_and_can_be_followed(
    api: APIClient, make_backup: Callable[..., Backup], folder: Path
) -> None:
    backup = make_backup()
    away = folder.with_name("away")
    folder.rename(away)

    left = result_of(response := api.delete(f"{V1}/backups/{backup.pk}"), 202)
    again = result_of(api.delete(f"{V1}/backups/{backup.pk}?wait=false"), 202)

    assert response["Location"] == f"{V1}/leftovers/{left['id']}"
    assert again["id"] == left["id"]
    assert (left["kind"], left["backup_id"], left["tries"]) == ("backup", str(backup.pk), 1)
    assert "does not exist" in left["last_error"]
    assert result_of(api.get(f"{V1}/backups/{backup.pk}"))["status"] == "deleting"
    assert result_of(api.get(f"{V1}/backups?status=deleting"))["total"] == 1
    assert result_of(api.get(response["Location"])) == left
    assert result_of(api.get(f"{V1}/leftovers?kind=backup"))["items"] == [left]
    assert result_of(api.get(f"{V1}/leftovers?kind=snapshot"))["items"] == []
    refused = api.post(f"{V1}/leftovers/{left['id']}/retry")
    assert refused.status_code == 502
    assert "does not exist" in error_of(refused)
    away.rename(folder)
    assert result_of(api.post(f"{V1}/leftovers/{left['id']}/retry")) is True
    for gone in (f"{V1}/backups/{backup.pk}", response["Location"]):
        assert api.get(gone).status_code == 404
    assert api.post(f"{V1}/leftovers/{left['id']}/retry").status_code == 404


def test_delete_without_waiting_leaves_it_to_the_workers(api: APIClient, make_backup: Callable[..., Backup]) -> None:
    backup = make_backup()

    left = result_of(api.delete(f"{V1}/backups/{backup.pk}?wait=false"), 202)

    assert (left["tries"], left["last_error"]) == (0, None)
    refused = api.post(f"{V1}/backups/{backup.pk}/restore")
    assert refused.status_code == 409
    assert "being deleted" in error_of(refused)


@pytest.mark.parametrize("id", ["1", "x", NOBODY])
def test_unknown_backup_is_404(api: APIClient, id: str) -> None:  # noqa: A002
    for response in (
        api.get(f"{V1}/backups/{id}"),
        api.delete(f"{V1}/backups/{id}"),
        api.post(f"{V1}/backups/{id}/restore"),
    ):
        assert response.status_code == 404
        assert error_of(response)
