"""Everything a node keeps: its identity, its collections and the aliases, in one data directory.

node.json  aliases.json  collections/{uuid}/  snapshots/{collection}/[shards/{id}/]  tmp/
"""

from __future__ import annotations

import json
import secrets
import shutil
import threading
import uuid
from pathlib import Path
from typing import Any

from .collection import Collection, write_json
from .config import Config
from .errors import already_exists, bad_format, bad_request, no_collection, not_found


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
            self._collections[name] = Collection.create(self.new_collection_path(), name, config)

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
            changed = dict(self._aliases)
            for action in actions:
                self._change_alias(changed, action)
            self._save_aliases(changed)

    def _change_alias(self, aliases: dict[str, str], action: dict[str, Any]) -> None:
        try:
            [(kind, names)] = action.items()
            if kind == "create_alias":
                alias, target = names["alias_name"], names["collection_name"]
                if target not in self._collections:
                    raise no_collection(target)
                if alias in self._collections:
                    raise already_exists(alias)
                aliases[alias] = target
            elif kind == "delete_alias":
                aliases.pop(names["alias_name"], None)
            elif kind == "rename_alias":
                old, new = names["old_alias_name"], names["new_alias_name"]
                if old not in aliases:
                    raise not_found(f"Alias {old} does not exists!")
                if new in self._collections:
                    raise already_exists(new)
                aliases[new] = aliases.pop(old)
            else:
                raise bad_request(f"unknown alias action {kind}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise bad_format("data did not match any variant of untagged enum AliasOperations") from error

    def _save_aliases(self, aliases: dict[str, str]) -> None:
        if aliases != self._aliases:
            write_json(self.path / "aliases.json", aliases)
            self._aliases = aliases
