"""What holds of retention for any backups and rules: histories with chains, locks, caps and wrong dates."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apps.backups.retention.evaluate import FUTURE, evaluate
from apps.backups.retention.rules import BackupFacts, CapAction, Decision, Pick, Rules
from tests.schedules.timelines import facts_of, random_backups, random_policy, rules_of

QUICK = settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
TIERS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")


@dataclass(frozen=True)
class Case:
    now: datetime
    backups: list[BackupFacts]
    elsewhere: list[BackupFacts]
    rules: Rules
    frozen: bool

    def decide(self, backups: list[BackupFacts] | None = None, **changed: object) -> Decision:
        rules = replace(self.rules, **changed) if changed else self.rules
        found = self.backups if backups is None else backups
        return evaluate(found, rules, self.now, elsewhere=self.elsewhere, frozen=self.frozen)

    @property
    def good(self) -> list[BackupFacts]:
        """Newest first."""
        there = [b for b in self.backups if not b.suspect and b.taken_at <= self.now + FUTURE]
        return sorted(there, key=lambda b: (b.taken_at, b.id), reverse=True)


@st.composite
def cases(draw: st.DrawFn, chains: bool = True) -> Case:
    dice = random.Random(draw(st.integers(0, 2**32)))
    now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=dice.randrange(0, 525_600))
    backups = facts_of(random_backups(dice, now, dice.randrange(0, 40), "b"))
    if not chains:
        backups = [replace(b, parent=None) for b in backups]
    elsewhere = facts_of(random_backups(dice, now, dice.choice((0, 0, 3)), "x"))
    return Case(now, backups, elsewhere, rules_of(random_policy(dice)), dice.random() < 0.05)


@QUICK
@given(case=cases())
def test_a_second_look_lets_nothing_more_go(case: Case) -> None:
    gone = set(case.decide().expire)

    assert case.decide([b for b in case.backups if b.id not in gone]).expire == ()


@QUICK
@given(case=cases())
def test_what_must_stay_never_goes(case: Case) -> None:
    gone = set(case.decide().expire)

    assert not gone & {b.id for b in case.backups if b.held or b.in_use}
    assert not gone & {b.id for b in case.backups if b.locked_until and b.locked_until > case.now}
    assert not gone & {b.id for b in case.backups if b.taken_at > case.now + FUTURE}
    assert not gone & {b.id for b in case.good[: case.rules.min_redundancy]}
    everywhere = case.good + [b for b in case.elsewhere if not b.suspect and b.taken_at <= case.now + FUTURE]
    proved = [b for b in everywhere if b.evidence]
    if everywhere:
        assert max(everywhere, key=lambda b: (b.taken_at, b.id)).id not in gone
    if proved:
        assert max(proved, key=lambda b: (b.evidence, b.taken_at, b.id)).id not in gone
    if case.frozen or case.rules.says_nothing:
        assert gone == set()


@QUICK
@given(case=cases())
def test_no_parent_goes_before_its_child(case: Case) -> None:
    found = case.decide()
    kept = {key for key, verdict in found.verdicts.items() if verdict.keep}
    parent_of = {b.id: b.parent for b in case.backups}

    for key in kept:
        assert parent_of[key] is None or parent_of[key] in kept, f"{key} stays without what it needs"
    for place, key in enumerate(found.expire):
        assert parent_of[key] not in found.expire[:place], f"{key} would be useless for a while"


@QUICK
@given(case=cases(), tier=st.sampled_from(TIERS), more=st.integers(1, 5))
def test_raising_a_count_never_lets_more_go(case: Case, tier: str, more: int) -> None:
    name = f"keep_{tier}"
    plain = Case(case.now, case.backups, case.elsewhere, replace(case.rules, size_cap_bytes=None), case.frozen)
    if plain.rules.says_nothing:
        return  # the first rule of all makes "keep everything" into a policy

    raised = plain.decide(**{name: getattr(plain.rules, name) + more})

    assert set(raised.expire) <= set(plain.decide().expire)


@QUICK
@given(case=cases(chains=False), later=st.integers(1, 60 * 24 * 40))
def test_with_the_first_of_each_period_a_newer_backup_changes_no_closed_one(case: Case, later: int) -> None:
    good = case.good
    if not good:
        return
    newer = BackupFacts(id="newer", taken_at=good[0].taken_at + timedelta(minutes=later), size_bytes=1)
    now = max(case.now, newer.taken_at)
    counts = {f"keep_{tier}": getattr(case.rules, f"keep_{tier}") for tier in TIERS}
    rules = Rules(**counts, pick=Pick.FIRST, zone=case.rules.zone)

    def representatives(backups: list[BackupFacts]) -> dict[tuple[str, str], str]:
        verdicts = evaluate(backups, rules, now).verdicts.values()
        return {(r.code, r.detail): v.id for v in verdicts for r in v.reasons if r.code in TIERS[1:]}

    before, after = representatives(good), representatives([newer, *good])

    assert all(after[period] == key for period, key in before.items() if period in after)
    # It may only open periods of its own, and push out the oldest one of a tier for it.
    assert {key for period, key in after.items() if period not in before} <= {"newer"}


@QUICK
@given(case=cases(), seed=st.integers(0, 2**32))
def test_the_order_of_the_facts_does_not_matter(case: Case, seed: int) -> None:
    shuffled = random.Random(seed).sample(case.backups, len(case.backups))

    assert case.decide(shuffled) == case.decide()
    assert case.decide(shuffled).expire == case.decide().expire


@pytest.fixture
def zones_of_the_process() -> Iterator[list[str]]:
    before = os.environ.get("TZ")
    yield ["UTC", "America/New_York", "Australia/Lord_Howe"]
    os.environ.pop("TZ") if before is None else os.environ.update(TZ=before)
    time.tzset()


def test_the_zone_of_the_process_does_not_matter(zones_of_the_process: list[str]) -> None:
    answers: dict[str, list[Decision]] = {}
    for zone in zones_of_the_process:
        os.environ["TZ"] = zone
        time.tzset()
        answers[zone] = []
        for seed in range(60):
            dice = random.Random(seed)
            now = datetime(2026, 3, 29, tzinfo=UTC) + timedelta(hours=dice.randrange(0, 300 * 24))
            backups = facts_of(random_backups(dice, now, 30, "b"))
            answers[zone].append(evaluate(backups, rules_of(random_policy(dice)), now))
    offsets = {time.localtime(0).tm_gmtoff}  # the last one took hold

    assert offsets != {0}
    assert answers["UTC"] == answers["America/New_York"] == answers["Australia/Lord_Howe"]


@QUICK
@given(case=cases())
def test_without_limits_applying_after_every_backup_equals_applying_once(case: Case) -> None:
    rules = replace(case.rules, max_age=None, size_cap_bytes=None, cap_action=CapAction.WARN, min_age_seconds=0)
    plain = [
        replace(b, suspect=False, held=False, in_use=False, evidence=0, parent=None, locked_until=None)
        for b in reversed(case.good)
    ]
    standing: list[BackupFacts] = []
    for backup in plain:
        standing.append(backup)
        gone = set(evaluate(standing, rules, case.now).expire)
        standing = [b for b in standing if b.id not in gone]

    assert {b.id for b in standing} == {b.id for b in plain} - set(evaluate(plain, rules, case.now).expire)
