"""What can be done with API tokens: create, find by secret, revoke."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import uuid
from datetime import datetime, timedelta

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, User
from django.db.models import Q

from apps.api.models import ApiToken
from apps.audit.trail import record_action
from apps.core.errors import InvalidRequest, NotFound
from apps.core.permissions import SCOPE_PERMISSIONS, Scope

#: In front of every secret, so that scanners for leaked keys and people recognise it.
MARK = "bmgr"
LAST_USED_EVERY = timedelta(minutes=1)


class TokenNotFound(NotFound):
    """There is no token with that id."""


class UnableToCreateToken(InvalidRequest):
    """What was asked for cannot be a token."""


def create_token(
    *, user: User, name: str, scope: Scope, now: datetime, expires_at: datetime | None = None
) -> tuple[ApiToken, str]:
    """Create a token for `user` and return it with its secret, which nobody can show again.

    Raises: UnableToCreateToken.
    """
    if not name.strip():
        raise UnableToCreateToken("A token needs a name that tells what uses it.")
    if expires_at is not None and expires_at <= now:
        raise UnableToCreateToken("The expiry lies in the past.")
    prefix = secrets.token_hex(6)
    secret = f"{MARK}_{prefix}_{secrets.token_urlsafe(32)}"
    token = ApiToken.objects.create(
        name=name.strip(),
        user=user,
        prefix=prefix,
        secret_sha256=_digest(secret),
        scope=scope.label,
        created_at=now,
        expires_at=expires_at,
    )
    record_action(
        "apitoken.create",
        f"Made the API token {token.name} for {user} with scope {token.scope}.",
        about=token,
        user=user,
    )
    return token, secret


def highest_scope(user: AbstractBaseUser | AnonymousUser) -> Scope | None:
    """Return the highest scope that a token of `user` can make use of, None when there is none."""
    held = [scope for scope in Scope if user.has_perm(SCOPE_PERMISSIONS[scope])]  # type: ignore[union-attr]
    return max(held, default=None)


def find_token(*, secret: str, now: datetime) -> ApiToken | None:
    """Return the usable token (with its active owner) that `secret` belongs to, None when there is none.

    Notes the use, at most once a minute.
    """
    mark, _, rest = secret.partition("_")
    prefix, _, _ = rest.partition("_")
    token = ApiToken.objects.select_related("user").filter(prefix=prefix).first() if mark == MARK else None
    expected = token.secret_sha256 if token else "0" * 64
    if not hmac.compare_digest(_digest(secret), expected) or token is None:
        return None
    if not token.is_usable(now) or not token.user.is_active:
        return None
    stale = now - LAST_USED_EVERY
    if token.last_used_at is None or token.last_used_at < stale:
        ApiToken.objects.filter(Q(last_used_at=None) | Q(last_used_at__lt=stale), pk=token.pk).update(last_used_at=now)
    return token


def revoke_token(*, token_id: uuid.UUID, now: datetime) -> ApiToken:
    """Make a token useless from now on; revoking twice changes nothing. Raises: TokenNotFound."""
    revoked = ApiToken.objects.filter(pk=token_id, revoked_at=None).update(revoked_at=now)
    token = ApiToken.objects.filter(pk=token_id).first()
    if token is None:
        raise TokenNotFound("There is no token with this id.")
    if revoked:
        record_action("apitoken.revoke", f"Revoked the API token {token.name}.", about=token)
    return token


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
