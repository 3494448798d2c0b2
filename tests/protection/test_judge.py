"""The verdict: the worst wins, nothing hides it, and what is not known is not fine."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.protection.judge import (
    PROOF_LASTS,
    WORST_FIRST,
    ClusterFacts,
    CollectionFacts,
    Do,
    Facts,
    Failure,
    Good,
    State,
    judge,
)

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
PROD = ClusterFacts("c1", "prod-eu", seen_at=NOW - timedelta(seconds=30), in_touch=True)
SILENT = ClusterFacts("c2", "berlin", seen_at=NOW - 6 * HOUR, in_touch=False, problem="Qdrant cannot be reached.")


def good(age: timedelta = HOUR) -> Good:
    return Good("b1", data_at=NOW - age, made_at=NOW - age + timedelta(minutes=1))


def collection(name: str = "products", cluster: ClusterFacts = PROD, **fields: object) -> CollectionFacts:
    """One that is protected, unless the fields say otherwise."""
    defaults: dict[str, object] = {
        "newest": good(),
        "expected_by": NOW + 25 * HOUR,
        "expectation": "expected at least every 26 h",
        "tested_at": NOW - HOUR,
        "proven_at": NOW - 9 * 24 * HOUR,
    }
    return CollectionFacts(cluster.cluster_id, cluster.name, name, **(defaults | fields))  # type: ignore[arg-type]


FAILING = collection("failing", failure=Failure(NOW - HOUR, "S3-eu refuses writes (AccessDenied).", job_id="j1"))
UNPROTECTED = collection("bare", newest=None, expected_by=None)
OVERDUE = collection("late", expected_by=NOW - 7 * HOUR, expectation="expected daily at 02:00 UTC")
UNKNOWN = collection("far", cluster=SILENT)
UNPROVEN = collection("untested", tested_at=None, proven_at=None)
PROTECTED = collection("fine")
ONE_OF_EACH = {
    State.FAILING: FAILING,
    State.UNPROTECTED: UNPROTECTED,
    State.OVERDUE: OVERDUE,
    State.UNKNOWN: UNKNOWN,
    State.UNPROVEN: UNPROVEN,
    State.PROTECTED: PROTECTED,
}


def facts(*collections: CollectionFacts, **fields: object) -> Facts:
    clusters = [PROD] + [SILENT] * any(one.cluster_id == SILENT.cluster_id for one in collections)
    defaults: dict[str, object] = {"clusters": clusters, "storages": 1, "workers_alive": 1}
    return Facts(NOW, collections=collections, **(defaults | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("states", [c for n in range(1, 7) for c in itertools.combinations(WORST_FIRST, n)])
def test_the_worst_wins_whatever_else_there_is(states: tuple[State, ...]) -> None:
    verdict = judge(facts(*(ONE_OF_EACH[state] for state in reversed(states))))

    assert verdict.state == states[0]
    assert [standing.state for standing in verdict.standings] == list(states)
    assert verdict.counts == dict.fromkeys(states, 1)


@pytest.mark.parametrize(
    ("one", "sentence", "do"),
    [
        (FAILING, "failing has had no good backup for 1 h: S3-eu refuses writes (AccessDenied).", Do.OPEN_JOB),
        (UNPROTECTED, "bare on prod-eu has never been backed up.", Do.BACK_UP),
        (OVERDUE, "late is 7 h late: expected daily at 02:00 UTC.", Do.BACK_UP),
        (UNKNOWN, "I cannot vouch for cluster berlin: no contact since 21 Nov 03:00 UTC (6 h).", Do.OPEN_CLUSTER),
        (UNPROVEN, "The one collection has a fresh backup, but none of it was tested in the last 30 days.",
         Do.OPEN_BACKUP),
        (PROTECTED, "The one collection is protected. Newest backup 1 h ago.", None),
    ],
)  # fmt: skip
def test_each_state_has_its_sentence_and_next_step(one: CollectionFacts, sentence: str, do: Do | None) -> None:
    verdict = judge(facts(one))

    assert verdict.sentence == sentence
    assert (verdict.step.do if verdict.step else None) == do


def test_all_fine_counts_what_is_proven() -> None:
    fine = [replace(PROTECTED, name=f"c{n}") for n in range(14)]
    fine[3] = replace(fine[3], proven_at=NOW - PROOF_LASTS - HOUR)

    verdict = judge(facts(*fine, next_backup_at=NOW + timedelta(minutes=48)))

    assert verdict.sentence == "All 14 collections are protected. Newest backup 1 h ago, next in 48 min."
    assert verdict.more.startswith("13 of 14 proven by a restore")


def test_nothing_is_green_without_collections_workers_clusters_or_storages() -> None:
    assert judge(Facts(NOW)).step.do == Do.ADD_CLUSTER  # type: ignore[union-attr]
    assert judge(facts(storages=0)).step.do == Do.ADD_STORAGE  # type: ignore[union-attr]
    assert judge(facts()).state == State.NOTHING
    idle = judge(facts(PROTECTED, workers_alive=0, workers_sentence="no worker has ever run"))
    assert (idle.state, idle.sentence) == (
        State.UNKNOWN, "Nothing is backed up or checked now: no worker has ever run.",
    )  # fmt: skip
    stuck = judge(facts(PROTECTED, workers_alive=0, workers_sentence="no worker has ever run", waiting_jobs=3))
    assert (stuck.state, stuck.sentence) == (State.FAILING, "3 jobs cannot start: no worker has ever run.")


def test_a_silent_cluster_without_known_collections_is_unknown_too() -> None:
    verdict = judge(facts(PROTECTED, clusters=[PROD, replace(SILENT, seen_at=None)]))

    assert verdict.state == State.UNKNOWN
    assert verdict.sentence == "I cannot vouch for cluster berlin: it has never answered."


def test_older_damaged_backups_are_never_green() -> None:
    assert (
        judge(facts(PROTECTED, damaged_backups=2)).sentence == "2 older backups are damaged or missing in the storage."
    )
    assert judge(facts(PROTECTED, damaged_backups=2)).state == State.UNPROVEN


def test_failures_are_told_by_cause() -> None:
    broken = [
        replace(FAILING, name=name, failure=Failure(NOW - HOUR, f"{name!r}: S3-eu refuses writes after {n} s.", "j"))
        for n, name in enumerate("abcdefg")
    ]
    one = judge(facts(*broken))
    assert one.sentence.startswith("Backups of 7 collections fail (a, b, c, d, e and 2 more): 'a': S3-eu refuses")
    assert one.more == "Older backups of all of them are intact."

    other = replace(FAILING, name="z", newest=None, failure=Failure(NOW, "Qdrant at x cannot be reached.", "k"))
    two = judge(facts(other, *broken, UNPROTECTED))
    assert two.sentence.startswith("Backups of 8 collections fail, for 2 reasons. 7 collections (")
    assert two.more == "1 of them have no good backup at all. Also 1 unprotected."
    assert two.step is not None
    assert two.step.do == Do.SHOW_COLLECTIONS


def test_a_backup_right_at_its_deadline_is_not_late_yet() -> None:
    assert judge(facts(replace(PROTECTED, expected_by=NOW))).state == State.PROTECTED
    assert judge(facts(replace(PROTECTED, expected_by=NOW - timedelta(microseconds=1)))).state == State.OVERDUE


def test_many_overdue_name_the_latest_first() -> None:
    late = [replace(OVERDUE, name=f"c{n}", expected_by=NOW - n * HOUR) for n in range(1, 4)]

    verdict = judge(facts(*late, PROTECTED))

    assert verdict.sentence == "3 of 4 collections are overdue: c3, c2, c1."
    assert verdict.more.startswith("c3 is 3 h late")


ages = st.integers(-100, 5000).map(lambda hours: NOW - hours * HOUR)
any_collection = st.builds(
    CollectionFacts,
    cluster_id=st.sampled_from(["c1", "c2"]),
    cluster=st.just("prod"),
    name=st.text(min_size=1, max_size=10),
    newest=st.none() | st.builds(Good, st.just("b"), ages, ages),
    failure=st.none() | st.builds(Failure, ages, st.text(max_size=20), st.just("j")),
    expected_by=st.none() | ages,
    tested_at=st.none() | ages,
    proven_at=st.none() | ages,
)


@given(st.lists(any_collection, max_size=8), st.integers(0, 2), st.integers(0, 2), st.integers(0, 2), st.booleans())
def test_green_means_every_single_thing_is_fine(
    found: list[CollectionFacts], workers: int, waiting: int, damaged: int, in_touch: bool
) -> None:
    clusters = [PROD, replace(SILENT, in_touch=in_touch)]
    verdict = judge(Facts(NOW, clusters, 1, found, workers, "no worker", waiting_jobs=waiting, damaged_backups=damaged))

    assert verdict.sentence
    assert sum(verdict.counts.values()) == len(found)
    if verdict.state == State.PROTECTED:
        assert workers
        assert in_touch
        assert not damaged
        assert found
        for one in found:
            assert one.newest is not None
            assert one.failure is None
            assert one.expected_by is None or one.expected_by >= NOW
            assert max(at for at in (one.tested_at, one.proven_at) if at) >= NOW - PROOF_LASTS
