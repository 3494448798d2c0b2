"""Facts: what retention has to know of the backups of a collection, read from the database."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from django.db.models import Q, QuerySet

from apps.backups.models import Backup, BackupStatus, DeletedBackup, Hold, VerificationKind
from apps.backups.policies import RetentionPolicy
from apps.backups.retention.rules import BackupFacts
from apps.jobs.models import Job
from apps.jobs.states import ACTIVE

#: The newest backup holds less than this share of the points of those before it: somebody may have emptied the
#: collection, and its history must not go.
DROP_SHARE = 0.5
#: Compared with the largest of so many before it, when that holds so many points.
DROP_COMPARED, DROP_MIN_POINTS = 5, 1000

#: For looks at sets that need no time.
_NEVER = datetime(9999, 1, 1, tzinfo=UTC)

_EVIDENCE = {
    VerificationKind.RESTORED: 3,
    VerificationKind.OPENED: 2,
    VerificationKind.CHECKED: 1,
    None: 0,
}


@dataclass(frozen=True)
class Group:
    """All backups of one collection (or of one shard of it): what the guards look across."""

    cluster_id: uuid.UUID | None
    cluster_name: str
    collection_name: str
    shard_id: int | None


@dataclass(frozen=True)
class SetKey:
    """What the rules count inside of."""

    group: Group
    policy_id: uuid.UUID
    storage_id: uuid.UUID
    storage_name: str
    #: Backups of schedules and those that somebody asked for are counted apart.
    is_scheduled: bool


@dataclass(frozen=True)
class Row:
    """A backup as lists show it."""

    id: str
    snapshot_name: str
    taken_at: datetime
    size_bytes: int


@dataclass
class Facts:
    """The backups of a group, by the set that they belong to; `loose` ones have no policy."""

    group: Group
    sets: dict[SetKey, list[BackupFacts]] = field(default_factory=lambda: defaultdict(list))
    loose: list[BackupFacts] = field(default_factory=list)
    rows: dict[str, Row] = field(default_factory=dict)
    #: Why nothing of the group should go, in a sentence; empty when there is no such reason.
    frozen: str = ""

    def elsewhere(self, key: SetKey) -> list[BackupFacts]:
        """Everything of the group that is not in this set."""
        return [fact for other, found in self.sets.items() if other != key for fact in found] + self.loose


def groups_of(policy: RetentionPolicy) -> list[Group]:
    """Return the collections that have backups under the policy."""
    rows = (
        Backup.objects.filter(policy=policy)
        .exclude(status=BackupStatus.DELETING)
        .order_by("cluster_name", "collection_name", "shard_id")
        .values_list("cluster_id", "cluster_name", "collection_name", "shard_id")
        .distinct()
    )
    found: dict[Any, Group] = {}
    for cluster_id, cluster_name, collection, shard in rows:
        # A cluster that was renamed is the same one.
        found.setdefault(
            (cluster_id or cluster_name, collection, shard), Group(cluster_id, cluster_name, collection, shard)
        )
    return list(found.values())


def sets_of(policy: RetentionPolicy) -> list[SetKey]:
    """Return the sets of the policy, whatever its rules say."""
    return [key for group in groups_of(policy) for key in gather(group, now=_NEVER).sets if key.policy_id == policy.pk]


def gather(group: Group, *, now: datetime, with_expired: Iterable[uuid.UUID] = (), lock: bool = False) -> Facts:
    """Read the backups of a group. Those that retention let go already count no more, unless named by `with_expired`.

    `lock`: in a transaction; nothing else changes these rows until it ends.
    """
    there = Backup.objects.filter(status__in=(BackupStatus.COMPLETED, BackupStatus.DAMAGED))
    rows = _of_group(there, group).filter(Q(expired_at=None) | Q(pk__in=list(with_expired)))
    if lock:
        rows = rows.select_for_update(of=("self",))
    found = list(rows.order_by("started_at", "id").select_related("storage").defer("manifest"))
    ids = [backup.pk for backup in found]
    held = set(Hold.objects.active(now).filter(backup__in=ids).values_list("backup_id", flat=True))
    used = set(Job.objects.filter(backup__in=ids, status__in=ACTIVE).values_list("backup_id", flat=True))
    facts = Facts(group)
    replaced = _replaced_at(group, [backup for backup in found if backup.status == BackupStatus.DAMAGED])
    for backup in found:
        fact = BackupFacts(
            id=str(backup.pk),
            taken_at=backup.started_at.astimezone(UTC),
            size_bytes=backup.size_bytes,
            suspect=backup.status == BackupStatus.DAMAGED,
            replaced_at=replaced.get(backup.pk),
            evidence=evidence_of(backup),
            held=backup.pk in held,
            locked_until=backup.locked_until,
            in_use=backup.pk in used,
        )
        facts.rows[fact.id] = Row(fact.id, backup.snapshot_name, fact.taken_at, fact.size_bytes)
        if backup.policy_id is None:
            facts.loose.append(fact)
            continue
        key = SetKey(group, backup.policy_id, backup.storage_id, backup.storage.name, backup.schedule_id is not None)
        facts.sets[key].append(fact)
    facts.frozen = _dropped(found)
    return facts


def _of_group(rows: QuerySet[Any], group: Group) -> QuerySet[Any]:
    rows = rows.filter(collection_name=group.collection_name, shard_id=group.shard_id)
    if group.cluster_id is not None:
        return rows.filter(cluster_id=group.cluster_id)
    return rows.filter(cluster_id=None, cluster_name=group.cluster_name)


def _replaced_at(group: Group, suspects: list[Backup]) -> dict[uuid.UUID, datetime]:
    """Return when the first backup of its set after each suspect one was taken, of those that went since."""
    if not suspects:
        return {}
    since = min(backup.started_at for backup in suspects)
    let_go = _of_group(Backup.objects.filter(status=BackupStatus.COMPLETED, expired_at__isnull=False), group)
    of_set = ("policy_id", "storage_id", "schedule_id")
    gone = [
        *let_go.filter(started_at__gt=since).values_list("started_at", *of_set),
        *_of_group(DeletedBackup.objects.filter(taken_at__gt=since), group).values_list("taken_at", *of_set),
    ]
    found: dict[uuid.UUID, datetime] = {}
    for backup in suspects:
        mine = (backup.policy_id, backup.storage_id, backup.schedule_id is None)
        later = [
            at
            for at, policy_id, storage_id, schedule_id in gone
            if at > backup.started_at and (policy_id, storage_id, schedule_id is None) == mine
        ]
        if later:
            found[backup.pk] = min(later).astimezone(UTC)
    return found


def evidence_of(backup: Backup) -> int:
    """How strongly a backup is proved: 3 restored and compared, 2 opened and counted, 1 its bytes compared, 0 not."""
    return _EVIDENCE[backup.proof]


def _dropped(found: list[Backup]) -> str:
    good = [backup for backup in found if backup.status == BackupStatus.COMPLETED]
    if len(good) < 2:
        return ""
    before = max(backup.points_count for backup in good[-1 - DROP_COMPARED : -1])
    newest = good[-1].points_count
    if before < DROP_MIN_POINTS or newest >= before * DROP_SHARE:
        return ""
    return (
        f"The newest backup holds {newest:,} points and one before it {before:,}: nothing of it goes until "
        f"{DROP_COMPARED} backups confirm the lower number, or the points are back."
    )


def all_policies() -> Iterator[RetentionPolicy]:
    yield from RetentionPolicy.objects.filter(backups__isnull=False).distinct().order_by("name")
