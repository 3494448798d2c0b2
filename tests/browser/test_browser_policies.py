"""Editing a policy in a real browser: what it would change is seen first, on a page without scripts, and then saved."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from apps.backups.models import DeletedBackup
from apps.clusters.models import Cluster
from apps.schedules.models import RetentionRun
from apps.schedules.retention.work import run_sweep
from apps.storage.models import StorageConfig
from tests.schedules.conftest import make_backup, make_policy

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


def test_an_edit_is_previewed_and_then_saved_as_it_was_seen(
    sign_in: Callable[..., Any], cluster: Cluster, storage: StorageConfig
) -> None:
    policy = make_policy("nightly", keep_last=3)
    for days in (3, 2, 1):
        make_backup(cluster, storage, timezone.now() - timedelta(days=days), policy=policy)
    page = sign_in()
    page.goto(f"/admin/backups/retentionpolicy/{policy.pk}/change/")
    page.fill("#id_keep_last", "1")
    page.get_by_role("button", name="Preview what my changes would do").click()

    expect(page.locator("#change-sentence")).to_contain_text("2 backups more would go")
    expect(page.get_by_role("heading", name="Would go, and stay by the policy as it is")).to_be_visible()
    policy.refresh_from_db()
    assert policy.keep_last == 3
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 391

    page.get_by_role("button", name="Save the policy so").click()
    expect(page.get_by_text("Saved nightly.")).to_be_visible()
    policy.refresh_from_db()
    assert (policy.keep_last, policy.version) == (1, 2)
    page.get_by_role("link", name="What it would let go").click()
    expect(page.locator("#plan-sentence")).to_contain_text("2 of 3 backups would go")
    assert page.evaluate("document.documentElement.scrollWidth") <= 391


@pytest.mark.parametrize(("theme", "size"), [("light", (1360, 850)), ("dark", (390, 844))])
def test_the_pages_of_retention_keep_nobody_out(
    sign_in: Callable[..., Any], cluster: Cluster, storage: StorageConfig, theme: str, size: tuple[int, int]
) -> None:
    """What test_accessibility has nothing to show of: verdicts, forecasts, differences, and what is gone."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    now, policy = timezone.now(), make_policy("nightly", keep_last=2)
    for days in (3, 2, 1):
        make_backup(cluster, storage, now - timedelta(days=days), policy=policy)
    run_sweep(now=now)
    gone = DeletedBackup.objects.create(
        backup_id=uuid.uuid4(), snapshot_name="x" * 60, collection_name="films", cluster_name="main",
        storage_id=storage.pk, storage_name=storage.name, path=f"main/films/{'x' * 60}", taken_at=now, size_bytes=1,
        points_count=1, parts_count=1, manifest_sha256="a" * 64, policy_name="nightly", policy_version=1,
        policy_rules={"keep_last": 2, "tz": "UTC"}, reason="Retention: nightly: no-rule-keeps-it", let_go_at=now,
        erased_at=now, created_at=now,
    )  # fmt: skip
    make_backup(cluster, storage, now - timedelta(days=4), policy=policy)
    page = sign_in(color_scheme=theme, viewport={"width": size[0], "height": size[1]})

    def look(what: str) -> None:
        page.wait_for_load_state("load")
        found = axe.run(page, options={"resultTypes": ["violations"]}).response["violations"]
        assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == [], what
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0] + 1, what

    for address in (
        f"/admin/backups/retentionpolicy/{policy.pk}/preview/",
        f"/admin/schedules/retentionrun/{RetentionRun.objects.get().pk}/change/",
        "/admin/backups/deletedbackup/",
        f"/admin/backups/deletedbackup/{gone.pk}/change/",
        f"/admin/backups/retentionpolicy/{policy.pk}/change/",
    ):
        assert page.goto(address).status == 200, address
        look(address)
    page.fill("#id_keep_last", "1")
    page.get_by_role("button", name="Preview what my changes would do").click()
    expect(page.locator("#change-sentence")).to_be_visible()
    look("what would change")
