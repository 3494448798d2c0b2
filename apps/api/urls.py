"""Addresses of the API: /api/v1, and health and metrics at the root."""

from __future__ import annotations

from django.urls import include, path
from django.urls.resolvers import URLPattern, URLResolver

from apps.api.health import healthz, livez, readyz
from apps.api.metrics import RootMetricsView
from apps.api.views import UnknownPath

urlpatterns: list[URLPattern | URLResolver] = [
    path("api/v1", UnknownPath.as_view()),
    path("api/v1/", include("apps.api.v1.urls")),
    path("healthz", healthz),
    path("livez", livez),
    path("readyz", readyz),
    path("metrics", RootMetricsView.as_view()),
]
