"""The admin of jobs: what happens, live; and the pages that start, cancel and retry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import admin
from django.db.models import Case, Value, When
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.paginator import InfinitePaginator

from apps.backups.models import Backup
from apps.core.admin_cells import RUN_STATES, state_cell, time_cell
from apps.core.admin_kit import FactAdmin, may
from apps.core.permissions import Scope
from apps.core.text import format_duration
from apps.jobs.admin import backup_all_page, backup_page, restore_page, verify_page
from apps.jobs.admin import kept as kept  # registers its pages
from apps.jobs.admin import left_behind as left_behind
from apps.jobs.admin.cells import (
    duration_cell,
    figures,
    job_state,
    name_of,
    poll_address,
    progress_cell,
    result_cell,
    route_of,
    state_words,
    wait_words,
)
from apps.jobs.admin.changes import cancel_view, delete_backup_view, may_retry, retry_view
from apps.jobs.admin.live import SHOWN_EVENTS, job_answer, job_poll_address, rows_answer, signed_out
from apps.jobs.health import worker_state
from apps.jobs.models import Job
from apps.jobs.states import READING_TYPES, RESTORE_TYPES, JobStatus, JobType

#: A job's page shows its last so many attempts.
SHOWN_ATTEMPTS = 20


#: So many parts of a batch stand on its page.
SHOWN_CHILDREN = 200
#: What needs somebody first, then what moves, then what is done.
_ORDER = [JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.RUNNING, JobStatus.PENDING, JobStatus.COMPLETED]


def shown_children(job: Job) -> list[dict[str, Any]]:
    """The parts of a batch for its page, those without a backup first."""
    if not job.is_batch:
        return []
    rank = Case(*(When(status=status, then=Value(place)) for place, status in enumerate(_ORDER)), default=Value(9))
    rows = job.children.order_by(rank, "collection_name").defer("metadata", "checkpoint")[:SHOWN_CHILDREN]
    return [{"job": row, "state": state_cell(*state_words(row)), "figures": figures(row)} for row in rows]


class StateFilter(admin.SimpleListFilter):
    """The states, in the words of the list."""

    title = "status"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(status, word) for status, (word, _) in RUN_STATES.items()]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        return queryset.filter(status=self.value()) if self.value() in JobStatus.values else queryset


class TypeFilter(admin.SimpleListFilter):
    title = "type"
    parameter_name = "type"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(value, label.capitalize()) for value, label in JobType.choices]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        return queryset.filter(type=self.value()) if self.value() in JobType.values else queryset


@admin.register(Job)
class JobAdmin(FactAdmin):
    list_display = ["run", "state", "progress", "route", "started", "took", "result"]
    list_display_links = ["run"]
    list_filter = [StateFilter, TypeFilter, "cluster", "storage"]
    list_select_related = ["cluster", "storage", "target_cluster"]
    search_fields = ["collection_name", "target_collection", "snapshot_name"]
    search_help_text = "Collection or backup name"
    ordering = ["-created_at", "-id"]
    #: Sorting by anything else would walk the whole table: there is an index for the newest first.
    sortable_by: list[str] = []
    #: Nor is the table counted to draw page numbers.
    paginator = InfinitePaginator
    change_list_template = "admin/jobs/job_list.html"
    empty_title = "No job yet"
    empty_text = "Every backup and every restore is a job. Start one with “Back up now…” at a cluster."

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).defer("metadata", "checkpoint")

    def own_urls(self) -> list[tuple[str, str, Callable[..., HttpResponse]]]:
        def bound(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
            def wrapper(request: HttpRequest, **kwargs: Any) -> HttpResponse:
                return view(self, request, **kwargs)

            return wrapper

        return [
            ("backup/", "jobs_job_backup", bound(backup_page.view)),
            ("backup-all/", "jobs_job_backup_all", bound(backup_all_page.view)),
            ("restore/", "jobs_job_restore", bound(restore_page.view)),
            ("verify/<uuid:backup_id>/", "jobs_job_verify", bound(verify_page.view)),
            ("delete-backup/<uuid:backup_id>/", "jobs_job_delete_backup", bound(delete_backup_view)),
            ("<uuid:job_id>/cancel/", "jobs_job_cancel", bound(cancel_view)),
            ("<uuid:job_id>/retry/", "jobs_job_retry", bound(retry_view)),
        ]

    def get_urls(self) -> Any:
        from django.urls import path

        # Not through admin_view: that would lead a poll to the login page, which would then stand in a cell.
        return [
            path("live/", self.live_view, name="jobs_job_live"),
            path("<uuid:job_id>/live/", self.live_one_view, name="jobs_job_live_one"),
            *super().get_urls(),
        ]

    # --- columns -------------------------------------------------------------------------------------------
    @admin.display(description="Job")
    def run(self, job: Job) -> str:
        return name_of(job)

    @admin.display(description="Status")
    def state(self, job: Job) -> SafeString:
        return job_state(job)

    @admin.display(description="Progress")
    def progress(self, job: Job) -> SafeString:
        return progress_cell(job)

    @admin.display(description="From, to")
    def route(self, job: Job) -> SafeString:
        return format_html('<span class="bm-wrap">{}</span>', route_of(job))

    @admin.display(description="Started")
    def started(self, job: Job) -> SafeString:
        return time_cell(job.started_at)

    @admin.display(description="Took")
    def took(self, job: Job) -> SafeString:
        return duration_cell(job, timezone.now())

    @admin.display(description="Result")
    def result(self, job: Job) -> SafeString:
        return result_cell(job)

    # --- pages ---------------------------------------------------------------------------------------------
    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        response = super().changelist_view(request, extra_context)
        context = getattr(response, "context_data", None)
        if context is not None and "cl" in context:
            context["poll_address"] = poll_address(context["cl"].result_list)
        return response

    def detail_view(self, request: HttpRequest, obj: Job) -> HttpResponse:
        newest = list(obj.events.order_by("-pk")[: SHOWN_EVENTS + 1])
        events = newest[:SHOWN_EVENTS][::-1]
        last = events[-1].pk if events else 0
        return self.page(
            request,
            "admin/jobs/job.html",
            title=name_of(obj),
            state=job_state(obj),
            progress=progress_cell(obj, big=True),
            events=events,
            events_left_out=len(newest) > SHOWN_EVENTS,
            poll_address=job_poll_address(obj, last) if obj.is_active else "",
            **self._facts(request, obj),
        )

    def live_view(self, request: HttpRequest) -> HttpResponse:
        return signed_out(request, self.admin_site) or rows_answer(request, timezone.now())

    def live_one_view(self, request: HttpRequest, job_id: Any) -> HttpResponse:
        refusal = signed_out(request, self.admin_site)
        if refusal is not None:
            return refusal
        job = self.find(request, job_id)
        if not isinstance(job, Job):
            return HttpResponse(status=204, headers={"HX-Redirect": self.list_url})
        return job_answer(request, job, self._facts(request, job))

    def object_queryset(self, request: HttpRequest) -> Any:
        return Job.objects.select_related("cluster", "storage", "target_cluster", "backup", "created_by", "parent")

    def _facts(self, request: HttpRequest, job: Job) -> dict[str, Any]:
        now = timezone.now()
        restores, reads = job.type in RESTORE_TYPES, job.type in READING_TYPES
        # A backup job knows its backup by the job id in the manifest: a rescan finds it again.
        made = None if reads or not job.is_ended else Backup.objects.filter(job_id=job.pk).defer("manifest").first()
        waits = ""
        if job.status == JobStatus.PENDING:
            workers = worker_state(now)
            waits = wait_words(job) if workers.alive else f"It waits: {workers.sentence}."
        return {
            "job": job,
            "restores": restores,
            "verifies": job.type == JobType.VERIFY,
            "backup": job.backup if reads else job.backup or made,
            "attempts": [
                {"row": attempt, "took": format_duration(attempt.duration_seconds(now))}
                for attempt in job.attempts.order_by("-number")[:SHOWN_ATTEMPTS]
            ],
            "took": format_duration(job.duration_seconds(now)),
            "waits": waits,
            "part_of": name_of(job.parent) if job.parent else "",
            "children": shown_children(job),
            "may_cancel": job.can_cancel and may(request, Scope.OPERATE),
            "may_retry": job.can_retry and may_retry(request, job),
        }
