"""What goes wrong between people and pages: two operators on one object, forms with all fields wrong, many rows."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.contrib.messages import get_messages
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.backups.models import Backup
from apps.clusters.models import Cluster, ClusterObservation, ObservedCollection
from apps.jobs.models import Job, Worker
from apps.schedules.models import Schedule
from apps.storage.models import StorageConfig
from tests.admin.world import make_backup, make_job, person
from tests.schedules.conftest import maker


def told(response: Any) -> str:
    return " ".join(str(message) for message in get_messages(response.wsgi_request))


def html(response: Any) -> str:
    return str(response.content.decode())


@pytest.fixture
def two(db: None) -> tuple[Client, Client]:
    """Two administrators, each with a browser of their own."""
    clients = []
    for name in ("ana", "ben"):
        client = Client()
        user = person("administrator", name=name)
        user.groups.add(Group.objects.get(name="operator"))
        client.force_login(user)
        clients.append(client)
    return clients[0], clients[1]


# --- two operators on one object ---------------------------------------------------------------------------
def test_second_who_retries_is_told_that_it_is_under_way(
    two: tuple[Client, Client], cluster: Cluster, storage: StorageConfig
) -> None:
    job = make_job(cluster, storage, status="failed", error="The disk is full.")
    address = reverse("admin:jobs_job_retry", args=[job.pk])

    assert "queued" in told(two[0].post(address))
    second = two[1].post(address)

    assert second.status_code == 302
    assert "queued again" not in told(second)
    assert Job.objects.get().status == "pending"


def test_second_who_cancels_finds_it_told_to_stop_already(
    two: tuple[Client, Client], cluster: Cluster, storage: StorageConfig
) -> None:
    job = make_job(cluster, storage, status="running")
    address = reverse("admin:jobs_job_cancel", args=[job.pk])

    first, second = two[0].post(address), two[1].post(address)

    assert (first.status_code, second.status_code) == (302, 302)
    job.refresh_from_db()
    assert (job.status, job.cancel_requested_at is not None) == ("running", True)


def test_second_who_deletes_a_backup_is_led_on(
    two: tuple[Client, Client], cluster: Cluster, storage: StorageConfig
) -> None:
    backup, _ = make_backup(cluster, storage), make_backup(cluster, storage)
    address = reverse("admin:jobs_job_delete_backup", args=[backup.pk])
    assert two[0].get(address).status_code == two[1].get(address).status_code == 200
    two[0].post(address)

    second = two[1].post(address)

    assert second.status_code in (302, 404)
    assert Backup.objects.filter(status="completed").count() == 1


def test_the_last_good_backup_goes_only_with_its_name_typed_also_when_somebody_made_it_the_last_meanwhile(
    two: tuple[Client, Client], cluster: Cluster, storage: StorageConfig
) -> None:
    first, last = make_backup(cluster, storage), make_backup(cluster, storage)
    address = reverse("admin:jobs_job_delete_backup", args=[last.pk])
    assert 'name="typed_name"' not in html(two[1].get(address))
    two[0].post(reverse("admin:jobs_job_delete_backup", args=[first.pk]))

    asked = two[1].post(address)

    assert 'name="typed_name"' in html(asked)
    assert "It is the last good backup of products" in html(asked)
    assert Backup.objects.get(pk=last.pk).status == "completed"


def test_restore_of_a_backup_that_was_deleted_meanwhile_leads_to_the_backups(
    two: tuple[Client, Client], cluster: Cluster, storage: StorageConfig
) -> None:
    backup = make_backup(cluster, storage)
    address = (
        f"{reverse('admin:jobs_job_restore')}?backup={backup.pk}&step=plan&target_cluster={cluster.pk}"
        "&target_collection=new"
    )
    plan = html(two[1].get(address))
    token = re.findall(r'name="confirmation" value="([^"]+)"', plan)[0]
    Backup.objects.filter(pk=backup.pk).update(status="deleting", status_reason="It is being deleted.")
    assert "is being deleted" in html(two[1].post(address, {"confirmation": token, "seen": "unknown"}))
    backup.delete()

    gone = two[1].post(address, {"confirmation": token, "seen": "unknown"})

    assert gone.url == reverse("admin:backups_backup_changelist")
    assert "does not exist (any more)" in told(gone)
    assert not Job.objects.exists()


def test_pages_of_things_that_somebody_removed_say_so(
    two: tuple[Client, Client], cluster: Cluster, storage: StorageConfig
) -> None:
    schedule = maker(cluster)("nightly", timezone.now())
    spare = StorageConfig.objects.create(name="spare", type="local", path=storage.path)
    forms = [
        (reverse("admin:storage_storageconfig_change", args=[spare.pk]), {"name": "spare", "type": "local"}),
        (reverse("admin:storage_storageconfig_delete", args=[spare.pk]), {}),
        (reverse("admin:storage_storageconfig_test", args=[spare.pk]), {}),
    ]
    for address, _ in forms[:2]:
        assert two[1].get(address).status_code == 200
    spare.delete()

    for address, data in forms:
        answer = two[1].post(address, data)
        assert answer.status_code in (302, 404), address
        if answer.status_code == 404:
            assert "does not exist" in html(answer)
    Schedule.objects.filter(pk=schedule.pk).delete()
    assert two[1].get(reverse("admin:schedules_schedule_change", args=[schedule.pk])).status_code == 404


# --- forms with everything wrong ---------------------------------------------------------------------------
WRONG: dict[str, tuple[str, dict[str, str], list[str]]] = {
    "cluster": (
        "admin:clusters_cluster_add",
        {"name": "", "url": "nonsense", "verify_tls": "on", "max_backup_age_hours": "-1"},
        ["name", "url", "max_backup_age_hours"],
    ),
    "S3 storage": (
        "admin:storage_storageconfig_add",
        {"name": "", "type": "s3", "s3_endpoint": "ftp://x", "s3_bucket": "", "s3_region": "", "max_jobs": "0",
         "s3_addressing_style": "sideways"},
        ["name", "s3_endpoint", "s3_bucket", "max_jobs", "s3_addressing_style"],
    ),
    "folder storage": (
        "admin:storage_storageconfig_add",
        {"name": "", "type": "local", "path": "relative/../..", "s3_addressing_style": "auto", "max_jobs": "1000"},
        ["name", "path", "max_jobs"],
    ),
    "token": (
        "admin:api_apitoken_add",
        {"name": "", "scope": "everything", "days": "soon"},
        ["name", "scope"],
    ),
    "user": (
        "admin:auth_user_add",
        {"username": "a b", "password1": "x", "password2": "y", "usable_password": "true"},
        ["username", "password2"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_each_error_stands_beside_its_field(root: Client, folder: Path, what: str) -> None:
    name, data, wrong = WRONG[what]

    response = root.post(reverse(name), data)

    assert response.status_code == 200
    shown = html(response)
    for field in wrong:
        widget = re.search(rf'<(?:input|select|textarea)[^>]*name="{field}"[^>]*>', shown)
        assert widget, field
        assert 'aria-invalid="true"' in widget[0], widget[0]
        assert f'id="id_{field}_error"' in shown, field
    assert not Cluster.objects.exists()
    assert not StorageConfig.objects.exists()
    assert User.objects.count() == 1


# --- very many rows ----------------------------------------------------------------------------------------
def test_overview_of_ten_thousand_collections_is_one_page(
    root: Client,
    cluster: Cluster,
    storage: StorageConfig,
    django_assert_max_num_queries: Callable[..., Any],
) -> None:
    now = timezone.now()
    Worker.objects.create(host="here", pid=1, processes=1, started_at=now, seen_at=now + timedelta(hours=1))
    ClusterObservation.objects.create(cluster=cluster, next_check_at=now, tried_at=now, seen_at=now, version="1.18.3")
    ObservedCollection.objects.bulk_create(
        [ObservedCollection(cluster=cluster, name=f"c{n:05}", first_seen_at=now) for n in range(10_000)],
        batch_size=1000,
    )

    with django_assert_max_num_queries(60):  # the verdict looks things up in pieces of 500
        response = root.get("/admin/")

    shown = html(response)
    assert response.status_code == 200
    assert len(response.content) < 200_000
    assert "All 10\u202f000" in shown
    assert "and 9\u202f992 more" in shown
