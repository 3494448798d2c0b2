"""Which schedules mean which collections, as things stand: what the next runs would select."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from django.db.models import TextField
from django.db.models.functions import Cast

from apps.schedules.models import CollectionTag, Schedule
from apps.schedules.selection import matching
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
    tags_of: dict[UUID, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for cluster_id, name, tag in CollectionTag.objects.values_list("cluster_id", "collection_name", "tag"):
        tags_of[cluster_id][name].append(tag)
    found: dict[tuple[UUID, str], list[Covering]] = defaultdict(list)
    # This is asked for at every look at the coverage, and there may be thousands of schedules, most of which select
    # like some other: columns instead of rows, and what they select as text, so that each is read and matched once.
    selects = [Cast(column, TextField()) for column in ("include", "exclude", "tags")]
    schedules = Schedule.objects.live().filter(enabled=True).exclude(kind=Kind.MANUAL).order_by("name", "id")
    known: dict[tuple[UUID, str, str, str], tuple[str, ...]] = {}
    for pk, name, cluster_id, paused_at, *selected in schedules.values_list(
        "pk", "name", "cluster_id", "paused_at", *selects
    ):
        key = (cluster_id, *selected)
        if key not in known:
            include, exclude, tags = map(json.loads, selected)
            known[key] = matching(
                names.get(cluster_id, set()), include=include, exclude=exclude, tags=tags, tags_of=tags_of[cluster_id]
            )
        for collection in known[key]:
            found[(cluster_id, collection)].append(Covering(pk, name, paused_at is not None))
    return {key: tuple(schedules) for key, schedules in found.items()}
