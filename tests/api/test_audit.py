"""The audit trail: every change through the API leaves an entry, nothing changes one, and no secret is in any."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError, connection, transaction

from apps.audit.models import AuditEntry, Outcome, Via
from apps.audit.trail import record_action
from apps.clusters.models import Cluster
from apps.core.permissions import Scope
from tests.api.conftest import V1, make_user, result_of, token_client

CLUSTER = {"name": "paris", "url": "http://127.0.0.1:9", "api_key": "the-canary-key"}


def newest() -> AuditEntry:
    return AuditEntry.objects.order_by("-id")[0]


def test_an_entry_says_who_did_what_from_where_and_to_which_object(db: None) -> None:
    owner = make_user("administrator")
    client = token_client(Scope.ADMINISTER, owner)

    made = result_of(client.post(f"{V1}/clusters", CLUSTER, format="json", REMOTE_ADDR="203.0.113.9"))

    entry = newest()
    assert (entry.actor, entry.via, entry.outcome) == (owner.username, Via.API, Outcome.DONE)
    assert (entry.action, entry.object_type, entry.object_id) == ("createCluster", "cluster", made["id"])
    assert entry.object_name == "paris"
    assert entry.address == "203.0.113.9"
    assert entry.token
    assert "canary" not in str(list(AuditEntry.objects.values()))


def test_a_deleted_object_keeps_its_name_in_the_trail(db: None) -> None:
    client = token_client(Scope.ADMINISTER)
    made = result_of(client.post(f"{V1}/clusters", CLUSTER, format="json"))

    result_of(client.delete(f"{V1}/clusters/{made['id']}"))

    assert (newest().action, newest().object_name) == ("cluster.delete", "paris")


def test_jobs_are_told_with_what_they_work_on(make_job: Any, down: Cluster, storage: Any) -> None:
    client = token_client(Scope.RESTORE)

    job = result_of(client.post(f"{V1}/jobs", {"type": "Backup", "collection_name": "films"}, format="json"))
    result_of(client.post(f"{V1}/jobs/{job['id']}/cancel"))
    result_of(client.post(f"{V1}/jobs/{job['id']}/retry"))

    told = list(AuditEntry.objects.filter(object_id=job["id"]).order_by("id"))
    assert [entry.action for entry in told] == ["job.create", "job.cancel", "job.retry"]
    assert all(entry.object_name == "films" and "films" in entry.summary for entry in told)


def test_what_is_refused_is_told_and_what_fails_is_not(db: None) -> None:
    viewer = token_client(Scope.READ)

    assert viewer.post(f"{V1}/clusters", CLUSTER, format="json").status_code == 403
    assert (newest().outcome, newest().action) == (Outcome.REFUSED, "createCluster")

    before = AuditEntry.objects.count()
    assert token_client(Scope.ADMINISTER).post(f"{V1}/clusters", {}, format="json").status_code == 400
    assert AuditEntry.objects.count() == before + 1  # the token that was made for it


def test_looking_leaves_no_entry_and_neither_do_strangers(db: None) -> None:
    client = token_client(Scope.ADMINISTER)
    before = AuditEntry.objects.count()

    result_of(client.get(f"{V1}/clusters"))
    assert token_client(Scope.READ).get(f"{V1}/tokens").status_code == 403
    assert AuditEntry.objects.count() == before + 1  # the second token; a refused look is none
    client.credentials()
    assert client.post(f"{V1}/clusters", CLUSTER, format="json").status_code == 401
    assert AuditEntry.objects.count() == before + 1


def test_the_list_is_filtered_and_for_administrators_only(db: None) -> None:
    record_action("job.create", "Started the backup of films on demo.")
    record_action("cluster.delete", "Deleted the cluster demo.")
    client = token_client(Scope.ADMINISTER)

    found = result_of(client.get(f"{V1}/audit", {"action": "cluster.delete", "via": "system"}))

    assert [item["summary"] for item in found["items"]] == ["Deleted the cluster demo."]
    assert client.get(f"{V1}/audit", {"actor": "nobody\x00"}).status_code == 400
    assert client.get(f"{V1}/audit", {"via": "pigeon"}).status_code == 400
    assert token_client(Scope.RESTORE).get(f"{V1}/audit").status_code == 403


def test_nothing_changes_or_deletes_an_entry(db: None) -> None:
    entry = record_action("job.create", "Started the backup of films on demo.")

    for attempt in (
        entry.save,
        entry.delete,
        lambda: AuditEntry.objects.filter(pk=entry.pk).update(actor="somebody"),
        lambda: AuditEntry.objects.filter(pk=entry.pk).delete(),
    ):
        with pytest.raises(PermissionDenied, match="append-only"):
            attempt()
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("UPDATE audit_auditentry SET actor = 'somebody'")
    entry.refresh_from_db()
    assert entry.actor == ""


def test_an_entry_is_undone_with_what_it_tells_of(db: None) -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        record_action("job.create", "Started the backup of films on demo.")
        raise ZeroDivisionError

    assert not AuditEntry.objects.exists()
