"""Is everything safe? One pure function answers, and everything that tells it asks here: the first page, its title and
icon, the menu's badge, /metrics and the API. So they cannot disagree.

The worst wins, and nothing that runs hides it. What nobody has looked at lately is unknown, never fine.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from apps.core.text import plural

#: A backup that was last tested longer ago proves little.
PROOF_LASTS = timedelta(days=30)
#: More names than this are no sentence any more.
NAMED = 5


class State(StrEnum):
    """How well a collection, or everything together, is protected."""

    FAILING = "failing"  # the last backup failed, or what it made is damaged
    UNPROTECTED = "unprotected"  # there is no backup at all
    OVERDUE = "overdue"  # the newest backup is older than it may be
    UNKNOWN = "unknown"  # nobody can tell: the cluster, or we ourselves, have not been heard of
    UNPROVEN = "unproven"  # a fresh backup that nobody has tested lately
    PROTECTED = "protected"
    NOTHING = "nothing"  # there is nothing to protect (yet)


WORST_FIRST = (
    State.FAILING,
    State.UNPROTECTED,
    State.OVERDUE,
    State.UNKNOWN,
    State.UNPROVEN,
    State.PROTECTED,
)


class Do(StrEnum):
    """The next step."""

    ADD_CLUSTER = "add_cluster"
    ADD_STORAGE = "add_storage"
    BACK_UP = "back_up"
    OPEN_JOB = "open_job"
    OPEN_BACKUP = "open_backup"
    OPEN_CLUSTER = "open_cluster"
    SHOW_COLLECTIONS = "show_collections"
    SHOW_DAMAGED = "show_damaged"


@dataclass(frozen=True)
class Step:
    """What to do next, and with what (ids as text; `state` for a list)."""

    do: Do
    cluster_id: str = ""
    collection: str = ""
    object_id: str = ""
    state: str = ""


@dataclass(frozen=True)
class Good:
    """The newest good backup of a whole collection. `data_at` is when its data was read, `made_at` when it was done."""

    backup_id: str
    data_at: datetime
    made_at: datetime
    size_bytes: int = 0
    points_count: int = 0


@dataclass(frozen=True)
class Failure:
    """What went wrong after the newest good backup: a failed job, or a backup found damaged or missing."""

    at: datetime
    error: str
    job_id: str = ""
    backup_id: str = ""


@dataclass(frozen=True)
class CollectionFacts:
    """What is known of one collection. `expected_by` is when its next backup has to be there, None for "never"."""

    cluster_id: str
    cluster: str
    name: str
    newest: Good | None = None
    failure: Failure | None = None
    expected_by: datetime | None = None
    #: Why that moment, for example "expected at least every 26 h".
    expectation: str = ""
    #: How old its newest good backup may be; None when a schedule's deadline alone says when the next one is due.
    max_age: timedelta | None = None
    #: When the collection was first seen on its cluster; None when that is not known.
    first_seen_at: datetime | None = None
    #: When a backup of it was last compared with its hashes, or opened.
    tested_at: datetime | None = None
    #: When a restore of it was last compared with the manifest.
    proven_at: datetime | None = None
    #: Qdrant's own figures, when they are known.
    points_count: int | None = None
    shard_count: int | None = None


@dataclass(frozen=True)
class ClusterFacts:
    """What is known of one cluster. `seen_at` is None when it has never answered."""

    cluster_id: str
    name: str
    seen_at: datetime | None
    in_touch: bool
    problem: str = ""


@dataclass(frozen=True)
class Facts:
    """Everything the verdict is made of."""

    now: datetime
    clusters: Sequence[ClusterFacts] = ()
    storages: int = 0
    collections: Sequence[CollectionFacts] = ()
    workers_alive: int = 0
    #: What to say when there is none.
    workers_sentence: str = ""
    waiting_jobs: int = 0
    #: Why no schedule fires although a worker is alive; empty while they do.
    tick_problem: str = ""
    #: Backups that were found damaged or missing although a newer good one exists.
    damaged_backups: int = 0
    next_backup_at: datetime | None = None


@dataclass(frozen=True)
class Standing:
    """How one collection stands, and why."""

    facts: CollectionFacts
    state: State
    sentence: str
    #: How late it is, when it is overdue.
    late: timedelta | None = None


@dataclass(frozen=True)
class Cause:
    """Collections that fail for the same reason."""

    sentence: str
    standings: tuple[Standing, ...]
    since: datetime


@dataclass(frozen=True)
class Verdict:
    """How everything stands: a state, one sentence, what goes with it, and the next step."""

    state: State
    sentence: str
    more: str = ""
    step: Step | None = None
    standings: tuple[Standing, ...] = ()
    counts: dict[State, int] = field(default_factory=dict)

    def of(self, state: State) -> list[Standing]:
        return [standing for standing in self.standings if standing.state == state]

    @property
    def attention(self) -> int:
        """How many collections need somebody."""
        return sum(self.counts.get(state, 0) for state in (State.FAILING, State.UNPROTECTED, State.OVERDUE))


def judge_collection(facts: CollectionFacts, cluster: ClusterFacts, now: datetime) -> Standing:
    """Tell how one collection stands. What was known when the cluster was last heard of still counts when it is bad."""
    good = facts.newest
    if facts.failure is not None:
        last = f"Its newest good backup is {_age(good.data_at, now)} old." if good else "It has no good backup."
        return Standing(facts, State.FAILING, f"{facts.failure.error} {last}")
    if good is None:
        return Standing(facts, State.UNPROTECTED, "It has never been backed up.")
    if facts.expected_by is not None and now > facts.expected_by:
        late = now - facts.expected_by
        words = f"{_age(facts.expected_by, now)} late"
        return Standing(facts, State.OVERDUE, f"{words}: {facts.expectation}." if facts.expectation else words, late)
    if not cluster.in_touch:
        return Standing(facts, State.UNKNOWN, f"Cluster {cluster.name}: {_silence(cluster, now)}.")
    tested = max((at for at in (facts.tested_at, facts.proven_at) if at), default=None)
    if tested is None:
        return Standing(facts, State.UNPROVEN, "No backup of it has been tested yet.")
    if now - tested > PROOF_LASTS:
        return Standing(facts, State.UNPROVEN, f"Its last test was {_age(tested, now)} ago.")
    return Standing(facts, State.PROTECTED, f"Backed up {_age(good.data_at, now)} ago, tested {_age(tested, now)} ago.")


def judge(facts: Facts) -> Verdict:
    """Tell how everything stands."""
    clusters = {cluster.cluster_id: cluster for cluster in facts.clusters}
    standings = tuple(
        sorted(
            (judge_collection(one, clusters[one.cluster_id], facts.now) for one in facts.collections),
            key=lambda standing: (
                WORST_FIRST.index(standing.state),
                -(standing.late or timedelta()),
                standing.facts.name,
            ),
        )
    )
    counts = dict(Counter(standing.state for standing in standings))
    state, sentence, more, step = _say(facts, standings, counts)
    return Verdict(state, sentence, more, step, standings, counts)


def group_failures(standings: Sequence[Standing]) -> list[Cause]:
    """Failing collections by their cause, the widest first: one thing to mend, not fourteen rows."""
    groups: dict[str, list[Standing]] = {}
    for standing in standings:
        if standing.facts.failure is not None:
            groups.setdefault(_cause(standing.facts), []).append(standing)
    causes = [
        Cause(
            sentence=found[0].facts.failure.error if found[0].facts.failure else "",
            standings=tuple(found),
            since=min(standing.facts.failure.at for standing in found if standing.facts.failure),
        )
        for found in groups.values()
    ]
    return sorted(causes, key=lambda cause: (-len(cause.standings), cause.since))


def _cause(facts: CollectionFacts) -> str:
    """The error without what differs from collection to collection: names and figures."""
    assert facts.failure is not None
    text = re.sub(rf"(?<!\w){re.escape(facts.name)}(?!\w)", "…", facts.failure.error)
    return re.sub(r"[0-9]+", "0", text)


Said = tuple[State, str, str, Step | None]


def _say(facts: Facts, standings: tuple[Standing, ...], counts: dict[State, int]) -> Said:
    if not facts.clusters:
        return (
            State.NOTHING,
            "Nothing is protected yet. Add a cluster and a storage, and make a first backup: about 3 minutes.",
            "",
            Step(Do.ADD_CLUSTER),
        )
    if not facts.storages:
        return State.NOTHING, "Nothing is protected yet: there is no storage for backups.", "", Step(Do.ADD_STORAGE)
    for speak in (_failing, _stuck, _unprotected, _overdue, _no_worker, _no_tick, _unknown, _damaged, _unproven):
        said = speak(facts, standings, counts)
        if said is not None:
            return said
    if not standings:
        return State.NOTHING, "There is nothing to protect: no cluster has a collection.", "", None
    newest = max(standing.facts.newest.data_at for standing in standings if standing.facts.newest)
    then = f", next in {_age(facts.now, facts.next_backup_at)}" if facts.next_backup_at else ""
    every = "The one collection is" if len(standings) == 1 else f"All {len(standings)} collections are"
    proven = sum(
        standing.facts.proven_at is not None and facts.now - standing.facts.proven_at <= PROOF_LASTS
        for standing in standings
    )
    return (
        State.PROTECTED,
        f"{every} protected. Newest backup {_age(newest, facts.now)} ago{then}.",
        f"{proven} of {len(standings)} proven by a restore in the last {PROOF_LASTS.days} days, all others checked.",
        None,
    )


def _failing(facts: Facts, standings: tuple[Standing, ...], counts: dict[State, int]) -> Said | None:
    causes = group_failures(standings)
    if not causes:
        return None
    first, failing = causes[0], counts[State.FAILING]
    one = first.standings[0].facts
    assert one.failure is not None
    step = Step(Do.OPEN_JOB, object_id=one.failure.job_id)
    if one.failure.backup_id:
        step = Step(Do.OPEN_BACKUP, object_id=one.failure.backup_id)
    if failing == 1:
        good = one.newest
        have = f"has had no good backup for {_age(good.data_at, facts.now)}" if good else "has no good backup"
        rest = "Older backups are intact." if good else "Nothing of it can be restored."
        more = " ".join(filter(None, [rest, _others(counts, State.FAILING)]))
        return State.FAILING, f"{one.name} {have}: {_clause(one.failure.error)}", more, step
    named = _names([standing.facts.name for standing in first.standings])
    if len(causes) == 1:
        sentence = f"Backups of {failing} collections fail ({named}): {_clause(first.sentence)}"
    else:
        sentence = (
            f"Backups of {failing} collections fail, for {len(causes)} reasons. "
            f"{plural(len(first.standings), 'collection')} ({named}): {_clause(first.sentence)}"
        )
        step = Step(Do.SHOW_COLLECTIONS, state=State.FAILING)
    without = sum(standing.facts.newest is None for standing in standings if standing.state == State.FAILING)
    rest = f"{without} of them have no good backup at all." if without else "Older backups of all of them are intact."
    return State.FAILING, sentence, " ".join(filter(None, [rest, _others(counts, State.FAILING)])), step


def _stuck(facts: Facts, standings: tuple[Standing, ...], counts: dict[State, int]) -> Said | None:
    if facts.workers_alive or not facts.waiting_jobs:
        return None
    sentence = f"{plural(facts.waiting_jobs, 'job')} cannot start: {facts.workers_sentence}."
    return State.FAILING, sentence, _others(counts), None


def _unprotected(facts: Facts, standings: tuple[Standing, ...], counts: dict[State, int]) -> Said | None:
    bare = [standing.facts for standing in standings if standing.state == State.UNPROTECTED]
    if not bare:
        return None
    more = _others(counts, State.UNPROTECTED)
    if len(bare) == 1:
        one = bare[0]
        step = Step(Do.BACK_UP, cluster_id=one.cluster_id, collection=one.name)
        return State.UNPROTECTED, f"{one.name} on {one.cluster} has never been backed up.", more, step
    step = Step(Do.SHOW_COLLECTIONS, state=State.UNPROTECTED)
    return (
        State.UNPROTECTED,
        f"{len(bare)} of {len(standings)} collections have no backup: {_names([one.name for one in bare])}.",
        more,
        step,
    )


def _overdue(facts: Facts, standings: tuple[Standing, ...], counts: dict[State, int]) -> Said | None:
    late = [standing for standing in standings if standing.state == State.OVERDUE]
    if not late:
        return None
    one, rest = late[0].facts, len(standings) - len(late)
    more = _others(counts, State.OVERDUE)
    first = f"{one.name} is {late[0].sentence.rstrip('.')}."
    if len(late) == 1:
        step = Step(Do.BACK_UP, cluster_id=one.cluster_id, collection=one.name)
        lead = f"{rest} of {len(standings)} are not overdue. " if rest else ""
        return State.OVERDUE, f"{lead}{first}", more, step
    step = Step(Do.SHOW_COLLECTIONS, state=State.OVERDUE)
    named = _names([standing.facts.name for standing in late])
    return State.OVERDUE, f"{len(late)} of {len(standings)} collections are overdue: {named}.", f"{first} {more}", step


def _no_worker(facts: Facts, standings: tuple[Standing, ...], counts: dict[State, int]) -> Said | None:
    if facts.workers_alive:
        return None
    sentence = f"Nothing is backed up or checked now: {facts.workers_sentence}."
    return State.UNKNOWN, sentence, _others(counts), None


def _no_tick(facts: Facts, standings: tuple[Standing, ...], counts: dict[State, int]) -> Said | None:
    if not facts.tick_problem:
        return None
    return State.UNKNOWN, f"No schedule fires now: {_clause(facts.tick_problem)}", _others(counts), None


def _unknown(facts: Facts, standings: tuple[Standing, ...], counts: dict[State, int]) -> Said | None:
    silent = [cluster for cluster in facts.clusters if not cluster.in_touch]
    if not silent:
        return None
    one = silent[0]
    step = Step(Do.OPEN_CLUSTER, cluster_id=one.cluster_id)
    known = sum(standing.facts.cluster_id == one.cluster_id for standing in standings)
    last = f"Last known: {plural(known, 'collection')}, none overdue." if known else "Its collections are not known."
    if len(silent) == 1:
        more = " ".join(filter(None, [last, one.problem]))
        return State.UNKNOWN, f"I cannot vouch for cluster {one.name}: {_silence(one, facts.now)}.", more, step
    named = _names([cluster.name for cluster in silent])
    sentence = f"I cannot vouch for {len(silent)} of {len(facts.clusters)} clusters: no contact with {named}."
    return State.UNKNOWN, sentence, one.problem, step


def _damaged(facts: Facts, standings: tuple[Standing, ...], counts: dict[State, int]) -> Said | None:
    if not facts.damaged_backups:
        return None
    are = "backup is" if facts.damaged_backups == 1 else "backups are"
    return (
        State.UNPROVEN,
        f"{facts.damaged_backups} older {are} damaged or missing in the storage.",
        "Each collection has a newer one that is not; whether the storage can be trusted is another question.",
        Step(Do.SHOW_DAMAGED),
    )


def _unproven(facts: Facts, standings: tuple[Standing, ...], counts: dict[State, int]) -> Said | None:
    found = [standing for standing in standings if standing.state == State.UNPROVEN]
    if not found:
        return None
    step = Step(Do.SHOW_COLLECTIONS, state=State.UNPROVEN)
    if len(found) == 1 and found[0].facts.newest:
        step = Step(Do.OPEN_BACKUP, object_id=found[0].facts.newest.backup_id)
    every = "The one collection has a fresh backup" if len(standings) == 1 else (
        f"All {len(standings)} collections have a fresh backup"
    )  # fmt: skip
    whose = "none of it" if len(standings) == 1 else f"none of {_names([one.facts.name for one in found])}"
    return (
        State.UNPROVEN,
        f"{every}, but {whose} was tested in the last {PROOF_LASTS.days} days.",
        "A backup is proven when it has been restored and compared, or checked part by part.",
        step,
    )


def _others(counts: dict[State, int], but: State | None = None) -> str:
    """'Also 2 unprotected, 1 overdue.'"""
    found = [
        f"{counts[state]} {state}"
        for state in (State.FAILING, State.UNPROTECTED, State.OVERDUE, State.UNKNOWN)
        if state != but and counts.get(state)
    ]
    return f"Also {', '.join(found)}." if found else ""


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMED])
    return f"{shown} and {len(names) - NAMED} more" if len(names) > NAMED else shown


def _clause(error: str) -> str:
    """An error as the end of a sentence."""
    return error if error.endswith((".", "!", "?")) else f"{error}."


def _silence(cluster: ClusterFacts, now: datetime) -> str:
    if cluster.seen_at is None:
        return "it has never answered" if cluster.problem else "it has not been checked yet"
    return f"no contact since {cluster.seen_at:%d %b %H:%M} UTC ({_age(cluster.seen_at, now)})"


def _age(earlier: datetime, later: datetime) -> str:
    """The time between, coarse: '12 min', '7 h', '3 d'."""
    seconds = max(0.0, (later - earlier).total_seconds())
    for unit, size, up_to in (("s", 1, 60), ("min", 60, 3600), ("h", 3600, 48 * 3600)):
        if seconds < up_to:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds // 86400:.0f} d"
