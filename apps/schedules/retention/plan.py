"""Plan: what retention would let go, with a digest that names it. Preview and execution both come from here."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime

from apps.backups.policies import RetentionPolicy
from apps.backups.retention.evaluate import evaluate
from apps.backups.retention.rules import Decision, Rules, Verdict
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

    @property
    def expire(self) -> tuple[str, ...]:
        return self.decision.expire

    @property
    def bytes_expired(self) -> int:
        return sum(self.rows[key].size_bytes for key in self.expire)

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
    if rules is None:
        try:
            rules = policy.rules
        except ValueError as error:
            raise PolicyUnreadable(f"The policy {policy.name!r} cannot be read, correct it: {error}") from error
    sets = [
        plan for group in groups_of(policy) for plan in plan_group(policy, gather(group, now=now), now=now, rules=rules)
    ]
    digest = _sha256([plan.digest for plan in sets])
    return PolicyPlan(policy, tuple(sets), digest)


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
    return SetPlan(key, decision, rows, facts.frozen, digest)


def _order(key: SetKey) -> tuple[str, str, int, str, bool]:
    group = key.group
    shard = -1 if group.shard_id is None else group.shard_id
    return group.cluster_name, group.collection_name, shard, str(key.storage_id), key.is_scheduled


def _sha256(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
