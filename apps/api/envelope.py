"""The envelope: {"status": "ok", "time": …, "result": …} or {"status": {"error": …}, "time": …}."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from django.http import HttpRequest, JsonResponse
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

_STARTED = "_backupmgr_started"


def start_clock(request: HttpRequest) -> None:
    """Remember when work on the request began; `elapsed_seconds` counts from here."""
    setattr(request, _STARTED, time.perf_counter())


def elapsed_seconds(request: HttpRequest | Request | None) -> float:
    """Return the seconds since `start_clock`; 0.0 when the request never came that far."""
    plain = request._request if isinstance(request, Request) else request
    started = getattr(plain, _STARTED, None)
    return round(time.perf_counter() - started, 6) if started is not None else 0.0


class BareResponse(Response):
    """An answer without the envelope (GET /jobs, as the contract has it)."""


def warned(response: Response, warnings: Sequence[str]) -> Response:
    """Have the envelope say what the answer lacks; without warnings it says nothing of the kind."""
    response.warnings = list(warnings)  # type: ignore[attr-defined]
    return response


class EnvelopeRenderer(JSONRenderer):
    """JSON in the envelope. Failures come from exceptions.py as {"error": sentence}."""

    def render(
        self, data: Any, accepted_media_type: str | None = None, renderer_context: Mapping[str, Any] | None = None
    ) -> bytes:
        context = renderer_context or {}
        response = context.get("response")
        if not isinstance(response, BareResponse):
            seconds = elapsed_seconds(context.get("request"))
            if response is not None and response.status_code >= 400:
                data = {"status": data, "time": seconds}
            else:
                warnings = getattr(response, "warnings", None)
                more = {"warnings": warnings} if warnings else {}
                data = {"status": "ok", "time": seconds, **more, "result": data}
        rendered: bytes = super().render(data, accepted_media_type, renderer_context)
        return rendered


class Negotiation(DefaultContentNegotiation):
    """By the Accept header alone: `?format=` is no part of this API."""

    def filter_renderers(self, renderers: Any, format: str | None) -> Any:  # noqa: A002 - DRF's name
        return renderers


class AnyAccept(Negotiation):
    """For operations whose success is no JSON (downloads, metrics): errors are JSON whatever was accepted."""

    def select_renderer(
        self, request: Any, renderers: Any, format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        return renderers[0], renderers[0].media_type


def error_response(request: HttpRequest, status: int, sentence: str) -> JsonResponse:
    """Answer in the error envelope where no DRF view is at work."""
    return JsonResponse({"status": {"error": sentence}, "time": elapsed_seconds(request)}, status=status)
