"""Snapshots of ours that were left on the nodes of a cluster.

What is ours is known in two ways. MadeSnapshot: a job wrote down that it had the node make it. The manifest of a
backup: it names the snapshot that each part was, and the node keeps its SHA-256; same name, same shard and same SHA-256
is the same file. Everything else on a node is somebody else's and is not even mentioned.
"""

from __future__ import annotations

import uuid
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta

from apps.backups.models import Backup, Part
from apps.backups.orphans import MadeSnapshot, OrphanKind
from apps.backups.reconcile.findings import Beat, Finding, JobBook, Limits
from apps.backups.stamps import begun_at, may_be_of
from apps.backups.traces import SnapshotTrace
from apps.clusters.models import Cluster
from apps.clusters.nodes import resolve_nodes
from apps.clusters.qdrant import CollectionNotFound, Endpoint, QdrantNode, SnapshotDescription
from apps.core.errors import BackupmgrError

#: Evidence of a snapshot that nobody has seen for so long is dropped.
FORGOTTEN_AFTER = timedelta(days=90)
TIMEOUT_SECONDS = 15.0


@dataclass
class NodeScan:
    """One look at all nodes of one cluster. `save` False leaves the evidence as it is."""

    cluster: Cluster
    book: JobBook
    limits: Limits
    beat: Beat
    save: bool = True
    looked_at: int = 0
    #: A sentence for each node that could not be looked at.
    problems: list[str] = field(default_factory=list)
    _seen: set[uuid.UUID] = field(default_factory=set)

    def run(self) -> Iterator[Finding]:
        """Yield what is left of ours. A node that cannot be asked is one of `problems`.

        Raises: BackupmgrError when none can be asked.
        """
        evidence = MadeSnapshot.objects.filter(cluster=self.cluster)
        wanted = set(evidence.values_list("collection_name", flat=True).distinct())
        wanted |= set(Backup.objects.filter(cluster=self.cluster).values_list("collection_name", flat=True).distinct())
        resolved = resolve_nodes(self.cluster, asks=1, timeout_seconds=TIMEOUT_SECONDS)
        resolved.demand_one_cluster()
        endpoints = [*resolved.endpoints.values()] or [resolved.first]
        self.problems += [
            f"Peer {peer} cannot be asked: it has no address here, or none that answers."
            for peer in resolved.unreachable
            if resolved.standalone is None
        ]
        existing: set[str] = set()
        for endpoint in endpoints:
            try:
                existing |= yield from self._node(endpoint, wanted)
            except BackupmgrError as error:
                self.problems.append(str(error))
        yield from self._half_restored(existing)
        if self.save and not self.problems:
            self._forget(existing)

    def _node(self, endpoint: Endpoint, wanted: set[str]) -> Generator[Finding, None, set[str]]:
        """Look at one node; return the names of its collections."""
        with QdrantNode(endpoint) as node:
            names = set(node.collections())
            for name in sorted(wanted & names):
                self.beat()
                self.looked_at += 1
                if self.book.is_busy(str(self.cluster.pk), name):
                    continue  # a new one among them could be that job's
                try:
                    shards = [shard.shard_id for shard in node.placement(name).local_shards]
                    for shard_id in shards:
                        yield from self._shard(node, name, shard_id)
                except CollectionNotFound:  # deleted meanwhile
                    continue
        return names

    def _shard(self, node: QdrantNode, collection: str, shard_id: int) -> Iterator[Finding]:
        snapshots = node.snapshots(collection, shard_id)
        if not snapshots:
            return
        made = list(MadeSnapshot.objects.filter(cluster=self.cluster, collection_name=collection, shard_id=shard_id))
        node_now = node.time(self.limits.now) or self.limits.now
        for snapshot in snapshots:
            begun = begun_at(snapshot, node_now)
            finding = self._judge(node, collection, shard_id, snapshot, made)
            if finding is not None and node_now - begun >= self.limits.age:
                yield finding

    def _judge(
        self, node: QdrantNode, collection: str, shard_id: int, snapshot: SnapshotDescription, made: list[MadeSnapshot]
    ) -> Finding | None:
        for row in made:
            if row.name == snapshot.name:
                self._seen.add(row.pk)
                if self._is_at_work(row.job_id):
                    return None
                same = bool(row.checksum) and row.checksum == snapshot.checksum
                reason = (
                    "A job had the node make it and could not delete it."
                    if same
                    else "A job had the node make one of this name, but the SHA-256 is not known to be the same."
                )
                return self._finding(node, collection, shard_id, snapshot, reason, same, row.job_id, row)
        backup = self._backup_of(collection, shard_id, snapshot)
        if backup is not None:
            if backup.job_id is not None and self._is_at_work(backup.job_id):
                return None
            reason = f"The manifest of {backup.path} names it, and the SHA-256 is the same."
            return self._finding(node, collection, shard_id, snapshot, reason, True, backup.job_id, None)
        for row in made:
            if not row.name and snapshot.name not in row.known and may_be_of(trace_of(row), snapshot):
                self._seen.add(row.pk)
                if self._is_at_work(row.job_id):
                    return None
                reason = "A job asked for one at that time and got no answer: it may be this, or somebody else's."
                return self._finding(node, collection, shard_id, snapshot, reason, False, row.job_id, row)
        return None

    def _backup_of(self, collection: str, shard_id: int, snapshot: SnapshotDescription) -> Backup | None:
        """Return the backup whose manifest names this very snapshot."""
        if not snapshot.checksum:
            return None
        parts = Part.objects.filter(
            sha256=snapshot.checksum,
            shard_id=shard_id,
            backup__cluster=self.cluster,
            backup__collection_name=collection,
        ).select_related("backup")
        for part in parts:
            named = [entry.get("snapshot") for entry in part.backup.manifest.get("parts", [])
                     if entry.get("shard_id") == shard_id]  # fmt: skip
            if snapshot.name in named:
                return part.backup
        return None

    def _finding(
        self,
        node: QdrantNode,
        collection: str,
        shard_id: int,
        snapshot: SnapshotDescription,
        reason: str,
        is_ours: bool,
        job_id: uuid.UUID | None,
        row: MadeSnapshot | None,
    ) -> Finding:
        return Finding(
            kind=OrphanKind.SNAPSHOT,
            name=snapshot.name,
            reason=reason,
            is_ours=is_ours,
            trace=self._removal(node, collection, shard_id, snapshot.name, row),
            cluster_id=self.cluster.pk,
            node_url=node.endpoint.url,
            collection_name=collection,
            shard_id=shard_id,
            job_id=job_id,
            size_bytes=snapshot.size_bytes,
        )

    def _removal(
        self, node: QdrantNode, collection: str, shard_id: int, name: str, row: MadeSnapshot | None
    ) -> SnapshotTrace:
        if row is not None:
            return replace(trace_of(row), name=name, node_url=node.endpoint.url)
        return SnapshotTrace(
            cluster_id=str(self.cluster.pk),
            collection=collection,
            shard_id=shard_id,
            requested_at=self.limits.now.isoformat(),
            name=name,
            node_url=node.endpoint.url,
        )

    def _half_restored(self, existing: set[str]) -> Iterator[Finding]:
        """Collections that a restore was replacing when it ended: nothing here can take that back."""
        for restore in self.book.broken_restores(self.cluster.pk, self.limits.now - FORGOTTEN_AFTER):
            name = restore.collection_name
            if name not in existing or self.book.is_busy(str(self.cluster.pk), name):
                continue
            yield Finding(
                kind=OrphanKind.COLLECTION,
                name=name,
                reason=f"A restore was replacing what it held and did not end well: restore it again. "
                f"{restore.error or 'It was cancelled.'}",
                cluster_id=self.cluster.pk,
                collection_name=name,
                shard_id=restore.shard_id,
                job_id=restore.job_id,
            )

    def _is_at_work(self, job_id: uuid.UUID) -> bool:
        facts = self.book.facts(job_id)
        return facts is not None and facts.is_active

    def _forget(self, existing: set[str]) -> None:
        """Drop evidence of what is certainly not there any more: all nodes were asked, and none lists it."""
        rows = MadeSnapshot.objects.filter(
            cluster=self.cluster, requested_at__lt=self.limits.now - max(self.limits.age, timedelta(hours=1))
        )
        for row in rows.iterator(chunk_size=1000):
            if row.pk in self._seen or self._is_at_work(row.job_id):
                continue
            if self.book.is_busy(str(self.cluster.pk), row.collection_name):
                continue
            old = row.requested_at < self.limits.now - FORGOTTEN_AFTER
            if row.collection_name in existing or old:
                row.delete()


def trace_of(row: MadeSnapshot) -> SnapshotTrace:
    """Return the trace of a snapshot that was written down."""
    return SnapshotTrace(
        cluster_id=str(row.cluster_id),
        collection=row.collection_name,
        shard_id=row.shard_id,
        requested_at=row.requested_at.isoformat(),
        known=tuple(row.known),
        name=row.name,
        node_time=row.node_time.isoformat() if row.node_time else "",
    )
