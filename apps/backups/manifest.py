"""The manifest: what makes a folder of parts a backup, and all that a restore needs to know.

Written last, so that its presence means that everything before it is there. Plain JSON, format 1:

    format, product, backup {name, job_id, attempt, started_at, created_at, shard_id},
    cluster {id, name}, node {version, peer_id},
    collection {name, config, payload_schema, aliases},
    shards [{shard_id, shard_key, points_min, points_max}], parts [{shard_id, file, size_bytes, sha256, snapshot}]

`points_min` equals `points_max` unless the collection was written to while its snapshot was made.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from apps.core.errors import BackupmgrError

FORMAT = 1
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

    @property
    def size_bytes(self) -> int:
        return sum(part.size_bytes for part in self.parts)

    @property
    def points_count(self) -> int:
        """Points in the backup; the upper bound when the collection was written to meanwhile."""
        return sum(shard.points_max for shard in self.shards)

    def shard(self, shard_id: int) -> ShardFacts:
        return next(shard for shard in self.shards if shard.shard_id == shard_id)

    def part(self, shard_id: int) -> PartFacts:
        return next(part for part in self.parts if part.shard_id == shard_id)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
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
    if not isinstance(document, dict) or document.get("product") != PRODUCT:
        raise ManifestInvalid("The file named manifest.json is not a manifest of backupmgr.")
    if not isinstance(document.get("format"), int) or document["format"] < 1:
        raise ManifestInvalid("The manifest does not say which format it has.")
    if document["format"] > FORMAT:
        raise ManifestTooNew(
            f"The manifest has format {document['format']}, this version of backupmgr reads up to {FORMAT}: "
            f"update backupmgr to restore this backup."
        )
    try:
        manifest = _read(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ManifestInvalid(f"The manifest lacks or garbles a field ({error}).") from error
    _check(manifest)
    return manifest


def _read(document: dict[str, Any]) -> Manifest:
    backup, cluster, node = document["backup"], document["cluster"], document["node"]
    collection = document["collection"]
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
            )
            for p in document["parts"]
        ),
    )


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
