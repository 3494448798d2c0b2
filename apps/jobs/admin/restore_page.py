"""The way to a restore, in steps: where to, the plan with its confirmation, and then the job.

What was chosen stands in the address, so that "back", a reload and a bookmark keep it, and nothing is kept here. Only
the last step is a POST.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.forms import BoundField
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode

from apps.backups.models import Backup
from apps.clusters.observed import ObservedCollection
from apps.core.admin_cells import ago, exact, number
from apps.core.admin_kit import Crumb, demand
from apps.core.admin_once import new_confirmation, outcome_of
from apps.core.permissions import SCOPE_PERMISSIONS, Scope
from apps.core.text import format_size, plural
from apps.jobs.admin.forms import RestoreForm
from apps.jobs.admin.preview import Preview, preview_restore
from apps.jobs.admin.starting import start
from apps.jobs.expected import UNKNOWN, expected_restore
from apps.jobs.services import JobRequest
from apps.jobs.states import JobType

if TYPE_CHECKING:
    from apps.jobs.admin import JobAdmin

STEPS = ("Where to", "Plan and confirmation", "The job")
#: What everybody is asked for; whatever else the form has stands under "More options".
_FIRST = ("target_cluster", "target_collection", "shard", "overwrite")
#: In the address beside the fields of the form.
_OWN = ("backup", "step")


def view(page: JobAdmin, request: HttpRequest) -> HttpResponse:
    demand(request, SCOPE_PERMISSIONS[Scope.RESTORE])
    backup = _backup(request)
    if backup is None:
        messages.warning(request, "Choose the backup to restore from: this one does not exist (any more).")
        return HttpResponseRedirect(reverse("admin:backups_backup_changelist"))
    if request.method != "POST" and request.GET.get("step") != "plan":
        return _target(page, request, backup, RestoreForm(backup=backup, initial=_initial(request, backup)))
    form = RestoreForm(request.GET, backup=backup)
    if not form.is_valid():
        return _target(page, request, backup, form)
    if request.method != "POST":
        return _plan(page, request, backup, form)
    return _confirmed(page, request, backup, form)


def _confirmed(page: JobAdmin, request: HttpRequest, backup: Backup, form: RestoreForm) -> HttpResponse:
    data = form.cleaned_data
    started = outcome_of(request, request.POST.get("confirmation", ""))
    if started:  # a second click: what the first one has done is no change to be told of
        return HttpResponseRedirect(reverse("admin:jobs_job_change", args=[started]))
    if data["overwrite"] and request.POST.get("typed_name") != data["target_collection"]:
        wrong = f"Type {data['target_collection']} exactly as it is written to overwrite it."
        return _plan(page, request, backup, form, error=wrong)
    preview = _preview(backup, form)
    if preview.blocked or (not preview.unknown and request.POST.get("seen") != _effect(preview)):
        changed = "What is there has changed since you read this. Read the plan again, and confirm it once more."
        return _plan(page, request, backup, form, error=changed, preview=preview)
    answer = start(page, request, _wanted(backup, data))
    return _plan(page, request, backup, form, error=answer, preview=preview) if isinstance(answer, str) else answer


def _wanted(backup: Backup, data: dict[str, Any]) -> JobRequest:
    return JobRequest(
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
        overwrite_method=data.get("overwrite_method") or "",
        verify_points=data.get("verify_points") or "",
    )


def _preview(backup: Backup, form: RestoreForm) -> Preview:
    data = form.cleaned_data
    return preview_restore(
        backup=backup,
        cluster=data["target_cluster"],
        collection=data["target_collection"],
        overwrite=data["overwrite"],
        shard_id=data["shard"],
        replication_factor=data.get("replication_factor"),
        safety_backup=not data.get("no_safety_backup"),
        overwrite_method=data.get("overwrite_method") or "",
        restore_aliases=data.get("restore_aliases", False),
        verify_points=data.get("verify_points") or "",
    )


def _effect(preview: Preview) -> str:
    """What a confirmation confirms: it is asked for again when this has become something else."""
    if preview.unknown:
        return "unknown"
    return "replaces" if preview.exists else "switches" if preview.switches else "creates"


def _backup(request: HttpRequest) -> Backup | None:
    asked = request.GET.get("backup") or ""
    try:
        return Backup.objects.select_related("storage", "cluster").filter(pk=asked).first() if asked else None
    except (ValidationError, ValueError):
        return None


def _initial(request: HttpRequest, backup: Backup) -> dict[str, Any]:
    """What the address says, and otherwise what harms nothing: a name that is not taken, as far as is known."""
    given = {name: value for name, value in request.GET.items() if name not in _OWN}
    return {"target_cluster": backup.cluster_id, "target_collection": _free_name(backup)} | given


def _free_name(backup: Backup) -> str:
    name = backup.collection_name
    taken = ObservedCollection.objects.filter(cluster=backup.cluster_id, name=name, gone_at=None).exists()
    return f"{name}-restored-{timezone.localtime():%m%d}" if taken and backup.shard_id is None else name


def _address_with(request: HttpRequest, **changes: str) -> str:
    kept = {name: str(value) for name, value in request.GET.items() if name != "step" and value != ""}
    return f"{reverse('admin:jobs_job_restore')}?{urlencode(kept | changes)}"


def _crumbs(backup: Backup) -> list[Crumb]:
    return [("Backups", reverse("admin:backups_backup_changelist")), (backup.snapshot_name, _address(backup))]


def _address(backup: Backup) -> str:
    return reverse("admin:backups_backup_change", args=[backup.pk])


def _summary(backup: Backup) -> str:
    return (
        f"The backup of {backup.collection_name} from {exact(backup.created_at)} ({ago(backup.created_at)}): "
        f"{number(backup.points_count)} points, {format_size(backup.size_bytes)}, in {backup.storage.name}."
    )


def _target(page: JobAdmin, request: HttpRequest, backup: Backup, form: RestoreForm, problem: str = "") -> HttpResponse:
    shown: list[BoundField] = form.visible_fields()
    options = [field for field in shown if field.name not in _FIRST]
    return page.page(
        request,
        "admin/jobs/restore_target.html",
        title=f"Restore {backup.collection_name}",
        crumbs=_crumbs(backup),
        wizard_steps=STEPS,
        wizard_step=1,
        backup=backup,
        form=form,
        first=[field for field in shown if field.name in _FIRST],
        options=options,
        options_open=any(field.errors or field.value() for field in options),
        summary=_summary(backup),
        problem=problem,
        away=_address(backup),
    )


def _plan(
    page: JobAdmin,
    request: HttpRequest,
    backup: Backup,
    form: RestoreForm,
    error: str = "",
    preview: Preview | None = None,
) -> HttpResponse:
    data = form.cleaned_data
    collection, cluster = data["target_collection"], data["target_cluster"]
    preview = preview or _preview(backup, form)
    if preview.blocked:
        return _target(page, request, backup, form, preview.blocked)
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
    return page.page(
        request,
        "admin/jobs/restore_plan.html",
        title=f"Restore into {collection}?",
        crumbs=_crumbs(backup),
        wizard_steps=STEPS,
        wizard_step=2,
        sentences=sentences,
        warnings=warnings,
        rows=_rows(backup, form, preview),
        verb="Overwrite and restore" if data["overwrite"] else "Restore",
        danger=data["overwrite"],
        typed_name=collection if data["overwrite"] else "",
        back=_address_with(request),
        hidden=[("confirmation", new_confirmation(request)), ("seen", _effect(preview))],
        error=error,
    )


def _rows(backup: Backup, form: RestoreForm, preview: Preview) -> list[tuple[str, str]]:
    data = form.cleaned_data
    cluster = data["target_cluster"]
    parts = backup.parts.all() if data["shard"] is None else backup.parts.filter(shard_id=data["shard"])
    size = sum(part.size_bytes for part in parts)
    expected = expected_restore(
        size_bytes=size, storage=backup.storage, cluster=cluster, overwrites=preview.exists and data["overwrite"]
    )
    there = f"{cluster.name} runs {preview.version}" if preview.version else f"that of {cluster.name} is not known now"
    rows = [
        ("From", _summary(backup)),
        ("Into", f"{data['target_collection']} on {cluster.name} ({cluster.url})"),
        ("Versions", f"The backup was made by Qdrant {backup.qdrant_version or 'of unknown version'}; {there}."),
        ("Parts", f"{plural(len(parts), 'part')}, {format_size(size)}. {_journey(backup)}"),
        ("Expected time", expected.sentence if expected else UNKNOWN),
    ]
    chosen = form.fields.get("verify_points")
    if chosen is not None:
        words = dict(chosen.choices).get(data.get("verify_points") or "", "")  # type: ignore[attr-defined]
        rows.append(("Afterwards", f"Counts, configuration and schema are compared. Points: {_lower(words)}."))
    return rows


def _journey(backup: Backup) -> str:
    """How the parts get to the nodes."""
    if backup.storage.type == "local":
        return "The worker reads them from the folder, compares each SHA-256, and sends them to the nodes."
    return (
        "The worker reads them and compares each SHA-256; then the nodes fetch them from the storage themselves by "
        "addresses made for that, and where a node cannot, the worker sends them."
    )


def _lower(words: str) -> str:
    return words[:1].lower() + words[1:]
