"""Coverage, calendar, maximum ages and blackouts in a real browser."""

from __future__ import annotations

import csv
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from apps.clusters.models import Cluster, ClusterObservation, ObservedCollection
from apps.schedules.models import Blackout, MaximumAge, Schedule, ScheduleRun
from apps.storage.models import StorageConfig
from tests.admin.world import DEAD_URL, make_backup
from tests.schedules.conftest import maker

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def berlin(transactional_db: None, folder: Path) -> Cluster:
    """films is backed up by a schedule, songs by none, gone is left in backups only."""
    now = timezone.now()
    storage = StorageConfig.objects.create(name="vault", type="local", path=str(folder))
    cluster = Cluster.objects.create(name="berlin", url=DEAD_URL)
    ClusterObservation.objects.create(cluster=cluster, next_check_at=now, seen_at=now, tried_at=now)
    for name in ("films", "songs"):
        ObservedCollection.objects.create(cluster=cluster, name=name, first_seen_at=now)
    for name in ("films", "gone"):
        make_backup(cluster, storage, name, checked_at=now)
    maker(cluster)(now=now, include=["films"])
    return cluster


def names(page: Any) -> list[str]:
    return [str(name) for name in page.locator("#coverage tbody th > a").all_inner_texts()]


def test_the_coverage_is_filtered_sorted_and_taken_along(sign_in: Callable[..., Any], berlin: Cluster) -> None:
    page = sign_in()
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Coverage").click()
    assert names(page) == ["songs", "films"]

    page.get_by_role("columnheader", name="Collection").get_by_role("link").click()
    expect(page.locator("th[aria-sort=ascending]")).to_contain_text("Collection")
    assert names(page) == ["films", "songs"]
    page.get_by_role("columnheader", name="Collection").get_by_role("link").focus()
    page.keyboard.press("Enter")
    expect(page.locator("th[aria-sort=descending]")).to_contain_text("Collection")
    assert names(page) == ["songs", "films"]

    page.locator("summary", has_text="Missing").focus()
    page.keyboard.press("Enter")
    page.get_by_role("link", name="In no schedule").click()
    expect(page.locator("summary")).to_contain_text("Missing: In no schedule")
    assert names(page) == ["songs"]
    with page.expect_download() as download:
        page.get_by_role("link", name="As CSV").click()
    rows = list(csv.DictReader(Path(download.value.path()).read_text().splitlines()))
    assert [(row["collection"], row["gaps"]) for row in rows] == [("songs", "unprotected unscheduled")]

    page.get_by_role("link", name="Show all").click()
    page.locator("summary", has_text="Missing").click()
    page.get_by_role("link", name="Orphaned").click()
    expect(page.locator("#coverage")).to_contain_text("gone")
    page.goto("/admin/clusters/observedcollection/coverage/")
    page.get_by_role("link", name="Add a schedule for songs").click()
    expect(page.locator("#id_include")).to_have_value("songs")


def test_a_day_of_the_calendar_opens_its_runs(sign_in: Callable[..., Any], berlin: Cluster) -> None:
    now, schedule = timezone.now(), Schedule.objects.get()
    slots = [now - timedelta(days=days) for days in (3, 4)]
    for slot, status in zip(slots, ("ok", "failed"), strict=True):
        ScheduleRun.objects.create(schedule=schedule, slot=slot, created_at=slot, completed_at=slot, status=status)
    page = sign_in(timezone_id="America/New_York")
    page.goto("/admin/")  # the browser's zone is known from the first page on
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Calendar").click()
    expect(page.get_by_text("Days in America/New_York")).to_be_visible()
    expect(page.locator("#month [aria-current=date]")).to_contain_text("today")

    page.goto(f"/admin/schedules/schedule/month/?cluster={berlin.pk}")
    cell = page.locator("#calendar .bm-day-bad a")
    expect(cell).to_have_count(1)
    cell.focus()
    page.keyboard.press("Enter")
    local = slots[1].astimezone(timezone.get_fixed_timezone(-300))  # November: no summer time
    if local.utcoffset() == timedelta(hours=-5) and now.month in (11, 12, 1, 2):
        expect(page.get_by_role("heading", level=1)).to_contain_text(f"{local:%b %Y}")
    expect(page.locator("#result_list tbody tr")).to_have_count(1)
    expect(page.locator("#result_list")).to_contain_text("Failed")


def test_ages_and_blackouts_of_a_cluster_are_set_by_keyboard(sign_in: Callable[..., Any], berlin: Cluster) -> None:
    page = sign_in()
    page.goto(f"/admin/clusters/observedcollection/cluster/{berlin.pk}/")
    page.get_by_role("link", name="Maximum ages").click()
    page.get_by_label("Tag or collection").fill("gold")
    page.get_by_label("Maximum age in hours").fill("0")
    page.keyboard.press("Enter")
    expect(page.locator(".bm-errors")).to_contain_text("greater than or equal to 1")
    page.get_by_label("Maximum age in hours").fill("12")
    page.keyboard.press("Enter")
    expect(page.locator("#ages tbody tr")).to_have_count(1)
    assert MaximumAge.objects.get().hours == 12
    page.get_by_role("button", name="Take away the age of gold").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("None is set on berlin.")).to_be_visible()
    assert not MaximumAge.objects.exists()

    page.goto(f"/admin/clusters/observedcollection/cluster/{berlin.pk}/")
    page.get_by_role("link", name="Blackouts").click()
    page.locator("#id_blackouts").fill("sometimes")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#id_blackouts_error")).to_contain_text("cannot be read")
    page.locator("#id_blackouts").fill("fri 22:00-06:00")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved the blackouts of berlin.")).to_be_visible()
    assert Blackout.objects.get().cluster == berlin
