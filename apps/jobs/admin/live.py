"""Live progress: one small request a page every two seconds, none once nothing moves.

The page's poller is replaced by the answer; the answer to "nothing moves any more" carries none and has the status
286, which makes htmx stop.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from django.contrib.admin.sites import AdminSite
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme, urlencode
from django.utils.safestring import SafeString

from apps.jobs.admin.cells import job_state, poll_address, progress_cell, row_cells, state_words
from apps.jobs.admin.frame import running_now
from apps.jobs.models import Job, JobEvent

STOP_POLLING = 286
#: As many jobs as a list page has rows; more is nobody's page.
MAX_JOBS = 100
#: A job's page shows its last so many lines.
SHOWN_EVENTS = 500


def signed_out(request: HttpRequest, site: AdminSite) -> HttpResponse | None:
    """The answer to someone who may not see this: the whole page goes to the login, not the login into a cell."""
    if site.has_permission(request) and request.user.has_perm("jobs.view_job"):
        return None
    page = urlsplit(request.headers.get("HX-Current-URL", "")).path
    if not page or not url_has_allowed_host_and_scheme(page, allowed_hosts=None):
        page = reverse("admin:index")
    return HttpResponse(status=204, headers={"HX-Redirect": f"{reverse('admin:login')}?{urlencode({'next': page})}"})


def rows_answer(request: HttpRequest, now: datetime) -> HttpResponse:
    """News of the jobs in `?jobs=<id>.<state shown>,…`."""
    shown = _asked(request.GET.get("jobs", ""))
    jobs = list(Job.objects.filter(pk__in=shown))
    cells = SafeString("").join(row_cells(job, now, changed=state_words(job)[0] != shown[job.pk]) for job in jobs)
    return _answer(SafeString(cells), poll_address(jobs))


def job_answer(request: HttpRequest, job: Job, context: dict[str, Any]) -> HttpResponse:
    """News of the one job whose page it is: the facts when the state changed, and the new lines of its story."""
    after = request.GET.get("after", "")
    last = int(after) if after.isascii() and after.isdecimal() and len(after) < 19 else 0
    events = list(JobEvent.objects.filter(job=job, pk__gt=last).order_by("pk")[:SHOWN_EVENTS])
    changed = request.GET.get("state") != state_words(job)[0]
    news = [progress_cell(job, swap=True, big=True)]
    if changed:
        news.append(job_state(job, swap=True))
    news.append(
        render_to_string("admin/jobs/job_news.html", context | {"events": events, "changed": changed}, request=request)
    )
    last = events[-1].pk if events else last
    return _answer(SafeString("".join(news)), job_poll_address(job, last) if job.is_active else "")


def job_poll_address(job: Job, last_event: int) -> str:
    query = urlencode({"state": state_words(job)[0], "after": str(last_event)})
    return f"{reverse('admin:jobs_job_live_one', args=[job.pk])}?{query}"


def _answer(news: SafeString, address: str) -> HttpResponse:
    poller = render_to_string("admin/jobs/poller.html", {"poll_address": address})
    running = render_to_string("admin/parts/running.html", {"running_now": running_now(), "swap": True})
    answer = HttpResponse(poller + news + running, status=200 if address else STOP_POLLING)
    answer["Cache-Control"] = "no-store"
    return answer


def _asked(text: str) -> dict[uuid.UUID, str]:
    shown: dict[uuid.UUID, str] = {}
    for piece in text.split(",")[:MAX_JOBS]:
        job_id, _, word = piece.partition(".")
        try:
            shown[uuid.UUID(job_id)] = word
        except ValueError:
            continue
    return shown
