"""Cancel, retry, delete a backup: each a page that names what will happen, and a POST that does it."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone

from apps.backups.models import Backup, BackupStatus
from apps.core.admin_cells import ago, number
from apps.core.admin_kit import demand, may, person
from apps.core.errors import BackupmgrError
from apps.core.permissions import SCOPE_PERMISSIONS, Scope
from apps.core.text import format_size, plural
from apps.jobs.admin.cells import name_of
from apps.jobs.models import Job
from apps.jobs.services import cancel_job, delete_backup, retry_job
from apps.jobs.states import RESTORE_TYPES, RETRYABLE, JobStatus

if TYPE_CHECKING:
    from apps.jobs.admin import JobAdmin


def may_retry(request: HttpRequest, job: Job) -> bool:
    """Retrying a restore is starting one."""
    return may(request, Scope.OPERATE) and (job.type not in RESTORE_TYPES or may(request, Scope.RESTORE))


def cancel_view(page: JobAdmin, request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
    demand(request, SCOPE_PERMISSIONS[Scope.OPERATE])
    job = page.find(request, str(job_id))
    if job is None:
        return page.gone(request)
    name, here = name_of(job), page.object_url(job)
    if request.method == "POST":
        try:
            cancelled = cancel_job(job_id=job.pk, now=timezone.now(), user=person(request))
        except BackupmgrError as error:
            messages.error(request, str(error))
        else:
            done = cancelled.status == JobStatus.CANCELLED
            messages.info(request, f"{name}: {'cancelled before it started' if done else 'told to stop'}.")
        return HttpResponseRedirect(here)
    sentences = [f"This stops the {name[0].lower()}{name[1:]}."]
    if not job.is_active:
        sentences = [f"The job has already ended ({job.status}): there is nothing to cancel."]
    elif job.is_waiting:
        sentences.append(
            "It waits for its next attempt: nothing moves now, and what is left of the last one is removed."
        )
    elif job.status == JobStatus.PENDING:
        sentences.append("It has not started yet: nothing has to be cleaned up.")
    elif job.type in RESTORE_TYPES:
        sentences.append(
            f"What it has restored into {job.target_collection} so far is not usable: a collection it created is "
            f"removed again, one that it was overwriting has to be restored anew."
        )
    elif job.is_batch:
        sentences.append("Collections that have their backup already keep it; the others are cancelled.")
    else:
        sentences.append("What it has stored so far is removed again. Earlier backups are not touched.")
    return page.confirm(
        request, title=f"Cancel: {name}", crumbs=[*page.crumbs(), (name, here)], sentences=sentences,
        verb="Cancel job" if job.is_active else "", danger=job.type in RESTORE_TYPES, keep="Let it run", back=here,
    )  # fmt: skip


def retry_view(page: JobAdmin, request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
    demand(request, SCOPE_PERMISSIONS[Scope.OPERATE])
    job = page.find(request, str(job_id))
    if job is None:
        return page.gone(request)
    if job.type in RESTORE_TYPES:
        demand(request, SCOPE_PERMISSIONS[Scope.RESTORE])
    name, here = name_of(job), page.object_url(job)
    if request.method == "POST":
        try:
            retry_job(job_id=job.pk, now=timezone.now(), user=person(request))
        except BackupmgrError as error:
            messages.error(request, str(error))
        else:
            messages.info(request, f"{name} is queued again.")
        return HttpResponseRedirect(here)
    sentences = [f"This starts the {name[0].lower()}{name[1:]} from the beginning, as attempt {job.attempt + 1}."]
    missing = job.children.filter(status__in=RETRYABLE).count() if job.is_batch else 0
    if missing:
        sentences = [f"This tries again the {plural(missing, 'collection')} without a backup; the others are done."]
    if not job.can_retry:
        sentences = [f"Only a failed or cancelled job can be retried; this one is {job.status}."]
    elif job.error or job.wait_reason:
        sentences.append(f"The last attempt ended with: {job.error or job.wait_reason}")
    overwrites = job.type in RESTORE_TYPES and job.overwrite
    warning = f"It overwrites {job.target_collection} on {(job.target_cluster or job.cluster).name}."
    return page.confirm(
        request, title=f"Retry: {name}", crumbs=[*page.crumbs(), (name, here)], sentences=sentences,
        warnings=[warning] if overwrites and job.can_retry else [],
        verb="Retry job" if job.can_retry else "", danger=overwrites, back=here,
    )  # fmt: skip


def delete_backup_view(page: JobAdmin, request: HttpRequest, backup_id: uuid.UUID) -> HttpResponse:
    demand(request, "backups.delete_backup")
    backup = Backup.objects.select_related("storage").defer("manifest").filter(pk=backup_id).first()
    listed = reverse("admin:backups_backup_changelist")
    if backup is None:
        return page.gone(request, "backup", [("All backups", listed)])
    here = reverse("admin:backups_backup_change", args=[backup.pk])
    what = f"the backup of {backup.collection_name} made {ago(backup.created_at)}"
    others = Backup.objects.filter(
        collection_name=backup.collection_name, cluster_name=backup.cluster_name, status=BackupStatus.COMPLETED,
        shard_id=backup.shard_id,
    ).exclude(pk=backup.pk)  # fmt: skip
    newest, count = others.order_by("-created_at").first(), others.count()
    is_last = newest is None and backup.status == BackupStatus.COMPLETED
    named = not is_last or request.POST.get("typed_name") == backup.collection_name
    if request.method == "POST" and named:
        try:
            tombstone = delete_backup(backup_id=backup.pk, now=timezone.now(), user=person(request), wait=True)
        except BackupmgrError as error:
            messages.error(request, f"Not deleted: {error}")
            return HttpResponseRedirect(here)
        if tombstone is not None:
            messages.warning(
                request,
                f"{what[0].upper()}{what[1:]} is being deleted and cannot be restored any more. It is not gone from "
                f"{backup.storage.name} yet ({tombstone.last_error or 'a worker is at it'}); it is tried until it is.",
            )
            return HttpResponseRedirect(here)
        messages.success(request, f"Deleted {what} ({format_size(backup.size_bytes)}) from {backup.storage.name}.")
        return HttpResponseRedirect(listed)
    left = f"{backup.collection_name} keeps {plural(count, 'backup')}"
    return page.confirm(
        request,
        title=f"Delete a backup of {backup.collection_name}?",
        crumbs=[("Backups", listed), (backup.snapshot_name, here)],
        sentences=[
            f"This deletes {what} ({format_size(backup.size_bytes)}, {number(backup.points_count)} points) from "
            f"{backup.storage.name} for good.",
            *([f"{left}, the newest made {ago(newest.created_at)}."] if newest else []),
        ],
        warnings=[f"It is the last good backup of {backup.collection_name}: none is left after it."] if is_last else [],
        typed_name=backup.collection_name if is_last else "",
        error="" if named or request.method != "POST" else f"Type {backup.collection_name} exactly as it is written.",
        verb="Delete backup",
        danger=True,
        keep="Keep it",
        back=here,
    )
