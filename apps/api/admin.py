"""The admin of API tokens: who has which, a page that makes one and shows its secret once, a page that revokes one."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from apps.api.models import ApiToken
from apps.api.services import create_token, highest_scope, revoke_token
from apps.core.admin_cells import BAD, NOTHING, OFF, OK, ago, state_cell, time_cell
from apps.core.admin_kit import FactAdmin, demand, may
from apps.core.admin_once import ConfirmationUnknown, new_confirmation, once
from apps.core.errors import BackupmgrError
from apps.core.permissions import Scope

MAX_DAYS = 36500
_MEANINGS = {
    Scope.READ: "read: look at everything but secrets",
    Scope.OPERATE: "operate: and start, cancel and retry backups",
    Scope.RESTORE: "restore: and start restores",
    Scope.ADMINISTER: "administer: and change clusters, storages and tokens",
}


class TokenForm(forms.Form):
    """What the token is for and may do. Only who administers chooses an owner."""

    name = forms.CharField(
        max_length=100,
        widget=UnfoldAdminTextInputWidget({"autocomplete": "off"}),
        help_text="What will use it, for example nightly-backup.",
    )
    user = forms.ModelChoiceField(
        User.objects.filter(is_active=True).order_by("username"),
        label="Owner",
        empty_label=None,
        widget=UnfoldAdminSelectWidget,
        help_text="The token can never do more than this person.",
    )
    scope = forms.ChoiceField(widget=UnfoldAdminSelectWidget)
    expires_days = forms.IntegerField(
        label="Days until it expires",
        required=False,
        min_value=1,
        max_value=MAX_DAYS,
        widget=UnfoldAdminTextInputWidget({"inputmode": "numeric", "autocomplete": "off"}),
        help_text="Empty: it does not expire.",
    )

    def __init__(self, *args: Any, person: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.person = person
        self.limit = highest_scope(person)
        scopes = [scope for scope in Scope if self.limit is not None and scope <= self.limit]
        self.fields["scope"].choices = [(scope.label, _MEANINGS[scope]) for scope in scopes]  # type: ignore[attr-defined]
        if self.limit != Scope.ADMINISTER:
            del self.fields["user"]

    def clean(self) -> dict[str, Any]:
        data = super().clean() or self.cleaned_data
        owner = data.setdefault("user", self.person) if "user" not in self.fields else data.get("user")
        if owner is not None and data.get("scope"):
            held = highest_scope(owner)
            if held is None or Scope[data["scope"].upper()] > held:
                self.add_error(
                    "scope", f"{owner} may {held.label if held else 'do nothing'} at most: choose a lower scope."
                )
        return data


@admin.register(ApiToken)
class ApiTokenAdmin(FactAdmin):
    list_display = ["name", "owner", "scope", "beginning", "state", "created", "expires", "last_used"]
    list_display_links = ["name"]
    list_select_related = ["user"]
    search_fields = ["name", "prefix", "user__username"]
    search_help_text = "Name, owner or prefix"
    ordering = ["-created_at", "id"]
    empty_title = "No API token yet"
    empty_text = "A program signs in to the REST API with a token, as the person who owns it."

    def get_queryset(self, request: HttpRequest) -> Any:
        """Everybody's tokens for those who administer, one's own for others."""
        tokens = super().get_queryset(request).select_related("user")
        return tokens if may(request, Scope.ADMINISTER) else tokens.filter(user_id=request.user.pk)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("api.add_apitoken")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # Tokens are revoked, not deleted; but they go with their owner, whom Django asks this for.
        return request.user.has_perm("auth.delete_user")

    def own_urls(self) -> list[tuple[str, str, Callable[..., HttpResponse]]]:
        return [("<uuid:token_id>/revoke/", "api_apitoken_revoke", self.revoke_view)]

    # --- columns -------------------------------------------------------------------------------------------
    @admin.display(description="Owner", ordering="user__username")
    def owner(self, token: ApiToken) -> str:
        return token.user.get_username()

    @admin.display(description="Begins with")
    def beginning(self, token: ApiToken) -> str:
        return f"bmgr_{token.prefix}_…"

    @admin.display(description="Status")
    def state(self, token: ApiToken) -> SafeString:
        return token_state(token, timezone.now())

    @admin.display(description="Made", ordering="created_at")
    def created(self, token: ApiToken) -> SafeString:
        return time_cell(token.created_at)

    @admin.display(description="Expires", ordering="expires_at")
    def expires(self, token: ApiToken) -> str | SafeString:
        return time_cell(token.expires_at) if token.expires_at else "never"

    @admin.display(description="Last used", ordering="last_used_at")
    def last_used(self, token: ApiToken) -> str | SafeString:
        return time_cell(token.last_used_at) if token.last_used_at else NOTHING

    # --- pages ---------------------------------------------------------------------------------------------
    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Make a token. Its secret is in the answer to this very POST, and nowhere afterwards."""
        demand(request, "api.add_apitoken")
        assert isinstance(request.user, User)
        if request.method != "POST":
            initial = {"user": request.user.pk, "scope": Scope.READ.label, "expires_days": 365}
            return self._form(request, TokenForm(initial=initial, person=request.user))
        form = TokenForm(request.POST, person=request.user)
        if not form.is_valid():
            return self._form(request, form)
        shown: list[tuple[ApiToken, str]] = []
        try:
            token_id = once(request, request.POST.get("confirmation", ""), lambda: self._make(request, form, shown))
        except ConfirmationUnknown:
            return self._form(request, form, "This page was too old. Look at it again and send it once more.")
        except BackupmgrError as error:
            return self._form(request, form, str(error))
        if not shown:  # sent twice
            messages.info(
                request, "This token was made already. Its secret was shown once; make another if it is lost."
            )
            return HttpResponseRedirect(reverse("admin:api_apitoken_change", args=[token_id]))
        token, secret = shown[0]
        page = self.page(request, "admin/api/token_made.html", title=f"{token.name} is ready", token=token,
                         secret=secret, list_url=self.list_url)  # fmt: skip
        page.headers["Cache-Control"] = "no-store"
        return page

    def _make(self, request: HttpRequest, form: TokenForm, shown: list[tuple[ApiToken, str]]) -> str:
        data, now = form.cleaned_data, timezone.now()
        days = data["expires_days"]
        token, secret = create_token(
            user=data["user"],
            name=data["name"],
            scope=Scope[data["scope"].upper()],
            now=now,
            expires_at=now + timedelta(days=days) if days else None,
        )
        self.log_addition(request, token, f"Made for {token.user} with scope {token.scope}.")
        shown.append((token, secret))
        return str(token.pk)

    def _form(self, request: HttpRequest, form: TokenForm, problem: str = "") -> HttpResponse:
        return self.page(
            request,
            "admin/api/token_add.html",
            title="Add API token",
            form=form,
            problem=problem,
            confirmation=new_confirmation(request),
            back=self.list_url,
        )

    def detail_view(self, request: HttpRequest, obj: ApiToken) -> HttpResponse:
        now = timezone.now()
        return self.page(
            request,
            "admin/api/token.html",
            title=obj.name,
            token=obj,
            beginning=self.beginning(obj),
            state=token_state(obj, now),
            may_revoke=obj.revoked_at is None and request.user.has_perm("api.change_apitoken"),
        )

    def revoke_view(self, request: HttpRequest, token_id: uuid.UUID) -> HttpResponse:
        demand(request, "api.change_apitoken")
        token = self.find(request, str(token_id))
        if not isinstance(token, ApiToken):
            return self.gone(request)
        here = self.object_url(token)
        if request.method == "POST":
            if token.revoked_at is None:
                revoke_token(token_id=token.pk, now=timezone.now())
                self.log_change(request, token, "Revoked.")
            messages.success(request, f"{token.name} is revoked: it opens nothing any more.")
            return HttpResponseRedirect(here)
        used = f"It was last used {ago(token.last_used_at)}." if token.last_used_at else "It was never used."
        sentences = [
            f"This revokes the token {token.name} ({self.beginning(token)}) of {token.user}, at once and for good.",
            f"{used} Whatever still uses it is refused from then on.",
        ]
        if token.revoked_at is not None:
            sentences = [f"The token {token.name} is revoked already."]
        return self.confirm(
            request,
            title=f"Revoke {token.name}?",
            crumbs=[*self.crumbs(), (token.name, here)],
            sentences=sentences,
            verb="" if token.revoked_at else "Revoke token",
            danger=True,
            keep="Keep it",
            back=here,
        )

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """A token is revoked and stays in the list: lead there."""
        token = self.find(request, object_id)
        if not isinstance(token, ApiToken):
            return self.gone(request)
        return HttpResponseRedirect(reverse("admin:api_apitoken_revoke", args=[token.pk]))


def token_state(token: ApiToken, now: datetime) -> SafeString:
    if token.revoked_at is not None:
        return state_cell("Revoked", OFF)
    if not token.is_usable(now):
        return state_cell("Expired", BAD)
    if not token.user.is_active:
        return state_cell("Owner inactive", BAD)
    return state_cell("Usable", OK)
