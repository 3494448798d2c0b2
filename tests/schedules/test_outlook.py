"""When backups would go by the schedules that there are, and what other rules would change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest

from apps.backups.models import Backup
from apps.backups.policies import RetentionPolicy
from apps.backups.retention.forecast import Forecast
from apps.clusters.models import Cluster
from apps.schedules.models import CollectionTag, RetentionRun, Schedule
from apps.schedules.retention.outlook import fate_words, forecast_plan
from apps.schedules.retention.plan import plan_change, plan_policy
from apps.schedules.retention.work import run_sweep
from apps.storage.models import StorageConfig
from tests.schedules.conftest import NOW, make_backup, make_policy

DAY = timedelta(days=1)


def three_of(schedule: Schedule, **fields: Any) -> list[Backup]:
    """The backups of three nights, the newest that of today (1 January 2026, 02:30); oldest first."""
    at = NOW.replace(hour=2, minute=30)
    values = {"policy": schedule.policy, "schedule_id": schedule.pk} | fields
    return [make_backup(schedule.cluster, StorageConfig.objects.get(), at - DAY * n, **values) for n in (2, 1, 0)]


def only_forecast(policy: RetentionPolicy) -> Forecast:
    (found,) = forecast_plan(plan_policy(policy, now=NOW), now=NOW).values()
    return found


def days(found: Forecast, backups: list[Backup]) -> list[date | None]:
    return [found.fates[str(backup.pk)].day for backup in backups]


JANUARY = [date(2026, 1, day) for day in range(1, 32)]


def test_the_runs_of_a_schedule_push_them_out_one_a_day(make: Callable[..., Schedule]) -> None:
    schedule = make(policy=make_policy())
    backups = three_of(schedule)

    found = only_forecast(schedule.policy)  # type: ignore[arg-type]

    assert days(found, backups) == JANUARY[1:4]
    assert (found.is_whole, found.count_then, found.bytes_then) == (True, 3, 120)
    assert fate_words(found, str(backups[0].pk)) == "2026-01-02"


def test_the_forecast_is_what_the_sweep_then_does(make: Callable[..., Schedule]) -> None:
    schedule = make(policy=make_policy(keep_last=2, keep_weekly=2))
    backups = three_of(schedule)
    expected = days(only_forecast(schedule.policy), backups)  # type: ignore[arg-type]

    gone: dict[Any, date] = {}
    for ahead in range(1, 40):
        at = NOW.replace(hour=2, minute=30) + DAY * ahead
        make_backup(schedule.cluster, StorageConfig.objects.get(), at, policy=schedule.policy, schedule_id=schedule.pk)
        run_sweep(now=at + timedelta(minutes=70))
        for pk in Backup.objects.filter(expired_at__isnull=False).values_list("pk", flat=True):
            gone.setdefault(pk, (NOW + DAY * ahead).date())

    assert [gone[backup.pk] for backup in backups[1:]] == expected[1:]
    assert expected[0] == JANUARY[0], "the third of two goes now"


def test_only_schedules_that_mean_the_set_and_run_count(make: Callable[..., Schedule], tmp_path: Any) -> None:
    policy = make_policy()
    makers = {
        "off": make("off", policy=policy, enabled=False),
        "asked for": make("asked for", policy=policy, kind="manual"),
        "others": make("others", policy=policy, include=["songs*"]),
        "not these": make("not these", policy=policy, exclude=["films"]),
        "tagged": make("tagged", policy=policy, tags=["gold"]),
        "elsewhere": make(
            "elsewhere", policy=policy,
            storages=[StorageConfig.objects.create(name="other", type="local", path=str(tmp_path))],
        ),
        "paused": make("paused", policy=policy),
        "another policy": make("another policy", policy=make_policy("another")),
    }  # fmt: skip
    Schedule.objects.filter(name="paused").update(paused_at=NOW, pause_reason="x", next_run_at=None, next_fire_at=None)
    rows = [
        make_backup(makers["off"].cluster, StorageConfig.objects.get(name="folder"), NOW - DAY * n, policy=policy,
                    schedule_id=makers["off"].pk)
        for n in (3, 2, 1)
    ]  # fmt: skip

    assert days(only_forecast(policy), rows) == [None, None, None]
    assert fate_words(only_forecast(policy), str(rows[0].pk)) == "stays longer than 400 days"

    CollectionTag.objects.create(cluster=makers["off"].cluster, collection_name="films", tag="gold")
    assert days(only_forecast(policy), rows) == JANUARY[1:4]
    CollectionTag.objects.all().delete()
    Schedule.objects.filter(name="paused").update(paused_until=NOW + 5 * DAY, next_run_at=NOW + 5 * DAY)
    assert days(only_forecast(policy), rows) == JANUARY[6:9]


def test_what_somebody_asked_for_is_not_pushed_out_by_schedules(make: Callable[..., Schedule]) -> None:
    schedule = make(policy=make_policy())
    backups = three_of(schedule, schedule_id=None)

    assert days(only_forecast(schedule.policy), backups) == [None, None, None]  # type: ignore[arg-type]


def test_many_runs_a_day_are_looked_ahead_as_far_as_that_is_quick(make: Callable[..., Schedule]) -> None:
    schedule = make(policy=make_policy(keep_last=2, keep_yearly=3), cron="*/5 * * * *")
    backups = three_of(schedule)

    found = only_forecast(schedule.policy)  # type: ignore[arg-type]

    # 10,000 runs of 288 a day, the last on 5 February; the night of 31 December stands for its year.
    assert (found.until, found.is_whole) == (date(2026, 2, 4), False)
    assert days(found, backups) == [JANUARY[0], None, JANUARY[0]]
    assert fate_words(found, str(backups[1].pk)) == "stays beyond 2026-02-04"


def test_other_rules_are_compared_and_nothing_is_saved(make: Callable[..., Schedule]) -> None:
    policy = make_policy(keep_last=2)
    backups = three_of(make(policy=policy))
    rules = replace(policy.rules, keep_last=1)

    fewer = plan_change(policy, rules=rules, now=NOW)
    more = plan_change(policy, rules=replace(rules, keep_last=3), now=NOW)
    same = plan_change(policy, rules=policy.rules, now=NOW)

    assert [one.row.id for one in fewer.would_go] == [str(backups[1].pk)]
    assert (fewer.would_stay, fewer.bytes_more) == ([], 40)
    assert [one.row.id for one in more.would_stay] == [str(backups[0].pk)]
    assert (more.would_go, more.bytes_more) == ([], -40)
    assert (same.would_go, same.would_stay, same.bytes_more) == ([], [], 0)
    assert same.before == same.after == plan_policy(policy, now=NOW)
    assert not RetentionRun.objects.exists()
    assert not Backup.objects.filter(expired_at__isnull=False).exists()


def test_a_policy_without_backups_has_no_outlook(away: Cluster) -> None:
    assert forecast_plan(plan_policy(make_policy(), now=NOW), now=NOW) == {}


def test_sets_beyond_what_a_page_may_cost_have_none_and_it_says_so(
    make: Callable[..., Schedule], monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = make(policy=make_policy())
    three_of(schedule)
    three_of(schedule, collection_name="songs")
    plan = plan_policy(schedule.policy, now=NOW)  # type: ignore[arg-type]
    assert len(forecast_plan(plan, now=NOW)) == 2
    monkeypatch.setattr("apps.schedules.retention.outlook.LOOKS_ALTOGETHER", 10)

    found = forecast_plan(plan, now=NOW)

    assert [key.group.collection_name for key in found] == ["films"]
    assert not found[plan.sets[0].key].is_whole
    assert fate_words(found.get(plan.sets[1].key), "x") == ""
