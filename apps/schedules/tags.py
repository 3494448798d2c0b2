"""Tags of collections: given by operators, selected by schedules."""

from __future__ import annotations

from collections.abc import Iterable

from django.db import transaction

from apps.clusters.models import Cluster
from apps.clusters.qdrant import check_collection_name
from apps.core.errors import InvalidRequest, Unprocessable
from apps.schedules.models import CollectionTag

MAX_LENGTH = 50


def tags_of_collection(*, cluster: Cluster, collection: str) -> list[str]:
    """Return the tags of a collection, sorted; none for a name that no collection can have."""
    try:
        check_collection_name(collection)
    except ValueError:
        return []
    rows = CollectionTag.objects.filter(cluster=cluster, collection_name=collection)
    return sorted(rows.values_list("tag", flat=True))


def set_tags(*, cluster: Cluster, collection: str, tags: Iterable[str]) -> list[str]:
    """Give a collection these tags and no others; return them. Raises: InvalidRequest, Unprocessable (name)."""
    _check(collection)
    wanted = sorted({tag.strip() for tag in tags})
    for tag in wanted:
        if not tag or len(tag) > MAX_LENGTH or not tag.isprintable():
            raise InvalidRequest(f"tags: A tag has 1 to {MAX_LENGTH} printable characters.")
    with transaction.atomic():
        rows = CollectionTag.objects.filter(cluster=cluster, collection_name=collection)
        rows.exclude(tag__in=wanted).delete()
        CollectionTag.objects.bulk_create(
            (CollectionTag(cluster=cluster, collection_name=collection, tag=tag) for tag in wanted),
            ignore_conflicts=True,
        )
    return wanted


def _check(collection: str) -> None:
    try:
        check_collection_name(collection)
    except ValueError as error:
        raise Unprocessable(str(error)) from error
