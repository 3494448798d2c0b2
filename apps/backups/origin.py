"""Where a backup came from: nodes, shard keys and replicas, as the manifest in the catalogue tells them."""

from __future__ import annotations

from dataclasses import dataclass

from apps.backups.manifest import KeyFacts, Manifest, ManifestInvalid, PeerFacts, manifest_of
from apps.backups.models import Backup


@dataclass(frozen=True)
class TakenReplica:
    """A replica as it was when the backup was planned. `taken`: the part of its shard was made from it, because of
    `why`.
    """

    shard_id: int
    peer_id: int
    state: str
    taken: bool
    why: str


@dataclass(frozen=True)
class Origin:
    """All three are empty for a backup whose manifest in the catalogue cannot be read."""

    #: In manifests of format 1 only the node that was asked, without its address.
    nodes: tuple[PeerFacts, ...] = ()
    keys: tuple[KeyFacts, ...] = ()
    #: Empty for manifests of format 1.
    replicas: tuple[TakenReplica, ...] = ()


def origin_of(backup: Backup) -> Origin:
    """Read it from the catalogue; the storage is not asked."""
    try:
        manifest = manifest_of(backup.manifest)
    except ManifestInvalid:
        return Origin()
    return Origin(manifest.nodes, manifest.keys, tuple(_replicas(manifest)))


def _replicas(manifest: Manifest) -> list[TakenReplica]:
    parts = {part.shard_id: part for part in manifest.parts}
    found = []
    for replica in manifest.placement:
        part = parts.get(replica.shard_id)
        is_taken = part is not None and part.peer_id == replica.peer_id
        why = part.why if part is not None and is_taken else ""
        found.append(TakenReplica(replica.shard_id, replica.peer_id, replica.state, is_taken, why))
    return found
