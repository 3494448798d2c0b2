"""The page "Back up all…": many collections by one job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.http import HttpRequest, HttpResponse
from django.urls import reverse

from apps.clusters.admin_live import LiveCollections, collection_names
from apps.core.admin_kit import demand
from apps.core.permissions import SCOPE_PERMISSIONS, Scope
from apps.core.text import plural
from apps.jobs.admin.backup_page import asked_cluster, kept_words, not_yet
from apps.jobs.admin.forms import BackupAllForm
from apps.jobs.admin.starting import form_page, hidden_fields, is_confirmation, start
from apps.jobs.batches import matching
from apps.jobs.services import JobRequest
from apps.jobs.states import JobType
from apps.storage.models import StorageConfig

if TYPE_CHECKING:
    from apps.jobs.admin import JobAdmin

_SHOWN_NAMES = 20


def view(page: JobAdmin, request: HttpRequest) -> HttpResponse:
    demand(request, SCOPE_PERMISSIONS[Scope.OPERATE])
    cluster = asked_cluster(request)
    storage = StorageConfig.objects.default() or StorageConfig.objects.first()
    if cluster is None or storage is None:
        return not_yet(page, request, "cluster" if cluster is None else "storage")
    if request.method != "POST":
        initial = {"cluster": cluster, "storage": storage, "collections": "*"}
        return _form(page, request, BackupAllForm(initial=initial))
    form = BackupAllForm(request.POST)
    if not form.is_valid():
        return _form(page, request, form)
    if not is_confirmation(request):
        return _confirmation(page, request, form, collection_names(form.cleaned_data["cluster"]))
    data = form.cleaned_data
    answer = start(
        page,
        request,
        JobRequest(
            type=JobType.BACKUP,
            collection_name="*",
            collections=tuple(data["collections"]),
            exclude_collections=tuple(data["exclude_collections"]),
            cluster=data["cluster"],
            storage=data["storage"],
            policy=data["policy"],
            keep_until=data["keep_until"],
        ),
    )
    if isinstance(answer, str):
        return _confirmation(page, request, form, collection_names(data["cluster"]), error=answer)
    return answer


def _form(page: JobAdmin, request: HttpRequest, form: BackupAllForm) -> HttpResponse:
    return form_page(
        page,
        request,
        form,
        title="Back up all",
        lead=["Every collection that matches when the job starts gets a backup of its own."],
        problem="",
        back=reverse("admin:jobs_job_changelist"),
    )


def _confirmation(
    page: JobAdmin, request: HttpRequest, form: BackupAllForm, live: LiveCollections, error: str = ""
) -> HttpResponse:
    data = form.cleaned_data
    asked = ", ".join(data["collections"])
    warnings = []
    if live.problem:
        now = f"Which collections match {asked} cannot be told now; the job asks again when it starts."
        warnings.append(live.problem)
    else:
        names = matching(live.names, data["collections"], data["exclude_collections"])
        more = f" and {len(names) - _SHOWN_NAMES:,} more" if len(names) > _SHOWN_NAMES else ""
        listed = f": {', '.join(names[:_SHOWN_NAMES])}{more}" if names else ""
        match = "matches" if len(names) == 1 else "match"
        now = f"At this moment {plural(len(names), 'collection')} {match} {asked}{listed}."
        if not names:
            warnings.append("Nothing matches: unless that changes before it starts, the job will fail.")
    return page.confirm(
        request,
        title=f"Back up {asked}?",
        sentences=[
            f"This backs up all collections that match {asked} from {data['cluster'].name} to {data['storage'].name} "
            f"({data['storage'].location}), each by a job of its own.",
            now,
            "One that fails does not stop the others; the whole counts as done only when every collection has its "
            "backup.",
            kept_words(data),
        ],
        warnings=warnings,
        verb="Back up all",
        back=reverse("admin:jobs_job_backup_all") + f"?cluster={data['cluster'].pk}",
        hidden=hidden_fields(request, form),
        error=error,
    )
