"""From an exception to an answer: one place for the whole API. Nothing leaves here as HTML or with a stack trace."""

from __future__ import annotations

import logging
import uuid
from typing import Any

from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.core.exceptions import ValidationError as DjangoValidationError
from django.db import IntegrityError, InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from django.views import defaults
from rest_framework import exceptions, status
from rest_framework.response import Response
from rest_framework.views import set_rollback

from apps.api.envelope import EnvelopeRenderer, error_response
from apps.core.errors import BackupmgrError

logger = logging.getLogger(__name__)

API_PREFIX = "/api/v1"
#: When an exception does not say how long to wait.
WAIT_SECONDS = 60


class PayloadTooLarge(exceptions.APIException):
    """The body is larger than any operation needs."""

    status_code = status.HTTP_413_REQUEST_ENTITY_TOO_LARGE
    default_detail = "The request body is too large: at most 1 MiB of JSON is accepted."


def exception_handler(error: Exception, context: dict[str, Any]) -> Response:
    """Answer any exception of a view in the error envelope (REST_FRAMEWORK["EXCEPTION_HANDLER"])."""
    request = context.get("request")
    if request is not None:
        # A view that renders something else (a schema, metrics) still fails in JSON.
        request.accepted_renderer = EnvelopeRenderer()
        request.accepted_media_type = EnvelopeRenderer.media_type
    code, sentence, headers = _explain(error)
    set_rollback()
    return Response({"error": sentence}, status=code, headers=headers)


def _explain(error: Exception) -> tuple[int, str, dict[str, str]]:
    """Return status, sentence and headers for an exception."""
    if isinstance(error, BackupmgrError):
        return error.http_status, str(error), {}
    if isinstance(error, exceptions.APIException):
        return error.status_code, _sentence_of(error), _headers_of(error)
    if isinstance(error, Http404):
        return 404, "There is nothing at this address.", {}
    if isinstance(error, PermissionDenied):
        return 403, str(error) or "This is not permitted.", {}
    if isinstance(error, RequestDataTooBig):
        return 413, PayloadTooLarge.default_detail, {}
    if isinstance(error, SuspiciousOperation):
        return 400, "The request is malformed.", {}
    if isinstance(error, DjangoValidationError):
        return 400, describe(error.message_dict if hasattr(error, "error_dict") else error.messages), {}
    if isinstance(error, IntegrityError):
        logger.warning("A request clashed with another one.", exc_info=error)
        return 409, "Something else changed this at the same time: look at it again and repeat the request.", {}
    if isinstance(error, (OperationalError, InterfaceError)):
        logger.error("The database failed a request.", exc_info=error)
        return 503, "The database did not answer in time: try again in a moment.", {"Retry-After": "5"}
    reference = uuid.uuid4().hex[:12]
    logger.error("A request failed unexpectedly (reference %s).", reference, exc_info=error)
    return 500, f"Something went wrong here that should not have: the log has it under reference {reference}.", {}


def _sentence_of(error: exceptions.APIException) -> str:
    if isinstance(error, exceptions.NotAuthenticated):
        return "Sign in first: send an API token in the api-key header, or as Authorization: Bearer."
    if isinstance(error, exceptions.NotAcceptable):
        return "The answer is application/json: accept that."
    if isinstance(error, exceptions.UnsupportedMediaType):
        return "Send the body as application/json (header Content-Type)."
    if isinstance(error, exceptions.Throttled):
        return f"Too many wrong keys: try again in {getattr(error, 'wait', None) or WAIT_SECONDS} seconds."
    return describe(error.detail)


def _headers_of(error: exceptions.APIException) -> dict[str, str]:
    headers = {}
    if getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = str(error.auth_header)  # type: ignore[attr-defined]
    if getattr(error, "wait", None):
        headers["Retry-After"] = str(int(error.wait))  # type: ignore[attr-defined]
    return headers


def describe(detail: Any) -> str:
    """Turn DRF's or Django's nested error detail into one line that names the fields."""
    return " ".join(_pieces(detail, ""))


def _pieces(detail: Any, field: str) -> list[str]:
    if isinstance(detail, dict):
        pieces = []
        for name, below in detail.items():
            plain = name in ("non_field_errors", "__all__")
            pieces += _pieces(below, field if plain else f"{field}.{name}" if field else str(name))
        return pieces
    if isinstance(detail, (list, tuple)):
        return [piece for below in detail for piece in _pieces(below, field)]
    return [f"{field}: {detail}" if field else str(detail)]


# --- What Django answers itself, before or instead of a view (named in the root URLconf) ----------------------------
def handle_400(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer a request that Django refused (unknown host, too many fields, …)."""
    if not _is_api(request):
        return defaults.bad_request(request, exception)
    if isinstance(exception, RequestDataTooBig):
        return error_response(request, 413, PayloadTooLarge.default_detail)
    return error_response(request, 400, "The request is malformed, or its Host is not in BACKUPMGR_ALLOWED_HOSTS.")


def handle_403(request: HttpRequest, exception: Exception) -> HttpResponse:
    if not _is_api(request):
        return defaults.permission_denied(request, exception)
    return error_response(request, 403, "This is not permitted.")


def handle_404(request: HttpRequest, exception: Exception) -> HttpResponse:
    if not _is_api(request):
        return defaults.page_not_found(request, exception)
    return error_response(request, 404, "There is nothing at this address.")


def handle_500(request: HttpRequest) -> HttpResponse:
    """Answer what broke outside the views; Django has logged it already."""
    if not _is_api(request):
        return defaults.server_error(request)
    return error_response(request, 500, "Something went wrong here that should not have: look into the log.")


def _is_api(request: HttpRequest) -> bool:
    return request.path_info == API_PREFIX or request.path_info.startswith(f"{API_PREFIX}/")
