"""Pictures of the main pages of the admin, taken with a real browser."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from .errors import DemoError
from .installation import Installation
from .screen import Screen

POLICY = "two weeks"
CHROMIUM = Path("/usr/bin/chromium")
DESK, PHONE = {"width": 1360, "height": 850}, {"width": 390, "height": 844}
_PATIENCE_MS = 20_000
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Shown:
    """Ids of what has a page of its own."""

    cluster_id: str
    collection: str
    backup_id: str
    restore_job_id: str


def pages(shown: Shown) -> dict[str, str]:
    """Return the name of each picture at desk width, and the address of its page below /admin/."""
    of_collection = urlencode({"cluster": shown.cluster_id, "name": shown.collection})
    plan = {"backup": shown.backup_id, "step": "plan", "target_cluster": shown.cluster_id,
            "target_collection": f"{shown.collection}-restored"}  # fmt: skip
    return {
        "overview": "",
        "collections": "clusters/observedcollection/",
        "collection": f"clusters/observedcollection/of/?{of_collection}",
        "backup": f"backups/backup/{shown.backup_id}/change/",
        "restore": f"jobs/job/restore/?{urlencode(plan)}",
        "job": f"jobs/job/{shown.restore_job_id}/change/",
        "schedule-preview": "schedules/schedule/add/",
        "clusters": "clusters/cluster/",
        "storages": "storage/storageconfig/",
        "audit": "audit/auditentry/",
    }


def take_pictures(installation: Installation, shown: Shown, target: Path, screen: Screen) -> None:
    """Write every picture into `target`. Raises: DemoError."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError as error:
        raise DemoError("Playwright is not installed: scripts/setup sandbox s3server dev installs it.") from error
    if not CHROMIUM.exists():
        raise DemoError(f"{CHROMIUM} is missing: apt-get install chromium.")
    target.mkdir(parents=True, exist_ok=True)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=str(CHROMIUM),
                args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"],
            )
            page = _signed_in(browser, installation, viewport=DESK)
            for name, address in pages(shown).items():
                _open(page, address)
                if name == "schedule-preview":
                    _fill_schedule(page)
                _take(page, target / f"{name}.png", screen)
            page = _signed_in(browser, installation, viewport=DESK, color_scheme="dark")
            _take(page, target / "overview-dark.png", screen)
            page = _signed_in(browser, installation, viewport=PHONE)
            _take(page, target / "overview-phone.png", screen)
            browser.close()
    except Error as error:
        raise DemoError(f"The browser could not do it: {error.message.splitlines()[0]}") from error


def squeeze(picture: bytes) -> bytes:
    """Return the same PNG with its pixels packed as tightly as deflate can; chromium packs in a hurry."""
    position, rest, pixels = len(_PNG), [], b""
    while position < len(picture):
        (length,) = struct.unpack_from(">I", picture, position)
        kind, end = picture[position + 4 : position + 8], position + 12 + length
        if kind == b"IDAT":
            pixels += picture[position + 8 : end - 4]
        else:
            rest.append(picture[position:end])
        position = end
    packed = b"IDAT" + zlib.compress(zlib.decompress(pixels), 9)
    chunk = struct.pack(">I", len(packed) - 4) + packed + struct.pack(">I", zlib.crc32(packed))
    return _PNG + b"".join([*rest[:-1], chunk, rest[-1]])


def _signed_in(browser: Any, installation: Installation, **options: Any) -> Any:
    context = browser.new_context(
        base_url=installation.url, locale="en-GB", timezone_id="Europe/Berlin", reduced_motion="reduce", **options
    )
    context.set_default_timeout(_PATIENCE_MS)
    page = context.new_page()
    _open(page, "")
    page.fill("#id_username", installation.user)
    page.fill("#id_password", installation.password)
    page.click("button[type=submit]")
    page.wait_for_selector("main")
    _open(page, "")
    return page


def _open(page: Any, address: str) -> None:
    answer = page.goto(f"/admin/{address}")
    if answer is None or answer.status != 200:
        raise DemoError(f"/admin/{address} was not answered with a page: see logs/web.log.")
    page.wait_for_load_state("load")


def _fill_schedule(page: Any) -> None:
    page.fill("#id_name", "weekdays")
    page.select_option("#id_kind", "cron")
    page.fill("#id_cron", "15 6,18 * * mon-fri")
    page.fill("#id_tz", "Europe/Berlin")
    page.select_option("#id_policy", label=POLICY)
    page.get_by_role("button", name="Preview").click()
    page.locator("#preview-sentence").wait_for()
    page.locator("#preview").evaluate("found => found.scrollIntoView({block: 'end'})")


def _take(page: Any, path: Path, screen: Screen) -> None:
    page.evaluate("document.fonts.ready")
    page.wait_for_timeout(600)  # charts and icons draw themselves
    path.write_bytes(squeeze(page.screenshot(animations="disabled", caret="hide")))
    screen.done(f"{path.name}, {path.stat().st_size / 1024:,.0f} KiB")
