"""Signing in with an API token: header `api-key: …` or `Authorization: Bearer …`, as Qdrant has it."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import AbstractBaseUser
from django.utils import timezone
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed, Throttled
from rest_framework.request import Request

from apps.api.models import ApiToken
from apps.api.services import find_token
from apps.api.throttle import Limit, attempt, client_address

#: So many wrong keys from one address within the window, and further wrong ones are answered 429.
MAX_FAILURES = 20
WINDOW_SECONDS = 60


class TokenAuthentication(BaseAuthentication):
    """Authenticates by API token; `request.auth` is the ApiToken.

    Wrong keys are counted per address (throttle.py). A right key always passes: its 256 bits cannot be guessed, and
    behind a proxy one broken client would lock out everybody.
    """

    def authenticate(self, request: Request) -> tuple[AbstractBaseUser, ApiToken] | None:
        secret = _secret(request)
        if secret is None:
            return None
        token = find_token(secret=secret, now=timezone.now())
        if token is None:
            _count_failure(client_address(request))
            raise AuthenticationFailed("The API token is unknown, expired or revoked, or its owner is inactive.")
        return token.user, token

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="backupmgr"'


def _secret(request: Request) -> str | None:
    """Return the key that was sent, None when none was."""
    key = request.META.get("HTTP_API_KEY")
    if key is not None:
        return str(key).strip()
    scheme, _, value = str(request.META.get("HTTP_AUTHORIZATION", "")).partition(" ")
    return value.strip() if scheme.lower() == "bearer" else None


def _count_failure(address: str) -> None:
    """Count a wrong key. Raises: Throttled when there were too many from this address."""
    wait = attempt(f"api-key\n{address}", Limit(MAX_FAILURES, WINDOW_SECONDS), timezone.now())
    if wait:
        raise Throttled(wait=wait)


class TokenScheme(OpenApiAuthenticationExtension):
    """Describes both headers in the schema."""

    target_class = TokenAuthentication
    name = ["apiKey", "bearer"]

    def get_security_requirement(self, auto_schema: Any) -> list[dict[str, list[str]]]:
        return [{"apiKey": []}, {"bearer": []}]

    def get_security_definition(self, auto_schema: Any) -> list[dict[str, str]]:
        return [
            {"type": "apiKey", "in": "header", "name": "api-key", "description": "An API token"},
            {"type": "http", "scheme": "bearer", "description": "The same token as Authorization: Bearer"},
        ]
