"""axe-core on every kind of page: reached by following links, in light at desk width and in dark at phone width."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
from django.urls import Resolver404, resolve
from django.utils import timezone

from apps.alerts.models import Incident, Target
from apps.audit.trail import record_action
from apps.clusters.models import Cluster, ClusterObservation, ObservedCollection
from apps.jobs.models import JobEvent
from apps.schedules.ages import set_age
from apps.schedules.models import ScheduleRun
from apps.storage.models import StorageConfig
from tests.admin.world import make_backup, make_job
from tests.schedules.conftest import make_policy, maker

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

#: What axe calls these keeps somebody from using the page.
GRAVE = {"serious", "critical"}
DESK, PHONE = {"width": 1360, "height": 850}, {"width": 390, "height": 844}
#: Fewer kinds of pages than this, and the crawl has not seen the console.
FEWEST_KINDS = 40
#: Pages that the crawl has to have come to.
AMONG_THEM = {
    "admin:protection_coverage", "admin:schedules_month", "admin:schedules_cluster_ages", "admin:schedules_collection",
    "admin:schedules_cluster_blackouts", "admin:schedules_schedule_edit", "admin:schedules_schedule_remove",
    "admin:schedules_schedule_pause", "admin:schedules_schedulerun_change", "admin:alerts_incident_change",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _quick_passwords(settings: Any) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def console(transactional_db: None, folder: Path, node: Any, collections: Any) -> None:
    """Something of every kind, in every state, so that every kind of page has something to show."""
    collections.create("products", 10)
    cluster = Cluster.objects.create(name="berlin", url=node.url)
    storage = StorageConfig.objects.create(name="vault", type="local", path=str(folder))
    make_backup(cluster, storage)
    for status in ("pending", "running", "completed", "failed", "cancelled"):
        job = make_job(cluster, storage, status=status, error="The node refused." if status == "failed" else "")
        JobEvent.objects.create(job=job, at=job.created_at, message="Created.")
    now = timezone.now()
    ClusterObservation.objects.create(cluster=cluster, next_check_at=now, seen_at=now, tried_at=now)
    ObservedCollection.objects.create(cluster=cluster, name="products", first_seen_at=now)
    schedule = maker(cluster)(now=now, policy=make_policy())
    for day, status in enumerate(("ok", "partial", "failed", "missed", "blackout", "running")):
        at = now - timedelta(hours=3 + 24 * day)
        fields: dict[str, Any] = {"completed_at": None if status == "running" else at}
        if status == "missed":
            fields |= {"missed_count": 2, "missed_from": at - timedelta(days=1)}
        ScheduleRun.objects.create(schedule=schedule, slot=at, created_at=at, status=status, **fields)
    late = now - timedelta(hours=1)
    Target.objects.create(
        schedule=schedule, collection_name="products", first_seen_at=late, due_at=late, deadline_at=late
    )  # fmt: skip
    Incident.objects.create(
        rule="overdue", target_key=str(schedule.pk), severity="critical", summary="products on berlin: late.",
        opened_at=now, last_seen_at=now,
    )  # fmt: skip
    set_age(cluster=cluster, tag="gold", hours=12)
    record_action("job.create", "Started the backup of products on berlin.")


def kind_of(path: str) -> str | None:
    """The name of the page behind an address of the admin, None for what is no page of it."""
    try:
        match = resolve(path)
    except Resolver404:
        return None
    return match.view_name if path.startswith("/admin/") and "logout" not in path and "jsi18n" not in path else None


@pytest.mark.parametrize(("theme", "size"), [("light", DESK), ("dark", PHONE)])
def test_no_page_keeps_anybody_out(
    sign_in: Callable[..., Any], console: None, theme: str, size: dict[str, int]
) -> None:
    axe_playwright = pytest.importorskip("axe_playwright_python.sync_playwright")
    axe = axe_playwright.Axe()
    page = sign_in(color_scheme=theme, viewport=size)
    grave: list[str] = []
    seen, waiting = {"admin:index"}, deque(["/admin/"])
    while waiting:
        address = waiting.popleft()
        answer = page.goto(address)
        if "html" not in (answer.headers.get("content-type") or ""):
            continue
        assert answer.status < 500, address
        page.wait_for_load_state("load")
        for found in axe.run(page, options={"resultTypes": ["violations"]}).response["violations"]:
            if found["impact"] in GRAVE:
                where = "; ".join(node["html"][:200] for node in found["nodes"][:3])
                grave.append(f"{address} [{found['id']}] {found['help']}: {where}")
        if size is PHONE and (width := page.evaluate("document.documentElement.scrollWidth")) > size["width"] + 1:
            grave.append(f"{address} is {width} px wide")
        for link in page.eval_on_selector_all("a[href]", "links => links.map(link => link.href)"):
            target = urlsplit(urljoin(page.url, link))
            kind = kind_of(target.path)
            if kind is not None and kind not in seen:
                seen.add(kind)
                waiting.append(target.path + (f"?{target.query}" if target.query else ""))
    assert not grave, "\n".join(grave)
    assert len(seen) >= FEWEST_KINDS, sorted(seen)
    assert seen >= AMONG_THEM, sorted(AMONG_THEM - seen)
