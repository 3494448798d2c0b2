"""How long backups stay, in API and admin: of jobs that somebody asks for, in lists, and when a schedule goes."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.audit.models import AuditEntry
from apps.backups.models import Backup, Hold
from apps.clusters.models import Cluster
from apps.core.permissions import Scope
from apps.jobs.models import Job
from apps.schedules.draft import ScheduleData
from apps.schedules.models import Schedule
from apps.schedules.services import create_schedule
from apps.storage.models import StorageConfig
from tests.api.conftest import V1, result_of, token_client
from tests.schedules.conftest import make_backup, make_policy

DAY = timedelta(days=1)


def ask(**fields: Any) -> Any:
    body = {"type": "backup", "collection_name": "films", **fields}
    return token_client(Scope.RESTORE).post(f"{V1}/jobs", body, format="json")


class TestJobs:
    def test_a_backup_goes_by_a_policy_or_until_a_date(self, down: Cluster, storage: StorageConfig) -> None:
        policy = make_policy("daily")

        by_policy = result_of(ask(policy="daily"))
        until = result_of(ask(keep_until="2999-01-31T00:00:00Z", collection_name="songs"))
        for_ever = result_of(ask(collection_name="users"))

        assert (by_policy["policy_id"], by_policy["keep_until"]) == (str(policy.pk), None)
        assert (until["policy_id"], until["keep_until"]) == (None, "2999-01-31T00:00:00Z")
        assert (for_ever["policy_id"], for_ever["keep_until"]) == (None, None)
        assert Job.objects.get(pk=by_policy["id"]).policy == policy
        assert Job.objects.get(pk=until["id"]).keep_until == datetime.fromisoformat("2999-01-31T00:00:00Z")

    @pytest.mark.parametrize(
        ("fields", "status", "said"),
        [
            ({"policy": "nobody"}, 404, "no retention policy"),
            ({"policy": "daily", "keep_until": "2999-01-31T00:00:00Z"}, 400, "not both"),
            ({"keep_until": "2020-01-01T00:00:00Z"}, 400, "still to come"),
            ({"keep_until": "soon"}, 400, "keep_until"),
            ({"type": "verify", "snapshot_name": "x", "policy": "daily"}, 400, "belong to a backup"),
            (
                {"type": "restore", "snapshot_name": "x", "keep_until": "2999-01-31T00:00:00Z"},
                400,
                "belong to a backup",
            ),
        ],
    )
    def test_what_makes_no_sense_is_refused(
        self, down: Cluster, storage: StorageConfig, fields: dict[str, Any], status: int, said: str
    ) -> None:
        make_policy("daily")

        answer = ask(**fields)

        assert answer.status_code == status
        assert said in str(answer.data)
        assert not Job.objects.exists()

    def test_the_admin_asks_and_says_it_before_the_click(self, down: Cluster, storage: StorageConfig) -> None:
        policy = make_policy("daily")
        client = Client()
        client.force_login(User.objects.create_superuser("root"))
        fields = {"cluster": down.pk, "collections": "*", "storage": storage.pk}
        address = reverse("admin:jobs_job_backup_all")

        both = client.post(address, fields | {"policy": policy.pk, "keep_until": "2999-01-31"}).content.decode()
        past = client.post(address, fields | {"keep_until": "2020-01-01"}).content.decode()
        shown = client.post(address, fields | {"keep_until": "2999-01-31"})
        page = shown.content.decode()
        mark = page.split('name="confirmation" value="')[1].split('"')[0]
        client.post(address, fields | {"policy": policy.pk, "step": "confirm", "confirmation": mark})

        assert "Give a policy or a day, not both." in both
        assert "Give a day that is still to come." in past
        assert "It stays until 2999-01-31." in page
        assert Job.objects.get().policy == policy


class TestLists:
    def test_what_retention_let_go_is_hidden_unless_it_is_asked_for(
        self, down: Cluster, storage: StorageConfig
    ) -> None:
        now = timezone.now()
        there = make_backup(down, storage, now - DAY)
        gone = make_backup(down, storage, now - 2 * DAY, expired_at=now, delete_at=now + DAY, expire_reason="x")
        client = token_client(Scope.READ)

        def listed(**query: str) -> list[str]:
            return [item["id"] for item in result_of(client.get(f"{V1}/backups", query))["items"]]

        assert listed() == listed(expired="hide") == [str(there.pk)]
        assert listed(expired="only") == [str(gone.pk)]
        assert listed(expired="show") == [str(there.pk), str(gone.pk)]
        assert client.get(f"{V1}/backups", {"expired": "perhaps"}).status_code == 400

        browser = Client()
        browser.force_login(User.objects.create_superuser("root"))
        address = reverse("admin:backups_backup_changelist")
        assert str(gone.pk) not in browser.get(address).content.decode()
        page = browser.get(address, {"state": "let-go"}).content.decode()
        assert str(gone.pk) in page and str(there.pk) not in page
        assert browser.get(reverse("admin:backups_backup_change", args=[gone.pk])).status_code == 200


@pytest.fixture
def schedule(down: Cluster, storage: StorageConfig) -> Schedule:
    """One that has made five backups, the oldest held; nobody has taken others."""
    data = ScheduleData(name="nightly", cluster=down, storages=[storage], kind="manual", policy=make_policy())
    made = create_schedule(data=data, now=timezone.now())
    rows = [
        make_backup(down, storage, timezone.now() - DAY * n, policy=made.policy, schedule_id=made.pk)
        for n in range(5, 0, -1)
    ]
    Hold.objects.create(backup=rows[0], reason="audit", created_at=timezone.now())
    make_backup(down, storage, timezone.now() - 9 * DAY, collection_name="songs", schedule_id=made.pk)
    make_backup(down, storage, timezone.now() - 9 * DAY, collection_name="users", schedule_id=uuid.uuid4())
    return made


def states() -> dict[str, int]:
    rows = Backup.objects.all()
    return {
        "all": rows.count(),
        "let go": rows.filter(expired_at__isnull=False).count(),
        "under a policy": rows.filter(policy__isnull=False).count(),
    }


class TestDeletingASchedule:
    @pytest.mark.parametrize(
        ("choice", "expected"),
        [
            ("policy", {"all": 7, "let go": 0, "under a policy": 5}),
            ("for_ever", {"all": 7, "let go": 0, "under a policy": 0}),
            # Of films the newest and the held one stay, of songs the only one.
            ("expire", {"all": 7, "let go": 3, "under a policy": 0}),
        ],
    )
    def test_its_backups_stay_or_go_as_asked_and_no_row_is_lost(
        self, schedule: Schedule, choice: str, expected: dict[str, int]
    ) -> None:
        client = token_client(Scope.ADMINISTER)
        job = result_of(ask(collection_name="films", policy=str(schedule.policy_id)))
        Job.objects.filter(pk=job["id"]).update(schedule_id=schedule.pk)

        result_of(client.delete(f"{V1}/schedules/{schedule.pk}?backups={choice}&confirm=nightly"))

        assert states() == expected
        running = Job.objects.get()
        assert running.status == "pending"
        assert (running.policy is None, running.keep_until is not None) == (choice != "policy", choice == "expire")
        assert AuditEntry.objects.filter(action="schedule.delete").count() == 1

    def test_letting_them_go_wants_the_name(self, schedule: Schedule) -> None:
        client = token_client(Scope.ADMINISTER)
        browser = Client()
        browser.force_login(User.objects.create_superuser("root"))
        address = reverse("admin:schedules_schedule_remove", args=[schedule.pk])

        refused = client.delete(f"{V1}/schedules/{schedule.pk}?backups=expire&confirm=nightl")
        page = browser.post(address, {"backups": "expire", "confirm": ""}, follow=True).content.decode()

        assert refused.status_code == 400 and "confirm: Give the name" in str(refused.data)
        assert "type nightly to let its backups go" in page
        assert Schedule.objects.live().exists()
        browser.post(address, {"backups": "expire", "confirm": "nightly"})
        assert states()["let go"] == 3
