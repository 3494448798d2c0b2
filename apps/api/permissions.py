"""Who may call what: every operation declares a Scope, every caller has one."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, User
from rest_framework.exceptions import NotAuthenticated, PermissionDenied
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from apps.api.models import ApiToken
from apps.core.permissions import SCOPE_PERMISSIONS, Scope


class OperationPermission(BasePermission):
    """Compares the scope that the view declares for the method with what the caller has.

    A view's `scopes` maps GET, POST, PUT, DELETE to a Scope (HEAD counts as GET). A method without a declaration
    is refused to everybody; checks.py finds it before that.
    """

    def has_permission(self, request: Request, view: Any) -> bool:
        method = "GET" if request.method == "HEAD" else str(request.method)
        if method.lower() not in view.http_method_names or not hasattr(view, method.lower()):
            return True  # answered 405 by the view, to anybody
        needed: Scope | None = getattr(view, "scopes", {}).get(method)
        if needed is None:
            return False
        if may_read_anonymously(request, view) and needed == Scope.READ:
            return True
        require(request, needed)
        return True


def may_read_anonymously(request: Request, view: Any) -> bool:
    """Tell whether a caller without credentials may look: only when the operator switched it on."""
    return (
        not request.user.is_authenticated
        and bool(getattr(settings, "BACKUPMGR_ANONYMOUS_READ", False))
        and bool(getattr(view, "allow_anonymous", True))
    )


def require(request: Request, scope: Scope) -> None:
    """Let the request pass when its caller has `scope`.

    Views call it for what depends on the body (a job that restores). Raises: NotAuthenticated, PermissionDenied.
    """
    if not request.user.is_authenticated:
        raise NotAuthenticated
    token = request.auth
    if isinstance(token, ApiToken) and token.rung < scope:
        raise PermissionDenied(f"This needs the scope {scope.label}; the token has {token.scope}.")
    if not _person_has(request.user, scope):
        raise PermissionDenied(f"This needs the permission to {scope.label}; {request.user.get_username()} lacks it.")


def caller(request: Request) -> User:
    """Return who calls; only for operations that nobody may call without signing in."""
    assert isinstance(request.user, User)
    return request.user


def _person_has(user: AbstractBaseUser | AnonymousUser, scope: Scope) -> bool:
    return bool(user.has_perm(SCOPE_PERMISSIONS[scope]))  # type: ignore[union-attr]
