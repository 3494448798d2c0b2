"""How old the newest good backup of a collection may be: its own word, else the strictest of its tags."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from uuid import UUID

from django.db import transaction

from apps.audit.trail import record_action
from apps.clusters.models import Cluster
from apps.clusters.qdrant import check_collection_name
from apps.core.errors import InvalidRequest, Unprocessable
from apps.schedules.models import CollectionTag, MaximumAge
from apps.schedules.models.ages import MOST_HOURS


@dataclass(frozen=True)
class Age:
    """`tag` is empty when it was set for the collection itself."""

    hours: int
    tag: str = ""

    @property
    def words(self) -> str:
        return f"no older than {self.hours} h" + (f", as for everything tagged {self.tag}" if self.tag else "")


def read_ages() -> dict[tuple[UUID, str], Age]:
    """Return (cluster, collection) → age, where one is set: one query, two when tags have any."""
    found: dict[tuple[UUID, str], Age] = {}
    of_tags: dict[tuple[UUID, str], int] = {}
    for row in MaximumAge.objects.all():
        if row.tag:
            of_tags[(row.cluster_id, row.tag)] = row.hours
        else:
            found[(row.cluster_id, row.collection_name)] = Age(row.hours)
    if of_tags:
        by_tag: dict[tuple[UUID, str], list[Age]] = defaultdict(list)
        tagged = CollectionTag.objects.filter(tag__in={tag for _, tag in of_tags})
        for cluster_id, name, tag in tagged.values_list("cluster_id", "collection_name", "tag"):
            if (cluster_id, tag) in of_tags:
                by_tag[(cluster_id, name)].append(Age(of_tags[(cluster_id, tag)], tag))
        for key, ages in by_tag.items():
            found.setdefault(key, min(ages, key=lambda age: (age.hours, age.tag)))
    return found


def age_of_collection(*, cluster: Cluster, collection: str) -> Age | None:
    """The age that counts for one collection; None when only the cluster's does."""
    return read_ages().get((cluster.pk, collection))


def set_age(*, cluster: Cluster, collection: str = "", tag: str = "", hours: int | None) -> None:
    """Set the age of a collection or of a tag; None takes it away. Raises: InvalidRequest, Unprocessable (name)."""
    if bool(collection) == bool(tag):
        raise InvalidRequest("Name either a collection or a tag.")
    if collection:
        try:
            check_collection_name(collection)
        except ValueError as error:
            raise Unprocessable(str(error)) from error
    elif len(tag) > 50 or tag != tag.strip() or not tag.isprintable():
        raise InvalidRequest("tag: A tag has 1 to 50 printable characters, and no spaces at its ends.")
    if hours is not None and not 1 <= hours <= MOST_HOURS:
        raise InvalidRequest(f"hours: Give 1 to {MOST_HOURS} hours.")
    what = f"{collection} on {cluster.name}" if collection else f"collections tagged {tag} on {cluster.name}"
    with transaction.atomic():
        if hours is None:
            MaximumAge.objects.filter(cluster=cluster, collection_name=collection, tag=tag).delete()
        else:
            MaximumAge.objects.update_or_create(
                cluster=cluster, collection_name=collection, tag=tag, defaults={"hours": hours}
            )
        words = "taken away" if hours is None else f"set to {hours} h"
        record_action("age.change", f"Maximum age of backups of {what}: {words}.", about=cluster)
