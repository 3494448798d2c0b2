"""What is odd about a policy for a schedule: allowed, and yet probably not meant."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from apps.backups.models import Backup
from apps.backups.policies import RetentionPolicy
from apps.backups.retention.rules import COUNTED_TIERS, Pick, Rules, Span
from apps.core.text import format_duration
from apps.storage.models import StorageConfig
from apps.storage.stores import WITHOUT_END

DAY = timedelta(days=1)
#: Of a period the shortest; a run a day is 23 hours after the one before when clocks go forward.
_PERIODS = {
    "last": timedelta(), "hourly": timedelta(hours=1), "daily": timedelta(hours=23), "weekly": timedelta(hours=167),
    "monthly": timedelta(days=27), "yearly": timedelta(days=364),
}  # fmt: skip
_SPANS = {"h": timedelta(hours=1), "d": DAY, "w": 7 * DAY, "m": 28 * DAY, "y": 365 * DAY}


def lint_policy(
    policy: RetentionPolicy | None, *, gap: timedelta | None, zone: str, storages: Iterable[StorageConfig]
) -> list[str]:
    """Return sentences. `gap` is the shortest time between two runs, None when they have no times."""
    if policy is None:
        return ["No retention policy: every backup is kept for ever, until the storage is full."]
    found = []
    if policy.tz != zone:
        found.append(f"The policy {policy.name} counts days in {policy.tz}, this schedule in {zone}.")
    if gap is not None and gap <= DAY:
        counted = {tier: getattr(policy, f"keep_{tier}") for tier in COUNTED_TIERS}
        coarse = [tier for tier in ("weekly", "monthly", "yearly") if counted[tier]]
        if coarse and not any(counted[tier] for tier in ("last", "hourly", "daily")) and not policy.keep_within:
            found.append(
                f"The policy {policy.name} keeps {' and '.join(coarse)} backups only: of daily runs, yesterday's goes "
                f"as soon as today's is there."
            )
    return found + _lint_locks(policy, gap, list(storages))


def _lint_locks(policy: RetentionPolicy, gap: timedelta | None, storages: list[StorageConfig]) -> list[str]:
    """How long a storage locks is known from the newest backup in it: one without backups says nothing yet."""
    try:
        rules = policy.rules
    except ValueError:
        return []  # what is wrong with it stands elsewhere
    locks = {storage.name: lock for storage in storages if (lock := lock_of_storage(storage)) is not None}
    by_periods = any(getattr(rules, f"keep_{tier}") for tier in COUNTED_TIERS[1:])
    locking = {name: lock for name, lock in locks.items() if lock}
    found = []
    if locking and by_periods and rules.pick == Pick.LAST:
        found.append(
            f"{_names(locking)} what is written, and the policy {policy.name} keeps the last of each period: take the "
            f"first, which no later backup can push out, so that how long it is needed is known when it is locked."
        )
    if locks and not locking and len(locks) == len(storages) and by_periods and rules.pick == Pick.FIRST:
        found.append(
            f"The policy {policy.name} keeps the first of each period, which is meant for storages that lock what is "
            f"written; here the last of each period would be newer."
        )
    kept = surely_kept(rules, gap)
    for name, lock in locking.items():
        # Locks are counted from when an object was written: some minutes are no matter.
        if kept is not None and lock > kept + timedelta(hours=1):
            found.append(
                f"The storage {name} locks backups for {format_duration(lock.total_seconds())}, and the policy "
                f"{policy.name} surely keeps one for {format_duration(kept.total_seconds())} only: what nobody wants "
                f"any more takes up room until the lock ends."
            )
    return found


def _names(locking: dict[str, timedelta]) -> str:
    names = " and ".join(sorted(locking))
    return f"The storage {names} locks" if len(locking) == 1 else f"The storages {names} lock"


def lock_of_storage(storage: StorageConfig) -> timedelta | None:
    """Return for how long the storage locked the newest backup in it; zero when it did not, None when it has none."""
    newest = Backup.objects.filter(storage=storage).order_by("-created_at", "-id")
    row = newest.values_list("created_at", "locked_until").first()
    if row is None:
        return None
    created_at, until = row
    if until is None or until >= WITHOUT_END:  # a legal hold is put by hand, on one object
        return timedelta()
    return max(timedelta(), until - created_at)


def surely_kept(rules: Rules, gap: timedelta | None) -> timedelta | None:
    """Return for how long the rules keep any backup whatever comes after it; None when that cannot be said.

    A count keeps each for as many runs, as long as no two of them fall into one of its periods.
    """
    found = [_length(rules.keep_within)] if rules.keep_within is not None else []
    if gap is not None:
        found += [getattr(rules, f"keep_{tier}") * gap for tier, period in _PERIODS.items() if gap >= period]
    kept = max(found, default=None)
    if kept is not None and rules.max_age is not None:
        kept = min(kept, _length(rules.max_age))
    if gap is not None:  # a guard: no age beats it
        kept = max(kept or timedelta(), rules.min_redundancy * gap)
    return kept


def _length(span: Span) -> timedelta:
    return span.count * _SPANS[span.unit]
