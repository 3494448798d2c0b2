"""The page "Restore…": where to, what that does to the target, and the name typed when it overwrites."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.http import urlencode

from apps.backups.models import Backup
from apps.core.admin_cells import ago, exact, number
from apps.core.admin_kit import Crumb, demand
from apps.core.permissions import SCOPE_PERMISSIONS, Scope
from apps.core.text import format_size
from apps.jobs.admin.forms import RestoreForm
from apps.jobs.admin.preview import Preview, preview_restore
from apps.jobs.admin.starting import form_page, hidden_fields, is_confirmation, start
from apps.jobs.services import JobRequest
from apps.jobs.states import JobType

if TYPE_CHECKING:
    from apps.jobs.admin import JobAdmin


def view(page: JobAdmin, request: HttpRequest) -> HttpResponse:
    demand(request, SCOPE_PERMISSIONS[Scope.RESTORE])
    backup = _backup(request)
    if backup is None:
        messages.warning(request, "Choose the backup to restore from: this one does not exist (any more).")
        return HttpResponseRedirect(reverse("admin:backups_backup_changelist"))
    if request.method != "POST":
        initial = {
            "target_cluster": request.GET.get("target_cluster") or backup.cluster_id,
            "target_collection": request.GET.get("target_collection") or backup.collection_name,
            "shard": request.GET.get("shard"),
        }
        return _form(page, request, backup, RestoreForm(backup=backup, initial=initial))
    form = RestoreForm(request.POST, backup=backup)
    if not form.is_valid():
        return _form(page, request, backup, form)
    if not is_confirmation(request):
        return _confirmation(page, request, backup, form)
    data = form.cleaned_data
    if data["overwrite"] and request.POST.get("typed_name") != data["target_collection"]:
        wrong = f"Type {data['target_collection']} exactly as it is written to overwrite it."
        return _confirmation(page, request, backup, form, error=wrong)
    answer = start(
        page,
        request,
        JobRequest(
            type=JobType.RESTORE if data["shard"] is None else JobType.SHARD_RESTORE,
            collection_name=backup.collection_name,
            backup=backup,
            shard_id=data["shard"],
            target_cluster=data["target_cluster"],
            target_collection=data["target_collection"],
            overwrite=data["overwrite"],
            restore_aliases=data.get("restore_aliases", False),
            replication_factor=data.get("replication_factor"),
            safety_backup=not data.get("no_safety_backup"),
            verify_points=data.get("verify_points") or "",
        ),
    )
    return _confirmation(page, request, backup, form, error=answer) if isinstance(answer, str) else answer


def _backup(request: HttpRequest) -> Backup | None:
    asked = request.GET.get("backup") or ""
    try:
        return Backup.objects.select_related("storage", "cluster").filter(pk=asked).first() if asked else None
    except (ValidationError, ValueError):
        return None


def _crumbs(backup: Backup) -> list[Crumb]:
    return [("Backups", reverse("admin:backups_backup_changelist")), (backup.snapshot_name, _address(backup))]


def _address(backup: Backup) -> str:
    return reverse("admin:backups_backup_change", args=[backup.pk])


def _summary(backup: Backup) -> str:
    return (
        f"The backup of {backup.collection_name} from {exact(backup.created_at)} ({ago(backup.created_at)}): "
        f"{number(backup.points_count)} points, {format_size(backup.size_bytes)}, in {backup.storage.name}."
    )


def _form(
    page: JobAdmin, request: HttpRequest, backup: Backup, form: RestoreForm, preview: Preview | None = None
) -> HttpResponse:
    return form_page(
        page,
        request,
        form,
        title=f"Restore {backup.collection_name}",
        lead=[_summary(backup)],
        problem=preview.blocked if preview else "",
        back=_address(backup),
        crumbs=_crumbs(backup),
    )


def _confirmation(
    page: JobAdmin, request: HttpRequest, backup: Backup, form: RestoreForm, error: str = ""
) -> HttpResponse:
    data = form.cleaned_data
    collection, cluster = data["target_collection"], data["target_cluster"]
    preview = preview_restore(
        backup=backup,
        cluster=cluster,
        collection=collection,
        overwrite=data["overwrite"],
        shard_id=data["shard"],
        replication_factor=data.get("replication_factor"),
        safety_backup=not data.get("no_safety_backup"),
    )
    if preview.blocked:
        return _form(page, request, backup, form, preview)
    sentences, warnings = list(preview.sentences), list(preview.warnings)
    if preview.unknown:
        action = "replaces" if data["overwrite"] else "creates"
        sentences.append(f"This {action} the collection {collection} on {cluster.name}.")
        warnings.append(
            f"What is there now could not be seen: {preview.unknown} The job looks again before it touches anything."
        )
    if data.get("restore_aliases"):
        aliases = ", ".join(map(str, backup.manifest.get("collection", {}).get("aliases") or []))
        sentences.append(f"Aliases will point to it: {aliases}.")
    kept = {"backup": backup.pk, "target_cluster": cluster.pk, "target_collection": collection}
    if data["shard"] is not None:
        kept["shard"] = data["shard"]
    return page.confirm(
        request,
        title=f"Restore into {collection}?",
        crumbs=_crumbs(backup),
        sentences=[*sentences, _summary(backup)],
        warnings=warnings,
        verb="Overwrite and restore" if data["overwrite"] else "Restore",
        danger=data["overwrite"],
        typed_name=collection if data["overwrite"] else "",
        back=f"{reverse('admin:jobs_job_restore')}?{urlencode(kept)}",
        hidden=hidden_fields(request, form),
        error=error,
    )
