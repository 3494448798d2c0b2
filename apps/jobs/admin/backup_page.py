"""The page "Back up now…"."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from apps.backups.backup import BackupOrder
from apps.backups.forecast import Forecast, forecast_backup
from apps.clusters.admin_live import collection_names
from apps.clusters.models import Cluster
from apps.core.admin_kit import demand
from apps.core.permissions import SCOPE_PERMISSIONS, Scope
from apps.jobs.admin.forms import BackupForm
from apps.jobs.admin.starting import form_page, hidden_fields, is_confirmation, start
from apps.jobs.services import JobRequest
from apps.jobs.states import JobType
from apps.storage.models import StorageConfig

if TYPE_CHECKING:
    from apps.jobs.admin import JobAdmin

#: A collection may have hundreds of shards; the page names so many.
SHOWN_SHARDS = 12


def view(page: JobAdmin, request: HttpRequest) -> HttpResponse:
    demand(request, SCOPE_PERMISSIONS[Scope.OPERATE])
    cluster = asked_cluster(request)
    storage = StorageConfig.objects.default() or StorageConfig.objects.first()
    if cluster is None or storage is None:
        return not_yet(page, request, "cluster" if cluster is None else "storage")
    # A confirmed backup is started even while Qdrant does not answer: the job asks it again, and says so.
    confirmed = request.method == "POST" and is_confirmation(request)
    live = None if confirmed else collection_names(cluster)
    names = live.names if live else None
    if request.method != "POST":
        initial = {"cluster": cluster, "storage": storage, "collection": request.GET.get("collection", "")}
        return _form(page, request, BackupForm(names=names, initial=initial), live.problem if live else "")
    form = BackupForm(request.POST, names=names)
    if not form.is_valid():
        return _form(page, request, form, live.problem if live else "")
    if not confirmed:
        # A cluster that did not answer just now is not waited for again.
        return _confirmation(page, request, form, forecast=_forecast(form) if names is not None else None)
    data = form.cleaned_data
    answer = start(
        page,
        request,
        JobRequest(
            type=JobType.BACKUP if data["shard"] is None else JobType.SHARD_BACKUP,
            collection_name=data["collection"],
            cluster=data["cluster"],
            storage=data["storage"],
            shard_id=data["shard"],
            policy=data["policy"],
            keep_until=data["keep_until"],
        ),
    )
    return _confirmation(page, request, form, error=answer) if isinstance(answer, str) else answer


def asked_cluster(request: HttpRequest) -> Cluster | None:
    """Return the cluster that the request names, else the default one, else any."""
    asked = request.POST.get("cluster") or request.GET.get("cluster") or ""
    return (Cluster.objects.named(asked) if asked else None) or Cluster.objects.default() or Cluster.objects.first()


def _form(page: JobAdmin, request: HttpRequest, form: BackupForm, problem: str) -> HttpResponse:
    if problem:
        problem = f"{problem} Type the name of the collection; the job asks Qdrant again."
    return form_page(
        page, request, form, title="Back up now", lead=[], problem=problem, back=reverse("admin:jobs_job_changelist")
    )


def _forecast(form: BackupForm) -> Forecast:
    data = form.cleaned_data
    return forecast_backup(
        BackupOrder(
            cluster=data["cluster"], collection=data["collection"], storage=data["storage"], shard_id=data["shard"]
        )
    )


def _plan_sentences(forecast: Forecast) -> tuple[list[str], list[str]]:
    """What would be done, in sentences, and what deserves attention before the click."""
    shards = [
        f"Shard {shard.shard_id}{'' if shard.shard_key is None else f' (key {shard.shard_key!r})'} from {shard.node}: "
        f"{shard.why}."
        for shard in forecast.shards[:SHOWN_SHARDS]
    ]
    if len(forecast.shards) > SHOWN_SHARDS:
        shards.append(f"And {len(forecast.shards) - SHOWN_SHARDS} more shards.")
    warnings = list(forecast.warnings)
    if forecast.blocked:
        warnings.insert(0, f"As things stand, it would be refused: {forecast.blocked}")
    if forecast.unknown:
        warnings.insert(0, f"Whether it can be made could not be seen: {forecast.unknown}")
    return [*forecast.steps, *shards], warnings


def _confirmation(
    page: JobAdmin, request: HttpRequest, form: BackupForm, error: str = "", forecast: Forecast | None = None
) -> HttpResponse:
    data = form.cleaned_data
    planned, warnings = _plan_sentences(forecast) if forecast else ([], [])
    what = f"shard {data['shard']} of {data['collection']}" if data["shard"] is not None else data["collection"]
    return page.confirm(
        request,
        title=f"Back up {what}?",
        sentences=[
            f"This backs up {what} from {data['cluster'].name} to {data['storage'].name} ({data['storage'].location}).",
            "The collection stays in use meanwhile. Qdrant makes a snapshot of each shard, which needs room on its "
            "disk until it has been copied.",
            kept_words(data),
            *planned,
        ],
        warnings=warnings,
        verb="Back up now",
        back=reverse("admin:jobs_job_backup") + f"?cluster={data['cluster'].pk}",
        hidden=hidden_fields(request, form),
        error=error,
    )


def kept_words(data: Mapping[str, Any]) -> str:
    """How long the backup stays, in a sentence."""
    if data["policy"]:
        return f"It stays as long as the policy {data['policy'].name} keeps it."
    if data["keep_until"]:
        return f"It stays until {data['keep_until'] - timedelta(days=1):%Y-%m-%d}."
    return "It stays until somebody deletes it."


def not_yet(page: JobAdmin, request: HttpRequest, missing: str) -> HttpResponse:
    """Lead to where the missing cluster or storage is added, and say so."""
    from django.contrib import messages

    messages.warning(request, f"There is no {missing} yet: add one first.")
    listed = "admin:clusters_cluster_changelist" if missing == "cluster" else "admin:storage_storageconfig_changelist"
    return HttpResponseRedirect(reverse(listed))
