"""Schedules, runs, policies, retention and holds over the API."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from apps.backups.models import Backup
from apps.backups.policies import RetentionPolicy
from apps.clusters.models import Cluster
from apps.core.permissions import Scope
from apps.schedules.models import RetentionRun, Schedule, ScheduleRun
from apps.storage.models import StorageConfig
from tests.api.conftest import V1, error_of, result_of, token_client
from tests.schedules.conftest import make_backup
from tests.support import Collections


def body(**fields: Any) -> dict[str, Any]:
    return {"name": "nightly", "storages": ["folder"], "cron": "30 2 * * *", "tz": "Europe/Berlin"} | fields


@pytest.fixture
def schedule(api: APIClient, down: Cluster, storage: StorageConfig) -> dict[str, Any]:
    return dict(result_of(api.post(f"{V1}/schedules", body(), format="json")))


def test_a_schedule_from_its_making_to_its_end(api: APIClient, schedule: dict[str, Any]) -> None:
    where = f"{V1}/schedules/{schedule['id']}"
    assert schedule["next_run_at"] is not None
    assert result_of(api.get(f"{V1}/schedules"))["total"] == 1

    paused = result_of(api.post(f"{where}/pause", {"reason": "migration"}, format="json"))
    assert paused["paused"] is True and paused["next_run_at"] is None
    assert result_of(api.post(f"{where}/resume"))["next_run_at"] == schedule["next_run_at"]
    assert result_of(api.post(f"{where}/skip"))["next_fire_at"] > schedule["next_fire_at"]
    run = result_of(api.post(f"{where}/run", HTTP_IDEMPOTENCY_KEY="k"))
    assert result_of(api.post(f"{where}/run", HTTP_IDEMPOTENCY_KEY="k"))["id"] == run["id"]
    assert "just begun" in error_of(api.post(f"{where}/run"))
    assert result_of(api.get(f"{V1}/runs/{run['id']}"))["items"] == []
    assert result_of(api.get(f"{V1}/runs?schedule={schedule['id']}&status=expanding"))["total"] == 1
    changed = result_of(api.put(where, body(cron="@daily", jitter_seconds=600), format="json"))
    assert (changed["cron"], changed["cron_resolved"]) == ("@daily", "0 0 * * *")
    result_of(api.delete(where))
    assert api.get(where).status_code == 404
    assert ScheduleRun.objects.count() == 1


@pytest.mark.parametrize(
    ("fields", "named", "words"),
    [
        ({"cron": "61 2 * * *"}, "cron", "minute '61'"),
        ({"cron": "30 24 * * *"}, "cron", "hour '24'"),
        ({"cron": "0 0 32 * *"}, "cron", "day of month '32'"),
        ({"cron": "0 0 * 13 *"}, "cron", "month '13'"),
        ({"cron": "0 0 * * 8"}, "cron", "day of week '8'"),
        ({"cron": "0 30 2 * * *"}, "cron", "six fields"),
        ({"cron": "30 2 * *"}, "cron", "4 fields"),
        ({"cron": "30 2 ? * *"}, "cron", "question mark"),
        ({"cron": "30 2 15W * *"}, "cron", "W, which is not known"),
        ({"cron": "@reboot"}, "cron", "no such moment"),
        ({"cron": "@every 5m"}, "cron", "take an interval"),
        ({"cron": "CRON_TZ=UTC 30 2 * * *"}, "cron", "a field of its own"),
        ({"cron": "H(9-3) 2 * * *"}, "cron", "smaller one first"),
        ({"cron": "* * * * *"}, "cron", "less than 5 min apart"),
        ({"cron": "0 0 30 2 *"}, "cron", "never comes"),
        ({"cron": "0 0 29 2 *", "jitter_seconds": 0}, "cron", "fewer than two runs"),
        ({"cron": ""}, "cron", "five fields"),
        ({"tz": "Mars/Olympus"}, "tz", "no IANA time zone"),
        ({"kind": "interval", "cron": "", "interval_seconds": None}, "interval_seconds", "Give from 300"),
        ({"kind": "manual"}, "cron", "has no cron expression"),
        ({"jitter_seconds": 50000}, "jitter_seconds", "half the smallest gap"),
        ({"name": " "}, "name", "1 to 100"),
        ({"include": []}, "include", "at least one pattern"),
        ({"blackouts": [{"weekday": day, "from_time": "00:00", "to_time": "00:00", "skips": True} for day in
                        ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")]},
         "blackouts", "Every run lies in a blackout"),
        ({"blackouts": [{"weekday": "monday"}]}, "blackouts", "weekday, from_time and to_time"),
    ],
)  # fmt: skip
def test_every_refusal_names_its_field(
    api: APIClient, down: Cluster, storage: StorageConfig, fields: dict[str, Any], named: str, words: str
) -> None:
    answer = api.post(f"{V1}/schedules", body(**fields), format="json")

    assert answer.status_code == 400
    assert named in error_of(answer)
    assert words in error_of(answer)
    assert not Schedule.objects.exists()


def test_a_preview_saves_nothing_and_shows_what_comes(
    api: APIClient, cluster: Cluster, storage: StorageConfig, collections: Collections
) -> None:
    for name in ("films", "films-old", "songs"):
        collections.create(name, 1, shards=1)

    shown = result_of(api.post(f"{V1}/schedules/preview", body(include=["films*"], exclude=["*-old"]), format="json"))

    assert not Schedule.objects.exists()
    assert shown["sentence"].startswith("At 02:30 every day (Europe/Berlin), backs up collections named films* of main")
    assert len(shown["runs"]) == 10
    assert (shown["matched"], shown["excluded"], shown["unmatched"]) == (["films"], ["films-old"], ["songs"])
    assert any("kept for ever" in line for line in shown["lint"])
    assert any("Clocks of Europe/Berlin change" in line for line in shown["lint"])


def test_h_and_jitter_are_in_the_preview_what_they_are_afterwards(
    api: APIClient, cluster: Cluster, storage: StorageConfig
) -> None:
    wanted = body(cron="H H(1-5) * * *", jitter_seconds=3000)

    def previewed_and_saved() -> tuple[dict[str, Any], dict[str, Any]]:
        shown = result_of(api.post(f"{V1}/schedules/preview", wanted, format="json"))
        return shown, result_of(api.post(f"{V1}/schedules", wanted, format="json"))

    shown, first = previewed_and_saved()
    assert (first["cron_resolved"], first["next_run_at"]) == (shown["cron_resolved"], shown["runs"][0]["run_at"])

    # Its name is free again, its id is not.
    assert api.delete(f"{V1}/schedules/{first['id']}").status_code == 200
    shown, second = previewed_and_saved()
    assert second["id"] != first["id"]
    assert (second["cron_resolved"], second["next_run_at"]) == (shown["cron_resolved"], shown["runs"][0]["run_at"])


def test_a_preview_of_a_cluster_that_is_away_says_so(api: APIClient, schedule: dict[str, Any]) -> None:
    shown = result_of(api.get(f"{V1}/schedules/{schedule['id']}/preview"))

    assert shown["listing_error"]
    assert len(shown["runs"]) == 10


def test_the_same_name_twice_on_one_cluster_is_a_conflict(api: APIClient, schedule: dict[str, Any]) -> None:
    answer = api.post(f"{V1}/schedules", body(), format="json")

    assert answer.status_code == 409
    assert "choose another name" in error_of(answer)


def test_blackouts_come_back_as_they_were_sent(api: APIClient, down: Cluster, storage: StorageConfig) -> None:
    weekly = {"weekday": "friday", "from_time": "22:00", "to_time": "06:00", "skips": True, "cancels": False}

    made = result_of(api.post(f"{V1}/schedules", body(blackouts=[weekly]), format="json"))

    assert made["blackouts"] == [weekly | {"starts_at": None, "ends_at": None}]


class TestPolicies:
    @pytest.fixture
    def policy(self, api: APIClient, down: Cluster, storage: StorageConfig) -> dict[str, Any]:
        made = dict(
            result_of(api.post(f"{V1}/policies", {"name": "p", "keep_last": 2, "min_redundancy": 1}, format="json"))
        )
        now, row = timezone.now(), RetentionPolicy.objects.get()
        for day in range(1, 6):
            make_backup(down, storage, now - timedelta(days=day), policy=row)
        return made

    def test_preview_confirm_undo(self, api: APIClient, policy: dict[str, Any]) -> None:
        where = f"{V1}/policies/{policy['id']}"
        assert policy["waits_for_confirmation"] is True
        assert policy["sentence"] == "the last 2"

        plan = result_of(api.post(f"{where}/preview", {}, format="json"))
        assert (plan["kept"], plan["expired"]) == (2, 3)
        assert plan["sets"][0]["backups"][0]["reasons"] == ["last 1", "newest", "min-redundancy"]
        other = result_of(api.post(f"{where}/preview", {"keep_last": 4}, format="json"))
        assert other["expired"] == 1
        assert not RetentionRun.objects.exists()
        assert not Backup.objects.filter(expired_at__isnull=False).exists()

        assert api.post(f"{where}/apply", {"digest": other["digest"]}, format="json").status_code == 409
        (run,) = result_of(api.post(f"{where}/apply", {"digest": plan["digest"]}, format="json"))
        assert (run["status"], run["counts"]["expired"]) == ("applied", 3)
        assert Backup.objects.filter(expired_at__isnull=False).count() == 3

        assert result_of(api.post(f"{V1}/retention/{run['id']}/undo"))["status"] == "undone"
        assert "nothing to take back" in error_of(api.post(f"{V1}/retention/{run['id']}/undo"))
        assert result_of(api.get(f"{V1}/retention?policy=p&status=undone"))["total"] == 1

    def test_a_preview_tells_when_each_goes_and_what_other_rules_would_change(
        self, api: APIClient, policy: dict[str, Any], down: Cluster, storage: StorageConfig
    ) -> None:
        where = f"{V1}/policies/{policy['id']}/preview"
        row = RetentionPolicy.objects.get()
        made = result_of(api.post(f"{V1}/schedules", body(policy="p", cron="30 2 * * *"), format="json"))
        Backup.objects.update(schedule_id=made["id"])
        day = (timezone.now() + timedelta(days=1)).date()

        (shown,) = result_of(api.post(where, {}, format="json"))["sets"]
        plain = result_of(api.post(where, {"forecast": False}, format="json"))
        fewer = result_of(api.post(where, {"keep_last": 1}, format="json"))["changes"]
        more = result_of(api.post(where, {"keep_last": 4}, format="json"))["changes"]

        newest, second, third = shown["backups"][:3]
        near = {str(day + timedelta(days=n)) for n in (-1, 0, 1)}
        assert second["expires_on"] in near and second["outlook"] == second["expires_on"]
        assert newest["expires_on"] > second["expires_on"]
        assert (third["keep"], third["outlook"]) == (False, third["expires_on"])
        assert (shown["forecast"]["is_whole"], shown["forecast"]["count_then"]) == (True, 2)
        assert plain["sets"][0]["forecast"] is None
        assert {verdict["outlook"] for verdict in plain["sets"][0]["backups"]} == {""}
        assert plain["changes"] == {"would_go": [], "would_stay": [], "bytes_more": 0}
        assert [one["backup_id"] for one in fewer["would_go"]] == [second["backup_id"]]
        assert (fewer["would_stay"], fewer["bytes_more"]) == ([], 40)
        assert len(more["would_stay"]) == 2 and more["would_go"] == []
        row.refresh_from_db()
        assert (row.keep_last, row.version) == (2, 1)

    def test_a_policy_without_a_rule_is_refused(self, api: APIClient) -> None:
        assert "keep_last" in error_of(api.post(f"{V1}/policies", {"name": "x"}, format="json"))
        assert "keep_within" in error_of(
            api.post(f"{V1}/policies", {"name": "x", "keep_within": "14 days"}, format="json")
        )

    def test_one_in_use_stays(self, api: APIClient, policy: dict[str, Any]) -> None:
        assert "Backups go by the policy" in error_of(api.delete(f"{V1}/policies/{policy['id']}"))
        Backup.objects.all().delete()
        result_of(api.delete(f"{V1}/policies/{policy['id']}"))

    def test_a_change_waits_again_and_a_name_does_not(self, api: APIClient, policy: dict[str, Any]) -> None:
        where = f"{V1}/policies/{policy['id']}"
        RetentionPolicy.objects.update(confirmed_version=1)

        assert result_of(api.put(where, {"name": "q"}, format="json"))["waits_for_confirmation"] is False
        assert result_of(api.put(where, {"keep_last": 1}, format="json"))["waits_for_confirmation"] is True

    def test_holds(self, api: APIClient, policy: dict[str, Any]) -> None:
        oldest = Backup.objects.order_by("started_at").first()
        assert oldest is not None
        made = result_of(api.post(f"{V1}/holds", {"backup_id": str(oldest.pk), "reason": "audit"}, format="json"))
        plan = result_of(api.post(f"{V1}/policies/{policy['id']}/preview", {}, format="json"))
        assert plan["expired"] == 2
        assert api.delete(f"{V1}/backups/{oldest.pk}").status_code == 409

        assert token_client(Scope.OPERATE).delete(f"{V1}/holds/{made['id']}").status_code == 403
        assert result_of(api.delete(f"{V1}/holds/{made['id']}"))["released_at"] is not None
        assert result_of(api.get(f"{V1}/holds"))["total"] == 1


def test_tags_of_a_collection(api: APIClient, down: Cluster) -> None:
    where = f"{V1}/collections/films/tags"

    assert result_of(api.put(where, {"tags": ["gold", " daily "]}, format="json")) == {"tags": ["daily", "gold"]}
    assert result_of(api.put(where, {"tags": ["gold"]}, format="json")) == {"tags": ["gold"]}
    assert result_of(api.get(where)) == {"tags": ["gold"]}
    assert "printable" in error_of(api.put(where, {"tags": ["a\u0007"]}, format="json"))


def test_the_maximum_age_of_a_collection_comes_from_itself_its_tags_or_its_cluster(
    api: APIClient, down: Cluster
) -> None:
    where, tagged = f"{V1}/collections/films/max-age", f"{V1}/tags/gold/max-age"
    api.put(f"{V1}/collections/films/tags", {"tags": ["gold"]}, format="json")

    assert result_of(api.get(where)) == {"hours": 26, "set_by": "cluster", "tag": None}
    assert result_of(api.put(tagged, {"hours": 8}, format="json")) == {"hours": 8}
    assert result_of(api.get(tagged)) == {"hours": 8}
    assert result_of(api.get(where)) == {"hours": 8, "set_by": "tag", "tag": "gold"}
    assert result_of(api.put(where, {"hours": 50}, format="json"))["set_by"] == "collection"
    assert result_of(api.put(where, {"hours": None}, format="json"))["hours"] == 8
    for wrong in ({"hours": 0}, {"hours": 9999}, {"hours": "x"}, {}):
        assert error_of(api.put(where, wrong, format="json"))
    assert error_of(api.put(f"{V1}/collections/a%2Fb/max-age", {"hours": 1}, format="json"))
    assert token_client(Scope.OPERATE).put(where, {"hours": 1}, format="json").status_code == 403


def test_limits_of_a_cluster(api: APIClient, down: Cluster) -> None:
    changed = result_of(api.put(f"{V1}/clusters/{down.pk}", {"max_jobs": 5}, format="json"))

    assert (changed["max_jobs"], changed["max_jobs_per_node"]) == (5, 1)
    assert api.put(f"{V1}/clusters/{down.pk}", {"max_jobs": 0}, format="json").status_code == 400
