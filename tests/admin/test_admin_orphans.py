"""What was left behind, as people see it and decide about it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.messages import get_messages
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.backups.models import Backup, Leftover, Orphan, OrphanKind, Reconciliation
from apps.backups.reconcile.findings import Finding
from apps.backups.reconcile.recording import record_finding
from apps.backups.traces import FolderTrace, Trace, UploadTrace
from apps.jobs.services import delete_backup
from apps.storage.models import StorageConfig

LIST = reverse("admin:backups_orphan_changelist")
LEFTOVERS = reverse("admin:backups_leftover_changelist")
MARKUP = "<script>alert(1)</script>"


def orphan(storage: StorageConfig, name: str = "a/b/c", **fields: Any) -> Orphan:
    trace: Trace = UploadTrace(storage_id=str(storage.pk), key=name)
    values = {"kind": OrphanKind.UPLOAD, "name": name, "reason": "Nobody knows it.", "trace": trace}
    return record_finding(Finding(**(values | {"storage_id": storage.pk} | fields)), now=timezone.now())


def page(client: Client, name: str, found: Orphan) -> str:
    return reverse(f"admin:backups_orphan_{name}", args=[found.pk])


def told(response: Any) -> str:
    return " ".join(str(message) for message in get_messages(response.wsgi_request))


def test_the_list_shows_what_is_to_decide_and_hides_the_rest(root: Client, storage: StorageConfig) -> None:
    orphan(storage, "a/open")
    orphan(storage, "a/done")
    Orphan.objects.filter(name="a/done").update(state="cleaned")

    html = root.get(LIST).content.decode()

    assert "a/open" in html
    assert "a/done" not in html
    assert "a/done" in root.get(f"{LIST}?state=all").content.decode()
    assert "a/done" in root.get(f"{LIST}?state=cleaned").content.decode()
    assert "Nobody has looked yet" in html


def test_pages_escape_what_they_show(root: Client, storage: StorageConfig) -> None:
    found = orphan(storage, MARKUP, reason=MARKUP, collection_name=MARKUP, node_url=MARKUP, job_id=uuid.uuid4())
    Leftover.objects.create(
        kind="upload", storage=storage, orphan=found, subject=found.subject, last_error=MARKUP, reason=MARKUP,
        next_try_at=timezone.now(),
    )  # fmt: skip
    Reconciliation.objects.create(
        status="failed", trigger="command", created_at=timezone.now(), completed_at=timezone.now(), error=MARKUP,
        places=[{"kind": "storage", "id": "1", "name": MARKUP, "error": MARKUP}],
    )  # fmt: skip
    left = Leftover.objects.get()

    for address in (
        LIST,
        LEFTOVERS,
        page(root, "change", found),
        page(root, "adopt", found),
        page(root, "dismiss", found),
        page(root, "remove", found),
        reverse("admin:backups_leftover_change", args=[left.pk]),
    ):
        response = root.get(address)

        assert response.status_code == 200, address
        assert MARKUP not in response.content.decode(), address


def test_a_decision_is_named_first_and_made_by_post(root: Client, storage: StorageConfig) -> None:
    found = orphan(storage)
    detail = root.get(page(root, "change", found)).content.decode()
    assert "Dismiss…" in detail
    assert "Remove…" in detail
    assert "Adopt…" not in detail

    asked = root.get(page(root, "dismiss", found)).content.decode()
    assert "a/b/c stays where it is" in asked
    found.refresh_from_db()
    assert found.state == "open"
    assert "dismissed" in told(root.post(page(root, "dismiss", found)))
    found.refresh_from_db()
    assert found.state == "dismissed"
    assert found.decided_by is not None


def test_removing_names_size_place_and_reason(root: Client, storage: StorageConfig, folder: Path) -> None:
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "c").write_bytes(b"x" * 1024)
    found = orphan(storage, size_bytes=1024)

    asked = root.get(page(root, "remove", found)).content.decode()

    assert "This removes a/b/c (1.0 KiB) from vault for good." in asked
    assert "Nobody knows it." in asked
    assert (folder / "a" / "b" / "c").exists()
    assert "removed" in told(root.post(page(root, "remove", found)))
    assert not (folder / "a").exists()
    assert "decided already" in told(root.post(page(root, "remove", found)))
    assert "decided already" in root.get(page(root, "remove", found)).content.decode()


def test_a_backup_offers_adoption_and_says_why_not(root: Client, storage: StorageConfig) -> None:
    trace = FolderTrace(storage_id=str(storage.pk), path="a/b/c")
    found = orphan(storage, kind=OrphanKind.BACKUP, trace=trace)

    assert "Adopt…" in root.get(page(root, "change", found)).content.decode()
    assert "There is no a/b/c/manifest.json" in told(root.post(page(root, "adopt", found)))


def test_a_look_is_asked_for_by_post(root: Client, storage: StorageConfig) -> None:
    address = reverse("admin:backups_orphan_look")

    assert root.get(address).status_code == 405
    assert "A worker looks" in told(root.post(address))
    assert Reconciliation.objects.get().status == "pending"
    assert "A look was asked for" in root.get(LIST).content.decode()


def test_a_backup_that_is_not_gone_yet_says_so_and_is_tried_again(
    root: Client, backup: Backup, storage: StorageConfig, folder: Path
) -> None:
    folder.rename(away := folder.with_name("away"))
    response = root.post(
        reverse("admin:jobs_job_delete_backup", args=[backup.pk]), {"typed_name": backup.collection_name}
    )
    assert "is being deleted and cannot be restored any more" in told(response)
    detail = root.get(reverse("admin:backups_backup_change", args=[backup.pk])).content.decode()
    assert "does not exist" in detail
    assert "Restore…" not in detail
    assert "Delete…" not in detail
    left = Leftover.objects.get()
    address = reverse("admin:backups_leftover_retry", args=[left.pk])
    assert backup.path in root.get(LEFTOVERS).content.decode()

    assert root.get(address).status_code == 405
    assert "does not exist" in told(root.post(address))
    away.rename(folder)
    assert "Removed the backup in" in told(root.post(address))
    assert not Backup.objects.exists()
    assert root.post(address).status_code == 404


def test_list_of_many_costs_the_same_queries(
    root: Client, storage: StorageConfig, backup: Backup, django_assert_max_num_queries: Any
) -> None:
    for number in range(60):
        orphan(storage, f"a/{number}")
    delete_backup(backup_id=backup.pk, now=timezone.now())

    with django_assert_max_num_queries(20):
        root.get(LIST)
    with django_assert_max_num_queries(20):
        root.get(LEFTOVERS)


@pytest.mark.parametrize("group", ["viewer", "operator", "administrator"])
def test_each_group_may_do_what_its_rung_allows(
    as_: Callable[[str], Client], storage: StorageConfig, group: str
) -> None:
    client, found = as_(group), orphan(storage)
    left = Leftover.objects.create(kind="upload", storage=storage, subject=found.subject, next_try_at=timezone.now())

    assert client.get(LIST).status_code == client.get(LEFTOVERS).status_code == 200
    assert client.get(page(client, "change", found)).status_code == 200
    assert (client.post(reverse("admin:backups_orphan_look")).status_code == 403) == (group == "viewer")
    retry = reverse("admin:backups_leftover_retry", args=[left.pk])
    assert (client.post(retry).status_code == 403) == (group == "viewer")
    for decision in ("adopt", "dismiss", "remove"):
        refused = client.post(page(client, decision, found)).status_code == 403
        assert refused == (group != "administrator"), decision
    assert ("Dismiss…" in client.get(page(client, "change", found)).content.decode()) is False


def test_strangers_are_led_to_the_login(client: Client, storage: StorageConfig) -> None:
    found = orphan(storage)
    for address in (LIST, page(client, "change", found), page(client, "remove", found), LEFTOVERS):
        assert "/login/" in client.get(address).headers["Location"]
