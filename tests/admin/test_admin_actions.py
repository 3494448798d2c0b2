"""What the buttons do: by POST only, once, for those who may, and with a sentence when it cannot be done."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.messages import get_messages
from django.contrib.sessions.backends.db import SessionStore
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.backups.models import Backup
from apps.clusters.models import Cluster
from apps.core.admin_once import new_confirmation, once
from apps.jobs.models import Job
from apps.storage.models import StorageConfig
from tests.admin.world import make_backup, make_job


def told(response: Any) -> str:
    return " ".join(str(message) for message in get_messages(response.wsgi_request))


def hidden(response: Any) -> dict[str, str]:
    """What the confirmation page sends again when its button is clicked."""
    found = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', response.content.decode())
    return {name: value for name, value in found if name != "csrfmiddlewaretoken"}


def backup_form(cluster: Cluster, storage: StorageConfig, **more: Any) -> dict[str, Any]:
    return {"cluster": cluster.pk, "collection": "products", "storage": storage.pk, "shard": "", "step": "check"} | more


@pytest.fixture
def live(cluster: Cluster, node: Any, collections: Any) -> Cluster:
    """The cluster, answering now, with a collection `products` like that of the backups."""
    collections.create("products", 30)
    Cluster.objects.filter(pk=cluster.pk).update(url=node.url)
    cluster.refresh_from_db()
    return cluster


# --- back up now -------------------------------------------------------------------------------------------
def test_back_up_now_asks_first_and_then_starts_one_job(root: Client, live: Cluster, storage: StorageConfig) -> None:
    address = reverse("admin:jobs_job_backup")
    asked = root.post(address, backup_form(live, storage))
    assert "This backs up products from berlin to vault" in asked.content.decode()
    assert not Job.objects.exists()

    first = root.post(address, hidden(asked))
    second = root.post(address, hidden(asked))

    job = Job.objects.get()
    assert first.url == second.url == reverse("admin:jobs_job_change", args=[job.pk])
    assert (job.type, job.collection_name, job.cluster, job.storage) == ("backup", "products", live, storage)
    assert job.created_by is not None


def test_two_requests_that_both_saw_the_confirmation_unused_act_once(root: Client, rf: Any) -> None:
    store = SessionStore(root.session.session_key)
    asked = rf.get("/")
    asked.session = store
    token = new_confirmation(asked)
    store.save()
    first, second = rf.post("/"), rf.post("/")
    for request in (first, second):
        request.session = SessionStore(store.session_key)
        request.session.get("confirmations")
    done: list[str] = []

    def act() -> str:
        done.append("acted")
        return "job 1"

    assert once(first, token, act) == "job 1"
    assert once(second, token, act) == "job 1"
    assert done == ["acted"]


def test_back_up_now_offers_the_live_collections(root: Client, live: Cluster, storage: StorageConfig) -> None:
    html = root.get(reverse("admin:jobs_job_backup"), {"cluster": live.pk, "collection": "products"}).content.decode()

    assert re.search(r'<option value="products"\s+selected', html)


def test_back_up_now_refuses_a_collection_that_the_cluster_does_not_have(
    root: Client, live: Cluster, storage: StorageConfig
) -> None:
    response = root.post(reverse("admin:jobs_job_backup"), backup_form(live, storage, collection="nope"))

    assert "has no collection “nope”" in response.content.decode()
    assert not Job.objects.exists()


def test_back_up_now_takes_a_typed_name_while_qdrant_is_down(
    root: Client, cluster: Cluster, storage: StorageConfig
) -> None:
    shown = root.get(reverse("admin:jobs_job_backup")).content.decode()
    assert "cannot be reached" in shown
    assert '<input type="text" name="collection"' in shown

    asked = root.post(reverse("admin:jobs_job_backup"), backup_form(cluster, storage, shard="1"))
    root.post(reverse("admin:jobs_job_backup"), hidden(asked))

    assert Job.objects.get().type == "shard_backup"


@pytest.mark.parametrize(
    ("field", "value"),
    [("collection", ""), ("collection", "a/b"), ("collection", "x" * 255), ("shard", "-1"), ("shard", "one"),
     ("storage", uuid.uuid4()), ("cluster", "nonsense")],
)  # fmt: skip
def test_back_up_now_shows_what_is_wrong_beside_the_field(
    root: Client, cluster: Cluster, storage: StorageConfig, field: str, value: Any
) -> None:
    response = root.post(reverse("admin:jobs_job_backup"), backup_form(cluster, storage) | {field: value})

    assert f'id="id_{field}_error"' in response.content.decode()
    assert not Job.objects.exists()


def test_a_confirmation_that_was_never_given_out_starts_nothing(
    root: Client, cluster: Cluster, storage: StorageConfig
) -> None:
    form = backup_form(cluster, storage, step="confirm", confirmation="made up")

    response = root.post(reverse("admin:jobs_job_backup"), form)

    assert "This confirmation is too old" in response.content.decode()
    assert not Job.objects.exists()
    root.post(reverse("admin:jobs_job_backup"), hidden(response))
    assert Job.objects.count() == 1


def test_back_up_now_without_a_cluster_leads_to_the_clusters(root: Client) -> None:
    response = root.get(reverse("admin:jobs_job_backup"))

    assert response.url == reverse("admin:clusters_cluster_changelist")


# --- cancel, retry, delete ---------------------------------------------------------------------------------
def test_cancel_asks_first(root: Client, cluster: Cluster, storage: StorageConfig) -> None:
    job = make_job(cluster, storage, status="running")
    address = reverse("admin:jobs_job_cancel", args=[job.pk])
    assert "What it has stored so far is removed again" in root.get(address).content.decode()
    job.refresh_from_db()
    assert job.cancel_requested_at is None

    assert "told to stop" in told(root.post(address))

    job.refresh_from_db()
    assert job.cancel_requested_at is not None


def test_cancel_of_a_job_that_ended_meanwhile_says_so(root: Client, cluster: Cluster, storage: StorageConfig) -> None:
    job = make_job(cluster, storage)

    assert "already ended" in told(root.post(reverse("admin:jobs_job_cancel", args=[job.pk])))
    assert "Cancel job" not in root.get(reverse("admin:jobs_job_cancel", args=[job.pk])).content.decode()


def test_retry_queues_a_failed_job_again(root: Client, cluster: Cluster, storage: StorageConfig) -> None:
    job = make_job(cluster, storage, status="failed", error="The disk was full.")
    address = reverse("admin:jobs_job_retry", args=[job.pk])
    assert "The disk was full." in root.get(address).content.decode()

    root.post(address)

    job.refresh_from_db()
    assert job.status == "pending"


def test_delete_of_a_backup_names_it_and_then_removes_it(
    root: Client, backup: Backup, storage: StorageConfig, folder: Path
) -> None:
    manifest = folder / backup.path / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    address = reverse("admin:jobs_job_delete_backup", args=[backup.pk])
    asked = root.get(address).content.decode()
    assert "This deletes the backup of products" in asked
    assert "1.0 MiB" in asked
    assert "vault" in asked
    assert "last good backup of products" in asked
    assert manifest.exists()

    for typed in ("", "Products"):
        assert "exactly as it is written" in root.post(address, {"typed_name": typed}).content.decode()
    assert manifest.exists(), "the last good one goes only when its name was typed"

    response = root.post(address, {"typed_name": "products"})

    assert "Deleted" in told(response)
    assert not Backup.objects.exists()
    assert not manifest.exists()


# --- clusters and storages ---------------------------------------------------------------------------------
def test_connection_test_says_version_and_collections_or_the_reason(root: Client, cluster: Cluster, node: Any) -> None:
    address = reverse("admin:clusters_cluster_test", args=[cluster.pk])
    assert "cannot be reached" in told(root.post(address))
    Cluster.objects.filter(pk=cluster.pk).update(url=node.url)

    assert "Qdrant 1.18.3 answers: standalone, 0 collections." in told(root.post(address))


def test_collections_page_shows_live_facts_and_the_last_backup(root: Client, live: Cluster, backup: Backup) -> None:
    html = root.get(reverse("admin:clusters_cluster_collections", args=[live.pk])).content.decode()

    assert "1 collection<" in html
    assert "1 h ago" in html
    assert f"{reverse('admin:jobs_job_backup')}?cluster={live.pk}&amp;collection=products" in html


def cluster_form(**more: Any) -> dict[str, Any]:
    return {"name": "berlin", "url": "http://127.0.0.1:9", "verify_tls": "on", "ca": "", "api_key": ""} | more


def test_api_key_is_written_and_never_shown(root: Client, cluster: Cluster) -> None:
    address = reverse("admin:clusters_cluster_change", args=[cluster.pk])

    root.post(address, cluster_form(api_key="top-secret"))
    cluster.refresh_from_db()
    assert cluster.api_key.reveal() == "top-secret"
    shown = root.get(address).content.decode()
    assert "top-secret" not in shown
    assert f"Set on {timezone.localtime():%-d %b %Y}. Leave empty to keep it" in shown

    root.post(address, cluster_form(name="renamed"))
    cluster.refresh_from_db()
    assert (cluster.name, cluster.api_key.reveal()) == ("renamed", "top-secret")

    root.post(address, cluster_form(name="renamed", clear_api_key="on"))
    cluster.refresh_from_db()
    assert not cluster.api_key


def test_bad_cluster_shows_each_error_and_gives_no_key_back(root: Client, cluster: Cluster) -> None:
    form = cluster_form(name="", url="ftp://x", api_key="top-secret", ca="no certificate")

    html = root.post(reverse("admin:clusters_cluster_add"), form).content.decode()

    assert html.count('class="errorlist"') == 3
    assert "top-secret" not in html
    assert Cluster.objects.count() == 1


def test_a_new_default_takes_over(root: Client, cluster: Cluster) -> None:
    root.post(reverse("admin:clusters_cluster_add"), cluster_form(name="two", is_default="on"))

    assert Cluster.objects.get(is_default=True).name == "two"


def test_cluster_with_jobs_is_not_removed_and_one_without_is(
    root: Client, cluster: Cluster, storage: StorageConfig
) -> None:
    address = reverse("admin:clusters_cluster_delete", args=[cluster.pk])
    job = make_job(cluster, storage)
    assert "Jobs refer to the cluster" in told(root.post(address))
    job.delete()

    root.post(address)

    assert not Cluster.objects.exists()


def storage_form(folder: Path, **more: Any) -> dict[str, Any]:
    return {"name": "more", "type": "local", "path": str(folder / "more"), "s3_addressing_style": "auto"} | more


def test_storage_is_saved_by_its_service_which_makes_the_folder(root: Client, folder: Path) -> None:
    root.post(reverse("admin:storage_storageconfig_add"), storage_form(folder))

    assert StorageConfig.objects.get().is_default
    assert (folder / "more").is_dir()


def test_secret_key_is_kept_when_left_empty(root: Client, folder: Path) -> None:
    s3 = {
        "name": "s3", "type": "s3", "s3_endpoint": "http://127.0.0.1:9", "s3_bucket": "bucket", "s3_region": "eu",
        "s3_access_key": "AKIAABCDEFGH1234", "s3_addressing_style": "path", "verify_tls": "on",
    }  # fmt: skip
    root.post(reverse("admin:storage_storageconfig_add"), s3 | {"s3_secret_key": "top-secret"})
    config = StorageConfig.objects.get()
    address = reverse("admin:storage_storageconfig_change", args=[config.pk])
    shown = root.get(address).content.decode()
    assert "top-secret" not in shown
    assert "AKIAABCDEFGH1234" not in shown

    root.post(address, s3 | {"s3_secret_key": "", "s3_access_key": "********1234", "s3_region": "us"})

    config.refresh_from_db()
    assert (config.s3_region, config.s3_secret_key.reveal()) == ("us", "top-secret")
    assert config.s3_access_key == "AKIAABCDEFGH1234"


def test_bad_storage_shows_each_error(root: Client, folder: Path) -> None:
    bad = storage_form(folder, name="", path="/etc")
    html = root.post(reverse("admin:storage_storageconfig_add"), bad).content.decode()

    assert "Folder storages must lie below" in html
    assert html.count('class="errorlist"') == 2


def test_storage_test_says_what_happened(root: Client, storage: StorageConfig, folder: Path) -> None:
    address = reverse("admin:storage_storageconfig_test", args=[storage.pk])

    assert "vault: Wrote, read back and removed" in told(root.post(address))
    assert list(folder.iterdir()) == []


def test_storage_in_use_or_default_is_not_removed(
    root: Client, cluster: Cluster, storage: StorageConfig, folder: Path
) -> None:
    assert "default storage" in told(root.post(reverse("admin:storage_storageconfig_delete", args=[storage.pk])))
    other = StorageConfig.objects.create(name="other", type="local", path=str(folder))
    make_backup(cluster, other)

    assert "cannot be deleted" in told(root.post(reverse("admin:storage_storageconfig_delete", args=[other.pk])))
    assert StorageConfig.objects.count() == 2


def test_rescan_tells_what_it_found(root: Client, storage: StorageConfig, backup: Backup) -> None:
    response = root.post(reverse("admin:backups_backup_rescan", args=[storage.pk]))

    assert "vault holds 0 backups" in told(response)
    assert "1 missing" in told(response)


# --- who may -----------------------------------------------------------------------------------------------
@pytest.fixture
def doors(cluster: Cluster, storage: StorageConfig, backup: Backup) -> dict[str, str]:
    """Every address that changes something, by the rung that it needs."""
    running = make_job(cluster, storage, "a", status="running")
    failed = make_job(cluster, storage, "b", status="failed")
    restored = make_job(cluster, storage, "c", type="restore", status="failed", backup=backup)
    return {
        reverse("admin:jobs_job_backup"): "operator",
        reverse("admin:jobs_job_backup_all"): "operator",
        f"{reverse('admin:jobs_job_restore')}?backup={backup.pk}": "operator",
        reverse("admin:jobs_job_cancel", args=[running.pk]): "operator",
        reverse("admin:jobs_job_retry", args=[failed.pk]): "operator",
        reverse("admin:jobs_job_retry", args=[restored.pk]): "operator",
        reverse("admin:clusters_cluster_test", args=[cluster.pk]): "operator",
        reverse("admin:jobs_job_delete_backup", args=[backup.pk]): "administrator",
        reverse("admin:backups_backup_rescan", args=[storage.pk]): "administrator",
        reverse("admin:storage_storageconfig_test", args=[storage.pk]): "administrator",
        reverse("admin:storage_storageconfig_change", args=[storage.pk]): "administrator",
        reverse("admin:storage_storageconfig_add"): "administrator",
        reverse("admin:storage_storageconfig_delete", args=[storage.pk]): "administrator",
        reverse("admin:clusters_cluster_change", args=[cluster.pk]): "administrator",
        reverse("admin:clusters_cluster_add"): "administrator",
        reverse("admin:clusters_cluster_delete", args=[cluster.pk]): "administrator",
        reverse("admin:clusters_cluster_adopt", args=[cluster.pk]): "administrator",
    }


@pytest.mark.parametrize("group", ["viewer", "operator", "administrator"])
def test_each_group_may_do_what_its_rung_allows(
    as_: Callable[[str], Client], doors: dict[str, str], group: str
) -> None:
    client, ladder = as_(group), ["viewer", "operator", "administrator"]

    for address, rung in doors.items():
        refused = client.post(address, {}).status_code == 403

        assert refused == (ladder.index(group) < ladder.index(rung)), address


def test_strangers_are_led_to_the_login(client: Client, doors: dict[str, str]) -> None:
    for address in doors:
        response = client.post(address, {})

        assert response.status_code == 302
        assert "/login/" in response.url


def test_retrying_a_restore_needs_the_right_to_restore(
    as_: Callable[[str], Client], cluster: Cluster, storage: StorageConfig, backup: Backup
) -> None:
    from django.contrib.auth.models import Group

    client = as_("operator")
    group = Group.objects.get(name="operator")
    group.permissions.remove(group.permissions.get(codename="restore_job"))
    job = make_job(cluster, storage, type="restore", status="failed", backup=backup)

    assert client.post(reverse("admin:jobs_job_retry", args=[job.pk])).status_code == 403
    assert "Retry…" not in client.get(reverse("admin:jobs_job_change", args=[job.pk])).content.decode()


def test_viewers_see_everything_and_no_button(
    as_: Callable[[str], Client], cluster: Cluster, storage: StorageConfig, backup: Backup
) -> None:
    viewer = as_("viewer")
    job = make_job(cluster, storage, status="failed", error="x")
    pages = [
        reverse("admin:index"), reverse("admin:clusters_cluster_changelist"), reverse("admin:jobs_job_changelist"),
        reverse("admin:clusters_cluster_change", args=[cluster.pk]),
        reverse("admin:clusters_cluster_collections", args=[cluster.pk]),
        reverse("admin:storage_storageconfig_change", args=[storage.pk]),
        reverse("admin:backups_backup_change", args=[backup.pk]), reverse("admin:jobs_job_change", args=[job.pk]),
    ]  # fmt: skip
    for page in pages:
        response = viewer.get(page)
        main = response.content.decode().partition("<main")[2]

        assert response.status_code == 200, page
        assert not re.search(r"Back up now…|Test |Rescan|Restore…|Delete…|Cancel…|Retry…|>Save<|Add ", main), page


def test_the_people_pages_are_for_those_who_manage_people(as_: Callable[[str], Client]) -> None:
    assert as_("administrator").get(reverse("admin:auth_user_changelist")).status_code == 403


def _state() -> list[Any]:
    rows: list[Any] = []
    for model in (Job, Backup, Cluster, StorageConfig):
        rows += [{k: str(v) for k, v in row.items()} for row in model.objects.order_by("pk").values()]
    return rows


def test_following_every_link_changes_nothing(
    root: Client, live: Cluster, storage: StorageConfig, backup: Backup
) -> None:
    make_job(live, storage, "a", status="running", backup=backup)
    make_job(live, storage, "b", status="failed")
    make_job(live, storage, "c", status="pending")
    before, seen, queue = _state(), set(), [reverse("admin:index")]
    while queue:
        address = queue.pop()
        if address in seen or len(seen) > 250:
            continue
        seen.add(address)
        response = root.get(address, follow=True)
        assert response.status_code < 500, address
        found = re.findall(r'(?:href|hx-get|action)="(/admin/[^"#]*)"', response.content.decode())
        queue += [link.replace("&amp;", "&") for link in found if "_o=" not in link and "/jsi18n" not in link]

    assert _state() == before
    assert len(seen) > 30


# --- live --------------------------------------------------------------------------------------------------
def test_poll_sends_the_moving_cells_and_stops_when_nothing_moves(
    root: Client, cluster: Cluster, storage: StorageConfig
) -> None:
    job = make_job(cluster, storage, status="running", bytes_done=50, bytes_total=100)
    page = root.get(reverse("admin:jobs_job_changelist")).content.decode()
    address = re.search(r'hx-get="([^"]+live/[^"]+)"', page).group(1)  # type: ignore[union-attr]

    moving = root.get(address)
    assert moving.status_code == 200
    assert 'value="50"' in moving.content.decode()
    assert f"state-{job.pk}" not in moving.content.decode()

    Job.objects.filter(pk=job.pk).update(status="completed", completed_at=timezone.now())
    ended = root.get(address)
    assert ended.status_code == 286
    assert "Succeeded" in ended.content.decode()
    assert "hx-get" not in ended.content.decode()


def test_list_without_active_jobs_does_not_poll(root: Client, cluster: Cluster, storage: StorageConfig) -> None:
    make_job(cluster, storage)

    assert "every 2s" not in root.get(reverse("admin:jobs_job_changelist")).content.decode()


def test_poll_after_the_session_has_expired_sends_the_whole_page_to_the_login(
    client: Client, cluster: Cluster, storage: StorageConfig
) -> None:
    job = make_job(cluster, storage, status="running")
    for address in (reverse("admin:jobs_job_live"), reverse("admin:jobs_job_live_one", args=[job.pk])):
        response = client.get(address, headers={"HX-Current-URL": "http://testserver/admin/jobs/job/"})

        assert response.status_code == 204
        assert response["HX-Redirect"] == "/admin/login/?next=%2Fadmin%2Fjobs%2Fjob%2F"


def test_poll_survives_nonsense(root: Client, cluster: Cluster, storage: StorageConfig) -> None:
    job = make_job(cluster, storage, status="running")

    assert root.get(reverse("admin:jobs_job_live"), {"jobs": "x,,.,%00"}).status_code == 286
    bad = {"after": "9" * 40, "state": "<b>"}
    assert root.get(reverse("admin:jobs_job_live_one", args=[job.pk]), bad).status_code == 200
