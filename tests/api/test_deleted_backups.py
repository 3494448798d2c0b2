"""GET /deleted-backups and its pages: what is gone, by what it was of."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.backups.models import DeletedBackup
from apps.core.permissions import Scope
from tests.admin.world import person
from tests.api.conftest import V1, result_of, token_client

CLUSTER, STORAGE, POLICY = uuid.uuid4(), uuid.uuid4(), uuid.uuid4()


def record(collection: str = "films", **fields: Any) -> DeletedBackup:
    now = timezone.now()
    values = {
        "backup_id": uuid.uuid4(), "snapshot_name": "20260101T000000Z-x", "collection_name": collection,
        "cluster_id": CLUSTER, "cluster_name": "main", "storage_id": STORAGE, "storage_name": "folder",
        "path": f"main/{collection}/x", "taken_at": now - timedelta(days=9), "size_bytes": 40, "points_count": 5,
        "parts_count": 1, "manifest_sha256": "a" * 64, "reason": "Retention: daily: no-rule-keeps-it",
        "let_go_at": now - timedelta(days=1), "policy_id": POLICY, "policy_name": "daily", "policy_version": 3,
        "policy_rules": {"keep_daily": 7, "keep_last": 0}, "erased_at": now, "created_at": now,
    }  # fmt: skip
    return DeletedBackup.objects.create(**(values | fields))


def test_they_are_listed_by_what_they_were_of(db: None) -> None:
    films = record()
    songs = record(
        "songs", cluster_name="other", cluster_id=None, storage_id=uuid.uuid4(), storage_name="bucket", policy_id=None,
        policy_name="", policy_version=None, policy_rules={}, let_go_at=None, deleted_by="ana",
    )  # fmt: skip
    client = token_client(Scope.READ)

    def listed(**query: str) -> list[str]:
        return [item["id"] for item in result_of(client.get(f"{V1}/deleted-backups", query))["items"]]

    assert listed() == [str(songs.pk), str(films.pk)]
    for query in (
        {"collection_name": "films"}, {"cluster": "main"}, {"cluster": str(CLUSTER)}, {"storage": "folder"},
        {"storage": str(STORAGE)}, {"policy": "daily"}, {"policy": str(POLICY)},
    ):  # fmt: skip
        assert listed(**query) == [str(films.pk)], query
    assert listed(policy="nobody") == []
    assert listed(created_after=(timezone.now() + timedelta(days=1)).isoformat()) == []
    one = result_of(client.get(f"{V1}/deleted-backups/{films.pk}"))
    assert (one["backup_id"], one["policy"], one["policy_version"]) == (str(films.backup_id), "daily", 3)
    assert one["policy_rules"] == {"keep_daily": 7, "keep_last": 0}
    assert client.get(f"{V1}/deleted-backups/{uuid.uuid4()}").status_code == 404
    assert client.post(f"{V1}/deleted-backups", {}).status_code == 405


def test_nobody_without_a_key_sees_them(db: None) -> None:
    record()

    assert Client().get(f"{V1}/deleted-backups").status_code == 401


@pytest.mark.parametrize("group", ["viewer", "operator", "administrator"])
def test_their_pages_tell_and_change_nothing(db: None, group: str) -> None:
    films, songs = record(), record("songs", let_go_at=None, deleted_by="ana <b>", reason="")
    client = Client()
    client.force_login(person(group))
    address = reverse("admin:backups_deletedbackup_changelist")

    page = client.get(address).content.decode()
    by_hand = client.get(address, {"way": "person"}).content.decode()
    one = client.get(reverse("admin:backups_deletedbackup_change", args=[films.pk])).content.decode()
    other = client.get(reverse("admin:backups_deletedbackup_change", args=[songs.pk])).content.decode()

    assert str(films.pk) in page and str(songs.pk) in page
    assert str(songs.pk) in by_hand and str(films.pk) not in by_hand
    assert "no-rule-keeps-it" in one and "keep daily 7" in one and "a" * 64 in one and "version 3" in one
    assert "ana &lt;b&gt;" in other and "Nobody gave one." in other
    assert client.get(reverse("admin:backups_deletedbackup_add")).status_code == 403
    assert client.get(reverse("admin:backups_deletedbackup_delete", args=[films.pk])).status_code == 403


def test_the_page_of_a_deleted_backup_leads_to_what_is_on_record(db: None) -> None:
    films, client = record(), Client()
    client.force_login(person("viewer"))

    def page(backup_id: object) -> tuple[int, bool]:
        answer = client.get(reverse("admin:backups_backup_change", args=[backup_id]))
        there = reverse("admin:backups_deletedbackup_change", args=[films.pk]) in answer.content.decode()
        return answer.status_code, there

    assert page(films.backup_id) == (404, True)
    assert page(uuid.uuid4()) == (404, False)
    assert page("nonsense") == (404, False)
