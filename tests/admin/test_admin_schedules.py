"""The pages of schedules and retention: what they show, who may, and that nothing changes on GET."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from apps.backups.models import Backup, Hold
from apps.backups.policies import RetentionPolicy
from apps.clusters.models import Cluster
from apps.schedules.draft import ScheduleData
from apps.schedules.models import RetentionRun, Schedule, ScheduleRun
from apps.schedules.retention.work import run_sweep
from apps.schedules.services import create_schedule, run_now
from apps.storage.models import StorageConfig
from tests.schedules.conftest import make_backup, make_policy, maker
from tests.support import Collections

pytestmark = pytest.mark.django_db


def client_of(group: str | None) -> Client:
    user = User.objects.create(username=group or "root", is_staff=True, is_superuser=group is None)
    if group:
        user.groups.add(Group.objects.get(name=group))
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def root(db: None) -> Client:
    return client_of(None)


@pytest.fixture
def schedule(cluster: Cluster, storage: StorageConfig) -> Schedule:
    return maker(cluster)(now=timezone.now(), tz="Europe/Berlin")


def fields(cluster: Cluster, storage: StorageConfig, **changed: Any) -> dict[str, Any]:
    return {
        "name": "nightly", "cluster": cluster.pk, "include": "*", "exclude": "", "tags": "", "storages": [storage.pk],
        "kind": "cron", "cron": "30 2 * * *", "interval_minutes": "", "tz": "Europe/Berlin", "jitter_minutes": "10",
        "blackouts": "", "policy": "", "overlap": "skip", "catchup": "latest", "nothing_matched": "fail",
        "min_interval_minutes": "0", "start_deadline_minutes": "", "max_runtime_hours": "24", "priority": "5",
        "enabled": "on",
    } | changed  # fmt: skip


def test_a_schedule_is_made_shown_and_edited(root: Client, cluster: Cluster, storage: StorageConfig) -> None:
    assert root.get(reverse("admin:schedules_schedule_add")).status_code == 200
    values = fields(cluster, storage, blackouts="fri 22:00-06:00 skip\n2026-12-24 18:00 - 2026-12-26 08:00")
    answer = root.post(reverse("admin:schedules_schedule_add"), values, follow=True)

    schedule = Schedule.objects.get()
    assert answer.redirect_chain[-1][0] == reverse("admin:schedules_schedule_change", args=[schedule.pk])
    page = answer.content.decode()
    assert "At 02:30 every day (Europe/Berlin), backs up all collections of berlin to vault." in page
    assert "Fridays 22:00 to 06:00 of the next day: runs are left out" in page
    edit = root.get(reverse("admin:schedules_schedule_edit", args=[schedule.pk])).content.decode()
    assert "fri 22:00-06:00 skip" in edit
    root.post(
        reverse("admin:schedules_schedule_edit", args=[schedule.pk]),
        fields(cluster, storage, kind="interval", interval_minutes="90"),
    )
    schedule.refresh_from_db()
    assert (schedule.kind, schedule.interval_seconds, schedule.blackouts.count()) == ("interval", 5400, 0)


def test_a_wrong_cron_stands_at_its_field(root: Client, cluster: Cluster, storage: StorageConfig) -> None:
    answer = root.post(reverse("admin:schedules_schedule_add"), fields(cluster, storage, cron="61 2 * * *"))

    assert "The minute &#x27;61&#x27; cannot be read" in answer.content.decode()
    assert 'id="id_cron_error"' in answer.content.decode()
    assert not Schedule.objects.exists()


def test_the_preview_shows_the_next_ten_runs_and_the_collections_and_saves_nothing(
    root: Client, cluster: Cluster, storage: StorageConfig, collections: Collections
) -> None:
    collections.create("films", 1, shards=1)
    Cluster.objects.update(url=collections.url)
    address = reverse("admin:schedules_schedule_preview")
    assert root.get(address).status_code == 405

    page = root.post(address, fields(cluster, storage)).content.decode()

    assert page.count('<tr><th scope="row">') == 10
    assert "films" in page and "Nothing is saved yet" in page
    assert "Clocks of Europe/Berlin change between" in page
    assert not Schedule.objects.exists()
    wrong = root.post(address, fields(cluster, storage, blackouts="whenever")).content.decode()
    assert "cannot be read: write fri 22:00-06:00" in wrong


def test_run_pause_resume_skip_and_delete(root: Client, schedule: Schedule) -> None:
    def address(name: str) -> str:
        return reverse(f"admin:schedules_schedule_{name}", args=[schedule.pk])

    for name in ("run", "resume", "skip"):
        assert root.get(address(name)).status_code == 405
    assert "runs now" in root.post(address("run"), follow=True).content.decode()
    assert "just begun" in root.post(address("run"), follow=True).content.decode()
    assert "left out" in root.post(address("skip"), follow=True).content.decode()
    assert root.get(address("pause")).status_code == 200
    page = root.post(address("pause"), {"reason": "migration", "hours": "5"}, follow=True).content.decode()
    assert "migration" in page and "goes on by itself" in page
    assert "goes on" in root.post(address("resume"), follow=True).content.decode()
    assert "are kept for ever" in root.get(address("remove")).content.decode()
    root.post(address("remove"), {"backups": "policy"})
    assert Schedule.objects.get().deleted_at is not None
    run = ScheduleRun.objects.get()
    assert root.get(reverse("admin:schedules_schedulerun_change", args=[run.pk])).status_code == 200


def test_a_poisoned_schedule_says_what_is_wrong(root: Client, schedule: Schedule) -> None:
    Schedule.objects.update(cron_resolved="61 25 * * *", error="cron: It cannot be read.")

    page = root.get(reverse("admin:schedules_schedule_change", args=[schedule.pk])).content.decode()

    assert "It cannot run: cron: It cannot be read." in page
    assert root.get(reverse("admin:schedules_schedule_changelist")).status_code == 200


def test_the_calendar_tells_the_worst_of_each_day(root: Client, schedule: Schedule) -> None:
    now = timezone.now()
    for hours, status in ((30, "ok"), (31, "failed"), (80, "ok")):
        ScheduleRun.objects.create(schedule=schedule, slot=now - timedelta(hours=hours), status=status, created_at=now)

    page = root.get(reverse("admin:schedules_schedule_change", args=[schedule.pk])).content.decode()

    assert page.count("bm-day-ok") + page.count("bm-day-bad") >= 2
    assert "1 failed" in page


def test_a_policy_is_made_previewed_confirmed_and_undone(
    root: Client, cluster: Cluster, storage: StorageConfig
) -> None:
    values = {
        "name": "p", "keep_last": "2", "keep_hourly": "0", "keep_daily": "0", "keep_weekly": "0", "keep_monthly": "0",
        "keep_yearly": "0", "keep_within": "", "max_age": "", "size_cap_bytes": "", "cap_action": "warn",
        "min_redundancy": "1", "pick": "last", "tz": "UTC", "min_age_seconds": "3600", "grace_days": "1",
    }  # fmt: skip
    refused = root.post(reverse("admin:backups_retentionpolicy_add"), values | {"keep_last": "0"})
    assert "at least one rule" in refused.content.decode()
    root.post(reverse("admin:backups_retentionpolicy_add"), values)
    policy = RetentionPolicy.objects.get()
    for day in range(1, 5):
        make_backup(cluster, storage, timezone.now() - timedelta(days=day), policy=policy)
    address = reverse("admin:backups_retentionpolicy_preview", args=[policy.pk])

    page = root.get(address)
    assert "2 of 4 backups would go" in page.content.decode()
    assert page.content.decode().count(">Goes<") == 2
    assert not Backup.objects.filter(expired_at__isnull=False).exists()
    stale = root.post(address, {"digest": "0" * 64})
    assert stale.status_code == 409 and "not what you have seen" in stale.content.decode()
    root.post(address, {"digest": page.context["plan"].digest})
    assert Backup.objects.filter(expired_at__isnull=False).count() == 2

    run = RetentionRun.objects.get()
    assert (
        "Take these backups back"
        in root.get(reverse("admin:schedules_retentionrun_change", args=[run.pk])).content.decode()
    )
    undo = reverse("admin:schedules_retentionrun_undo", args=[run.pk])
    assert root.get(undo).status_code == 405
    root.post(undo)
    assert not Backup.objects.filter(expired_at__isnull=False).exists()
    edited = root.post(reverse("admin:backups_retentionpolicy_change", args=[policy.pk]), values | {"keep_last": "3"})
    assert edited.status_code == 302
    policy.refresh_from_db()
    assert policy.version == 2
    stays = root.post(reverse("admin:backups_retentionpolicy_remove", args=[policy.pk]))
    assert "Backups go by the policy" in stays.content.decode()


def test_a_backup_is_held_from_its_page_and_released(root: Client, cluster: Cluster, storage: StorageConfig) -> None:
    backup = make_backup(cluster, storage, timezone.now())
    page = root.get(reverse("admin:backups_backup_change", args=[backup.pk])).content.decode()
    assert reverse("admin:backups_hold_place", args=[backup.pk]) in page

    root.post(reverse("admin:backups_hold_place", args=[backup.pk]), {"reason": "audit", "days": "3"})

    hold = Hold.objects.get()
    assert "audit" in root.get(reverse("admin:backups_backup_change", args=[backup.pk])).content.decode()
    root.post(reverse("admin:backups_hold_release", args=[hold.pk]))
    hold.refresh_from_db()
    assert hold.released_at is not None


def test_what_waits_for_a_confirmation_leads_to_the_preview(
    root: Client, cluster: Cluster, storage: StorageConfig
) -> None:
    policy = make_policy(confirmed_version=0)
    for day in range(1, 6):
        make_backup(cluster, storage, timezone.now() - timedelta(days=day), policy=policy)
    run_sweep(now=timezone.now())

    page = root.get(reverse("admin:schedules_retentionrun_change", args=[RetentionRun.objects.get().pk]))

    assert reverse("admin:backups_retentionpolicy_preview", args=[policy.pk]) in page.content.decode()


@pytest.mark.parametrize(
    ("group", "may"),
    [("viewer", set()), ("operator", {"run", "pause", "hold"}), ("administrator", {"run", "pause", "hold", "edit"})],
)
def test_who_may_do_what(
    group: str, may: set[str], schedule: Schedule, cluster: Cluster, storage: StorageConfig
) -> None:
    client, backup, policy = client_of(group), make_backup(cluster, storage, timezone.now()), make_policy()
    answers: dict[str, list[Callable[[], Any]]] = {
        "run": [lambda: client.post(reverse("admin:schedules_schedule_run", args=[schedule.pk]))],
        "pause": [lambda: client.get(reverse("admin:schedules_schedule_pause", args=[schedule.pk]))],
        "hold": [lambda: client.get(reverse("admin:backups_hold_place", args=[backup.pk]))],
        "edit": [
            lambda: client.get(reverse("admin:schedules_schedule_add")),
            lambda: client.get(reverse("admin:schedules_schedule_edit", args=[schedule.pk])),
            lambda: client.get(reverse("admin:schedules_schedule_remove", args=[schedule.pk])),
            lambda: client.get(reverse("admin:backups_retentionpolicy_add")),
            lambda: client.post(reverse("admin:backups_retentionpolicy_preview", args=[policy.pk]), {"digest": "x"}),
        ],
    }
    for name in ("schedules_schedule", "schedules_schedulerun", "schedules_retentionrun", "backups_hold"):
        assert client.get(reverse(f"admin:{name}_changelist")).status_code == 200
    assert client.get(reverse("admin:schedules_schedule_change", args=[schedule.pk])).status_code == 200
    assert client.get(reverse("admin:backups_retentionpolicy_preview", args=[policy.pk])).status_code == 200
    for name, calls in answers.items():
        for call in calls:
            assert (call().status_code != 403) == (name in may), (group, name)


def test_the_list_asks_as_often_for_many_schedules_as_for_few(
    root: Client, cluster: Cluster, storage: StorageConfig
) -> None:
    address = reverse("admin:schedules_schedule_changelist")

    def add(first: int, last: int) -> None:
        for n in range(first, last):
            data = ScheduleData(name=f"s{n}", cluster=cluster, storages=[storage], kind="manual")
            run_now(schedule=create_schedule(data=data, now=timezone.now()), now=timezone.now())

    def queries() -> int:
        with CaptureQueriesContext(connection) as seen:
            page = root.get(address).content.decode()
        assert "Looking up collections" in page
        return len(seen)

    add(0, 2)
    root.get(address)
    few = queries()
    add(2, 8)
    assert queries() == few
