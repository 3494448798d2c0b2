"""The pages of schedules: list, one schedule, form with preview, pause, run now, delete, calendar."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.db.models import OuterRef, Subquery
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString
from unfold.widgets import UnfoldAdminTextInputWidget

from apps.clusters.models import Cluster
from apps.core.admin_cells import time_cell
from apps.core.admin_kit import ConsoleAdmin, demand, person
from apps.core.charts import Cell, strip
from apps.core.errors import BackupmgrError
from apps.core.text import plural
from apps.schedules import services
from apps.schedules.admin.ages_page import ages_view
from apps.schedules.admin.around import blackouts_view, collection_view
from apps.schedules.admin.calendar import calendar_of
from apps.schedules.admin.cells import RUN_WORDS, run_state, schedule_state
from apps.schedules.admin.forms import FIELDS_OF_KINDS, NEW, ScheduleForm, initial_of
from apps.schedules.admin.month import month_view
from apps.schedules.advance import windows_of
from apps.schedules.draft import ScheduleInvalid
from apps.schedules.models import Clock, RunStatus, Schedule, ScheduleRun
from apps.schedules.parts import parts_of, warnings_of
from apps.schedules.preview import NextRun, Preview, describe, next_runs, preview_schedule, when
from apps.schedules.services import KeepBackups
from apps.schedules.timing.spec import TimingInvalid, zone_names
from apps.storage.models import StorageConfig

RUN, CHANGE = "schedules.run_schedule", "schedules.change_schedule"
#: Suggested below the field of the expression.
CRONS = (
    ("@hourly", "every hour"), ("0 */6 * * *", "every six hours"), ("H 3 * * *", "daily between 03:00 and 04:00"),
    ("0 22 * * 1-5", "on weekdays at 22:00"), ("0 3 * * 0", "on Sundays at 03:00"),
    ("0 3 L * *", "on the last day of a month at 03:00"),
)  # fmt: skip


#: Runs on a schedule's page: named ones, and those of the strip.
SHOWN_RUNS, STRIP_RUNS = 10, 30
_RUNS_NOW = "{} runs now; its times stay as they are."
#: What the list shows of a schedule's last run.
_OF_LAST_RUN = ("status", "error", "missed_count")


class PauseForm(forms.Form):
    reason = forms.CharField(label="Why", max_length=300, widget=UnfoldAdminTextInputWidget({"autocomplete": "off"}))
    hours = forms.IntegerField(
        label="For … hours",
        required=False,
        min_value=1,
        max_value=24 * 366,
        help_text="Empty: until somebody resumes it.",
        widget=UnfoldAdminTextInputWidget({"inputmode": "numeric", "autocomplete": "off"}),
    )


@admin.register(Schedule)
class ScheduleAdmin(ConsoleAdmin):
    list_display = ["called", "state", "rule", "upcoming", "latest", "cluster"]
    list_display_links = ["called"]
    list_filter = ["enabled", "cluster"]
    list_select_related = ["cluster"]
    search_fields = ["name", "cluster__name"]
    ordering = ["name", "id"]
    sortable_by: list[str] = []
    empty_title = "No schedule yet"
    empty_text = "A schedule backs up the collections that it selects at its times: nobody has to remember it."

    def get_queryset(self, request: HttpRequest) -> Any:
        # Ordered as the index is: a schedule may have thousands of runs.
        last = ScheduleRun.objects.filter(schedule=OuterRef("pk")).order_by("-slot")
        rows = Schedule.objects.live().select_related("cluster", "policy").prefetch_related("storages")
        return rows.annotate(**{f"last_{name}": Subquery(last.values(name)[:1]) for name in _OF_LAST_RUN})

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # a page of its own asks what becomes of the backups

    def own_urls(self) -> list[tuple[str, str, Callable[..., HttpResponse]]]:
        return [
            ("preview/", "schedules_schedule_preview", self.preview_view),
            ("month/", "schedules_month", partial(month_view, self)),
            ("collection/", "schedules_collection", partial(collection_view, self)),
            ("blackouts/<uuid:cluster_id>/", "schedules_cluster_blackouts", partial(blackouts_view, self)),
            ("ages/<uuid:cluster_id>/", "schedules_cluster_ages", partial(ages_view, self)),
            ("<uuid:object_id>/edit/", "schedules_schedule_edit", self.edit_view),
            ("<uuid:object_id>/run/", "schedules_schedule_run", self.run_view),
            ("<uuid:object_id>/pause/", "schedules_schedule_pause", self.pause_view),
            ("<uuid:object_id>/resume/", "schedules_schedule_resume", self.resume_view),
            ("<uuid:object_id>/skip/", "schedules_schedule_skip", self.skip_view),
            ("<uuid:object_id>/remove/", "schedules_schedule_remove", self.remove_view),
        ]

    # --- columns -------------------------------------------------------------------------------------------
    @admin.display(description="Schedule")
    def called(self, schedule: Schedule) -> str:
        return schedule.name

    @admin.display(description="State")
    def state(self, schedule: Schedule) -> SafeString:
        return schedule_state(schedule)

    @admin.display(description="When")
    def rule(self, schedule: Schedule) -> str:
        try:
            return when(schedule.timing(()))
        except ValueError:
            return schedule.cron

    @admin.display(description="Next run")
    def upcoming(self, schedule: Schedule) -> SafeString:
        return time_cell(None if schedule.is_paused else schedule.next_run_at)

    @admin.display(description="Last run")
    def latest(self, schedule: Schedule) -> SafeString | str:
        found = {name: getattr(schedule, f"last_{name}") for name in _OF_LAST_RUN}
        return run_state(ScheduleRun(**found)) if found["status"] else "–"

    # --- pages ---------------------------------------------------------------------------------------------
    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        schedule = self.find(request, object_id)
        if schedule is None:
            return self.gone(request)
        now = timezone.now()
        windows = windows_of([schedule])[schedule.pk]
        error, sentence = schedule.error, ""
        runs: tuple[NextRun, ...] = ()
        try:
            runs = next_runs(schedule.timing(windows), now)
            sentence = describe(schedule, windows, [storage.name for storage in schedule.storages.all()])
        except TimingInvalid as invalid:
            error = error or str(invalid)
        last = list(schedule.runs.defer("matched", "excluded", "vanished").order_by("-created_at", "-id")[:STRIP_RUNS])
        return self.page(
            request,
            "admin/schedules/schedule.html",
            title=schedule.name,
            schedule=schedule,
            state=schedule_state(schedule),
            sentence=sentence,
            error=error,
            alert=_clock_alert(),
            runs=runs,
            windows=[window.sentence for window in windows],
            latest=[(run, run_state(run)) for run in last[:SHOWN_RUNS]],
            strip=_strip(last),
            parts=parts_of(request, schedule, now),
            calendar=calendar_of(schedule, now),
            may_run=request.user.has_perm(RUN),
            may_change=request.user.has_perm(CHANGE),
            may_delete=request.user.has_perm("schedules.delete_schedule"),
        )

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        demand(request, "schedules.add_schedule")
        return self._form_page(request, None)

    def edit_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        demand(request, CHANGE)
        schedule = self.find(request, str(object_id))
        return self.gone(request) if schedule is None else self._form_page(request, schedule)

    def _form_page(self, request: HttpRequest, schedule: Schedule | None) -> HttpResponse:
        now, may_run = timezone.now(), request.user.has_perm(RUN)
        preview: Preview | None = None
        if request.method == "POST":
            form = ScheduleForm(request.POST, may_run=may_run)
            if form.is_valid():
                try:
                    if request.POST.get("step") == "preview":
                        preview = preview_schedule(data=form.schedule_data(schedule), now=now, schedule=schedule)
                    else:
                        saved = self._save(request, form, schedule)
                        messages.success(request, f"Saved {saved.name}.")
                        if form.cleaned_data.get("run_now"):
                            self._run_too(request, saved)
                        return HttpResponseRedirect(self.object_url(saved))
                except ScheduleInvalid as invalid:
                    form.take(invalid.problems)
                except BackupmgrError as error:
                    form.add_error(None, str(error))
        elif schedule is not None:
            form = ScheduleForm(initial=initial_of(schedule), may_run=may_run)
        else:
            asked = request.GET.get("collection")
            form = ScheduleForm(
                may_run=may_run,
                initial={
                    **NEW,
                    "tz": settings.TIME_ZONE,
                    "cluster": Cluster.objects.named(request.GET.get("cluster", "")) or Cluster.objects.default(),
                    "storages": [StorageConfig.objects.default()] if StorageConfig.objects.default() else [],
                    **({"include": asked} if asked else {}),
                },
            )
        return self.page(
            request,
            "admin/schedules/form.html",
            title=f"Edit {schedule.name}" if schedule else "Add a schedule",
            form=form,
            preview=preview,
            crons=CRONS,
            fields_of_kinds=FIELDS_OF_KINDS,
            zones=sorted(zone_names()),
            preview_url=reverse("admin:schedules_schedule_preview") + (f"?schedule={schedule.pk}" if schedule else ""),
            back=self.object_url(schedule) if schedule else self.list_url,
            status=200,
        )

    def _save(self, request: HttpRequest, form: ScheduleForm, schedule: Schedule | None) -> Schedule:
        data, now = form.schedule_data(schedule), timezone.now()
        if schedule is None:
            return services.create_schedule(data=data, now=now, user=person(request))
        return services.update_schedule(schedule=schedule, data=data, now=now)

    def _run_too(self, request: HttpRequest, schedule: Schedule) -> None:
        """It is saved in any case: what stands in the way of a run is told beside that."""
        try:
            services.run_now(schedule=schedule, now=timezone.now(), user=person(request))
            messages.success(request, _RUNS_NOW.format(schedule.name))
        except BackupmgrError as error:
            messages.warning(request, f"It does not run now: {error}")

    def preview_view(self, request: HttpRequest) -> HttpResponse:
        """What the form would do, as a piece of the page. A POST, and nothing is saved."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not (request.user.has_perm("schedules.add_schedule") or request.user.has_perm(CHANGE)):
            demand(request, CHANGE)
        asked = request.GET.get("schedule")
        schedule = self.find(request, asked) if asked else None
        form, preview, problems = ScheduleForm(request.POST), None, []
        if form.is_valid():
            try:
                data = form.schedule_data(schedule)
                preview = preview_schedule(data=data, now=timezone.now(), schedule=schedule)
            except ScheduleInvalid as invalid:
                form.take(invalid.problems)
        for name, sentences in form.errors.items():
            label = form.fields[name].label if name in form.fields else ""
            problems += [f"{label}: {sentence}" if label else str(sentence) for sentence in sentences]
        context = {"preview": preview, "problems": problems}
        return TemplateResponse(request, "admin/schedules/preview.html", context)

    # --- what can be done --------------------------------------------------------------------------------------
    def _act(
        self, request: HttpRequest, object_id: str, permission: str, act: Callable[[Schedule], str]
    ) -> HttpResponse:
        """Do something by POST, and go back to the schedule with what came of it."""
        demand(request, permission)
        schedule = self.find(request, str(object_id))
        if schedule is None:
            return self.gone(request)
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        try:
            messages.success(request, act(schedule))
        except BackupmgrError as error:
            messages.error(request, str(error))
        return HttpResponseRedirect(self.object_url(schedule))

    def run_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        def act(schedule: Schedule) -> str:
            services.run_now(schedule=schedule, now=timezone.now(), user=person(request))
            return _RUNS_NOW.format(schedule.name)

        return self._act(request, object_id, RUN, act)

    def resume_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        def act(schedule: Schedule) -> str:
            services.resume_schedule(schedule=schedule, now=timezone.now())
            return f"{schedule.name} goes on with its next run."

        return self._act(request, object_id, RUN, act)

    def skip_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        def act(schedule: Schedule) -> str:
            services.skip_next(schedule=schedule, now=timezone.now())
            return "The next run is left out."

        return self._act(request, object_id, RUN, act)

    def pause_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        demand(request, RUN)
        schedule = self.find(request, str(object_id))
        if schedule is None:
            return self.gone(request)
        form = PauseForm(request.POST if request.method == "POST" else None)
        if request.method == "POST" and form.is_valid():
            now, hours = timezone.now(), form.cleaned_data["hours"]
            try:
                services.pause_schedule(
                    schedule=schedule,
                    reason=form.cleaned_data["reason"],
                    until=now + timedelta(hours=hours) if hours else None,
                    now=now,
                    user=person(request),
                )
                messages.success(request, f"{schedule.name} is paused.")
                return HttpResponseRedirect(self.object_url(schedule))
            except BackupmgrError as error:
                form.add_error(None, str(error))
        return self.page(
            request,
            "admin/schedules/small_form.html",
            title=f"Pause {schedule.name}",
            lead=["Nothing is backed up by it until it is resumed; its collections still count as to be protected."],
            form=form,
            verb="Pause",
            back=self.object_url(schedule),
        )

    def remove_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        demand(request, "schedules.delete_schedule")
        schedule = self.find(request, str(object_id))
        if schedule is None:
            return self.gone(request)
        if request.method == "POST":
            asked = request.POST.get("backups")
            choice = KeepBackups(asked) if asked in list(KeepBackups) else KeepBackups.POLICY
            if choice == KeepBackups.EXPIRE:
                demand(request, "backups.delete_backup")
                if request.POST.get("confirm", "").strip() != schedule.name:
                    messages.error(request, f"Nothing was deleted: type {schedule.name} to let its backups go.")
                    return HttpResponseRedirect(request.path)
            try:
                count = services.delete_schedule(
                    schedule=schedule, backups=choice, now=timezone.now(), user=person(request)
                )
            except BackupmgrError as error:
                messages.error(request, str(error))
                return HttpResponseRedirect(self.object_url(schedule))
            fate = "are let go, but what has to stay" if choice == KeepBackups.EXPIRE else "stay"
            messages.success(request, f"Deleted {schedule.name}; its {count} backups {fate}.")
            return HttpResponseRedirect(self.list_url)
        return self.page(
            request,
            "admin/schedules/remove.html",
            title=f"Delete {schedule.name}?",
            schedule=schedule,
            warnings=_removal_warnings(schedule, timezone.now()),
            back=self.object_url(schedule),
        )


def _removal_warnings(schedule: Schedule, now: datetime) -> list[str]:
    late = schedule.next_run_at is not None and schedule.next_run_at < now and not schedule.is_paused
    run = ["A run of it is due and has not begun: look first whether it is needed."] if late else []
    return [*warnings_of(schedule, now), *run]


def _strip(newest_first: list[ScheduleRun]) -> SafeString:
    """The last runs, the newest at the right; each leads to its page."""
    cells = []
    for run in reversed(newest_first):
        word, tone = RUN_WORDS[RunStatus(run.status)]
        named = f"{timezone.localtime(run.slot):%d %b %H:%M}: {word.lower()}"
        if run.missed_count > 1:
            named += f", {run.missed_count} slots"
        tone = "missed" if run.status == RunStatus.MISSED else {"wait": "busy", "off": "none"}.get(tone, tone)
        cells.append(Cell(tone, named, reverse("admin:schedules_schedulerun_change", args=[run.pk])))
    return strip(cells, label=f"The last {plural(len(cells), 'run')}") if cells else SafeString("")


def _clock_alert() -> str:
    return Clock.objects.filter(pk=1).values_list("alert", flat=True).first() or ""
