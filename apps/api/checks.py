"""A check at start: no operation without a declared scope."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.core.checks import CheckMessage, Error
from django.urls import URLPattern, URLResolver

from apps.api.views import METHODS, ApiView


def check_scopes_declared(**kwargs: Any) -> list[CheckMessage]:
    """Find handlers of API views for which the view declares no scope."""
    from apps.api.urls import urlpatterns

    return [
        Error(f"{view.__name__}.{method.lower()} declares no scope.", hint="Add it to `scopes`.", id="api.E001")
        for view in dict.fromkeys(operations(urlpatterns))
        for method in METHODS
        if not view.public and hasattr(view, method.lower()) and method not in view.scopes
    ]


def operations(patterns: list[URLPattern | URLResolver]) -> Iterator[type[ApiView]]:
    """Yield the API view classes below `patterns`."""
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            yield from operations(pattern.url_patterns)
            continue
        view = getattr(pattern.callback, "cls", None)
        if isinstance(view, type) and issubclass(view, ApiView):
            yield view
