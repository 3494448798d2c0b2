"""Times in the viewer's zone: told by a cookie, with the zone's name; machines read UTC, and the API stays in UTC."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.clusters.models import Cluster
from apps.core.zone import COOKIE, zone_named
from apps.storage.models import StorageConfig
from tests.admin.world import make_backup, make_job

AT = datetime(2026, 11, 20, 22, 30, tzinfo=UTC)


@pytest.fixture
def page(cluster: Cluster, storage: StorageConfig) -> str:
    return reverse("admin:backups_backup_change", args=[make_backup(cluster, storage, created_at=AT).pk])


@pytest.mark.parametrize(
    ("zone", "shown"),
    [("Europe/Berlin", "20 Nov 2026 23:30:00 CET"), ("America/New_York", "20 Nov 2026 17:30:00 EST"),
     ("Asia/Kathmandu", "21 Nov 2026 04:15:00 +0545"), ("UTC", "20 Nov 2026 22:30:00 UTC")],
)  # fmt: skip
def test_times_are_those_of_the_viewer_and_machines_read_utc(root: Client, page: str, zone: str, shown: str) -> None:
    root.cookies[COOKIE] = zone

    html = root.get(page).content.decode()

    assert f'<time datetime="2026-11-20T22:30:00Z" title="{shown}">' in html
    assert f"Times in {zone}<" in html


@pytest.mark.parametrize(
    "zone", ["", "Mars/Olympus", "../../etc/passwd", "/etc/localtime", "x" * 5000, "Europe", "\x00"]
)
def test_what_is_no_zone_is_ignored(root: Client, page: str, zone: str) -> None:
    root.cookies[COOKIE] = zone

    response = root.get(page)

    assert response.status_code == 200
    assert "20 Nov 2026 22:30:00 UTC" in response.content.decode()
    assert zone_named(zone) is None


def test_one_viewers_zone_is_not_the_next_ones(root: Client, page: str) -> None:
    root.cookies[COOKIE] = "Europe/Berlin"
    root.get(page)
    assert timezone.get_current_timezone_name() == "UTC"

    root.cookies[COOKIE] = ""

    assert "22:30:00 UTC" in root.get(page).content.decode()


def test_the_api_says_the_same_to_everybody(root: Client, cluster: Cluster, storage: StorageConfig) -> None:
    make_job(cluster, storage, created_at=AT)
    said = []
    for zone in ("Europe/Berlin", "Asia/Tokyo"):
        root.cookies[COOKIE] = zone
        said.append(root.get("/api/v1/jobs").json()["items"])

    assert said[0] == said[1]
    assert "2026-11-20T22:30:00" in str(said[0])


def test_a_day_of_the_strip_is_one_of_utc(root: Client, cluster: Cluster, storage: StorageConfig) -> None:
    make_backup(cluster, storage, created_at=AT)
    root.cookies[COOKIE] = "Asia/Kathmandu"  # where it was the 21st already

    def of_day(day: str) -> str:
        address = {"cluster": cluster.pk, "name": "products", "day": day}
        response: Any = root.get(reverse("admin:clusters_collection"), address)
        assert response.status_code == 200
        return str(response.content.decode())

    assert "2026-11-20T22:30:00Z" in of_day("2026-11-20")
    assert '<ol class="bm-timeline">' not in of_day("2026-11-21")
    for odd in ("9999-12-31", "0001-01-01", "tomorrow"):
        of_day(odd)
