"""The schema and the two pages that show it, served without anything from outside."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.utils.decorators import method_decorator
from django.views.decorators.cache import cache_page
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularAPIView, SpectacularRedocView, SpectacularSwaggerView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.api.envelope import start_clock

#: Generating the schema takes a third of a second, and anybody may ask for it.
CACHE_SECONDS = 300

#: The bundles name fonts and a logo elsewhere; the browser must not fetch them.
_ONLY_FROM_HERE = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; worker-src 'self' blob:; frame-ancestors 'none'"
)


class _Open(APIView):
    """For everybody: nothing of this installation stands in the schema."""

    authentication_classes = []

    def initialize_request(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Request:
        start_clock(request)
        return super().initialize_request(request, *args, **kwargs)


class _Page(_Open):
    url_name = "api-schema"

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Response:
        final = super().finalize_response(request, response, *args, **kwargs)
        final["Content-Security-Policy"] = _ONLY_FROM_HERE
        return final


@method_decorator(cache_page(CACHE_SECONDS), name="dispatch")
@extend_schema(exclude=True)
class SchemaView(_Open, SpectacularAPIView):
    """The schema: YAML, or JSON for those who accept it."""


@extend_schema(exclude=True)
class DocsView(_Page, SpectacularSwaggerView):
    """Swagger UI."""


@extend_schema(exclude=True)
class RedocView(_Page, SpectacularRedocView):
    """ReDoc."""

    template_name = "api/redoc.html"
