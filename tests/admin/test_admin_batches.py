"""Back up many collections in the admin: the form, the confirmation, and a page that follows all of them."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from apps.clusters.models import Cluster
from apps.jobs.models import Job
from apps.storage.models import StorageConfig
from tests.admin.world import make_job


@pytest.fixture
def live(cluster: Cluster, node: Any, collections: Any) -> Cluster:
    """The cluster, answering now, with two collections."""
    for name in ("films", "users"):
        collections.create(name, points=3, shards=1)
    Cluster.objects.filter(pk=cluster.pk).update(url=node.url)
    cluster.refresh_from_db()
    return cluster


def form(cluster: Cluster, storage: StorageConfig, **more: Any) -> dict[str, Any]:
    filled = {"cluster": cluster.pk, "collections": "*", "exclude_collections": "", "storage": storage.pk}
    return filled | {"step": "check"} | more


def batch(cluster: Cluster, storage: StorageConfig, **fields: Any) -> Job:
    """A batch with a completed, a failed and a pending child."""
    summary = {"total": 3, "completed": 1, "failed": 1, "pending": 1, "running": 0, "cancelled": 0}
    made = make_job(
        cluster, storage, "*", is_batch=True, collections=["*"], children_summary=summary,
        **({"status": "running", "phase": "1 of 3 collections done"} | fields),
    )  # fmt: skip
    make_job(cluster, storage, "films", parent=made)
    make_job(cluster, storage, "users", parent=made, status="failed", error="The disk <b>is</b> full.")
    make_job(cluster, storage, "later", parent=made, status="pending")
    return made


def hidden(html: str) -> dict[str, str]:
    import html as entities
    import re

    found = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', html)
    return {name: entities.unescape(value) for name, value in found if name != "csrfmiddlewaretoken"}


def test_confirmation_names_what_matches_now_and_the_job_is_created_once(
    root: Client, live: Cluster, storage: StorageConfig
) -> None:
    address = reverse("admin:jobs_job_backup_all")
    asked = root.post(address, form(live, storage, collections="f*\r\nusers\r\n\r\n", exclude_collections="*_tmp"))
    html = asked.content.decode()

    assert "2 collections match f*, users: films, users." in html
    assert not Job.objects.exists()
    for _ in range(2):
        confirmed = root.post(address, hidden(html))
    job = Job.objects.get()
    assert (job.is_batch, job.collections, job.exclude_collections) == (True, ["f*", "users"], ["*_tmp"])
    assert confirmed.url == reverse("admin:jobs_job_change", args=[job.pk])


def test_nothing_that_matches_is_warned_of(root: Client, live: Cluster, storage: StorageConfig) -> None:
    html = root.post(reverse("admin:jobs_job_backup_all"), form(live, storage, collections="nothing*")).content.decode()

    assert "0 collections match nothing*." in html
    assert "Nothing matches" in html


def test_cluster_that_does_not_answer_is_told(root: Client, cluster: Cluster, storage: StorageConfig) -> None:
    html = root.post(reverse("admin:jobs_job_backup_all"), form(cluster, storage)).content.decode()

    assert "cannot be told now" in html
    assert "cannot be reached" in html


@pytest.mark.parametrize("patterns", ["", " \n ", "a/b", "x" * 300])
def test_bad_patterns_are_refused_at_the_form(
    root: Client, cluster: Cluster, storage: StorageConfig, patterns: str
) -> None:
    page = root.post(reverse("admin:jobs_job_backup_all"), form(cluster, storage, collections=patterns))

    assert page.status_code == 200
    assert "Back up all</button>" not in page.content.decode()
    assert not Job.objects.exists()


def test_viewers_may_not(as_: Any, cluster: Cluster, storage: StorageConfig) -> None:
    viewer = as_("viewer")

    assert viewer.get(reverse("admin:jobs_job_backup_all")).status_code == 403
    assert viewer.post(reverse("admin:jobs_job_backup_all"), form(cluster, storage)).status_code == 403


def test_cluster_page_leads_there(root: Client, cluster: Cluster, storage: StorageConfig) -> None:
    html = root.get(reverse("admin:clusters_cluster_change", args=[cluster.pk])).content.decode()

    assert f"{reverse('admin:jobs_job_backup_all')}?cluster={cluster.pk}" in html


def test_page_of_a_batch_shows_its_parts_those_without_a_backup_first(
    root: Client, cluster: Cluster, storage: StorageConfig
) -> None:
    made = batch(cluster, storage)

    html = root.get(reverse("admin:jobs_job_change", args=[made.pk])).content.decode()

    assert "Backup of all collections" in html
    assert "1 of 3 done, 1 failed" in html
    links = [html.index(reverse("admin:jobs_job_change", args=[child.pk])) for child in _by_name(made)]
    assert links == sorted(links)
    assert "The disk &lt;b&gt;is&lt;/b&gt; full." in html
    assert 'value="66"' in html
    child = made.children.get(collection_name="users")
    part = root.get(reverse("admin:jobs_job_change", args=[child.pk])).content.decode()
    assert "Part of" in part
    assert reverse("admin:jobs_job_change", args=[made.pk]) in part


def _by_name(made: Job) -> list[Job]:
    return [made.children.get(collection_name=name) for name in ("users", "later", "films")]


def test_live_news_of_a_batch_carry_its_parts(root: Client, cluster: Cluster, storage: StorageConfig) -> None:
    made = batch(cluster, storage)

    news = root.get(reverse("admin:jobs_job_live_one", args=[made.pk]), {"state": "Running", "after": "0"})

    assert 'id="job-children" hx-swap-oob="true"' in news.content.decode()


def test_list_shows_batches_beside_other_jobs(root: Client, cluster: Cluster, storage: StorageConfig) -> None:
    batch(cluster, storage)

    html = root.get(reverse("admin:jobs_job_changelist")).content.decode()

    assert "Backup of all collections" in html
    assert "Backup of users" in html


def test_retry_of_a_batch_says_what_it_will_try(root: Client, cluster: Cluster, storage: StorageConfig) -> None:
    made = batch(cluster, storage, status="failed", error="1 of 3 collections was not backed up: users (x).")

    html = root.get(reverse("admin:jobs_job_retry", args=[made.pk])).content.decode()
    root.post(reverse("admin:jobs_job_retry", args=[made.pk]))

    assert "This tries again the 1 collection without a backup" in html
    made.refresh_from_db()
    assert made.status == "running"
    assert made.children.get(collection_name="users").status == "pending"


def test_cancel_of_a_batch(root: Client, cluster: Cluster, storage: StorageConfig) -> None:
    made = batch(cluster, storage)

    asked = root.get(reverse("admin:jobs_job_cancel", args=[made.pk])).content.decode()
    root.post(reverse("admin:jobs_job_cancel", args=[made.pk]))

    assert "Collections that have their backup already keep it" in asked
    made.refresh_from_db()
    assert made.status == "cancelled"
    assert made.children.get(collection_name="later").status == "cancelled"
