"""The pages of retention: policies, what they would let go, what they let go, and taking that back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString

from apps.backups.policies import RetentionPolicy
from apps.backups.retention.forecast import Forecast
from apps.backups.retention.rules import Verdict
from apps.core.admin_cells import OK, WARN, state_cell, time_cell
from apps.core.admin_kit import ConsoleAdmin, FactAdmin, demand, person
from apps.core.errors import BackupmgrError
from apps.core.text import format_size, plural
from apps.schedules.admin.cells import retention_state
from apps.schedules.models import RetentionRun, RetentionStatus
from apps.schedules.retention.apply import confirm_plan, undo_run
from apps.schedules.retention.facts import Row
from apps.schedules.retention.outlook import fate_words, forecast_plan
from apps.schedules.retention.plan import SetPlan, plan_change, plan_policy
from apps.schedules.retention.policies import (
    FIELDS,
    PolicyInvalid,
    create_policy,
    delete_policy,
    draft_policy,
    update_policy,
)

CHANGE = "backups.change_retentionpolicy"
#: Letting go what a preview shows, and taking it back: a right of its own, beside that to edit policies.
CONFIRM = "backups.confirm_retention"
#: Rows of one set that a page shows.
SHOWN = 400


@dataclass(frozen=True)
class ShownSet:
    """A set on the preview page."""

    plan: SetPlan
    #: (backup, verdict, when it would go in words)
    rows: list[tuple[Row, Verdict, str]]
    forecast: Forecast | None

    @classmethod
    def of(cls, plan: SetPlan, forecast: Forecast | None) -> ShownSet:
        listed = plan.listed()[:SHOWN]
        rows = [(row, verdict, fate_words(forecast, row.id) if verdict.keep else "") for row, verdict in listed]
        return cls(plan, rows, forecast)


class PolicyForm(forms.ModelForm):
    class Meta:
        model = RetentionPolicy
        fields = list(FIELDS)
        labels = {
            "keep_within": "Keep all within", "max_age": "Greatest age", "size_cap_bytes": "Size cap (bytes)",
            "cap_action": "When the cap is exceeded", "min_redundancy": "Always keep … good ones",
            "pick": "Of a period keep", "min_age_seconds": "Never let go younger than … seconds",
            "grace_days": "Days in which it can be undone",
        }  # fmt: skip
        help_texts = {
            "keep_within": "Counted back from the newest backup: 36h, 14d, 8w, 6m, 2y.",
            "max_age": "Beats the rules, not the guards: 30d, 6m, 2y. Empty: no limit.",
            "tz": "Where days, weeks, months and years begin.",
            "pick": "The first for storages that lock what is written: no later backup can push it out.",
            "keep_daily": "Days without a backup do not count.",
        }


@admin.register(RetentionPolicy)
class RetentionPolicyAdmin(ConsoleAdmin):
    form = PolicyForm
    list_display = ["called", "keeps", "state", "zone"]
    list_display_links = ["called"]
    search_fields = ["name"]
    ordering = ["name"]
    sortable_by: list[str] = []
    empty_title = "No retention policy yet"
    empty_text = "Without one every backup is kept for ever. A policy says which ones stay; nothing goes unseen."
    change_form_template = "admin/schedules/policy_form.html"

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        keep = ["keep_last", "keep_hourly", "keep_daily", "keep_weekly", "keep_monthly", "keep_yearly", "keep_within"]
        return [
            (None, {"fields": ["name"]}),
            ("Keep (every rule that fits counts)", {"fields": [*keep, "pick", "tz"]}),
            ("Limits", {"fields": ["max_age", "size_cap_bytes", "cap_action"]}),
            ("Safety", {"fields": ["min_redundancy", "min_age_seconds", "grace_days"]}),
        ]

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def own_urls(self) -> list[tuple[str, str, Callable[..., HttpResponse]]]:
        return [
            ("<uuid:object_id>/preview/", "backups_retentionpolicy_preview", self.preview_view),
            ("<uuid:object_id>/try/", "backups_retentionpolicy_try", self.try_view),
            ("<uuid:object_id>/remove/", "backups_retentionpolicy_remove", self.remove_view),
        ]

    @admin.display(description="Policy")
    def called(self, policy: RetentionPolicy) -> str:
        return policy.name

    @admin.display(description="Keeps")
    def keeps(self, policy: RetentionPolicy) -> str:
        try:
            return policy.rules.sentence
        except ValueError as error:
            return str(error)

    @admin.display(description="State")
    def state(self, policy: RetentionPolicy) -> SafeString:
        if policy.confirmed_version < policy.version:
            return state_cell(
                "Waits for a confirmation", WARN, title="Nothing goes until somebody has seen the preview"
            )
        return state_cell("In force", OK)

    @admin.display(description="Days in")
    def zone(self, policy: RetentionPolicy) -> str:
        return policy.tz

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        data = {name: form.cleaned_data[name] for name in FIELDS if name in form.cleaned_data}
        saved = update_policy(policy=obj, data=data) if change else create_policy(data=data)
        obj.pk = saved.pk
        obj.version = saved.version
        obj._state.adding = False

    def preview_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Every backup with whether it stays and why; a POST lets go exactly what was shown."""
        policy = self.find(request, str(object_id))
        if policy is None:
            return self.gone(request)
        now, error = timezone.now(), ""
        if request.method == "POST":
            demand(request, CONFIRM)
            try:
                runs = confirm_plan(policy=policy, digest=request.POST.get("digest", ""), now=now, user=person(request))
            except BackupmgrError as refused:
                error = str(refused)
            else:
                count = sum(run.counts["expired"] for run in runs)
                messages.success(
                    request,
                    f"{plural(count, 'backup')} let go; they can be taken back for {plural(policy.grace_days, 'day')}.",
                )
                return HttpResponseRedirect(reverse("admin:schedules_retentionrun_changelist"))
        try:
            plan = plan_policy(policy, now=now)
        except ValueError as broken:
            messages.error(request, f"The policy cannot be read: {broken}")
            return HttpResponseRedirect(self.object_url(policy))
        forecasts = forecast_plan(plan, now=now)
        return self.page(
            request,
            "admin/schedules/policy_preview.html",
            title=f"What {policy.name} would let go",
            crumbs=[*self.crumbs(), (policy.name, self.object_url(policy))],
            policy=policy,
            sentence=policy.rules.sentence,
            plan=plan,
            sets=[ShownSet.of(one, forecasts.get(one.key)) for one in plan.sets],
            error=error,
            may_confirm=request.user.has_perm(CONFIRM),
            back=self.object_url(policy),
            status=409 if error else 200,
        )

    def try_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """What the form's fields would change, beside what the policy does as it is. A POST, and nothing is saved."""
        demand(request, CHANGE)
        policy = self.find(request, str(object_id))
        if policy is None:
            return self.gone(request)
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        form = self.get_form(request, policy, change=True)(request.POST, instance=self.find(request, str(object_id)))
        if not form.is_valid():
            return self.change_view(request, str(object_id))  # tells what is wrong, and saves nothing of it
        now = timezone.now()
        try:
            draft = draft_policy(data={name: form.cleaned_data[name] for name in FIELDS}, policy=policy)
            change = plan_change(policy, rules=draft.rules, now=now)
        except (PolicyInvalid, ValueError) as broken:
            messages.error(request, f"The policy cannot be read: {broken}")
            return HttpResponseRedirect(self.object_url(policy))
        forecasts = forecast_plan(change.after, now=now)
        return self.page(
            request,
            "admin/schedules/policy_change.html",
            title=f"What would change with {policy.name}",
            crumbs=[*self.crumbs(), (policy.name, self.object_url(policy))],
            policy=policy,
            before=policy.rules.sentence,
            after=draft.rules.sentence,
            change=change,
            tables=[
                ("Would go, and stay by the policy as it is", change.would_go[:SHOWN]),
                ("Would stay, and go by the policy as it is", change.would_stay[:SHOWN]),
            ],
            sets=[ShownSet.of(one, forecasts.get(one.key)) for one in change.after.sets],
            hidden=[(name, value) for name in FIELDS for value in request.POST.getlist(name)],
            back=self.object_url(policy),
        )

    def remove_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        demand(request, "backups.delete_retentionpolicy")
        policy = self.find(request, str(object_id))
        if policy is None:
            return self.gone(request)
        error = ""
        if request.method == "POST":
            try:
                delete_policy(policy=policy)
            except BackupmgrError as refused:
                error = str(refused)
            else:
                messages.success(request, f"Deleted {policy.name}.")
                return HttpResponseRedirect(self.list_url)
        return self.confirm(
            request,
            title=f"Delete {policy.name}?",
            sentences=["Only a policy that no schedule and no backup goes by can be deleted."],
            verb="Delete the policy",
            danger=True,
            back=self.object_url(policy),
            error=error,
            status=409 if error else 200,
        )


@admin.register(RetentionRun)
class RetentionRunAdmin(FactAdmin):
    list_display = ["collection", "state", "looked", "expired", "policy", "why"]
    list_display_links = ["collection"]
    list_filter = ["status", "policy", "trigger"]
    list_select_related = ["policy"]
    search_fields = ["collection_name", "policy__name"]
    ordering = ["-created_at", "-id"]
    sortable_by: list[str] = []
    empty_title = "Retention has not looked yet"
    empty_text = (
        "After each backup and every six hours, every set of backups is looked at; what came of it stands here."
    )

    def own_urls(self) -> list[tuple[str, str, Callable[..., HttpResponse]]]:
        return [("<uuid:object_id>/undo/", "schedules_retentionrun_undo", self.undo_view)]

    @admin.display(description="Collection")
    def collection(self, run: RetentionRun) -> str:
        return run.collection_name

    @admin.display(description="Result")
    def state(self, run: RetentionRun) -> SafeString:
        return retention_state(run)

    @admin.display(description="When")
    def looked(self, run: RetentionRun) -> SafeString:
        return time_cell(run.created_at)

    @admin.display(description="To go")
    def expired(self, run: RetentionRun) -> str:
        return f"{run.counts.get('expired', 0)} of {run.counts.get('expired', 0) + run.counts.get('kept', 0)}"

    @admin.display(description="Why")
    def why(self, run: RetentionRun) -> str:
        return (run.error or run.reason)[:120]

    def detail_view(self, request: HttpRequest, obj: RetentionRun) -> HttpResponse:
        return self.page(
            request,
            "admin/schedules/retention_run.html",
            title=f"Retention of {obj.collection_name}",
            run=obj,
            state=retention_state(obj),
            freed=format_size(obj.counts.get("bytes_expired", 0)),
            may_change=request.user.has_perm(CONFIRM),
            can_undo=obj.status == RetentionStatus.APPLIED and obj.plan,
            waits=obj.status == RetentionStatus.WAITING,
        )

    def undo_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        demand(request, CONFIRM)
        run = self.find(request, str(object_id))
        if run is None:
            return self.gone(request)
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        try:
            count = undo_run(run=run, now=timezone.now())
        except BackupmgrError as error:
            messages.error(request, str(error))
        else:
            messages.success(
                request,
                f"{plural(count, 'backup')} taken back. The policy lets nothing go until it is confirmed again.",
            )
        return HttpResponseRedirect(self.object_url(run))
