"""A real browser: Debian's chromium, driven by Playwright. Without it these tests are skipped, with the reason."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")
# Playwright's loop runs in the test's thread; the database is asked in between, never from within a coroutine.
os.environ.setdefault("DJANGO_ALLOW_ASYNC_UNSAFE", "true")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is missing: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"],
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any, live_server: Any) -> Iterator[Callable[..., Any]]:
    """Return a page in a browser profile of its own.

    Requests that leave the host, script errors and what the content security policy refuses fail the test.
    """
    contexts: list[Any] = []
    problems: list[str] = []

    def refused(words: str) -> None:
        if "Content Security Policy" in words:
            problems.append(words)

    def open_one(**options: Any) -> Any:
        context = chromium.new_context(
            base_url=live_server.url, **{"viewport": {"width": 1360, "height": 850}} | options
        )
        context.set_default_timeout(8000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: refused(message.text))
        page.on("pageerror", lambda error: problems.append(f"script error: {error}"))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((live_server.url, "data:", "blob:"))
                else problems.append(f"request left the host: {request.url}")
            ),
        )
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert problems == []


@pytest.fixture
def sign_in(open_page: Callable[..., Any], live_server: Any, transactional_db: None) -> Callable[..., Any]:
    """Return a page that shows the overview, signed in as a superuser unless a group is named.

    `by_form` goes through the login page; otherwise the session is simply there, which is quicker.
    """
    from django.conf import settings
    from django.test import Client

    from tests.admin.world import person

    def sign_in_as(group: str | None = None, *, by_form: bool = False, **options: Any) -> Any:
        user = person(group, superuser=group is None)
        page = open_page(**options)
        if not by_form:
            client = Client()
            client.force_login(user)
            name = settings.SESSION_COOKIE_NAME
            page.context.add_cookies([{"name": name, "value": client.cookies[name].value, "url": live_server.url}])
            page.goto("/admin/")
            page.wait_for_selector("main")
            return page
        page.goto("/admin/")
        page.fill("#id_username", user.username)
        page.fill("#id_password", "a-long-pass-phrase")
        page.click("button[type=submit]")
        page.wait_for_selector("main")
        return page

    return sign_in_as
