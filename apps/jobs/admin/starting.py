"""What "Back up now…" and "Restore…" share: a form, a confirmation that is good once, and then the job's page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone

from apps.core.admin_kit import person
from apps.core.admin_once import ConfirmationUnknown, new_confirmation, once
from apps.core.errors import BackupmgrError
from apps.jobs.admin.cells import name_of
from apps.jobs.services import JobRequest, create_job

if TYPE_CHECKING:
    from apps.jobs.admin import JobAdmin

_OWN = ("csrfmiddlewaretoken", "step", "confirmation", "typed_name")


def is_confirmation(request: HttpRequest) -> bool:
    return request.POST.get("step") == "confirm"


def hidden_fields(request: HttpRequest, form: forms.Form) -> list[tuple[str, str]]:
    """What the confirmation sends again: the form as it was filled in, and a fresh confirmation."""
    filled = [(name, value) for name, value in form.data.items() if name in form.fields and name not in _OWN]
    return [*filled, ("step", "confirm"), ("confirmation", new_confirmation(request))]


def start(page: JobAdmin, request: HttpRequest, wanted: JobRequest) -> HttpResponse | str:
    """Create the job, once; lead to its page. A sentence instead of an answer: why that was refused."""

    def create() -> str:
        job = create_job(request=wanted, now=timezone.now(), user=person(request))
        messages.success(request, f"{name_of(job)} is queued. This page follows it.")
        return str(job.pk)

    try:
        job_id = once(request, request.POST.get("confirmation", ""), create)
    except ConfirmationUnknown:
        return "This confirmation is too old. Read it again and confirm it once more."
    except BackupmgrError as error:
        return str(error)
    return HttpResponseRedirect(reverse("admin:jobs_job_change", args=[job_id]))


def form_page(
    page: JobAdmin, request: HttpRequest, form: forms.Form, *, title: str, lead: list[str], problem: str, back: str,
    **context: Any,
) -> HttpResponse:  # fmt: skip
    return page.page(
        request, "admin/jobs/start.html", title=title, form=form, lead=lead, problem=problem, back=back, **context
    )
