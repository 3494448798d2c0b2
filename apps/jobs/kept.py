"""What a person decides about a kept collection: switch back to it, remove it, or leave it for good."""

from __future__ import annotations

import uuid
from datetime import datetime

from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction

from apps.audit.trail import About, record_action
from apps.backups.fleet import Fleet, open_fleet
from apps.backups.models import KeptCollection
from apps.clusters.models import Purpose
from apps.core.errors import Conflict, NotFound
from apps.core.text import plural
from apps.jobs.models import Job
from apps.jobs.states import ACTIVE

#: Somebody waits for the answer.
TIMEOUT_SECONDS = 20.0


class KeptNotFound(NotFound):
    """There is no kept collection with that id (any more)."""


class KeptInUse(Conflict):
    """The kept collection is used again, or about to be."""


def find_kept(kept_id: uuid.UUID) -> KeptCollection:
    """Return the kept collection. Raises: KeptNotFound."""
    found = KeptCollection.objects.select_related("cluster").filter(pk=kept_id).first()
    if found is None:
        raise KeptNotFound("There is no kept collection with this id (any more).")
    return found


def remove_kept(
    *, kept_id: uuid.UUID, now: datetime, user: AbstractBaseUser | None = None, even_if_changed: bool = False
) -> None:
    """Delete the kept collection from its cluster; forget it when it is not there any more.

    Raises: KeptNotFound; KeptInUse when an alias leads to it, a job works on it, or it holds another number of points
    than at the switch (but for `even_if_changed`); QdrantError.
    """
    kept = find_kept(kept_id)
    name = kept.collection_name
    _demand_idle(kept, name)
    with open_fleet(kept.cluster, Purpose.RESTORE, timeout_seconds=TIMEOUT_SECONDS) as fleet:
        leading = sorted(alias for alias, collection in fleet.first.aliases().items() if collection == name)
        if leading:
            raise KeptInUse(f"{name!r} is used again: {', '.join(map(repr, leading))} leads to it.")
        if name in fleet.first.collections():
            if not even_if_changed:
                _demand_unchanged(kept, fleet)
            fleet.first.delete_collection(name)
    _forget(kept)
    record_action(
        "kept.remove", f"Removed {name}, which a restore had replaced, from {kept.cluster.name}.", about=_about(kept),
        user=user,
    )  # fmt: skip


def switch_back(*, kept_id: uuid.UUID, now: datetime, user: AbstractBaseUser | None = None) -> KeptCollection:
    """Let the aliases lead to the kept collection again, in one call; what was restored is then the one that is kept.

    Raises: KeptNotFound; KeptInUse when the aliases lead elsewhere by now, or a job works on either; Conflict when the
    collection is not there any more; QdrantError.
    """
    kept = find_kept(kept_id)
    old, new = kept.collection_name, kept.replaced_by
    _demand_idle(kept, old)
    _demand_idle(kept, new)
    with open_fleet(kept.cluster, Purpose.RESTORE, timeout_seconds=TIMEOUT_SECONDS) as fleet:
        aliases = fleet.first.aliases()
        astray = [alias for alias in kept.aliases if aliases.get(alias) != new]
        if astray:
            raise KeptInUse(
                f"{', '.join(map(repr, astray))} does not lead to {new!r} any more: somebody has changed it since."
            )
        if old not in fleet.first.collections():
            raise Conflict(f"{old!r} is not there any more: nothing can be switched back to.")
        points_count = fleet.first.count(new)
        fleet.first.switch_aliases(kept.aliases, old)
    with transaction.atomic():
        _forget(kept)
        KeptCollection.objects.filter(cluster=kept.cluster, collection_name=new).delete()
        back = KeptCollection.objects.create(
            cluster=kept.cluster,
            collection_name=new,
            replaced_by=old,
            aliases=kept.aliases,
            points_count=points_count,
            created_at=now,
            switched_at=now,
        )
    record_action(
        "kept.switch_back",
        f"Let {', '.join(kept.aliases)} on {kept.cluster.name} lead to {old} again instead of {new}.",
        about=_about(kept),
        user=user,
    )
    return back


def forget_kept(*, kept_id: uuid.UUID, now: datetime, user: AbstractBaseUser | None = None) -> None:
    """Leave the collection where it is for good, and list it no longer. Raises: KeptNotFound."""
    kept = find_kept(kept_id)
    _forget(kept)
    record_action(
        "kept.forget", f"Left {kept.collection_name} on {kept.cluster.name} for good.", about=_about(kept), user=user
    )


def _forget(kept: KeptCollection) -> None:
    KeptCollection.objects.filter(pk=kept.pk).delete()


def _about(kept: KeptCollection) -> About:
    return About.of(kept, kept.collection_name)


def _demand_idle(kept: KeptCollection, collection: str) -> None:
    jobs = Job.objects.filter(status__in=ACTIVE, subject_cluster=kept.cluster)
    count = jobs.filter(subject_collection__in=[collection, *kept.aliases]).count()
    if count:
        raise KeptInUse(
            f"{plural(count, 'job')} on {collection!r} or its aliases {'is' if count == 1 else 'are'} pending or "
            f"running: wait for it, or cancel it."
        )


def _demand_unchanged(kept: KeptCollection, fleet: Fleet) -> None:
    if kept.points_count is None:
        return
    count = fleet.first.count(kept.collection_name)
    if count != kept.points_count:
        raise KeptInUse(
            f"{kept.collection_name!r} holds {count:,} points now and held {kept.points_count:,} when its aliases were "
            f"switched: somebody uses it under its own name. Confirm that it may go all the same (even_if_changed)."
        )
