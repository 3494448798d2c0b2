"""A job that is tried again: its page says what it waits for, and keeps what became of each attempt."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.clusters.models import Cluster
from apps.jobs.events import record
from apps.jobs.models import Job, JobAttempt, Worker
from apps.storage.models import StorageConfig
from tests.admin.world import make_job


@pytest.fixture
def waiting(cluster: Cluster, storage: StorageConfig) -> Job:
    """A job whose first attempt failed, and which waits for its second one."""
    now = timezone.now()
    Worker.objects.create(host="h", pid=1, processes=1, started_at=now, seen_at=now)
    job = make_job(
        cluster,
        storage,
        status="pending",
        attempt=1,
        retry_count=1,
        not_before=now + timedelta(minutes=5),
        wait_reason="The <bucket> did not answer.",
    )
    JobAttempt.objects.create(
        job=job,
        number=1,
        outcome="failed",
        started_at=now - timedelta(seconds=95),
        ended_at=now,
        bytes_moved=3 * 1024 * 1024,
        error="The <bucket> did not answer.",
    )
    return job


def test_the_page_says_when_the_retry_starts_and_why_it_waits(root: Client, waiting: Job) -> None:
    html = root.get(reverse("admin:jobs_job_change", args=[waiting.pk])).content.decode()

    at = timezone.localtime(waiting.not_before)
    assert f"Retry starts at {at:%H:%M}" in html or f"Retry starts at {at:%d %b %H:%M}" in html
    assert "The &lt;bucket&gt; did not answer." in html
    assert "<bucket>" not in html
    assert "Retry now…" in html and "Cancel…" in html
    assert re.search(r"Waiting</span>", html)


def test_the_page_lists_the_attempts(root: Client, waiting: Job) -> None:
    html = root.get(reverse("admin:jobs_job_change", args=[waiting.pk])).content.decode()

    table = html[html.index('id="job-attempts"') :]
    for piece in ("Failed", "1 min 35 s", "3.0 MiB", "The &lt;bucket&gt; did not answer."):
        assert piece in table, piece


def test_the_list_says_it_too(root: Client, waiting: Job) -> None:
    html = root.get(reverse("admin:jobs_job_changelist")).content.decode()

    assert "Retry starts at" in html


def test_retry_now_starts_it(root: Client, waiting: Job) -> None:
    address = reverse("admin:jobs_job_retry", args=[waiting.pk])
    assert "The last attempt ended with: The &lt;bucket&gt; did not answer." in root.get(address).content.decode()

    root.post(address)

    waiting.refresh_from_db()
    assert (waiting.status, waiting.wait_reason) == ("pending", "")
    assert waiting.not_before <= timezone.now()


def test_cancel_ends_it(root: Client, waiting: Job) -> None:
    address = reverse("admin:jobs_job_cancel", args=[waiting.pk])
    assert "waits for its next attempt" in root.get(address).content.decode()

    root.post(address)

    waiting.refresh_from_db()
    assert waiting.status == "cancelled"


def test_what_lies_behind_an_error_is_told_below_it(root: Client, waiting: Job) -> None:
    record(waiting, "It failed.", at=timezone.now(), data={"causes": ["the <storage> broke off", "connection refused"]})

    html = root.get(reverse("admin:jobs_job_change", args=[waiting.pk])).content.decode()

    assert "<li>because the &lt;storage&gt; broke off</li><li>because connection refused</li>" in html


def test_a_job_with_one_attempt_shows_no_table(root: Client, cluster: Cluster, storage: StorageConfig) -> None:
    job = make_job(cluster, storage)
    JobAttempt.objects.create(job=job, number=1, outcome="completed", started_at=timezone.now())

    html = root.get(reverse("admin:jobs_job_change", args=[job.pk])).content.decode()

    assert 'aria-label="Attempts"' not in html
