"""Schedules in a real browser: form, preview, calendar, keyboard, dark mode."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from apps.clusters.models import Cluster
from apps.schedules.models import Schedule, ScheduleRun
from apps.storage.models import StorageConfig
from tests.schedules.conftest import maker
from tests.support import Collections

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


def test_the_preview_explains_and_equals_the_api_and_saving_leads_to_the_schedule(
    sign_in: Callable[..., Any], cluster: Cluster, storage: StorageConfig, collections: Collections
) -> None:
    collections.create("films", 1, shards=1)
    collections.create("songs", 1, shards=1)
    page = sign_in()
    page.goto("/admin/schedules/schedule/add/")
    page.fill("#id_name", "nightly")
    page.fill("#id_tz", "Europe/Berlin")
    page.fill("#id_include", "film*")
    page.get_by_role("button", name="Preview").click()

    expect(page.locator("#preview-sentence")).to_contain_text("At 02:30 every day (Europe/Berlin)")
    expect(page.locator("#preview-matched")).to_have_text("films")
    assert page.url.endswith("/add/")  # a piece of the page, nothing else moved
    assert not Schedule.objects.exists()
    shown = page.locator("#next-runs tbody tr td:nth-child(2)").all_inner_texts()
    assert len(shown) == 10

    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("nightly")
    expect(page.locator("#next-runs tbody tr")).to_have_count(10)
    from tests.api.conftest import make_user

    client = APIClient()
    client.force_login(make_user(superuser=True))
    answer = client.get(f"/api/v1/schedules/{Schedule.objects.get().pk}/preview").json()["result"]
    assert [run["local"] for run in answer["runs"]] == shown


def test_a_wrong_cron_is_told_at_its_field_and_in_the_preview(
    sign_in: Callable[..., Any], cluster: Cluster, storage: StorageConfig
) -> None:
    page = sign_in()
    page.goto("/admin/schedules/schedule/add/")
    page.fill("#id_name", "nightly")
    page.select_option("#id_kind", "cron")
    page.fill("#id_cron", "61 2 * * *")
    page.get_by_role("button", name="Preview").click()
    expect(page.locator("#preview [role=alert]")).to_contain_text("Times (cron): The minute '61' cannot be read")

    page.get_by_role("button", name="Save").click()
    expect(page.locator("#id_cron_error")).to_contain_text("The minute '61' cannot be read")
    assert not Schedule.objects.exists()


def test_a_change_of_clocks_is_marked(sign_in: Callable[..., Any], cluster: Cluster, storage: StorageConfig) -> None:
    page = sign_in()
    page.goto("/admin/schedules/schedule/add/")
    page.fill("#id_name", "nightly")
    page.fill("#id_tz", "Europe/Berlin")
    page.select_option("#id_kind", "cron")
    page.fill("#id_cron", "30 2 * 3,10 0")
    page.get_by_role("button", name="Preview").click()

    expect(page.locator("#next-runs")).to_contain_text(re.compile("clocks go (forward|back)"))


def test_calendar_pause_and_run_by_keyboard_in_dark_mode(
    sign_in: Callable[..., Any], cluster: Cluster, storage: StorageConfig
) -> None:
    now = timezone.now()
    schedule = maker(cluster)(now=now)
    for days, status in ((2, "ok"), (3, "failed"), (9, "missed")):
        ScheduleRun.objects.create(
            schedule=schedule,
            slot=now - timedelta(days=days),
            status=status,
            created_at=now,
            missed_count=1 if status == "missed" else 0,
            missed_from=now - timedelta(days=days) if status == "missed" else None,
        )
    page = sign_in()
    page.get_by_role("button", name="root").click()
    page.get_by_role("button", name="Dark").click()
    page.goto(f"/admin/schedules/schedule/{schedule.pk}/change/")
    expect(page.locator("#calendar tbody tr")).to_have_count(7)
    expect(page.locator("#calendar .bm-day-ok")).to_have_count(1)
    expect(page.locator("#calendar .bm-day-bad")).to_have_count(1)
    expect(page.locator("#calendar .bm-day-missed")).to_have_count(1)

    page.get_by_role("link", name="Pause…").focus()
    page.keyboard.press("Enter")
    page.fill("#id_reason", "migration")
    page.keyboard.press("Enter")
    expect(page.get_by_text("migration")).to_be_visible()
    page.get_by_role("button", name="Resume").click()
    page.get_by_role("button", name="Run now").click()
    expect(page.get_by_text("runs now")).to_be_visible()
    assert ScheduleRun.objects.filter(trigger="manual").count() == 1

    page.set_viewport_size({"width": 390, "height": 844})
    for address in ("/admin/schedules/schedule/", f"/admin/schedules/schedule/{schedule.pk}/change/",
                    "/admin/schedules/schedule/add/", "/admin/backups/retentionpolicy/"):  # fmt: skip
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth") <= 391, address


def test_presets_show_their_own_fields_and_the_zone_tells_its_time(
    sign_in: Callable[..., Any], cluster: Cluster, storage: StorageConfig
) -> None:
    page = sign_in(timezone_id="Asia/Tokyo")
    page.goto("/admin/schedules/schedule/add/")
    expect(page.locator("#id_at")).to_have_value("02:30")
    expect(page.locator("#id_cron")).to_be_hidden()
    expect(page.locator("#id_interval_minutes")).to_be_hidden()
    page.fill("#id_tz", "Europe/Berlin")
    expect(page.locator("#zone-clock")).to_have_text(
        re.compile(r"^It is \w{3},? \d\d:\d\d there now; by your clock \w{3},? \d\d:\d\d\.$")
    )
    page.fill("#id_tz", "Europe/Nowhere")
    expect(page.locator("#zone-clock")).to_have_text("")
    page.fill("#id_tz", "Europe/Berlin")

    page.fill("#id_name", "weekends")
    page.select_option("#id_kind", "weekly")
    expect(page.locator("#id_day")).to_be_hidden()
    page.get_by_label("Saturday").check()
    page.fill("#id_at", "22:15")
    page.get_by_role("button", name="Preview").click()
    expect(page.locator("#preview-sentence")).to_contain_text("At 22:15 on Sunday and Saturday (Europe/Berlin)")
    expect(page.locator("#next-runs thead")).to_contain_text("By your clock")
    expect(page.locator("#next-runs tbody tr").first.locator("td").nth(2)).to_contain_text("JST")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("weekends")
    assert Schedule.objects.get().cron == "15 22 * * 0,6"

    page.goto(f"/admin/schedules/schedule/{Schedule.objects.get().pk}/edit/")
    expect(page.locator("#id_kind")).to_have_value("weekly")
    expect(page.get_by_label("Sunday")).to_be_checked()
