"""The part of a restore that changes the target: create, fill every replica, prove, and let clients find it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from django.conf import settings

from apps.backups.compare import index_schema
from apps.backups.comparing import Compared, compare_points
from apps.backups.creating import create_target, take_back
from apps.backups.models import VerificationKind
from apps.backups.proving import POLL_SECONDS, RestoreDiffers, prove, wait_until_active
from apps.backups.restore_order import Restoration, RestoreOrder
from apps.backups.sending import Sender
from apps.backups.switching import Switch, aliases_to_set, note_kept
from apps.backups.topology import merge
from apps.backups.traces import CollectionTrace
from apps.backups.verifications import Proof
from apps.clusters.qdrant import QdrantError, QdrantNode, QdrantTimeout, QdrantUnreachable
from apps.core.abort import Abort
from apps.core.errors import NotFound
from apps.core.text import plural

__all__ = ["RestoreDiffers", "RestoreOrder", "Restorer", "Switch"]


class Restorer:
    """Carries out one plan."""

    def __init__(self, restoration: Restoration) -> None:
        self._restoration = restoration
        self._run = restoration.run
        self._node = restoration.fleet.first
        self._compared = Compared()
        self._counted = ""

    def restore(self, switch: Switch | None = None) -> Proof:
        """Do it, and return what was proved.

        Raises: RestoreDiffers, PointsDiffer, RestoreNotReady, QdrantError; the reason of the abort.
        """
        run, collection = self._run, self._restoration.collection
        run.confirm()
        if not self._restoration.plan.create:
            run.warn(
                f"Replacing what {collection!r} holds; from here on a failure leaves it incomplete.", replacing=True
            )
            self._fill()
            self._set_aliases()
            return self._proof()
        trace = create_target(self._restoration)
        try:
            self._fill()
            if switch is None:
                self._set_aliases()
        except BaseException:
            # Half a collection under a real name would be taken for the whole one.
            take_back(run, trace)
            raise
        # The trace stays until the job's last write, which forgets it: a worker that vanished in between would leave a
        # collection that is in the way of the next attempt.
        proof = self._proof()
        if switch is not None:
            self._switch(switch, trace, proof)
        return proof

    def _switch(self, switch: Switch, trace: CollectionTrace, proof: Proof) -> None:
        """Let clients find the restored collection, all at once, and see to it that the one before is remembered."""
        run, order, collection = self._run, self._restoration.order, self._restoration.collection
        more = aliases_to_set(self._restoration.manifest, switch) if order.restore_aliases else []
        try:
            run.phase("switching aliases")
            points_count = _count(self._node, switch.old)
            # From here on whoever cleans up looks first whether the aliases lead to it already.
            switching = replace(trace, switching=switch.aliases)
            run.traces.replace(trace, switching)
            trace = switching
            run.save_traces()
            run.confirm()
        except BaseException:
            take_back(run, trace)
            raise
        kept = note_kept(
            order=order,
            collection=collection,
            switch=switch,
            points_count=points_count,
            proof=proof,
            job_id=run.job_id,
            now=run.now(),
        )
        # Without the abort: broken off in the middle, nobody would know which collection clients use.
        with QdrantNode(self._node.endpoint) as node:
            try:
                node.switch_aliases(switch.aliases, collection, create=more)
            except QdrantError as error:
                if not _came_through(node, switch, collection, error):
                    kept.delete()
                    take_back(run, trace)
                    raise
        kept.switched_at = run.now()
        kept.save(update_fields=["switched_at"])
        run.tell(
            f"{switch.words[:1].upper()}{switch.words[1:]} {switch.verb} switched to {collection!r} now. "
            f"{switch.old!r} was kept: switch back, or remove it when you need it no longer (Kept collections).",
            kept_id=str(kept.pk),
        )
        if order.restore_aliases:
            run.tell(f"Aliases set: {', '.join(more) or 'the backup has no others'}.")

    def _set_aliases(self) -> None:
        if not self._restoration.order.restore_aliases:
            return
        aliases = aliases_to_set(self._restoration.manifest, None)
        self._node.create_aliases(self._restoration.collection, aliases)
        self._run.tell(f"Aliases set: {', '.join(aliases) or 'the backup has none'}.")

    def _proof(self) -> Proof:
        order, collection, compared = self._restoration.order, self._restoration.collection, self._compared
        shards = plural(len(compared.shards), "shard")
        points = f"{plural(compared.points, 'point')} of {shards} compared one by one"
        if compared.left_out:
            points += f" ({compared.left_out})"
        return Proof(
            kind=VerificationKind.RESTORED,
            method=f"Restored into {collection!r} on {order.cluster.name!r}; {self._counted}; {points}.",
            points_compared=compared.points,
            details={
                "cluster": order.cluster.name,
                "collection": collection,
                "shards": [part.shard_id for part in self._restoration.parts],
                "compared_shards": compared.shards,
                "left_out": compared.left_out,
            },
        )

    def _fill(self) -> None:
        """Bring indexes and every replica of every shard to where they should be, and prove that they are."""
        run, plan, manifest = self._run, self._restoration.plan, self._restoration.manifest
        if plan.drop_indexes or plan.create_indexes:
            run.phase("payload indexes")
            for field in plan.drop_indexes:
                self._node.delete_index(plan.collection, field)
            for field in plan.create_indexes:
                self._node.create_index(plan.collection, field, index_schema(manifest.payload_schema[field]))
        topology = wait_until_active(self._restoration)
        sender = Sender(self._restoration)
        for part in self._restoration.parts:
            for replica in topology.of(part.shard_id):
                run.abort.check()
                run.phase(f"restoring shard {part.shard_id}")
                sender.send(part, replica.peer_id)
        run.phase("proving the result")
        topology = wait_until_active(self._restoration)
        self._counted = prove(self._restoration, topology)
        self._compared = compare_points(
            backup=self._restoration.order.backup,
            manifest=manifest,
            parts=self._restoration.parts,
            wanted=self._restoration.order.verify_points,
            store=self._restoration.store,
            fleet=self._restoration.fleet,
            topology=merge(self._restoration.fleet.placements(plan.collection)),
            collection=plan.collection,
            run=run,
        )


def _count(node: QdrantNode, collection: str) -> int | None:
    """Return how many points it holds; None when that cannot be told, for it may be why it is being replaced."""
    try:
        return node.count(collection)
    except (QdrantError, NotFound):
        return None


def _came_through(node: QdrantNode, switch: Switch, collection: str, error: QdrantError) -> bool:
    """Say whether the switch was made although its answer was an error; an answer that got lost is waited for.

    Raises: the error when the node does not tell: the next attempt, or the clean-up, finds out. Neither removes a
    collection that an alias leads to.
    """
    lost = isinstance(error, (QdrantTimeout, QdrantUnreachable))
    told, waiting = False, Abort()
    for _ in waiting.until(settings.BACKUPMGR_LOST_ANSWER_SECONDS if lost else POLL_SECONDS):
        with suppress(QdrantError):
            aliases = node.aliases()
            told = True
            if all(aliases.get(alias) == collection for alias in switch.aliases):
                return True
        waiting.sleep(POLL_SECONDS)
    if not told:
        raise error
    return False
