"""Every request that changed something, or was not allowed to, is in the trail; services that say more say it first."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from django.contrib.auth.models import AbstractBaseUser
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.urls import ResolverMatch

from apps.audit.models import Outcome
from apps.audit.trail import About, Call, current_call, record_action

_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_REFUSED = 403
#: Modules of the API that are not simply the plural of a model's name.
_MODELS = {"storage": "storageconfig", "tokens": "apitoken", "operations": "nodeoperation"}

logger = logging.getLogger(__name__)


class AuditMiddleware:
    """Stands after the authentication. Names the call to `record_action`, and writes what no service wrote.

    A change is: in the API any answer of 2xx to a method that is not safe, on a view that does not say
    `changes_nothing`; in the admin a redirect (a form that is shown again changed nothing). A 403 for somebody who is
    signed in is an entry as well. Strangers leave none: they could fill the table.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.method in _SAFE:
            return self.get_response(request)
        call = Call(request)
        marker = current_call.set(call)
        try:
            response = self.get_response(request)
            self._complete(call, response)
        finally:
            current_call.reset(marker)
        return response

    def _complete(self, call: Call, response: HttpResponse) -> None:
        match: ResolverMatch | None = call.request.resolver_match
        user = getattr(call.request, "user", None)
        if match is None or not isinstance(user, AbstractBaseUser):
            return
        try:
            if response.status_code == _REFUSED:
                action, words = _named(call, match)
                record_action(
                    action, f"Refused: {words}.", outcome=Outcome.REFUSED, about=_object(call, match, response)
                )
            elif not call.told and _has_changed(call, match, response):
                action, words = _named(call, match)
                record_action(action, f"{words[:1].upper()}{words[1:]}.", about=_object(call, match, response))
        except DatabaseError:
            # What was done is done: the answer must say so. The log says what the trail lacks.
            logger.exception("The audit trail could not be written: %s %s", call.request.method, call.request.path)


def _view_class(match: ResolverMatch) -> Any:
    return getattr(match.func, "view_class", getattr(match.func, "cls", None))


def _has_changed(call: Call, match: ResolverMatch, response: HttpResponse) -> bool:
    if call.via == "api":
        view = _view_class(match)
        silent = getattr(view, "changes_nothing", False) or call.request.GET.get("dry_run", "").lower() == "true"
        return 200 <= response.status_code < 300 and view is not None and not silent
    return (
        300 <= response.status_code < 400 and match.namespace == "admin" and match.url_name not in ("login", "logout")
    )


def _named(call: Call, match: ResolverMatch) -> tuple[str, str]:
    """Return (name for programs, words) of what was asked: the operation of the API, or the page of the admin."""
    if call.via == "api":
        handler = getattr(_view_class(match), str(call.request.method).lower(), None)
        name = str(getattr(handler, "operation_id", "") or match.url_name or match.route)
        words = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name)
        return name, words
    name = str(match.url_name or match.route)
    parts = name.split("_")
    # app_model_verb, as Django names the pages of its admin
    words = f"{' '.join(parts[2:])} {parts[1]}" if len(parts) > 2 else name
    return name, words


def _object(call: Call, match: ResolverMatch, response: HttpResponse) -> About:
    """Name the object by the address and, for one that was made, by the answer."""
    found = {key: str(value) for key, value in match.kwargs.items()}
    result = getattr(response, "data", None)
    result = result.get("result", result) if isinstance(result, dict) else None
    answer = result if isinstance(result, dict) else {}
    if call.via == "api":
        room = _view_class(match).__module__.rsplit(".", 1)[-1] if _view_class(match) else ""
        kind = _MODELS.get(room, room.removesuffix("s"))
    else:
        kind = (match.url_name or "").split("_")[1] if (match.url_name or "").count("_") > 1 else ""
    by_id = next((value for key, value in found.items() if key in ("id", "object_id") or key.endswith("_id")), "")
    name = next((found[key] for key in ("name", "collection", "snapshotName") if key in found), "")
    return About(
        type=kind,
        id=by_id or str(answer.get("id") or ""),
        name=name or str(answer.get("name") or answer.get("collection_name") or ""),
    )
