"""Overwriting where clients come through an alias: restore beside, then let them all find the new collection at once.

Qdrant cannot rename collections; an alias is all that can be switched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from uuid import UUID

from apps.backups.fleet import Fleet
from apps.backups.kept import KeptCollection
from apps.backups.manifest import Manifest
from apps.backups.models import VerificationKind
from apps.backups.plan import PlanBlocked
from apps.backups.restore_order import RestoreOrder
from apps.backups.run import Run
from apps.backups.safety import describe_moment
from apps.backups.verifications import Proof


@dataclass(frozen=True)
class Switch:
    """The aliases that clients come through, and the collection behind them until the switch."""

    aliases: tuple[str, ...]
    old: str

    @property
    def words(self) -> str:
        """the alias 'live'; the aliases 'live', 'shop'"""
        return _aliases(self.aliases)

    @property
    def verb(self) -> str:
        return "is" if len(self.aliases) == 1 else "are"


@dataclass(frozen=True)
class Way:
    """How a restore gets to where it was asked to go: the order to carry out, and the switch at its end, if any."""

    order: RestoreOrder
    switch: Switch | None = None
    #: Which way is gone, and why; empty where nothing is overwritten.
    why: str = ""
    #: Whom that way does not reach.
    warning: str = ""


def choose_way(order: RestoreOrder, aliases: Mapping[str, str], collections: Sequence[str]) -> Way:
    """Decide between beside-and-switch and in place; `aliases` (alias → collection) and `collections` are the target's.

    Raises: PlanBlocked when the way that was asked for does not exist.
    """
    asked, target = order.overwrite_method, order.collection
    if not order.overwrite or order.shard_id is not None:
        return Way(order)
    behind = aliases.get(target)
    if behind is not None:
        if asked == "in_place":
            raise PlanBlocked(
                f"{target!r} is an alias of {behind!r}: to overwrite that collection in place, name it as the target."
            )
        return _beside(order, Switch((target,), behind), f"{target!r} is an alias of {behind!r}")
    if target not in collections:
        if asked == "switch":
            raise PlanBlocked(
                f"The target has neither an alias nor a collection {target!r}: there is nothing to switch."
            )
        return Way(order)
    leading = tuple(sorted(alias for alias, collection in aliases.items() if collection == target))
    if asked == "switch" and not leading:
        raise PlanBlocked(
            f"No alias leads to {target!r}, and Qdrant cannot rename collections: nothing can be switched. Overwrite "
            f"it in place, or restore into another name."
        )
    if leading and asked != "in_place":
        way = _beside(order, Switch(leading, target), f"Clients come to {target!r} through {_aliases(leading)}")
        return replace(
            way,
            warning=(
                f"Whoever uses the name {target!r} itself, backups and schedules included, keeps finding the old "
                f"collection there. If anybody does, overwrite it in place (overwrite_method: in_place)."
            ),
        )
    if leading:
        why = f"{target!r} is overwritten in place, as asked for, although {_aliases(leading)} would allow a switch."
    else:
        why = f"No alias leads to {target!r}, and Qdrant cannot rename collections: it is overwritten in place."
    return Way(order, why=why)


def _beside(order: RestoreOrder, switch: Switch, because: str) -> Way:
    name = f"{order.collection[:180]}-{describe_moment()}"
    return Way(
        replace(order, collection=name, overwrite=False),
        switch,
        f"{because}: the backup is restored beside it into {name!r}, {switch.words} {switch.verb} switched in one call "
        f"when all is proved, and {switch.old!r} is kept until you remove it.",
    )


def aliases_to_set(manifest: Manifest, switch: Switch | None) -> list[str]:
    """Return the aliases of the backup, without those that are switched anyway."""
    return [alias for alias in manifest.aliases if switch is None or alias not in switch.aliases]


def note_kept(
    *,
    order: RestoreOrder,
    collection: str,
    switch: Switch,
    points_count: int | None,
    proof: Proof,
    job_id: UUID,
    now: datetime,
) -> KeptCollection:
    """Write down what is about to be replaced by `collection`, and by what proof."""
    kept, _ = KeptCollection.objects.update_or_create(
        cluster=order.cluster,
        collection_name=switch.old,
        defaults={
            "replaced_by": collection,
            "aliases": list(switch.aliases),
            "points_count": points_count,
            "job_id": job_id,
            "proof": asdict(proof),
            "created_at": now,
            "switched_at": None,
        },
    )
    return kept


def take_over_switch(fleet: Fleet, run: Run) -> Proof | None:
    """Return what an attempt before had proved and switched before it vanished; None when none had.

    Raises: QdrantError.
    """
    kept = KeptCollection.objects.filter(job_id=run.job_id).first()
    if kept is None:
        return None
    aliases = fleet.first.aliases()
    if any(aliases.get(alias) != kept.replaced_by for alias in kept.aliases):
        if kept.switched_at is None:
            kept.delete()
        return None
    kept.switched_at = kept.switched_at or run.now()
    kept.save(update_fields=["switched_at"])
    run.tell(f"The attempt before had restored and switched to {kept.replaced_by!r}; taking that over.")
    return Proof(**{**kept.proof, "kind": VerificationKind(kept.proof["kind"])})


def _aliases(names: tuple[str, ...]) -> str:
    return f"{'the alias' if len(names) == 1 else 'the aliases'} {_listed(names)}"


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(map(repr, names))
