"""A sample of what scripts/prove-schedules does at length: random timelines against the slow reference."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apps.backups.retention.evaluate import evaluate
from apps.backups.retention.rules import BackupFacts, Rules
from tests.schedules.timelines import CRONS, check_retention, check_slots


@pytest.mark.parametrize("part", range(4))
def test_random_timelines_of_retention_equal_the_reference(part: int) -> None:
    going = 0
    for seed in range(part * 50, part * 50 + 50):
        going += check_retention(seed, most=40)[1]
    assert going > 0


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
def test_no_slot_is_lost_or_doubled_around_a_change_of_clocks(zone: str) -> None:
    for n, cron in enumerate((*CRONS, "every 5400", "every 86400")):
        for start in (datetime(2026, 3, 25, tzinfo=UTC), datetime(2026, 10, 20, tzinfo=UTC)):
            check_slots(n, start, 14, zone, cron, stops=4)


NOW = datetime(2026, 6, 1, tzinfo=UTC)
COUNTS = st.integers(0, 6)


@st.composite
def histories(draw: st.DrawFn) -> list[BackupFacts]:
    hours = sorted(draw(st.sets(st.integers(2, 24 * 300), max_size=25)))
    return [
        BackupFacts(
            id=f"b{hour}",
            taken_at=NOW - timedelta(hours=hour),
            suspect=draw(st.integers(0, 9)) == 0,
            held=draw(st.integers(0, 19)) == 0,
            in_use=draw(st.integers(0, 19)) == 0,
            evidence=draw(st.sampled_from((0, 0, 0, 3))),
        )
        for hour in hours
    ]


POLICIES = st.builds(
    Rules,
    keep_last=COUNTS,
    keep_daily=COUNTS,
    keep_weekly=COUNTS,
    keep_monthly=COUNTS,
    min_redundancy=st.integers(1, 4),
    zone=st.sampled_from(("UTC", "Europe/Berlin", "America/New_York")),
)
QUICK = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@QUICK
@given(history=histories(), rules=POLICIES)
def test_a_second_look_lets_nothing_more_go(history: list[BackupFacts], rules: Rules) -> None:
    gone = set(evaluate(history, rules, NOW).expire)

    assert evaluate([b for b in history if b.id not in gone], rules, NOW).expire == ()


@QUICK
@given(history=histories(), rules=POLICIES)
def test_guarded_ones_never_go_and_some_good_one_always_stays(history: list[BackupFacts], rules: Rules) -> None:
    found = evaluate(history, rules, NOW)
    gone = set(found.expire)
    good = sorted((b for b in history if not b.suspect), key=lambda b: b.taken_at)

    assert not gone & {b.id for b in history if b.held or b.in_use}
    assert not gone & {b.id for b in good[-rules.min_redundancy :]}
    proved = [b for b in good if b.evidence]
    assert not proved or proved[-1].id not in gone
    assert not good or len(gone) < len(history)


@QUICK
@given(history=histories(), rules=POLICIES, tier=st.sampled_from(("last", "daily", "weekly", "monthly")))
def test_raising_a_count_never_lets_more_go(history: list[BackupFacts], rules: Rules, tier: str) -> None:
    from dataclasses import replace

    if rules.says_nothing:
        return  # the first rule of all makes "keep everything" into a policy
    more = replace(rules, **{f"keep_{tier}": getattr(rules, f"keep_{tier}") + 1})

    assert set(evaluate(history, more, NOW).expire) <= set(evaluate(history, rules, NOW).expire)


@QUICK
@given(history=histories(), rules=POLICIES, seed=st.randoms())
def test_the_order_of_the_facts_does_not_matter(history: list[BackupFacts], rules: Rules, seed: object) -> None:
    shuffled = list(history)
    seed.shuffle(shuffled)  # type: ignore[attr-defined]

    assert evaluate(shuffled, rules, NOW) == evaluate(history, rules, NOW)


@QUICK
@given(history=histories(), rules=POLICIES)
def test_applying_after_every_backup_equals_applying_once(history: list[BackupFacts], rules: Rules) -> None:
    from dataclasses import replace

    plain = [replace(b, suspect=False, held=False, in_use=False, evidence=0) for b in reversed(history)]
    standing: list[BackupFacts] = []
    for backup in plain:
        standing.append(backup)
        gone = set(evaluate(standing, rules, NOW).expire)
        standing = [b for b in standing if b.id not in gone]

    assert {b.id for b in standing} == {b.id for b in plain} - set(evaluate(plain, rules, NOW).expire)
