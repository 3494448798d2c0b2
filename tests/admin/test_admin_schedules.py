"""The pages of schedules and retention: what they show, who may, and that nothing changes on GET."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission, User
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


def test_what_is_saved_can_run_at_once(root: Client, cluster: Cluster, storage: StorageConfig) -> None:
    root.post(reverse("admin:schedules_schedule_add"), fields(cluster, storage, run_now="on"))

    schedule = Schedule.objects.get()
    following = schedule.next_run_at
    assert [run.trigger for run in schedule.runs.all()] == ["manual"]

    edit = reverse("admin:schedules_schedule_edit", args=[schedule.pk])
    answer = root.post(edit, fields(cluster, storage, run_now="on", priority="7"), follow=True)
    schedule.refresh_from_db()
    assert (schedule.priority, schedule.next_run_at) == (7, following)
    assert "It does not run now: A run of this schedule has just begun" in answer.content.decode()
    assert schedule.runs.count() == 1


def test_who_may_not_run_a_schedule_is_not_offered_to(cluster: Cluster, storage: StorageConfig) -> None:
    user = User.objects.create(username="editor", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=("add_schedule", "view_schedule")))
    client = Client()
    client.force_login(user)

    assert 'name="run_now"' not in client.get(reverse("admin:schedules_schedule_add")).content.decode()
    client.post(reverse("admin:schedules_schedule_add"), fields(cluster, storage, run_now="on"))
    assert not Schedule.objects.get().runs.exists()


def test_a_wrong_cron_stands_at_its_field(root: Client, cluster: Cluster, storage: StorageConfig) -> None:
    answer = root.post(reverse("admin:schedules_schedule_add"), fields(cluster, storage, cron="61 2 * * *"))

    assert "The minute &#x27;61&#x27; cannot be read" in answer.content.decode()
    assert 'id="id_cron_error"' in answer.content.decode()
    assert not Schedule.objects.exists()


@pytest.mark.parametrize(
    ("values", "cron"),
    [
        ({"kind": "hourly", "at": "00:15"}, "15 * * * *"),
        ({"kind": "daily", "at": "02:30"}, "30 2 * * *"),
        ({"kind": "weekly", "at": "22:05", "weekdays": ["5", "1", "0"]}, "5 22 * * 0,1,5"),
        ({"kind": "monthly", "at": "3:00", "day": "L"}, "0 3 L * *"),
        ({"kind": "monthly", "at": "03:00", "day": "31"}, "0 3 31 * *"),
    ],
)
def test_a_preset_becomes_its_expression_and_comes_back_as_the_preset(
    root: Client, cluster: Cluster, storage: StorageConfig, values: dict[str, Any], cron: str
) -> None:
    root.post(reverse("admin:schedules_schedule_add"), fields(cluster, storage, cron="") | values)

    schedule = Schedule.objects.get()
    assert (schedule.kind, schedule.cron) == ("cron", cron)
    edit = reverse("admin:schedules_schedule_edit", args=[schedule.pk])
    initial = root.get(edit).context["form"].initial
    assert initial["kind"] == values["kind"]
    again = {name: initial[name] for name in ("at", "weekdays", "day") if name in initial}
    version = schedule.version
    root.post(edit, fields(cluster, storage, cron="") | {"kind": initial["kind"]} | again)
    schedule.refresh_from_db()
    assert (schedule.cron, schedule.version) == (cron, version + 1)


@pytest.mark.parametrize(
    "cron",
    ["@hourly", "H 3 * * *", "30 02 * * *", "0 22 * * 1-5", "0 3 1 1 *", "0 3 1 * 1", "*/5 * * * *", "5 * 1 * *"],
)
def test_other_expressions_stay_expressions(root: Client, cluster: Cluster, storage: StorageConfig, cron: str) -> None:
    schedule = maker(cluster)(now=timezone.now(), cron=cron)

    initial = root.get(reverse("admin:schedules_schedule_edit", args=[schedule.pk])).context["form"].initial

    assert (initial["kind"], initial["cron"]) == ("cron", cron)


@pytest.mark.parametrize(
    ("values", "field", "said"),
    [
        ({"kind": "daily", "at": ""}, "at", "Give hours and minutes"),
        ({"kind": "daily", "at": "25:00"}, "at", "Give hours and minutes"),
        ({"kind": "weekly", "at": "02:30"}, "weekdays", "Choose at least one day."),
        ({"kind": "weekly", "at": "02:30", "weekdays": ["7"]}, "weekdays", "not one of the available"),
        ({"kind": "monthly", "at": "02:30", "day": ""}, "day", "Choose a day."),
        ({"kind": "cron", "cron": "61 * * * *", "at": "x", "interval_minutes": "x", "day": "x"}, "cron", "cannot be"),
        ({"kind": "hourly", "at": "00:10", "jitter_minutes": "59"}, "jitter_minutes", "less than half"),
        ({"kind": "monthly", "at": "02:30", "day": "1", "tz": "Mars"}, "tz", "no IANA time zone"),
    ],
)
def test_what_a_preset_lacks_stands_at_its_field(
    root: Client, cluster: Cluster, storage: StorageConfig, values: dict[str, Any], field: str, said: str
) -> None:
    answer = root.post(reverse("admin:schedules_schedule_add"), fields(cluster, storage, cron="") | values)

    assert said in " ".join(answer.context["form"].errors[field])
    assert not Schedule.objects.exists()


def test_grace_and_catch_up_window_are_edited_and_kept(root: Client, cluster: Cluster, storage: StorageConfig) -> None:
    values = fields(cluster, storage, grace_minutes="45", catchup_window_hours="12")
    root.post(reverse("admin:schedules_schedule_add"), values)

    schedule = Schedule.objects.get()
    assert (schedule.grace_seconds, schedule.catchup_window_seconds) == (2700, 43200)
    form = root.get(reverse("admin:schedules_schedule_edit", args=[schedule.pk])).context["form"]
    assert (form.initial["grace_minutes"], form.initial["catchup_window_hours"]) == (45, 12)


def test_the_preview_tells_the_load_and_the_viewers_clock(
    root: Client, cluster: Cluster, storage: StorageConfig, collections: Collections
) -> None:
    collections.create("films", 1, shards=1)
    Cluster.objects.update(url=collections.url)
    root.cookies["backupmgr_zone"] = "Asia/Tokyo"

    page = root.post(reverse("admin:schedules_schedule_preview"), fields(cluster, storage)).content.decode()

    assert "A run makes 1 backup." in page and "no other schedule runs on" in page
    assert "By your clock" in page and page.count(" JST</td>") == 10
    root.cookies["backupmgr_zone"] = "UTC"
    page = root.post(reverse("admin:schedules_schedule_preview"), fields(cluster, storage)).content.decode()
    assert "By your clock" not in page


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


POLICY_FIELDS = {
    "name": "p", "keep_last": "2", "keep_hourly": "0", "keep_daily": "0", "keep_weekly": "0", "keep_monthly": "0",
    "keep_yearly": "0", "keep_within": "", "max_age": "", "size_cap_bytes": "", "cap_action": "warn",
    "min_redundancy": "1", "pick": "last", "tz": "UTC", "min_age_seconds": "3600", "grace_days": "1",
}  # fmt: skip


def test_the_preview_tells_when_each_backup_would_go(root: Client, schedule: Schedule, storage: StorageConfig) -> None:
    policy = make_policy(keep_last=2, min_redundancy=1)
    Schedule.objects.filter(pk=schedule.pk).update(policy=policy, tz="UTC")
    # At an hour at which a run of tomorrow is still to come, whatever the time of the test.
    for day in (3, 2, 1):
        taken_at = timezone.now() - timedelta(days=day)
        make_backup(schedule.cluster, storage, taken_at, policy=policy, schedule_id=schedule.pk)
    held = Backup.objects.order_by("started_at")[0]
    Hold.objects.create(backup=held, reason="audit", created_at=timezone.now())

    page = root.get(reverse("admin:backups_retentionpolicy_preview", args=[policy.pk]))

    (shown,) = page.context["sets"]
    assert shown.forecast.is_whole
    html = page.content.decode()
    assert "guarded: hold" in html
    assert f"<td>{shown.rows[0][2]}</td>" in html and shown.rows[0][2].startswith("20")
    assert "it then holds 3 backups" in html, "two by the rule, one held"


def test_an_edited_policy_is_compared_with_the_one_that_there_is_before_it_is_saved(
    root: Client, cluster: Cluster, storage: StorageConfig
) -> None:
    policy = make_policy("p", keep_last=2)
    rows = [make_backup(cluster, storage, timezone.now() - timedelta(days=n), policy=policy) for n in (4, 3, 2, 1)]
    change = reverse("admin:backups_retentionpolicy_change", args=[policy.pk])
    address = reverse("admin:backups_retentionpolicy_try", args=[policy.pk])
    assert f'formaction="{address}"' in root.get(change).content.decode()

    fewer = root.post(address, POLICY_FIELDS | {"keep_last": "1"})
    more = root.post(address, POLICY_FIELDS | {"keep_last": "3"}).content.decode()
    same = root.post(address, POLICY_FIELDS).content.decode()
    wrong = root.post(address, POLICY_FIELDS | {"keep_last": "0", "name": "renamed"})

    html = fewer.content.decode()
    assert "1 backup more would go, 0 would stay that go now." in html
    assert [one.row.id for one in fewer.context["change"].would_go] == [str(rows[2].pk)]
    assert "0 backups more would go, 1 would stay that go now." in more
    assert "Nothing would change" in same
    assert "at least one rule" in wrong.content.decode()
    assert root.get(address).status_code == 405
    policy.refresh_from_db()
    assert (policy.name, policy.keep_last, policy.version) == ("p", 2, 1)
    assert not RetentionRun.objects.exists()
    saved = root.post(change, dict(fewer.context["hidden"]) | {"_save": ""})
    assert saved.status_code == 302
    policy.refresh_from_db()
    assert (policy.keep_last, policy.version) == (1, 2)


def test_letting_go_is_a_right_of_its_own(cluster: Cluster, storage: StorageConfig) -> None:
    policy = make_policy("p", keep_last=1, confirmed_version=0)
    for day in (3, 2, 1):
        make_backup(cluster, storage, timezone.now() - timedelta(days=day), policy=policy)
    preview = reverse("admin:backups_retentionpolicy_preview", args=[policy.pk])
    tried = reverse("admin:backups_retentionpolicy_try", args=[policy.pk])

    def with_right(name: str) -> Client:
        user = User.objects.create(username=name, is_staff=True)
        rights = ["view_retentionpolicy", "view_retentionrun", name]
        user.user_permissions.set(Permission.objects.filter(codename__in=rights))
        client = Client()
        client.force_login(user)
        return client

    editor, confirmer = with_right("change_retentionpolicy"), with_right("confirm_retention")
    page = editor.get(preview)
    digest = {"digest": page.context["plan"].digest}
    assert "Let these" not in page.content.decode() and "takes the right" in page.content.decode()
    assert editor.post(preview, digest).status_code == 403
    assert client_of("operator").post(preview, digest).status_code == 403
    assert editor.post(tried, POLICY_FIELDS).status_code == 200
    assert confirmer.post(tried, POLICY_FIELDS).status_code == 403
    assert not Backup.objects.filter(expired_at__isnull=False).exists()

    assert "Let these 2 go" in confirmer.get(preview).content.decode()
    assert confirmer.post(preview, digest).status_code == 302
    assert Backup.objects.filter(expired_at__isnull=False).count() == 2
    undo = reverse("admin:schedules_retentionrun_undo", args=[RetentionRun.objects.get().pk])
    assert editor.post(undo).status_code == 403
    assert confirmer.post(undo).status_code == 302
    assert not Backup.objects.filter(expired_at__isnull=False).exists()
    assert client_of("administrator").post(preview, {"digest": "x"}).status_code == 409


def test_the_preview_asks_as_often_for_many_backups_as_for_few(
    root: Client, schedule: Schedule, storage: StorageConfig
) -> None:
    policy = make_policy(keep_last=2)
    Schedule.objects.filter(pk=schedule.pk).update(policy=policy)
    address = reverse("admin:backups_retentionpolicy_preview", args=[policy.pk])

    def queries() -> int:
        with CaptureQueriesContext(connection) as asked:
            assert root.get(address).status_code == 200
        return len(asked)

    def add(first: int, last: int) -> None:
        for n in range(first, last):
            taken_at = timezone.now() - timedelta(days=n)
            make_backup(schedule.cluster, storage, taken_at, policy=policy, schedule_id=schedule.pk)

    add(1, 4)
    queries()  # what is asked once only
    few = queries()
    add(4, 24)
    assert queries() == few


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
