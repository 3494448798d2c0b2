"""Plan: what retention would let go, with a digest that names it. Preview and execution both come from here."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime

from apps.backups.policies import RetentionPolicy
from apps.backups.retention.evaluate import evaluate
from apps.backups.retention.rules import BackupFacts, Decision, Rules, Verdict
from apps.core.errors import Conflict
from apps.schedules.retention.facts import Facts, Row, SetKey, gather, groups_of

#: A plan that lets go more than this share of a set, and at least so many, waits for a confirmation.
BRAKE_SHARE, BRAKE_COUNT = 0.5, 5


@dataclass(frozen=True)
class SetPlan:
    """What is to become of the backups of one set."""

    key: SetKey
    decision: Decision
    rows: dict[str, Row]
    frozen: str
    digest: str
    #: What the decision follows from: the set, and what else there is of the collection.
    facts: tuple[BackupFacts, ...]
    elsewhere: tuple[BackupFacts, ...]

    @property
    def expire(self) -> tuple[str, ...]:
        return self.decision.expire

    @property
    def bytes_expired(self) -> int:
        return sum(self.rows[key].size_bytes for key in self.expire)

    @property
    def bytes_locked(self) -> int:
        """What the storage itself keeps for now, whatever the rules say."""
        return sum(
            self.rows[key].size_bytes for key, found in self.decision.verdicts.items() if "locked" in found.codes
        )

    def listed(self) -> list[tuple[Row, Verdict]]:
        """Every backup with its verdict, newest first."""
        rows = [(self.rows[key], verdict) for key, verdict in self.decision.verdicts.items()]
        return sorted(rows, key=lambda pair: (pair[0].taken_at, pair[0].id), reverse=True)

    def brake(self) -> str:
        """Why this plan waits for a confirmation however often its policy was confirmed; empty when it need not."""
        total, going = len(self.decision.verdicts), len(self.expire)
        if going >= BRAKE_COUNT and going > total * BRAKE_SHARE:
            return f"It would let go {going} of {total} backups at once."
        return ""


@dataclass(frozen=True)
class PolicyPlan:
    """What a policy would do now, to all of its sets."""

    policy: RetentionPolicy
    sets: tuple[SetPlan, ...]
    digest: str
    #: Those that were asked: the policy's own, or those of a draft.
    rules: Rules

    @property
    def kept_count(self) -> int:
        return sum(len(plan.decision.verdicts) - len(plan.expire) for plan in self.sets)

    @property
    def expire_count(self) -> int:
        return sum(len(plan.expire) for plan in self.sets)

    @property
    def bytes_expired(self) -> int:
        return sum(plan.bytes_expired for plan in self.sets)


class PolicyUnreadable(Conflict, ValueError):
    """What is stored of the policy is no policy."""


def plan_policy(policy: RetentionPolicy, *, now: datetime, rules: Rules | None = None) -> PolicyPlan:
    """Work out what the policy would let go now; with `rules`, what it would with those. Nothing is changed.

    Raises: PolicyUnreadable when the stored rules cannot be read.
    """
    asked = rules or _rules_of(policy)
    sets = tuple(
        plan for group in groups_of(policy) for plan in plan_group(policy, gather(group, now=now), now=now, rules=asked)
    )
    return _whole(policy, sets, asked)


@dataclass(frozen=True)
class Difference:
    """A backup of which the rules as they are and as they would be think differently."""

    set: SetPlan
    row: Row
    #: What the rules as they would be say: with `keep` the rules as they are would let it go.
    verdict: Verdict


@dataclass(frozen=True)
class PolicyChange:
    """What other rules would change for the backups that are there."""

    before: PolicyPlan
    after: PolicyPlan

    @property
    def would_go(self) -> list[Difference]:
        """Backups that the policy keeps as it is, and would let go."""
        return [difference for difference in self._all() if not difference.verdict.keep]

    @property
    def would_stay(self) -> list[Difference]:
        """Backups that the policy lets go as it is, and would keep."""
        return [difference for difference in self._all() if difference.verdict.keep]

    @property
    def bytes_more(self) -> int:
        """How much more it would let go; negative when less."""
        return self.after.bytes_expired - self.before.bytes_expired

    def _all(self) -> list[Difference]:
        said = {key: verdict.keep for one in self.before.sets for key, verdict in one.decision.verdicts.items()}
        return [
            Difference(one, row, verdict)
            for one in self.after.sets
            for row, verdict in one.listed()
            if said[verdict.id] != verdict.keep
        ]


def plan_change(policy: RetentionPolicy, *, rules: Rules, now: datetime) -> PolicyChange:
    """Work out what the policy would let go with other rules, beside what it lets go as it is. Nothing is changed.

    Raises: PolicyUnreadable when the stored rules cannot be read.
    """
    stored = _rules_of(policy)
    before: list[SetPlan] = []
    after: list[SetPlan] = []
    for group in groups_of(policy):
        facts = gather(group, now=now)
        before += plan_group(policy, facts, now=now, rules=stored)
        after += plan_group(policy, facts, now=now, rules=rules)
    return PolicyChange(_whole(policy, tuple(before), stored), _whole(policy, tuple(after), rules))


def _rules_of(policy: RetentionPolicy) -> Rules:
    try:
        return policy.rules
    except ValueError as error:
        raise PolicyUnreadable(f"The policy {policy.name!r} cannot be read, correct it: {error}") from error


def _whole(policy: RetentionPolicy, sets: tuple[SetPlan, ...], rules: Rules) -> PolicyPlan:
    return PolicyPlan(policy, sets, _sha256([plan.digest for plan in sets]), rules)


def plan_group(policy: RetentionPolicy, facts: Facts, *, now: datetime, rules: Rules | None = None) -> list[SetPlan]:
    """Work out the plans of a collection's sets under the policy. Pure: everything is in `facts`."""
    wanted = sorted((key for key in facts.sets if key.policy_id == policy.pk), key=_order)
    return [_plan_set(policy, key, facts, now, rules or policy.rules) for key in wanted]


def plan_rules(rules: Rules, facts: Facts, key: SetKey, now: datetime) -> Decision:
    return evaluate(facts.sets[key], rules, now, elsewhere=facts.elsewhere(key), frozen=bool(facts.frozen))


def _plan_set(policy: RetentionPolicy, key: SetKey, facts: Facts, now: datetime, rules: Rules) -> SetPlan:
    decision = plan_rules(rules, facts, key, now)
    rows = {fact.id: facts.rows[fact.id] for fact in facts.sets[key]}
    digest = _sha256(
        {
            "policy": str(policy.pk),
            "version": policy.version,
            "set": [str(part) for part in _order(key)],
            "expire": [[item, sorted(decision.verdicts[item].codes)] for item in decision.expire],
        }
    )
    return SetPlan(key, decision, rows, facts.frozen, digest, tuple(facts.sets[key]), tuple(facts.elsewhere(key)))


def _order(key: SetKey) -> tuple[str, str, int, str, bool]:
    group = key.group
    shard = -1 if group.shard_id is None else group.shard_id
    return group.cluster_name, group.collection_name, shard, str(key.storage_id), key.is_scheduled


def _sha256(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
