"""Everything a node keeps: its identity, its collections and the aliases, in one data directory.

node.json  aliases.json  collections/{uuid}/  snapshots/{collection}/[shards/{id}/]  tmp/
"""

from __future__ import annotations

import json
import secrets
import shutil
import threading
import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from .aliases import changed_aliases
from .collection import Collection, write_json
from .config import Config
from .errors import already_exists, bad_request, no_collection, wrong_input
from .placement import ShardKey, worded_key
from .reach import LocalTarget, Target
from .schema import FieldSchema
from .shard import Shard


class Store:
    """The collections of a node by name. Safe to use from many threads."""

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir
        self.snapshots_path = data_dir / "snapshots"
        self.temp_path = data_dir / "tmp"
        self._lock = threading.RLock()
        self._collections: dict[str, Collection] = {}
        self._aliases: dict[str, str] = {}
        self.peer_id = 0
        self.telemetry_id = ""

    def open(self) -> None:
        """Load what is on disk and throw away what unfinished work left. Raises: QdrantError, OSError."""
        shutil.rmtree(self.temp_path, ignore_errors=True)
        for path in (self.path, self.snapshots_path, self.temp_path, self.path / "collections"):
            path.mkdir(parents=True, exist_ok=True)
        identity = self.path / "node.json"
        if not identity.is_file():
            # Qdrant's peer ids are below 2**53, so that they survive as JSON numbers.
            write_json(identity, {"peer_id": secrets.randbits(52) + 1, "telemetry_id": str(uuid.uuid4())})
        facts = json.loads(identity.read_text())
        self.peer_id, self.telemetry_id = facts["peer_id"], facts["telemetry_id"]
        aliases = self.path / "aliases.json"
        self._aliases = json.loads(aliases.read_text()) if aliases.is_file() else {}
        for path in (self.path / "collections").iterdir():
            if (path / "collection.json").is_file():
                collection = Collection.load(path)
                self._collections[collection.name] = collection
            else:
                shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        """Flush and close all collections."""
        with self._lock:
            for collection in self._collections.values():
                collection.close()
            self._collections.clear()

    def flush(self) -> None:
        """Write what changed to disk."""
        for collection in self.collections():
            for shard in list(collection.shards.values()):
                shard.flush()

    def collections(self) -> list[Collection]:
        """Return all collections, sorted by name."""
        with self._lock:
            return [self._collections[name] for name in sorted(self._collections)]

    def find(self, name: str) -> Collection | None:
        """Return the collection with this name or alias, None when there is none."""
        with self._lock:
            return self._collections.get(self._aliases.get(name, name))

    def get(self, name: str) -> Collection:
        """Return the collection with this name or alias. Raises: QdrantError (404)."""
        collection = self.find(name)
        if collection is None:
            raise no_collection(name)
        return collection

    def new_collection_path(self) -> Path:
        """Return a directory for a collection; its name may be too long or too odd for a directory."""
        return self.path / "collections" / uuid.uuid4().hex

    def create(self, name: str, config: Config) -> None:
        """Make an empty collection. Raises: QdrantError (409 when the name is taken)."""
        with self._lock:
            if name in self._collections or name in self._aliases:
                raise already_exists(name)
            # With custom sharding shards come with their keys, which only a cluster can create.
            custom = config["params"].get("sharding_method") == "custom"
            shard_ids = range(0 if custom else config["params"]["shard_number"])
            self._collections[name] = Collection.create(self.new_collection_path(), name, config, shard_ids)

    def add(self, collection: Collection) -> None:
        """Take in a restored collection. Raises: QdrantError (409); the collection is deleted then."""
        with self._lock:
            if collection.name not in self._collections and collection.name not in self._aliases:
                self._collections[collection.name] = collection
                return
        collection.discard()
        raise already_exists(collection.name)

    def delete(self, name: str) -> bool:
        """Delete a collection and its aliases; its snapshots stay. Return whether it was there."""
        with self._lock:
            collection = self._collections.pop(self._aliases.get(name, name), None)
            if collection is None:
                return False
            kept = {alias: target for alias, target in self._aliases.items() if target != collection.name}
            self._save_aliases(kept)
        collection.discard()
        return True

    def aliases(self, collection: str | None = None) -> list[dict[str, str]]:
        """Return all aliases, or those of one collection, sorted by name."""
        with self._lock:
            return [
                {"alias_name": alias, "collection_name": target}
                for alias, target in sorted(self._aliases.items())
                if collection is None or target == collection
            ]

    def change_aliases(self, actions: list[dict[str, Any]]) -> None:
        """Apply create, delete and rename actions: all of them, or none. Raises: QdrantError."""
        with self._lock:
            self._save_aliases(changed_aliases(self._aliases, self._collections, actions))

    def _save_aliases(self, aliases: dict[str, str]) -> None:
        if aliases != self._aliases:
            write_json(self.path / "aliases.json", aliases)
            self._aliases = aliases

    # What differs in a cluster: `MemberStore` does these together with the other nodes.

    def set_config(self, collection: Collection, config: Config) -> None:
        """Change the configuration of a collection."""
        collection.set_config(config)

    def create_index(self, collection: Collection, field: str, schema: FieldSchema) -> int:
        """Index a payload field in every shard and return the operation's id. Raises: QdrantError."""
        return collection.create_index(field, schema)

    def delete_index(self, collection: Collection, field: str) -> int:
        """Drop the index of a payload field, if there is one, and return the operation's id."""
        return collection.delete_index(field)

    def targets(self, collection: Collection, keys: Sequence[ShardKey] | None) -> list[Target]:
        """Return the shards to read, those of some shard keys when given. Raises: QdrantError (400)."""
        for key in keys or ():
            raise bad_request(f"Shard key {worded_key(key)} not found")
        return [LocalTarget(shard) for shard in list(collection.shards.values())]

    def written_targets(self, collection: Collection, keys: Sequence[ShardKey] | None) -> list[list[Target]]:
        """Return the shards points go to: a list for each key, within which a point has one home.

        Raises: QdrantError (400).
        """
        for key in keys or ():
            raise wrong_input(f"Shard key {worded_key(key)} not found")
        return [self.targets(collection, None)]

    def writing(self, collection: Collection) -> AbstractContextManager[None]:
        """Hold this while points are written."""
        return nullcontext()

    def placement(self, collection: Collection) -> dict[str, Any]:
        """Return GET /collections/{name}/cluster: all shards are here and active."""
        shards = sorted(collection.shards.items())
        return {
            "peer_id": self.peer_id,
            "shard_count": len(shards),
            "local_shards": [
                {"shard_id": shard_id, "points_count": shard.info().points_count, "state": "Active"}
                for shard_id, shard in shards
            ],
            "remote_shards": [],
            "shard_transfers": [],
        }

    def keys(self, collection: Collection) -> list[ShardKey] | None:
        """Return the shard keys, None without custom sharding or where keys cannot be."""
        return None

    def replicas(self, collection: Collection) -> dict[int, dict[int, str]]:
        """Return the states of all replicas by shard and peer."""
        return {shard_id: {self.peer_id: "Active"} for shard_id in collection.shards}

    def key_mapping(self, collection: Collection) -> list[dict[str, Any]]:
        """Return `shard_key_mapping.json` of a snapshot."""
        return []

    def local_shard(self, collection: Collection, shard_id: int, refused: str = "") -> Shard:
        """Return a replica on this node. Raises: QdrantError (404); `refused` words it when it is elsewhere."""
        return collection.shard(shard_id)

    def peers(self) -> list[int] | None:
        """Return the ids of all peers, None for a node that is alone."""
        return None
