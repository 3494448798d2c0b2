"""The viewer's time zone: a browser tells it by a cookie (static/backupmgr/zone.js), pages then show times in it.

The API is left alone: what it says must not depend on who looks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone

COOKIE = "backupmgr_zone"


class ZoneMiddleware:
    """Shows the pages of the admin in the zone that the viewer's cookie names; in TIME_ZONE without a good one."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        zone = zone_named(request.COOKIES.get(COOKIE, "")) if request.path.startswith(_pages()) else None
        if zone is None:
            return self.get_response(request)
        with timezone.override(zone):
            return self.get_response(request)


def zone_named(name: str) -> ZoneInfo | None:
    """Return the IANA zone of that name; None for what is none, whatever it is."""
    # Looked up in the list first: a key is a path, and a cookie says what it likes.
    return ZoneInfo(name) if name in _known() else None


@cache
def _known() -> frozenset[str]:
    return frozenset(available_timezones())


@cache
def _pages() -> str:
    return reverse("admin:index")
