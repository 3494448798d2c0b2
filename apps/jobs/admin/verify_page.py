"""The page "Verify…": what a verification reads and compares, and how far it should go."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from unfold.widgets import UnfoldAdminSelectWidget

from apps.backups.models import Backup
from apps.core.admin_cells import ago, exact, number
from apps.core.admin_kit import demand
from apps.core.admin_once import new_confirmation
from apps.core.permissions import SCOPE_PERMISSIONS, Scope
from apps.core.text import format_size, plural
from apps.jobs.admin.starting import form_page, is_confirmation, start
from apps.jobs.services import JobRequest
from apps.jobs.states import JobType

if TYPE_CHECKING:
    from apps.jobs.admin import JobAdmin


class VerifyForm(forms.Form):
    """How far to go."""

    depth = forms.ChoiceField(
        label="How",
        choices=[("opened", "Compare hashes, and open every part in Qdrant's engine"), ("checked", "Hashes only")],
        initial="opened",
        widget=UnfoldAdminSelectWidget,
        help_text="Opening a part shows that Qdrant can read it and that no point is missing; it needs room on the "
        "worker's disk for one part at a time.",
    )


def view(page: JobAdmin, request: HttpRequest, backup_id: uuid.UUID) -> HttpResponse:
    demand(request, SCOPE_PERMISSIONS[Scope.OPERATE])
    backup = Backup.objects.select_related("storage", "cluster").defer("manifest").filter(pk=backup_id).first()
    if backup is None:
        messages.warning(request, "This backup does not exist: it may have been deleted meanwhile.")
        return HttpResponseRedirect(reverse("admin:backups_backup_changelist"))
    if request.method != "POST":
        return _page(page, request, backup, VerifyForm())
    form = VerifyForm(request.POST)
    if not form.is_valid() or not is_confirmation(request):
        return _page(page, request, backup, form)
    answer = start(
        page,
        request,
        JobRequest(
            type=JobType.VERIFY,
            collection_name=backup.collection_name,
            backup=backup,
            hashes_only=form.cleaned_data["depth"] == "checked",
        ),
    )
    return _page(page, request, backup, form, error=answer) if isinstance(answer, str) else answer


def _page(page: JobAdmin, request: HttpRequest, backup: Backup, form: VerifyForm, error: str = "") -> HttpResponse:
    here = reverse("admin:backups_backup_change", args=[backup.pk])
    return form_page(
        page,
        request,
        form,
        title=f"Verify a backup of {backup.collection_name}",
        lead=[
            f"The backup from {exact(backup.created_at)} ({ago(backup.created_at)}): {number(backup.points_count)} "
            f"points, {format_size(backup.size_bytes)} in {plural(backup.shard_count, 'part')}, in "
            f"{backup.storage.name}.",
            "Every byte of it is read from the storage and compared with the manifest. Nothing is restored, and no "
            "cluster is touched.",
        ],
        problem=error,
        back=here,
        crumbs=[("Backups", reverse("admin:backups_backup_changelist")), (backup.snapshot_name, here)],
        verb="Verify",
        hidden=[("step", "confirm"), ("confirmation", new_confirmation(request))],
    )
