"""Which schedules mean which collections, as things stand: what the next runs would select."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from apps.schedules.models import CollectionTag, Schedule
from apps.schedules.selection import select
from apps.schedules.timing.spec import Kind


@dataclass(frozen=True)
class Covering:
    """A schedule that means a collection."""

    schedule_id: UUID
    name: str
    is_paused: bool


def covering_schedules(keys: Iterable[tuple[UUID, str]]) -> dict[tuple[UUID, str], tuple[Covering, ...]]:
    """Return (cluster, collection) → the enabled schedules that mean it and run by themselves: two queries."""
    names: dict[UUID, set[str]] = defaultdict(set)
    for cluster_id, name in keys:
        names[cluster_id].add(name)
    tags: dict[UUID, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for cluster_id, name, tag in CollectionTag.objects.values_list("cluster_id", "collection_name", "tag"):
        tags[cluster_id][name].append(tag)
    found: dict[tuple[UUID, str], list[Covering]] = defaultdict(list)
    schedules = Schedule.objects.live().filter(enabled=True).exclude(kind=Kind.MANUAL).order_by("name", "id")
    for schedule in schedules:
        matched = select(
            names.get(schedule.cluster_id, ()),
            include=schedule.include,
            exclude=schedule.exclude,
            tags=schedule.tags,
            tags_of=tags[schedule.cluster_id],
        ).matched
        for name in matched:
            found[(schedule.cluster_id, name)].append(Covering(schedule.pk, schedule.name, schedule.is_paused))
    return {key: tuple(schedules) for key, schedules in found.items()}
