"""What /metrics tells of schedules, retention and alerts; and that the alert rules we ship ask for nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families
from rest_framework.test import APIClient

from apps.alerts.messages import delivery_key
from apps.alerts.models import Channel, Delivery, DeliveryState, Target
from apps.alerts.outbox import deliver_due
from apps.alerts.services import save_channel
from apps.alerts.targets import refresh_targets
from apps.alerts.watch import look_and_tell
from apps.backups.models import Backup, Leftover, LeftoverKind
from apps.backups.policies import RetentionPolicy
from apps.clusters.models import Cluster, ClusterObservation, ObservedCollection
from apps.core.tally import add_up, tallies
from apps.schedules.models import RetentionRun, RunItem, RunStatus, Schedule, ScheduleRun
from apps.schedules.services import pause_schedule
from apps.schedules.settle import settle_runs
from apps.storage.models import StorageConfig
from apps.storage.observed import StorageObservation
from tests.admin.world import make_backup, make_job
from tests.schedules.conftest import maker

pytestmark = pytest.mark.django_db

RULES = Path(__file__).parents[2] / "deploy" / "prometheus"

Samples = dict[str, list[tuple[dict[str, str], float]]]


def scrape(api: APIClient) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families(api.get("/metrics").content.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


@pytest.fixture
def storage(db: None, folder: Any) -> StorageConfig:
    return StorageConfig.objects.create(name="vault", type="local", path=str(folder))


@pytest.fixture
def berlin(storage: StorageConfig) -> Cluster:
    """A cluster with products, in a schedule and backed up; and films, which nobody ever backed up."""
    now = timezone.now()
    cluster = Cluster.objects.create(name="berlin", url="http://127.0.0.1:9")
    ClusterObservation.objects.create(cluster=cluster, next_check_at=now, seen_at=now)
    for name in ("products", "films"):
        ObservedCollection.objects.create(cluster=cluster, name=name, first_seen_at=now - timedelta(days=9))
    return cluster


@pytest.fixture
def nightly(berlin: Cluster, storage: StorageConfig) -> Schedule:
    """Its last run backed products up; retention has looked; one channel gave a message up."""
    now = timezone.now()
    schedule = maker(berlin)(now=now - timedelta(days=3))
    Schedule.objects.filter(pk=schedule.pk).update(include=["products"])
    policy = RetentionPolicy.objects.create(name="standard", keep_daily=7)
    StorageObservation.objects.create(storage=storage, next_check_at=now, tried_at=now, seen_at=now)
    make_backup(berlin, storage, schedule_id=schedule.pk, checked_at=now - timedelta(minutes=5), policy=policy)
    job = make_job(berlin, storage, completed_at=now - timedelta(minutes=1))
    run = ScheduleRun.objects.create(
        schedule=schedule, slot=now - timedelta(hours=1), created_at=now - timedelta(hours=1), status=RunStatus.RUNNING
    )
    RunItem.objects.create(run=run, collection_name="products", storage=storage, job=job)
    settle_runs(now=now)
    RetentionRun.objects.create(
        policy=policy, policy_version=1, cluster=berlin, cluster_name="berlin", collection_name="products",
        storage=storage, is_scheduled=True, trigger="sweep", status="nothing", digest="0", created_at=now,
        completed_at=now,
    )  # fmt: skip
    Leftover.objects.create(
        kind=LeftoverKind.BACKUP, storage=storage, subject={"kind": "backup"}, next_try_at=now + timedelta(hours=1)
    )
    refresh_targets(now=now)
    return Schedule.objects.get()


def test_schedules_targets_and_runs_are_told(api: APIClient, nightly: Schedule) -> None:
    found = scrape(api)

    of_schedule = {"schedule": nightly.name, "cluster": "berlin"}
    target = of_schedule | {"collection": "products"}
    assert found["backupmgr_schedule_info"] == [(of_schedule | {"state": "on"}, 1)]
    row = Target.objects.get()
    assert row.deadline_at is not None
    assert found["backupmgr_target_deadline_timestamp_seconds"] == [(target, row.deadline_at.timestamp())]
    assert found["backupmgr_target_state"] == [(target | {"state": "ok"}, 1)]
    ((labels, at),) = found["backupmgr_target_last_success_timestamp_seconds"]
    assert labels == target | {"storage": "vault"}
    assert found["backupmgr_collection_last_good_timestamp_seconds"][0][1] == at
    assert [labels for labels, _ in found["backupmgr_target_last_verified_timestamp_seconds"]] == [target]
    assert found["backupmgr_runs_total"] == [(of_schedule | {"result": "ok"}, 1)]
    assert found["backupmgr_run_duration_seconds_count"] == [(of_schedule, 1)]
    assert 3599 < found["backupmgr_run_duration_seconds_sum"][0][1] < 3700
    assert found["backupmgr_collections_unprotected"] == [({"cluster": "berlin"}, 1)]
    assert [labels["policy"] for labels, _ in found["backupmgr_retention_last_run_timestamp_seconds"]] == ["standard"]


def test_the_age_is_told_where_no_schedule_sets_a_deadline(api: APIClient, nightly: Schedule) -> None:
    found = scrape(api)["backupmgr_collection_rpo_seconds"]

    assert found == [({"cluster": "berlin", "collection": "films"}, 26 * 3600)]


def test_a_paused_schedule_has_no_deadline_and_the_age_takes_its_place(api: APIClient, nightly: Schedule) -> None:
    pause_schedule(schedule=nightly, reason="Move.", until=None, now=timezone.now())
    found = scrape(api)

    assert "backupmgr_target_deadline_timestamp_seconds" not in found
    assert found["backupmgr_schedule_info"][0][0]["state"] == "paused"
    assert found["backupmgr_schedule_paused_timestamp_seconds"][0][1] == pytest.approx(
        timezone.now().timestamp(), abs=30
    )
    assert len(found["backupmgr_collection_rpo_seconds"]) == 2


def test_a_deleted_schedule_is_not_told_of_any_more(api: APIClient, nightly: Schedule) -> None:
    Schedule.objects.update(enabled=False, next_fire_at=None, deleted_at=timezone.now())
    found = scrape(api)

    named = [name for name, rows in found.items() if any(nightly.name in labels.values() for labels, _ in rows)]
    assert named == []


def test_a_deadline_that_has_passed_is_overdue_for_a_reader_alone(api: APIClient, nightly: Schedule) -> None:
    Target.objects.update(deadline_at=timezone.now() - timedelta(seconds=1))
    found = scrape(api)

    assert found["backupmgr_target_state"][0][0]["state"] == "overdue"
    assert found["backupmgr_workers_alive"] == [({}, 0)]
    states = {(labels["state"]): value for labels, value in found["backupmgr_collections"]}
    assert states["overdue"] == 1


def test_many_targets_are_told_by_schedule(api: APIClient, nightly: Schedule, settings: Any) -> None:
    settings.BACKUPMGR_METRICS_MAX_TARGETS = 1
    early = timezone.now() - timedelta(hours=1)
    Target.objects.create(schedule=nightly, collection_name="films", first_seen_at=early, deadline_at=early)
    found = scrape(api)

    of_schedule = {"schedule": nightly.name, "cluster": "berlin"}
    assert found["backupmgr_target_deadline_timestamp_seconds"] == [
        (of_schedule | {"collection": ""}, pytest.approx(early.timestamp()))
    ]
    assert "backupmgr_target_state" not in found
    assert "backupmgr_target_last_verified_timestamp_seconds" not in found  # one of them never was
    counts = {labels["state"]: value for labels, value in found["backupmgr_targets"]}
    assert counts["ok"] == 1
    assert counts["overdue"] == 1


def test_a_policy_without_backups_is_not_told_to_be_forgotten(api: APIClient, nightly: Schedule) -> None:
    Backup.objects.update(policy=None)

    assert "backupmgr_retention_last_run_timestamp_seconds" not in scrape(api)


def test_storages_tell_when_they_last_answered(api: APIClient, storage: StorageConfig) -> None:
    assert "backupmgr_storage_last_contact_timestamp_seconds" not in scrape(api)
    now = timezone.now()
    StorageObservation.objects.create(storage=storage, next_check_at=now, tried_at=now, seen_at=now)

    assert scrape(api)["backupmgr_storage_last_contact_timestamp_seconds"] == [
        ({"storage": "vault"}, pytest.approx(now.timestamp()))
    ]
    StorageObservation.objects.update(seen_at=None, problem="It is gone.")
    assert scrape(api)["backupmgr_storage_last_contact_timestamp_seconds"] == [({"storage": "vault"}, 0)]


def test_messages_that_wait_and_that_were_given_up(api: APIClient, httpserver: Any, nightly: Schedule) -> None:
    httpserver.expect_request("/ops").respond_with_data("no", status=500)
    data = {"name": "ops", "kind": "webhook", "address": httpserver.url_for("/ops")}
    channel = save_channel(channel=None, data=data)
    now = timezone.now()
    for name, state, at in (("a", "pending", now - timedelta(hours=25)), ("b", "pending", now)):
        Delivery.objects.create(
            channel=channel, kind="alert", key=delivery_key(name), subject=name, text="", next_try_at=now,
            created_at=at, state=state,
        )  # fmt: skip
    deliver_due(clock=timezone.now)
    found = scrape(api)

    assert found["backupmgr_deliveries_pending"] == [({"channel": "ops"}, 1)]
    assert found["backupmgr_deliveries_dead_total"] == [({"channel": "ops"}, 1)]
    Delivery.objects.filter(state=DeliveryState.DEAD).delete()  # as after 90 days
    assert scrape(api)["backupmgr_deliveries_dead_total"] == [({"channel": "ops"}, 1)]


def test_ticks_that_never_came_are_long_ago(api: APIClient) -> None:
    found = scrape(api)

    assert found["backupmgr_tick_last_timestamp_seconds"] == [({}, 0)]
    assert found["backupmgr_alerts_last_look_timestamp_seconds"] == [({}, 0)]
    look_and_tell(now=timezone.now())
    assert scrape(api)["backupmgr_alerts_last_look_timestamp_seconds"][0][1] > 0


def test_the_queries_do_not_grow_with_what_there_is(
    api: APIClient, nightly: Schedule, berlin: Cluster, django_assert_max_num_queries: Any
) -> None:
    now = timezone.now()
    ObservedCollection.objects.bulk_create(
        ObservedCollection(cluster=berlin, name=f"c{number}", first_seen_at=now) for number in range(600)
    )
    Schedule.objects.update(include=["*"])
    refresh_targets(now=now)
    assert Target.objects.count() == 602

    with django_assert_max_num_queries(36):
        assert len(scrape(api)["backupmgr_target_deadline_timestamp_seconds"]) == 602


def test_tallies_only_grow() -> None:
    add_up("x", about="1", by=2)
    add_up("x", about="1", by=3)
    add_up("x", about="2", result="ok")

    assert tallies("x") == {("1", ""): 5, ("2", "ok"): 1}


# --- the rules ---------------------------------------------------------------------------------------------
def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((RULES / "backupmgr.rules.yml").read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def test_every_metric_that_a_rule_asks_for_is_exported_with_its_labels(
    api: APIClient, nightly: Schedule, httpserver: Any
) -> None:
    data = {"name": "ops", "kind": "webhook", "address": httpserver.url_for("/ops")}
    save_channel(channel=None, data=data)
    on = scrape(api)
    pause_schedule(schedule=nightly, reason="Move.", until=None, now=timezone.now())
    exported = {name: rows + scrape(api).get(name, []) for name, rows in on.items()} | {
        name: rows for name, rows in scrape(api).items() if name not in on
    }
    assert Channel.objects.count() == 1

    asked = 0
    for rule in rules():
        for name, matchers in re.findall(r"(backupmgr_\w+)(?:\{([^}]*)\})?", rule["expr"]):
            asked += 1
            assert name in exported, rule["alert"]
            wanted = set(re.findall(r"(\w+)\s*=", matchers))
            assert all(wanted <= set(labels) for labels, _ in exported[name]), (rule["alert"], name)
        words = " ".join(rule["annotations"].values())
        labels = {label for name in re.findall(r"backupmgr_\w+", rule["expr"]) for label in exported[name][0][0]}
        assert set(re.findall(r"\$labels\.(\w+)", words)) <= labels, rule["alert"]
        assert {"summary", "description", "runbook"} == set(rule["annotations"])
    assert asked >= 13


def test_every_rule_is_tested_and_documented() -> None:
    tests = "".join(path.read_text() for path in RULES.glob("*.test.yml"))
    page = (RULES.parents[1] / "docs" / "alerts.md").read_text()
    for rule in rules():
        if rule["alert"] != "BackupmgrWatchdogDead":  # counted with the scheduler's in the tests
            assert f"alertname: {rule['alert']}" in tests, rule["alert"]
        assert rule["alert"] in page, rule["alert"]


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed (Debian: prometheus)")
@pytest.mark.parametrize("word", ["check", "test"])
def test_promtool_accepts_the_rules(word: str) -> None:
    files = [path.name for path in RULES.glob("*.test.yml" if word == "test" else "*.rules.yml")]
    assert files
    done = subprocess.run(
        ["promtool", word, "rules", *files], cwd=RULES, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
