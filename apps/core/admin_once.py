"""A confirmation is good for one thing once: a double click, a resend or a second tab starts nothing more."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from django.contrib.sessions.models import Session
from django.db import transaction
from django.http import HttpRequest

_KEY = "confirmations"
_KEPT = 20


class ConfirmationUnknown(Exception):
    """The confirmation was never given out in this session, or too long ago."""


def new_confirmation(request: HttpRequest) -> str:
    """Give out a token for one confirmation; it is kept in the session."""
    token = secrets.token_urlsafe(16)
    given = dict(request.session.get(_KEY, {}))
    given[token] = ""
    request.session[_KEY] = dict(list(given.items())[-_KEPT:])
    return token


def outcome_of(request: HttpRequest, token: str) -> str:
    """Return what came of the confirmation when it was used before; empty for one that was not."""
    return str(request.session.get(_KEY, {}).get(token) or "")


def once(request: HttpRequest, token: str, act: Callable[[], str]) -> str:
    """Do `act` for the first use of the token and return what it returned; for later uses return that again.

    The session's row is read anew under a lock, so that of two requests at the same moment one waits for the other.
    `act` runs in the same transaction. Raises: ConfirmationUnknown, and whatever `act` raises (the token then stays
    good).
    """
    with transaction.atomic():
        row = Session.objects.select_for_update().filter(session_key=request.session.session_key).first()
        given = row.get_decoded().get(_KEY, {}) if row else {}
        if not token or token not in given:
            raise ConfirmationUnknown
        if given[token]:
            return str(given[token])
        given[token] = act()
        request.session[_KEY] = given
        request.session.save()
        return str(given[token])
