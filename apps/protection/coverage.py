"""Coverage: every collection with the schedules that mean it, what is held of it, and where. Read, never stored."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from django.db.models import Min

from apps.backups.models import Backup, BackupStatus
from apps.protection.judge import Standing, State, Verdict
from apps.schedules.coverage import Covering, covering_schedules


class Gap(StrEnum):
    """What a collection may lack."""

    UNPROTECTED = "unprotected"  # never backed up
    UNSCHEDULED = "unscheduled"  # no enabled schedule means it
    STALE = "stale"  # older than it may be
    NEVER_VERIFIED = "never_verified"
    PAUSED = "paused"  # all schedules that mean it are paused


@dataclass(frozen=True)
class Coverage:
    """One collection. `storages` hold a good backup of the whole of it; `expires_at` is when the next one goes."""

    standing: Standing
    schedules: tuple[Covering, ...]
    storages: tuple[str, ...]
    expires_at: datetime | None
    gaps: tuple[Gap, ...]


def read_coverage(verdict: Verdict) -> list[Coverage]:
    """Return all collections, those without any backup first, then those without a schedule, then as the verdict has
    them: four queries, whatever there is."""
    keys = [_key(standing) for standing in verdict.standings]
    covered = covering_schedules(keys)
    held = Backup.objects.filter(cluster__isnull=False, shard_id=None).order_by()
    good = held.filter(status=BackupStatus.COMPLETED, expired_at=None)
    storages: dict[tuple[UUID | None, str], list[str]] = defaultdict(list)
    for cluster_id, name, storage in good.values_list("cluster", "collection_name", "storage__name").distinct():
        storages[(cluster_id, name)].append(storage)
    going = held.filter(delete_at__isnull=False).values_list("cluster", "collection_name").annotate(at=Min("delete_at"))
    expires = {(cluster_id, name): at for cluster_id, name, at in going}
    found = []
    for key, standing in zip(keys, verdict.standings, strict=True):
        schedules = covered.get(key, ())
        found.append(
            Coverage(
                standing=standing,
                schedules=schedules,
                storages=tuple(sorted(storages.get(key, ()))),
                expires_at=expires.get(key),
                gaps=tuple(_gaps(standing, schedules)),
            )
        )
    order = {Gap.UNPROTECTED: 0, Gap.UNSCHEDULED: 1}
    return sorted(found, key=lambda one: order.get(one.gaps[0], 2) if one.gaps else 2)


def _key(standing: Standing) -> tuple[UUID, str]:
    return UUID(standing.facts.cluster_id), standing.facts.name


def _gaps(standing: Standing, schedules: tuple[Covering, ...]) -> Iterable[Gap]:
    facts = standing.facts
    if facts.newest is None:
        yield Gap.UNPROTECTED
    if not schedules:
        yield Gap.UNSCHEDULED
    elif all(one.is_paused for one in schedules):
        yield Gap.PAUSED
    if standing.state == State.OVERDUE:
        yield Gap.STALE
    if facts.newest is not None and not (facts.tested_at or facts.proven_at):
        yield Gap.NEVER_VERIFIED
