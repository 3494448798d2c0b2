"""Apply: let backups go, first softly (they can be taken back for some days), then for good, as tombstones.

Only the ids of a plan go, and only when the plan still is what it was: everything is read again under the rows' locks.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from datetime import datetime, timedelta

from django.contrib.auth.models import AbstractBaseUser
from django.db import DatabaseError, transaction
from django.db.models import QuerySet

from apps.audit.trail import record_action
from apps.backups.models import Backup, BackupStatus
from apps.backups.policies import RetentionPolicy
from apps.backups.retention.evaluate import evaluate
from apps.backups.retention.rules import Rules, Span
from apps.core.errors import BackupmgrError, Conflict
from apps.core.text import plural
from apps.jobs.services import delete_backup
from apps.schedules.clock import may_expire
from apps.schedules.models import RetentionRun, RetentionStatus, RetentionTrigger
from apps.schedules.retention.facts import Facts, Group, SetKey, gather, sets_of
from apps.schedules.retention.plan import PolicyPlan, PolicyUnreadable, SetPlan, plan_group, plan_policy, plan_rules
from apps.schedules.retention.policies import EFFECTIVE

logger = logging.getLogger(__name__)

#: A backup whose deletion is refused (it is in use, or locked) is tried again after this.
TRY_AGAIN = timedelta(hours=1)
#: One that its storage keeps locked is tried when that ends, but looked at after this at the latest: it may be lifted.
LOOK_AGAIN_LATEST = timedelta(days=7)
#: How long a backup whose own date has come can be taken back.
DATED_GRACE = timedelta(days=1)


class PlanChanged(Conflict):
    """What was seen is not what would be done any more."""


class NothingToUndo(Conflict):
    """The backups have been deleted for good, or were never let go."""


def confirm_plan(
    *, policy: RetentionPolicy, digest: str, now: datetime, user: AbstractBaseUser | None = None
) -> list[RetentionRun]:
    """Carry out the plan with this digest: that of the whole policy, or that of one of its sets.

    From then on the policy goes on by itself. Raises: PlanChanged when the plan is another one by now.
    """
    plan = plan_policy(policy, now=now)
    chosen = plan.sets if digest == plan.digest else tuple(one for one in plan.sets if one.digest == digest)
    if not chosen and digest != plan.digest:
        raise PlanChanged("What would go now is not what you have seen: look at the preview again, then confirm that.")
    if not may_expire(now):
        raise Conflict("A clock jumped: nothing is let go until that is some hours ago. See the schedules' page.")
    runs = []
    with transaction.atomic():
        for one in chosen:
            runs.append(_apply(policy, one, now, RetentionTrigger.MANUAL, user))
        if digest == plan.digest:
            RetentionPolicy.objects.filter(pk=policy.pk, version=policy.version).update(
                confirmed_version=policy.version
            )
        count = sum(run.counts["expired"] for run in runs)
        words = f"Confirmed what the policy {policy.name} lets go: {plural(count, 'backup')}."
        record_action("retentionpolicy.confirm", words, about=policy, user=user)
    return runs


def apply_policy(*, policy: RetentionPolicy, trigger: RetentionTrigger, now: datetime) -> list[RetentionRun]:
    """Let go what the policy says, set by set; what a brake stops waits for a confirmation.

    A look that fails is written down as that for its set, or for every set when the policy itself cannot be read.
    """
    try:
        plan: PolicyPlan = plan_policy(policy, now=now)
    except PolicyUnreadable as error:
        return [_record_failure(policy, key, error, now, trigger) for key in sets_of(policy)]
    runs = []
    for one in plan.sets:
        try:
            with transaction.atomic():
                runs.append(_consider(policy, one, now, trigger))
        except PlanChanged:
            continue  # something moved meanwhile: the next look sees it
        except DatabaseError:
            raise
        except Exception as error:  # the other sets have their turn all the same
            logger.exception("Retention of %s by %s failed", one.key.group.collection_name, policy)
            runs.append(_record_failure(policy, one.key, error, now, trigger))
    return runs


def _record_failure(
    policy: RetentionPolicy, key: SetKey, error: Exception, now: datetime, trigger: RetentionTrigger
) -> RetentionRun:
    words = str(error) if isinstance(error, BackupmgrError) else f"{type(error).__name__}: see the worker's log."
    group = key.group
    return RetentionRun.objects.create(
        policy=policy, policy_version=policy.version, cluster_id=group.cluster_id, cluster_name=group.cluster_name,
        collection_name=group.collection_name, shard_id=group.shard_id, storage_id=key.storage_id,
        is_scheduled=key.is_scheduled, trigger=trigger, status=RetentionStatus.FAILED, error=words, created_at=now,
        completed_at=now,
    )  # fmt: skip


def _consider(policy: RetentionPolicy, plan: SetPlan, now: datetime, trigger: RetentionTrigger) -> RetentionRun:
    if not plan.expire:
        _supersede(policy, plan, now, keep_digest="")
        return _record(policy, plan, now, trigger, RetentionStatus.NOTHING, plan.frozen)
    if not may_expire(now):
        return _record(policy, plan, now, trigger, RetentionStatus.HELD, "A clock jumped: nothing is let go for now.")
    reason = plan.brake()
    if policy.confirmed_version < policy.version:
        reason = reason or "It is the first plan since the policy, or when a schedule of it runs, was made or changed."
    if not reason:
        return _apply(policy, plan, now, trigger, None)
    _supersede(policy, plan, now, keep_digest=plan.digest)
    waiting = _waiting(policy, plan.key).first()
    return waiting or _record(policy, plan, now, trigger, RetentionStatus.WAITING, reason)


def _apply(
    policy: RetentionPolicy, plan: SetPlan, now: datetime, trigger: RetentionTrigger, user: AbstractBaseUser | None
) -> RetentionRun:
    """Let the backups of a set go. In a transaction. Raises: PlanChanged."""
    held = RetentionPolicy.objects.select_for_update().get(pk=policy.pk)
    again = [
        one
        for one in plan_group(held, gather(plan.key.group, now=now, lock=True), now=now)
        if _same_set(one.key, plan.key)
    ]
    if held.version != policy.version or not again or again[0].digest != plan.digest:
        raise PlanChanged("The backups or the policy changed meanwhile: look at the preview again.")
    plan = again[0]
    status = RetentionStatus.APPLIED if plan.expire else RetentionStatus.NOTHING
    run = _record(policy, plan, now, trigger, status, plan.frozen)
    facts = {
        "run": str(run.pk),
        "by": user.get_username() if user is not None else "",
        "policy": str(held.pk),
        "name": held.name,
        "version": held.version,
        "rules": {name: getattr(held, name) for name in EFFECTIVE},
    }
    for key in plan.expire:
        why = "; ".join(str(reason) for reason in plan.decision.verdicts[key].reasons)
        Backup.objects.filter(pk=key, expired_at=None).exclude(status=BackupStatus.DELETING).update(
            expired_at=now,
            delete_at=now + timedelta(days=held.grace_days),
            expire_reason=f"{held.name}: {why}"[:300],
            expire_facts=facts,
        )
    _supersede(policy, plan, now, keep_digest="")
    if user is not None:
        run.confirmed_by, run.confirmed_at = user, now  # type: ignore[assignment]
        run.save(update_fields=["confirmed_by", "confirmed_at"])
    return run


def _record(
    policy: RetentionPolicy,
    plan: SetPlan,
    now: datetime,
    trigger: RetentionTrigger,
    status: RetentionStatus,
    reason: str,
) -> RetentionRun:
    group = plan.key.group
    verdicts = plan.decision.verdicts
    return RetentionRun.objects.create(
        policy=policy,
        policy_version=policy.version,
        cluster_id=group.cluster_id,
        cluster_name=group.cluster_name,
        collection_name=group.collection_name,
        shard_id=group.shard_id,
        storage_id=plan.key.storage_id,
        is_scheduled=plan.key.is_scheduled,
        trigger=trigger,
        status=status,
        reason=reason,
        digest=plan.digest,
        counts={
            "kept": len(verdicts) - len(plan.expire),
            "expired": len(plan.expire),
            "locked": sum("locked" in verdict.codes for verdict in verdicts.values()),
            "bytes_expired": plan.bytes_expired,
            "bytes_locked": plan.bytes_locked,
            "over_cap_bytes": plan.decision.over_cap_bytes,
        },
        plan=[
            {
                "id": key,
                "name": plan.rows[key].snapshot_name,
                "taken_at": plan.rows[key].taken_at.isoformat(),
                "size_bytes": plan.rows[key].size_bytes,
                "reasons": [str(reason) for reason in verdicts[key].reasons],
            }
            for key in plan.expire
        ],
        created_at=now,
        completed_at=None if status == RetentionStatus.WAITING else now,
    )


def _waiting(policy: RetentionPolicy, key: SetKey) -> QuerySet[RetentionRun]:
    group = key.group
    return RetentionRun.objects.filter(
        policy=policy,
        status=RetentionStatus.WAITING,
        cluster_name=group.cluster_name,
        collection_name=group.collection_name,
        shard_id=group.shard_id,
        storage_id=key.storage_id,
        is_scheduled=key.is_scheduled,
    )


def _supersede(policy: RetentionPolicy, plan: SetPlan, now: datetime, *, keep_digest: str) -> None:
    """A plan that waits and is not today's any more cannot be confirmed."""
    _waiting(policy, plan.key).exclude(digest=keep_digest).update(status=RetentionStatus.SUPERSEDED, completed_at=now)


def _same_set(one: SetKey, other: SetKey) -> bool:
    return (one.storage_id, one.is_scheduled, one.group.collection_name, one.group.shard_id) == (
        other.storage_id, other.is_scheduled, other.group.collection_name, other.group.shard_id,
    )  # fmt: skip


# --- undo ---------------------------------------------------------------------------------------------------------
def undo_run(*, run: RetentionRun, now: datetime) -> int:
    """Take back what a run let go, as long as it is there; return how many. The policy then waits for a confirmation,
    so that it does not let them go again by itself.

    Raises: NothingToUndo.
    """
    with transaction.atomic():
        taken = _take_back([entry["id"] for entry in run.plan], now, run)
        words = f"Took back {plural(taken, 'backup')} of {run.collection_name} that retention had let go."
        record_action("retentionrun.undo", words, about=run)
    return taken


def _take_back(ids: list[str], now: datetime, run: RetentionRun | None) -> int:
    with transaction.atomic():
        there = Backup.objects.filter(pk__in=ids, expired_at__isnull=False).exclude(status=BackupStatus.DELETING)
        policies = set(there.values_list("policy_id", flat=True))
        taken = there.update(expired_at=None, delete_at=None, expire_reason="", keep_until=None, expire_facts={})
        if not taken:
            raise NothingToUndo("There is nothing to take back: the backups are deleted, or were never let go.")
        RetentionPolicy.objects.filter(pk__in=policies).update(confirmed_version=0)
        if run is not None:
            RetentionRun.objects.filter(pk=run.pk).update(status=RetentionStatus.UNDONE)
    return taken


# --- for good -----------------------------------------------------------------------------------------------------
def delete_due(*, now: datetime) -> int:
    """Delete for good what was let go and whose days of grace are over; return how many deletions began.

    Each is looked at once more as if it had never been let go: what must stay by now is taken back.
    """
    if not may_expire(now):
        return 0
    due: dict[Group, list[Backup]] = defaultdict(list)
    rows = Backup.objects.filter(delete_at__lte=now).exclude(status=BackupStatus.DELETING).defer("manifest")
    for backup in rows.select_related("policy").order_by("started_at", "id"):
        group = Group(backup.cluster_id, backup.cluster_name, backup.collection_name, backup.shard_id)
        due[group].append(backup)
    return sum(_delete(group, backups, now) for group, backups in due.items())


def _delete(group: Group, backups: list[Backup], now: datetime) -> int:
    begun = 0
    facts = gather(group, now=now, with_expired=[backup.pk for backup in backups])
    keep: dict[str, str] = {}
    for key in [key for key in facts.sets if any(backup.policy_id == key.policy_id for backup in backups)]:
        policy = next(backup.policy for backup in backups if backup.policy_id == key.policy_id)
        if policy is not None:
            for item, verdict in plan_rules(policy.rules, facts, key, now).verdicts.items():
                if verdict.keep:
                    keep[item] = ", ".join(str(reason) for reason in verdict.reasons)
    for backup in backups:
        if str(backup.pk) in keep:
            logger.warning("Backup %s stays after all: %s", backup.pk, keep[str(backup.pk)])
            Backup.objects.filter(pk=backup.pk, expired_at__isnull=False).exclude(status=BackupStatus.DELETING).update(
                expired_at=None, delete_at=None, expire_reason=""
            )
            continue
        try:
            delete_backup(backup_id=backup.pk, now=now, reason=f"Retention: {backup.expire_reason}")
            begun += 1
        except BackupmgrError as error:
            logger.info("Backup %s is not deleted yet: %s", backup.pk, error)
            locked = Backup.objects.filter(pk=backup.pk).values_list("locked_until", flat=True).first()
            # Nothing is gained by trying before the storage lets go of it; a legal hold may end any day.
            again = max(now + TRY_AGAIN, min(locked, now + LOOK_AGAIN_LATEST) if locked else now)
            Backup.objects.filter(pk=backup.pk, delete_at__lte=now).update(delete_at=again)
    return begun


def expire_dated(*, now: datetime) -> int:
    """Let go backups that were to be kept until a date of their own, unless a guard wants them; return how many."""
    if not may_expire(now):
        return 0
    rows = Backup.objects.filter(keep_until__lte=now, expired_at=None, policy=None).exclude(
        status__in=(BackupStatus.DELETING, BackupStatus.MISSING)
    )
    gone = 0
    for backup in rows.defer("manifest").order_by("started_at", "id"):
        group = Group(backup.cluster_id, backup.cluster_name, backup.collection_name, backup.shard_id)
        facts = gather(group, now=now)
        if str(backup.pk) in _guarded(facts, now):
            continue
        gone += Backup.objects.filter(pk=backup.pk, expired_at=None).update(
            expired_at=now,
            delete_at=now + DATED_GRACE,
            expire_reason=backup.expire_facts.get("why") or f"It was to be kept until {backup.keep_until:%Y-%m-%d}.",
        )
    return gone


def _guarded(facts: Facts, now: datetime) -> set[str]:
    """Return those without a policy that must stay whatever was said of them."""
    # The guards alone decide: a rule that fits nothing but the newest stands in for one.
    nothing = Rules(keep_within=Span(1, "h"), max_age=Span(1, "h"), min_redundancy=1, min_age_seconds=0)
    others = [fact for found in facts.sets.values() for fact in found]
    decision = evaluate(facts.loose, nothing, now, elsewhere=others)
    wanted = {"newest", "last-verified", "hold", "locked", "in-use", "clock", "needed-by"}
    return {key for key, verdict in decision.verdicts.items() if verdict.codes & wanted}
