"""The list of backups and the page of one: filters, parts to download, why it is kept, how to restore without us."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.messages import get_messages
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.audit.models import AuditEntry
from apps.backups.models import Backup, Part
from apps.backups.policies import Hold
from apps.backups.recipe import STEPS, recipe
from apps.clusters.models import Cluster
from apps.storage.models import StorageConfig
from tests.admin.world import make_backup, person
from tests.backups.test_manifest import MANIFEST
from tests.support import REPOSITORY

LIST = "/admin/backups/backup/"


def text(response: Any) -> str:
    return response.content.decode()


def listed(client: Client, **query: str) -> set[str]:
    html = text(client.get(LIST, query))
    body = html[html.index("<tbody") :] if "<tbody" in html else ""
    return set(re.findall(r">(n-[a-z]+)<", body))


def address(backup: Backup) -> str:
    return reverse("admin:backups_backup_change", args=[backup.pk])


@pytest.fixture
def on_disk(backup: Backup, folder: Path) -> dict[int, bytes]:
    """The parts of the backup as they lie in the folder, shard → bytes."""
    held = {}
    for part in backup.parts.all():
        data = f"part {part.shard_id} ".encode() * 100_000
        path = folder / part.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        sha256 = hashlib.sha256(data).hexdigest()
        Part.objects.filter(pk=part.pk).update(size_bytes=len(data), sha256=sha256)
        held[part.shard_id] = data
    (folder / backup.path / "manifest.json").write_text('{"format": 1}')
    return held


def test_filters_by_age_evidence_and_where(root: Client, cluster: Cluster, storage: StorageConfig) -> None:
    now = timezone.now()
    other = Cluster.objects.create(name="paris", url="http://127.0.0.1:9")
    make_backup(cluster, storage, "n-new", checked_at=now)
    make_backup(cluster, storage, "n-week", created_at=now - timedelta(days=5), restored_at=now, checked_at=now)
    make_backup(other, storage, "n-old", created_at=now - timedelta(days=100))

    assert listed(root, age="1") == {"n-new"}
    assert listed(root, age="7") == {"n-new", "n-week"}
    assert listed(root, age="over-90") == {"n-old"}
    assert listed(root, evidence="proven") == {"n-week"}
    assert listed(root, evidence="tested") == {"n-new", "n-week"}
    assert listed(root, evidence="untested") == {"n-old"}
    assert listed(root, cluster__id__exact=str(other.pk)) == {"n-old"}
    assert listed(root, age="nonsense", evidence="nonsense") == {"n-new", "n-week", "n-old"}


def test_page_tells_points_per_shard_as_number_or_bounds(root: Client, backup: Backup) -> None:
    manifest = backup.manifest
    manifest["shards"][1] |= {"points_min": 900, "points_max": 1000, "shard_key": "eu"}
    Backup.objects.filter(pk=backup.pk).update(manifest=manifest)

    html = text(root.get(address(backup)))

    assert ">900 to 1\u202f000, key eu<" in html
    assert ">1\u202f000<" in html


def test_page_tells_where_it_came_from(root: Client, backup: Backup) -> None:
    assert "was not recorded by the version of backupmgr that made it" in text(root.get(address(backup)))
    Backup.objects.filter(pk=backup.pk).update(manifest=MANIFEST.to_json())

    html = text(root.get(address(backup)))

    assert "http://qdrant-0:6333</td><td>1.18.3" in html
    assert "not recorded</td><td>could not be asked" in html
    assert ">acme</th><td>1</td>" in html
    assert "Dead</td>" in html
    assert "Yes: it has the only replica" in html


def test_page_tells_why_it_is_kept(root: Client, backup: Backup) -> None:
    assert "No rule removes it: it stays until somebody deletes it." in text(root.get(address(backup)))
    now = timezone.now()
    Hold.objects.create(backup=backup, reason="audit of 2026", created_at=now, created_by=person(name="ana"))
    Hold.objects.create(backup=backup, reason="over", created_at=now, released_at=now)
    Backup.objects.update(locked_until=now + timedelta(days=3), keep_until=now + timedelta(days=9))

    html = text(root.get(address(backup)))

    assert "Held by ana: audit of 2026" in html
    assert "over</p>" not in html
    assert "Its storage keeps it locked until" in html
    assert "No rule removes it" not in html


def test_parts_and_manifest_are_streamed_and_the_trail_tells(
    root: Client, backup: Backup, on_disk: dict[int, bytes]
) -> None:
    response = root.get(reverse("admin:backups_backup_part", args=[backup.pk, 1]))

    assert response.streaming
    assert b"".join(response.streaming_content) == on_disk[1]
    assert response["Content-Length"] == str(len(on_disk[1]))
    assert response["X-Checksum-Sha256"] == hashlib.sha256(on_disk[1]).hexdigest()
    assert f'filename="products-{backup.snapshot_name}-shard-1.snapshot"' in response["Content-Disposition"]
    assert root.get(reverse("admin:backups_backup_manifest", args=[backup.pk])).content == b'{"format": 1}'
    summaries = AuditEntry.objects.filter(action="backup.download").values_list("summary", flat=True)
    assert any("shard 1" in summary for summary in summaries)


def test_download_of_what_is_not_there_says_so(root: Client, backup: Backup) -> None:
    response = root.get(reverse("admin:backups_backup_part", args=[backup.pk, 0]))
    assert response.url == address(backup)
    assert "Not sent:" in " ".join(str(message) for message in get_messages(response.wsgi_request))

    assert root.get(reverse("admin:backups_backup_part", args=[backup.pk, 7])).status_code == 404


def test_data_is_for_who_may_restore(as_: Callable[[str], Client], backup: Backup, on_disk: dict[int, bytes]) -> None:
    part = reverse("admin:backups_backup_part", args=[backup.pk, 0])
    viewer, operator = as_("viewer"), as_("operator")

    assert viewer.get(part).status_code == 403
    assert part not in text(viewer.get(address(backup)))
    assert operator.get(part).status_code == 200
    assert part in text(operator.get(address(backup)))
    assert "/login/" in Client().get(part).url


def test_recipe_is_that_of_the_manual_with_the_facts_of_this_backup(
    root: Client, cluster: Cluster, backup: Backup, storage: StorageConfig
) -> None:
    manual = (REPOSITORY / "docs" / "operations.md").read_text()
    assert STEPS in manual, "tests/scripts/test_docs.py runs those steps"

    script = recipe(backup)
    assert f"cd {storage.path}/{backup.path} " in script
    assert "NAME=products-restored " in script
    assert "Restore without this app" in text(root.get(address(backup)))
    nasty = make_backup(cluster, storage, "a'; rm -rf ~ #\nx")
    assert """NAME='a'"'"'; rm -rf ~ #\nx-restored'""" in recipe(nasty)
    assert recipe(nasty).splitlines()[0].startswith("# Restores a'; rm -rf ~ # x of berlin")


def test_recipe_for_a_bucket_names_it_without_credentials(cluster: Cluster, s3_like: StorageConfig) -> None:
    script = recipe(make_backup(cluster, s3_like))

    assert "aws s3 cp --recursive --endpoint-url https://s3.example.com s3://vault/eu/berlin/products/" in script
    assert "SECRET" not in script
    assert "AKIA" not in script


@pytest.fixture
def s3_like(db: None) -> StorageConfig:
    return StorageConfig.objects.create(
        name="bucket", type="s3", s3_endpoint="https://s3.example.com", s3_bucket="vault", s3_prefix="eu",
        s3_access_key="AKIAEXAMPLE", s3_secret_key="SECRETSECRET",
    )  # fmt: skip


def test_holds_are_offered_and_shown_on_the_page(as_: Callable[[str], Client], root: Client, backup: Backup) -> None:
    place = reverse("admin:backups_hold_place", args=[backup.pk])
    assert text(root.get(address(backup))).count(place) == 1
    assert place not in text(as_("viewer").get(address(backup)))

    hold = Hold.objects.create(backup=backup, reason="audit of 2026", created_at=timezone.now())

    assert reverse("admin:backups_hold_change", args=[hold.pk]) in text(root.get(address(backup)))
