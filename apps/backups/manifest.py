"""The manifest: what makes a folder of parts a backup, and all that a restore needs to know.

Written last, so that its presence means that everything before it is there. Plain JSON, format 2:

    format, product, backup {name, job_id, attempt, started_at, created_at, shard_id},
    cluster {id, name}, node {version, peer_id}, nodes [{peer_id, url, version}],
    collection {name, config, payload_schema, aliases},
    shards [{shard_id, shard_key, points_min, points_max}], keys [{shard_key, shard_ids, points_min, points_max}],
    placement [{shard_id, peer_id, state}],
    parts [{shard_id, file, size_bytes, sha256, etag, snapshot, peer_id, why}]

`points_min` equals `points_max` unless the collection was written to while its snapshot was made. `placement` is where
every replica was, and in which state, when the backup was planned; `peer_id` and `why` of a part are those of the
replica that it was taken from. `node` is the one that was asked for what all nodes know alike.

Format 1 had no `nodes`, `keys` and `placement`, and its parts no `peer_id` and `why`. It is read for ever.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from apps.core.errors import BackupmgrError

FORMAT = 2
PRODUCT = "backupmgr"
_SHA256 = re.compile(r"^[0-9a-f]{64}$")
_FILE = re.compile(r"^shard-\d{1,9}\.snapshot$")


class ManifestInvalid(BackupmgrError):
    """What should be a manifest is none."""


class ManifestTooNew(ManifestInvalid):
    """The manifest was written by a later version of backupmgr: nothing is wrong with it."""


@dataclass(frozen=True)
class ShardFacts:
    """A shard when it was backed up: its key (custom sharding), and the bounds of how many points it held."""

    shard_id: int
    shard_key: str | int | None
    points_min: int
    points_max: int


@dataclass(frozen=True)
class PartFacts:
    """A file of the backup: the snapshot of one shard, byte for byte as Qdrant made it."""

    shard_id: int
    file: str
    size_bytes: int
    sha256: str
    etag: str
    #: Name of the snapshot on the node; for tracing, it was deleted there.
    snapshot: str
    #: The peer whose replica was taken, and why that one; None and "" in format 1.
    peer_id: int | None = None
    why: str = ""


@dataclass(frozen=True)
class PeerFacts:
    """A node of the cluster when it was backed up; `url` and `version` are "" for one that could not be asked."""

    #: None for a standalone node.
    peer_id: int | None
    url: str
    version: str


@dataclass(frozen=True)
class ReplicaFacts:
    """Where a replica of a shard was when the backup was planned, and in which state."""

    shard_id: int
    peer_id: int
    state: str


@dataclass(frozen=True)
class KeyFacts:
    """A shard key: the shards it had, and the bounds of how many points they held together."""

    shard_key: str | int
    shard_ids: tuple[int, ...]
    points_min: int
    points_max: int


@dataclass(frozen=True)
class Manifest:
    """A backup, completely described."""

    name: str
    job_id: str
    attempt: int
    started_at: datetime
    created_at: datetime
    cluster_id: str
    cluster_name: str
    qdrant_version: str
    peer_id: int | None
    collection_name: str
    #: Set when the backup holds one shard only.
    shard_id: int | None
    config: dict[str, Any]
    payload_schema: dict[str, Any]
    aliases: tuple[str, ...]
    shards: tuple[ShardFacts, ...]
    parts: tuple[PartFacts, ...]
    #: Every node of the cluster; in format 1 only the one that was asked, without its address.
    nodes: tuple[PeerFacts, ...] = ()
    #: Every replica of the shards in the backup, by shard and peer; empty in format 1.
    placement: tuple[ReplicaFacts, ...] = ()
    #: The format that it was written in: what was read is written the same again.
    format: int = FORMAT

    @property
    def size_bytes(self) -> int:
        return sum(part.size_bytes for part in self.parts)

    @property
    def points_count(self) -> int:
        """Points in the backup; the upper bound when the collection was written to meanwhile."""
        return sum(shard.points_max for shard in self.shards)

    @property
    def keys(self) -> tuple[KeyFacts, ...]:
        """The shard keys in the order of their ids; empty without custom sharding."""
        # 1 and "1" are two keys, and so they are here: they do not compare as equal.
        found: dict[str | int, list[ShardFacts]] = {}
        for shard in sorted(self.shards, key=lambda one: one.shard_id):
            if shard.shard_key is not None:
                found.setdefault(shard.shard_key, []).append(shard)
        return tuple(
            KeyFacts(
                key,
                tuple(shard.shard_id for shard in shards),
                sum(shard.points_min for shard in shards),
                sum(shard.points_max for shard in shards),
            )
            for key, shards in found.items()
        )

    def node_of(self, peer_id: int | None) -> PeerFacts | None:
        """Return what is known of a peer; a node that was alone stands for whatever id it gave itself."""
        if len(self.nodes) == 1 and self.nodes[0].peer_id is None:
            return self.nodes[0]
        return next((node for node in self.nodes if node.peer_id == peer_id), None)

    def replicas_of(self, shard_id: int) -> tuple[ReplicaFacts, ...]:
        return tuple(replica for replica in self.placement if replica.shard_id == shard_id)

    def shard(self, shard_id: int) -> ShardFacts:
        return next(shard for shard in self.shards if shard.shard_id == shard_id)

    def part(self, shard_id: int) -> PartFacts:
        return next(part for part in self.parts if part.shard_id == shard_id)

    def to_json(self) -> dict[str, Any]:
        """Return the document, in the format that the manifest was read in."""
        document = self._described()
        if self.format == 1:
            for part in document["parts"]:
                del part["peer_id"], part["why"]
            return document
        return document | {
            "nodes": [asdict(node) for node in self.nodes],
            "keys": [asdict(key) | {"shard_ids": list(key.shard_ids)} for key in self.keys],
            "placement": [asdict(replica) for replica in self.placement],
        }

    def _described(self) -> dict[str, Any]:
        """What every format holds."""
        return {
            "format": self.format,
            "product": PRODUCT,
            "backup": {
                "name": self.name,
                "job_id": self.job_id,
                "attempt": self.attempt,
                "started_at": self.started_at.isoformat(),
                "created_at": self.created_at.isoformat(),
                "shard_id": self.shard_id,
            },
            "cluster": {"id": self.cluster_id, "name": self.cluster_name},
            "node": {"version": self.qdrant_version, "peer_id": self.peer_id},
            "collection": {
                "name": self.collection_name,
                "config": self.config,
                "payload_schema": self.payload_schema,
                "aliases": list(self.aliases),
            },
            "shards": [asdict(shard) for shard in self.shards],
            "parts": [asdict(part) for part in self.parts],
        }

    def to_bytes(self) -> bytes:
        return (json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n").encode()


def parse_manifest(data: bytes) -> Manifest:
    """Read a manifest and check that it makes sense.

    Raises: ManifestInvalid.
    """
    try:
        document = json.loads(data)
    except ValueError as error:
        raise ManifestInvalid("The manifest is not JSON: it was altered or only partly written.") from error
    return manifest_of(document)


def manifest_of(document: Any) -> Manifest:
    """Read a manifest that is parsed JSON already, and check that it makes sense.

    Raises: ManifestInvalid; ManifestTooNew.
    """
    if not isinstance(document, dict) or document.get("product") != PRODUCT:
        raise ManifestInvalid("The file named manifest.json is not a manifest of backupmgr.")
    if type(document.get("format")) is not int or document["format"] < 1:
        raise ManifestInvalid("The manifest does not say which format it has.")
    if document["format"] > FORMAT:
        raise ManifestTooNew(
            f"The manifest has format {document['format']}, this version of backupmgr reads up to {FORMAT}: "
            f"update backupmgr to restore this backup. Nothing is wrong with it."
        )
    try:
        manifest = _read(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ManifestInvalid(f"The manifest lacks or garbles a field ({error}).") from error
    _check(manifest)
    if manifest.format > 1 and document.get("keys") != manifest.to_json()["keys"]:
        raise ManifestInvalid("The counts of the shard keys in the manifest are not those of their shards.")
    return manifest


def _read(document: dict[str, Any]) -> Manifest:
    backup, cluster, node = document["backup"], document["cluster"], document["node"]
    collection, is_first = document["collection"], document["format"] == 1
    return Manifest(
        name=str(backup["name"]),
        job_id=str(backup["job_id"]),
        attempt=int(backup["attempt"]),
        started_at=_moment(backup["started_at"]),
        created_at=_moment(backup["created_at"]),
        shard_id=None if backup["shard_id"] is None else int(backup["shard_id"]),
        cluster_id=str(cluster["id"]),
        cluster_name=str(cluster["name"]),
        qdrant_version=str(node["version"]),
        peer_id=node["peer_id"],
        collection_name=str(collection["name"]),
        config=dict(collection["config"]),
        payload_schema=dict(collection["payload_schema"]),
        aliases=tuple(str(alias) for alias in collection["aliases"]),
        shards=tuple(
            ShardFacts(int(s["shard_id"]), s["shard_key"], int(s["points_min"]), int(s["points_max"]))
            for s in document["shards"]
        ),
        parts=tuple(
            PartFacts(
                shard_id=int(p["shard_id"]),
                file=str(p["file"]),
                size_bytes=int(p["size_bytes"]),
                sha256=str(p["sha256"]),
                etag=str(p["etag"]),
                snapshot=str(p["snapshot"]),
                peer_id=None if is_first else _peer(p["peer_id"]),
                why="" if is_first else str(p["why"]),
            )
            for p in document["parts"]
        ),
        nodes=(
            (PeerFacts(node["peer_id"], "", str(node["version"])),)
            if is_first
            else tuple(
                PeerFacts(_peer(one["peer_id"]), str(one["url"]), str(one["version"])) for one in document["nodes"]
            )
        ),
        placement=(
            ()
            if is_first
            else tuple(
                ReplicaFacts(int(one["shard_id"]), int(one["peer_id"]), str(one["state"]))
                for one in document["placement"]
            )
        ),
        format=document["format"],
    )


def _peer(value: Any) -> int | None:
    return None if value is None else int(value)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time without a zone")
    return moment


def _check(manifest: Manifest) -> None:
    shard_ids = [shard.shard_id for shard in manifest.shards]
    part_ids = [part.shard_id for part in manifest.parts]
    if not part_ids or len(set(part_ids)) != len(part_ids) or sorted(part_ids) != sorted(shard_ids):
        raise ManifestInvalid("The manifest does not name exactly one part for each shard.")
    for part in manifest.parts:
        # The file name becomes part of a key: nothing but what we write ourselves.
        if not _FILE.match(part.file) or not _SHA256.match(part.sha256) or part.size_bytes <= 0:
            raise ManifestInvalid(f"The manifest describes the part of shard {part.shard_id} in a way that cannot be.")
    if "params" not in manifest.config or "vectors" not in manifest.config["params"]:
        raise ManifestInvalid("The manifest lacks the collection's configuration.")
