"""The pages of holds: a backup that is pinned, by whom, why, and until when."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from django import forms
from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString
from unfold.widgets import UnfoldAdminTextInputWidget

from apps.backups.models import Backup, Hold
from apps.core.admin_cells import OFF, OK, state_cell, time_cell
from apps.core.admin_kit import FactAdmin, demand, person
from apps.core.errors import BackupmgrError
from apps.schedules.retention.policies import place_hold, release_hold


class HoldForm(forms.Form):
    reason = forms.CharField(label="Why", max_length=300, widget=UnfoldAdminTextInputWidget({"autocomplete": "off"}))
    days = forms.IntegerField(
        label="For … days",
        required=False,
        min_value=1,
        max_value=36_500,
        help_text="Empty: until somebody releases it.",
        widget=UnfoldAdminTextInputWidget({"inputmode": "numeric", "autocomplete": "off"}),
    )


@admin.register(Hold)
class HoldAdmin(FactAdmin):
    list_display = ["what", "state", "reason", "by", "since", "ends"]
    list_display_links = ["what"]
    list_select_related = ["backup", "created_by"]
    search_fields = ["reason", "backup__collection_name"]
    ordering = ["-created_at", "-id"]
    sortable_by: list[str] = []
    empty_title = "Nothing is held"
    empty_text = "A held backup stays, whatever a policy says. Hold one from its page."

    def own_urls(self) -> list[tuple[str, str, Callable[..., HttpResponse]]]:
        return [
            ("place/<uuid:backup_id>/", "backups_hold_place", self.place_view),
            ("<uuid:object_id>/release/", "backups_hold_release", self.release_view),
        ]

    @admin.display(description="Backup")
    def what(self, hold: Hold) -> str:
        return str(hold.backup)

    @admin.display(description="State")
    def state(self, hold: Hold) -> SafeString:
        over = hold.released_at is not None or (hold.until is not None and hold.until <= timezone.now())
        return state_cell("Over", OFF) if over else state_cell("Held", OK)

    @admin.display(description="By")
    def by(self, hold: Hold) -> str:
        return hold.created_by.get_username() if hold.created_by else "–"

    @admin.display(description="Since")
    def since(self, hold: Hold) -> SafeString:
        return time_cell(hold.created_at)

    @admin.display(description="Until")
    def ends(self, hold: Hold) -> SafeString:
        return time_cell(hold.until)

    def detail_view(self, request: HttpRequest, obj: Hold) -> HttpResponse:
        held = obj.released_at is None
        return self.page(
            request,
            "admin/schedules/hold.html",
            title=f"Hold on {obj.backup.collection_name}",
            hold=obj,
            state=self.state(obj),
            may_release=held and request.user.has_perm("backups.change_hold"),
        )

    def place_view(self, request: HttpRequest, backup_id: str) -> HttpResponse:
        demand(request, "backups.add_hold")
        backup = Backup.objects.defer("manifest").filter(pk=backup_id).first()
        if backup is None:
            return self.gone(request)
        back = reverse("admin:backups_backup_change", args=[backup.pk])
        form = HoldForm(request.POST if request.method == "POST" else None)
        if request.method == "POST" and form.is_valid():
            now, days = timezone.now(), form.cleaned_data["days"]
            try:
                place_hold(
                    backup=backup,
                    reason=form.cleaned_data["reason"],
                    until=now + timedelta(days=days) if days else None,
                    now=now,
                    user=person(request),
                )
                messages.success(request, "The backup is held: nothing deletes it.")
                return HttpResponseRedirect(back)
            except BackupmgrError as error:
                form.add_error(None, str(error))
        return self.page(
            request,
            "admin/schedules/small_form.html",
            title=f"Keep this backup of {backup.collection_name}",
            lead=["A held backup stays, whatever its policy says, until the hold is released or over."],
            form=form,
            verb="Hold it",
            back=back,
        )

    def release_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        demand(request, "backups.change_hold")
        hold = self.find(request, str(object_id))
        if hold is None:
            return self.gone(request)
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        release_hold(hold=hold, now=timezone.now(), user=person(request))
        messages.success(request, "Released: retention may let the backup go again.")
        return HttpResponseRedirect(self.object_url(hold))
