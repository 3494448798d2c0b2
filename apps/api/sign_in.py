"""Signing in to the admin, slowed down for who guesses: per name and address, so that nobody locks out anybody else."""

from __future__ import annotations

from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from unfold.forms import AuthenticationForm

from apps.api.throttle import Limit, attempt, client_address, forget
from apps.core.text import plural


class SignInForm(AuthenticationForm):
    """The admin's form (setting UNFOLD["LOGIN"]["form"]); a refused attempt does not even look at the password."""

    #: For how many seconds nobody may try again; 0 when this attempt was allowed.
    wait = 0

    def clean(self) -> dict[str, Any]:
        name = self.cleaned_data.get("username")
        if not name or not self.cleaned_data.get("password") or self.request is None:
            return super().clean()
        who = f"sign-in\n{client_address(self.request)}\n{name}"
        limit = Limit(settings.BACKUPMGR_LOGIN_FAILURES, settings.BACKUPMGR_LOGIN_LOCK_MINUTES * 60)
        self.wait = attempt(who, limit, timezone.now())
        if self.wait:
            minutes = plural(-(-self.wait // 60), "minute")
            raise forms.ValidationError(f"Too many failed attempts with this name: try again in {minutes}.", "locked")
        cleaned: dict[str, Any] = super().clean()
        forget(who)
        return cleaned


@never_cache
def sign_in(request: HttpRequest) -> HttpResponse:
    """The admin's login page; 429 with Retry-After when there were too many failed attempts."""
    response = admin.site.login(request)
    form = (getattr(response, "context_data", None) or {}).get("form")
    if isinstance(form, SignInForm) and form.wait:
        response.status_code = 429
        response.headers["Retry-After"] = str(form.wait)
    return response
