"""What people do from one end to the other, in a real browser: with a real worker where something has to happen."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from apps.backups.models import Backup
from apps.clusters.models import Cluster
from apps.clusters.observations import observe_cluster
from apps.jobs.models import Job, Worker
from apps.storage.models import StorageConfig
from tests.admin.world import make_backup, make_job
from tests.schedules.conftest import maker
from tests.support import Collections

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

#: A worker has to start, on a machine that does other things as well.
PATIENCE_MS = 60_000


@pytest.fixture(autouse=True)
def _quick_passwords(settings: Any) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


def test_backup_and_restore_with_a_worker_followed_without_a_reload(
    sign_in: Callable[..., Any],
    start_worker: Callable[..., Any],
    cluster: Cluster,
    storage: StorageConfig,
    collections: Collections,
) -> None:
    collections.create("products", 300)
    start_worker()
    page = sign_in("operator")
    page.goto(f"/admin/jobs/job/backup/?cluster={cluster.pk}&collection=products")
    page.get_by_role("button", name="Continue…").click()
    page.get_by_role("button", name="Back up now").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Backup of products")
    page.evaluate("window.sameDocument = true")
    expect(page.locator("#job-actions")).to_contain_text("The backup it made", timeout=PATIENCE_MS)
    backup_job = Job.objects.get()
    expect(page.locator(f"#state-{backup_job.pk}")).to_have_text("Succeeded")
    assert page.evaluate("window.sameDocument")

    page.get_by_role("link", name="The backup it made").click()
    page.get_by_role("link", name="Restore…").click()
    page.fill("#id_target_collection", "products-2")
    page.get_by_role("button", name="Show the plan…").click()
    expect(page.locator("#plan")).to_contain_text(re.compile(r"2 parts, .+ The worker reads them from the folder"))
    expect(page.locator("#plan")).to_contain_text("Unknown until a first restore has been measured.")
    page.get_by_role("button", name="Restore", exact=True).dblclick()
    expect(page.get_by_role("heading", level=1)).to_have_text("Restore of products into products-2")
    restore_job = Job.objects.get(type="restore")
    expect(page.locator(f"#state-{restore_job.pk}")).to_have_text("Succeeded", timeout=PATIENCE_MS)
    assert collections.points("products-2") == collections.points("products")

    # The next one can tell how long it takes, from this one.
    page.goto(f"/admin/clusters/observedcollection/of/?cluster={cluster.pk}&name=products")
    expect(page.get_by_text("Restoring the newest backup takes about")).to_contain_text(
        "measured at 1 restore from folder"
    )


def test_cancel_asks_and_the_page_says_what_became_of_it(
    sign_in: Callable[..., Any], cluster: Cluster, storage: StorageConfig
) -> None:
    running = make_job(cluster, storage, status="running", bytes_done=10, bytes_total=100)
    waiting = make_job(cluster, storage, "users", status="pending")
    page = sign_in("operator")
    for job, word in ((running, "Cancelling"), (waiting, "Cancelled")):
        page.goto(f"/admin/jobs/job/{job.pk}/change/")
        page.get_by_role("link", name="Cancel…").click()
        page.get_by_role("link", name="Let it run").click()
        job.refresh_from_db()
        assert job.can_cancel
        page.get_by_role("link", name="Cancel…").click()
        page.get_by_role("button", name="Cancel job").dblclick()
        expect(page.locator(f"#state-{job.pk}")).to_have_text(word)
        expect(page.get_by_role("link", name="Cancel…")).to_have_count(0)


def test_storage_form_shows_the_fields_of_its_type_and_never_the_secret(
    sign_in: Callable[..., Any], folder: Path
) -> None:
    page = sign_in("administrator")
    page.goto("/admin/storage/storageconfig/add/")
    page.select_option("#id_type", "s3")
    expect(page.locator("#id_path")).to_be_hidden()
    page.get_by_role("button", name="Save").click()
    for field in ("name", "s3_bucket"):
        expect(page.locator(f"#id_{field}")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#id_name")).to_be_focused()
    page.fill("#id_name", "S3-eu")
    page.fill("#id_s3_bucket", "backups")
    page.fill("#id_s3_region", "eu-central-1")
    page.fill("#id_s3_endpoint", "http://127.0.0.1:9")
    page.fill("#id_s3_access_key", "AKIAEXAMPLEEXAMPLE")
    page.fill("#id_s3_secret_key", "a very secret key")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#messages")).to_have_text("Saved S3-eu.")
    storage = StorageConfig.objects.get()

    page.goto(f"/admin/storage/storageconfig/{storage.pk}/change/")
    assert "a very secret key" not in page.content()
    assert "AKIAEXAMPLEEXAMPLE" not in page.content()
    expect(page.locator("#id_s3_secret_key")).to_have_value("")
    words = re.compile(r"Set on \d+ \w+ \d{4}\. Leave empty to keep it, enter a new one to replace it\.")
    expect(page.get_by_text(words)).to_be_visible()
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#messages")).to_have_text("Saved S3-eu.")
    storage.refresh_from_db()
    assert (storage.s3_access_key, storage.s3_secret_key.reveal()) == ("AKIAEXAMPLEEXAMPLE", "a very secret key")
    page.goto(f"/admin/storage/storageconfig/{storage.pk}/change/")
    page.get_by_role("button", name="Test storage").click()
    expect(page.locator("#messages")).to_contain_text("S3-eu:", timeout=PATIENCE_MS)
    expect(page.locator("#messages [role=alert]")).to_be_visible()


def test_each_rung_sees_its_buttons_only_and_is_refused_the_others(
    sign_in: Callable[..., Any], cluster: Cluster, storage: StorageConfig
) -> None:
    backup = make_backup(cluster, storage)
    failed = make_job(cluster, storage, status="failed", error="The node refused.")
    pages = {
        f"/admin/backups/backup/{backup.pk}/change/": {
            "Restore…": "operator", "Verify…": "operator", "Delete…": "administrator"},
        f"/admin/jobs/job/{failed.pk}/change/": {"Retry…": "operator"},
        "/admin/storage/storageconfig/": {"Add storage": "administrator"},
    }  # fmt: skip
    doors = {
        f"/admin/jobs/job/restore/?backup={backup.pk}": "operator",
        f"/admin/jobs/job/delete-backup/{backup.pk}/": "administrator",
    }
    ladder = ["viewer", "operator", "administrator"]
    for rung, group in enumerate(ladder[:2]):
        page = sign_in(group)
        for address, buttons in pages.items():
            page.goto(address)
            for name, needed in buttons.items():
                allowed = rung >= ladder.index(needed)
                expect(page.get_by_role("link", name=name)).to_have_count(1 if allowed else 0)
        token = next(cookie["value"] for cookie in page.context.cookies() if "csrf" in cookie["name"])
        for door, needed in doors.items():
            answer = page.request.post(door, headers={"X-CSRFToken": token}, max_redirects=0)
            assert (answer.status == 403) == (rung < ladder.index(needed)), (group, door, answer.status)
    assert Backup.objects.get().status == "completed"


def test_what_operators_ask_is_answered_on_the_overview_or_one_click_away(
    sign_in: Callable[..., Any], cluster: Cluster, storage: StorageConfig, collections: Collections
) -> None:
    """The table of docs/console.md, by the numbers of its questions."""
    collections.create("products", 30)
    collections.create("drafts", 5)
    now = timezone.now()
    observe_cluster(cluster, now=now)
    Worker.objects.create(host="here", pid=1, processes=1, started_at=now, seen_at=now + timedelta(hours=1))
    proven = now - timedelta(days=9)
    backup = make_backup(cluster, storage, restored_at=proven, checked_at=proven)
    make_job(cluster, storage, type="restore", backup=backup)
    make_job(cluster, storage, status="running", phase="copying", bytes_done=40, bytes_total=100)
    make_job(cluster, storage, "users", status="failed", error="The disk is full.")
    schedule = maker(cluster)("nightly", now)
    overview = sign_in()

    def says(address: str, place: str, words: str | re.Pattern[str]) -> None:
        expect(page.locator(place).first, address).to_contain_text(words)

    page, here = overview, "the overview"
    says(here, ".bm-verdict-sentence", "drafts")  # 1
    says(here, "[aria-labelledby=needy]", "It has never been backed up.")  # 2
    says(here, "[aria-label='Collections by state']", "Overdue")  # 3
    says(here, "[aria-labelledby=failures-title]", "The disk is full.")  # 4
    says(here, "#running", "40 B of 100 B")  # 5
    says(here, "#next-runs", re.compile(r"nightly.+in \d+ (h|min)", re.S))  # 6
    says(here, "#proof", "1 of 2 proven by a restore in the last 30 days, the oldest proof 9 d ago.")  # 7
    says(here, "[aria-labelledby=storages-title]", "1.0 MiB in 1 backup, 1.0 MiB of it in the last 7 days")  # 11
    says(here, "[aria-labelledby=clusters-title]", re.compile(r"Reachable.+Qdrant 1\.18\.3.+Last contact", re.S))  # 15

    links = {
        f"/admin/clusters/observedcollection/of/?cluster={cluster.pk}&name=products": [
            ("#content", "Restoring the newest backup takes about"),  # 8
            ("#backups", "000 points, 1.0 MiB"),  # 17
        ],
        f"/admin/backups/backup/{backup.pk}/change/": [
            ("#content", "main (1.18.3): fits"),  # 18
            ("#recipe", "Restore without this app"),  # 19
        ],
        f"/admin/schedules/schedule/{schedule.pk}/change/": [("#next-runs", "UTC")],  # 14
        "/admin/schedules/retentionrun/": [("#content", "")],  # 12
        "/admin/audit/auditentry/": [("#content", "")],  # 13
        "/admin/alerts/incident/": [("#content", "")],  # 20
    }
    linked = overview.eval_on_selector_all("a[href]", "found => found.map(link => link.getAttribute('href'))")
    assert [address for address in links if address not in linked] == []
    for address, answers in links.items():
        page.goto(address)
        for place, words in answers:
            says(address, place, words)


def test_token_is_shown_once(sign_in: Callable[..., Any]) -> None:
    page = sign_in("operator")
    page.goto("/admin/api/apitoken/add/")
    page.fill("#id_name", "nightly script")
    page.get_by_role("button", name="Make token").dblclick()
    secret = page.locator("#token-secret").inner_text()
    assert len(secret) > 20
    assert page.request.get("/api/v1/jobs", headers={"api-key": secret}).status == 200

    page.get_by_role("link", name="I have copied it").click()
    expect(page.get_by_role("link", name="nightly script")).to_have_count(1)
    assert secret not in page.content()
    page.get_by_role("link", name="nightly script").click()
    assert secret not in page.content()
    page.goto("/admin/api/apitoken/")
    assert secret not in page.content()


def test_times_are_those_of_the_browser_and_of_utc_on_request(
    sign_in: Callable[..., Any], cluster: Cluster, storage: StorageConfig
) -> None:
    job = make_job(cluster, storage)
    page = sign_in(timezone_id="Asia/Tokyo")
    page.goto(f"/admin/jobs/job/{job.pk}/change/")
    expect(page.locator("#zone")).to_have_text("Times in Asia/Tokyo")
    expect(page.locator("#job-facts time").first).to_have_attribute("title", re.compile(r"JST$"))
    expect(page.locator("#job-facts time").first).to_have_attribute("datetime", re.compile("Z$"))

    page.get_by_role("button", name="root").click()
    page.get_by_role("button", name="UTC", exact=True).click()
    expect(page.locator("#zone")).to_have_text("Times in UTC")
    expect(page.locator("#job-facts time").first).to_have_attribute("title", re.compile("UTC$"))
