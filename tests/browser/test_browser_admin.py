"""The console in a real browser: what no test client sees."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apps.clusters.models import Cluster
from apps.jobs.models import Job, JobEvent
from apps.storage.models import StorageConfig
from tests.admin.world import DEAD_URL, make_backup, make_job

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture(autouse=True)
def _quick_passwords(settings: Any) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def cluster(transactional_db: None) -> Cluster:
    return Cluster.objects.create(name="berlin", url=DEAD_URL)


@pytest.fixture
def storage(transactional_db: None, folder: Path) -> StorageConfig:
    return StorageConfig.objects.create(name="vault", type="local", path=str(folder))


def expect(locator: Any) -> Any:
    from playwright.sync_api import expect as playwright_expect

    return playwright_expect(locator, None)


def test_first_steps_lead_from_an_empty_overview_to_a_cluster_a_storage_and_a_queued_backup(
    sign_in: Callable[..., Any], node: Any, collections: Any, folder: Path
) -> None:
    collections.create("products", 30)
    page = sign_in(by_form=True)
    expect(page.locator(".bm-verdict-sentence")).to_contain_text("Nothing is protected yet.")
    page.get_by_role("link", name="Get started").click()
    page.get_by_role("link", name="Connect a cluster…").click()
    page.fill("#id_name", "berlin")
    page.fill("#id_url", node.url)
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#messages")).to_have_text("Saved berlin.")
    expect(page.get_by_text("Qdrant 1.18.3 answers: 1 node, 1 collection.")).to_be_visible()
    page.get_by_role("button", name="Test connection").click()
    expect(page.locator("#messages")).to_contain_text("Qdrant 1.18.3 answers")

    page.get_by_role("link", name="Add a storage…").click()
    page.fill("#id_name", "vault")
    page.select_option("#id_type", "s3")
    expect(page.locator("#id_s3_bucket")).to_be_visible()
    expect(page.locator("#id_path")).to_be_hidden()
    page.select_option("#id_type", "local")
    expect(page.locator("#id_s3_bucket")).to_be_hidden()
    page.fill("#id_path", str(folder / "vault"))
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", name="Add a storage: vault")).to_be_visible()

    page.get_by_role("link", name="products").click()
    page.get_by_role("button", name="Continue…").click()
    expect(page.get_by_text("This backs up products from berlin to vault")).to_be_visible()
    page.get_by_role("button", name="Back up now").dblclick()
    expect(page.get_by_role("heading", level=1)).to_have_text("Backup of products")
    assert Job.objects.count() == 1
    page.goto("/admin/clusters/observedcollection/first-steps/")
    expect(page.get_by_role("link", name="Backup of products")).to_be_visible()
    expect(page.get_by_text("It waits: no worker has ever run")).to_be_visible()


def test_job_page_follows_the_job_to_its_end_without_a_reload(
    sign_in: Callable[..., Any], cluster: Cluster, storage: StorageConfig
) -> None:
    job = make_job(cluster, storage, status="running", phase="copying shard 0", bytes_done=10, bytes_total=100)
    rows = Job.objects.filter(pk=job.pk)
    page = sign_in()
    page.goto(f"/admin/jobs/job/{job.pk}/change/")
    page.evaluate("window.sameDocument = true")
    polls: list[str] = []
    page.on("request", lambda request: polls.append(request.url) if "/live/" in request.url else None)
    expect(page.locator(f"#progress-{job.pk} progress")).to_have_attribute("value", "10")

    rows.update(bytes_done=60, phase="copying shard 1")
    JobEvent.objects.create(job=job, at=job.created_at, message="Shard 1 <b>begins</b>.")
    expect(page.locator(f"#progress-{job.pk} progress")).to_have_attribute("value", "60")
    expect(page.locator("#job-facts")).to_contain_text("copying shard 1")
    expect(page.locator("#job-events li")).to_have_count(1)
    expect(page.locator("#job-events")).to_contain_text("Shard 1 <b>begins</b>.")

    rows.update(status="failed", error="The disk is full.", completed_at=job.created_at)
    expect(page.locator(f"#state-{job.pk}")).to_have_text("Failed")
    expect(page.locator("#job-error")).to_have_text("The disk is full.")
    expect(page.get_by_role("link", name="Retry…")).to_be_visible()
    expect(page.get_by_role("link", name="Cancel…")).to_have_count(0)
    expect(page.locator("#job-events li")).to_have_count(1)
    asked = len(polls)
    page.wait_for_timeout(2500)
    assert len(polls) == asked
    assert page.evaluate("window.sameDocument")


def test_list_and_overview_follow_all_jobs_with_one_request_each_time(
    sign_in: Callable[..., Any], cluster: Cluster, storage: StorageConfig
) -> None:
    jobs = [make_job(cluster, storage, name, status="running", bytes_total=100) for name in ("a", "b", "c")]
    page = sign_in()
    for address in ("/admin/jobs/job/", "/admin/"):
        Job.objects.update(bytes_done=20)
        polls: list[str] = []
        page.goto(address)
        page.on("request", lambda request, seen=polls: seen.append(request.url) if "/live/" in request.url else None)
        Job.objects.update(bytes_done=70)
        for job in jobs:
            expect(page.locator(f"#progress-{job.pk} progress")).to_have_attribute("value", "70")
        assert len(polls) <= 2

    Job.objects.update(status="completed", completed_at=jobs[0].created_at)
    expect(page.locator(f"#state-{jobs[0].pk}")).to_have_text("Succeeded")


def test_expired_session_leads_the_whole_page_to_the_login(
    sign_in: Callable[..., Any], cluster: Cluster, storage: StorageConfig
) -> None:
    make_job(cluster, storage, status="running")
    page = sign_in()
    page.goto("/admin/jobs/job/")
    page.context.clear_cookies()

    page.wait_for_url(re.compile(r"/admin/login/\?next="))
    expect(page.locator("#id_username")).to_be_visible()


def test_overwriting_restore_wants_the_name_and_then_lands_on_the_job(
    sign_in: Callable[..., Any], cluster: Cluster, storage: StorageConfig
) -> None:
    backup = make_backup(cluster, storage)
    page = sign_in("operator")
    page.goto(f"/admin/backups/backup/{backup.pk}/change/")
    expect(page.get_by_role("link", name="Delete…")).to_have_count(0)
    page.get_by_role("link", name="Restore…").click()
    page.fill("#id_target_collection", "products")
    page.check("#id_overwrite")
    page.get_by_role("button", name="Show the plan…").click()
    expect(page.locator("#plan")).to_contain_text("Unknown until a first restore has been measured.")
    page.go_back()
    expect(page.locator("#id_overwrite")).to_be_checked()
    page.get_by_role("button", name="Show the plan…").press("Enter")
    page.fill("#id_typed_name", "prod")
    page.get_by_role("button", name="Overwrite and restore").click()
    expect(page.get_by_role("alert")).to_contain_text("exactly as it is written")
    page.fill("#id_typed_name", "products")
    page.get_by_role("button", name="Overwrite and restore").dblclick()

    expect(page.get_by_role("heading", level=1)).to_have_text("Restore of products")
    assert Job.objects.get().overwrite is True


def test_keyboard_reaches_menu_filters_and_account(
    sign_in: Callable[..., Any], cluster: Cluster, storage: StorageConfig
) -> None:
    make_job(cluster, storage)
    page = sign_in()
    page.goto("/admin/jobs/job/")
    reached = set()
    for _ in range(45):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "(document.activeElement.getAttribute('aria-label') || document.activeElement.textContent).trim()"
            )
        )
    words = " | ".join(reached)
    for wanted in ("Show or hide the menu", "Status", "Storage", "root", "Skip to the content", "Backup of products"):
        assert wanted in words

    page.get_by_text("Status", exact=True).first.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="Failed")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("link", name="Failed")).to_be_hidden()


def test_dark_mode_and_phone_width(
    sign_in: Callable[..., Any], cluster: Cluster, storage: StorageConfig, node: Any, collections: Any
) -> None:
    collections.create("products", 10)
    Cluster.objects.update(url=node.url)
    backup = make_backup(cluster, storage, "a-rather-long-collection-name-of-a-kind-that-people-have")
    job = make_job(cluster, storage, status="running", bytes_done=10, bytes_total=100)
    page = sign_in()
    page.get_by_role("button", name="root").click()
    page.get_by_role("button", name="Dark").click()
    expect(page.locator("html")).to_have_class(re.compile("dark"))
    assert page.evaluate("getComputedStyle(document.querySelector('.bm-card')).backgroundColor") != "rgb(255, 255, 255)"

    page.set_viewport_size({"width": 390, "height": 844})
    for address in (
        "/admin/", "/admin/jobs/job/", "/admin/backups/backup/", f"/admin/jobs/job/{job.pk}/change/",
        f"/admin/backups/backup/{backup.pk}/change/", "/admin/storage/storageconfig/add/",
        f"/admin/clusters/cluster/{cluster.pk}/collections/", f"/admin/jobs/job/restore/?backup={backup.pk}",
    ):  # fmt: skip
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth") <= 391, address
    expect(page.get_by_role("link", name="Clusters")).to_be_hidden()
    page.get_by_role("button", name="Show or hide the menu").click()
    expect(page.get_by_role("link", name="Clusters")).to_be_visible()
