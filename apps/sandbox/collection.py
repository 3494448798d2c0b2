"""A collection: its configuration, its shards, and which shard a point belongs to."""

from __future__ import annotations

import json
import shutil
import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import qdrant_edge as edge

from .config import Config
from .errors import QdrantError, not_found
from .schema import FieldSchema, describe_field, edge_field_schema, schema_of_engine
from .shard import Shard, create_shard, open_shard


def write_json(path: Path, data: object) -> None:
    """Replace a small file in one step, so that a killed process leaves the old or the new one."""
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    part.write_text(json.dumps(data, ensure_ascii=False))
    part.replace(path)


class Collection:
    """One collection on disk: `collection.json` and one directory for each shard."""

    def __init__(self, path: Path, facts: dict[str, Any]) -> None:
        self.path = path
        self.name: str = facts["name"]
        # Tells a collection of a cluster from another that had its name before; "" on one node.
        self.identity: str = facts.get("identity", "")
        self.config: Config = facts["config"]
        self.schema: dict[str, FieldSchema] = facts["schema"]
        # Points of a restored snapshot may lie in other shards than our own rule would choose.
        self.placed_elsewhere: bool = facts["placed_elsewhere"]
        self._operations: int = facts["operations"]
        self._lock = threading.RLock()
        self.recovering = threading.Lock()
        self.shards: dict[int, Shard] = {}

    @classmethod
    def create(
        cls,
        path: Path,
        name: str,
        config: Config,
        shard_ids: Iterable[int],
        *,
        schema: dict[str, FieldSchema] | None = None,
        identity: str = "",
    ) -> Collection:
        """Make a collection with empty shards in a new directory. Raises: QdrantError; nothing is left then."""
        collection = cls._bare(path, name, config, dict(schema or {}))
        collection.identity = identity
        path.mkdir(parents=True)
        try:
            for shard_id in shard_ids:
                collection.shards[shard_id] = collection._empty_shard(shard_id)
            collection.save()
        except BaseException:
            collection.discard()
            raise
        return collection

    @classmethod
    def adopt(
        cls, path: Path, name: str, config: Config, schema: dict[str, FieldSchema], parts: Mapping[int, Path]
    ) -> Collection:
        """Make a collection out of unpacked shards, which are moved in.

        Raises: QdrantError; nothing is left then.
        """
        collection = cls._bare(path, name, config, schema)
        collection.placed_elsewhere = True
        path.mkdir(parents=True)
        try:
            for shard_id, part in parts.items():
                where = collection.new_shard_path(shard_id)
                part.rename(where)
                collection.shards[shard_id] = Shard(shard_id, where, open_shard(where, config, schema))
            collection.save()
        except BaseException:
            collection.discard()
            raise
        return collection

    def _empty_shard(self, shard_id: int) -> Shard:
        where = self.new_shard_path(shard_id)
        shard = Shard(shard_id, where, create_shard(where, self.config))
        for field, schema in self.schema.items():
            shard.update(edge.UpdateOperation.create_field_index(field, edge_field_schema(schema)))
        return shard

    @classmethod
    def load(cls, path: Path) -> Collection:
        """Open a collection that is on disk. Raises: QdrantError, OSError."""
        facts = json.loads((path / "collection.json").read_text())
        collection = cls(path, facts)
        for key, directory in facts["shards"].items():
            opened = open_shard(path / directory, collection.config, collection.schema)
            collection.shards[int(key)] = Shard(int(key), path / directory, opened)
        kept = {"collection.json", *facts["shards"].values()}
        for leftover in path.iterdir():
            if leftover.name not in kept and leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
        return collection

    @classmethod
    def _bare(cls, path: Path, name: str, config: Config, schema: dict[str, FieldSchema]) -> Collection:
        facts = {"name": name, "config": config, "schema": schema, "placed_elsewhere": False, "operations": 0}
        return cls(path, facts)

    def save(self) -> None:
        """Write `collection.json`."""
        with self._lock:
            facts = {
                "name": self.name,
                "identity": self.identity,
                "config": self.config,
                "schema": self.schema,
                "placed_elsewhere": self.placed_elsewhere,
                "operations": self._operations,
                "shards": {str(shard_id): shard.path.name for shard_id, shard in self.shards.items()},
            }
            write_json(self.path / "collection.json", facts)

    def new_shard_path(self, shard_id: int) -> Path:
        """Return a directory for a shard's data that no shard has had before."""
        return self.path / f"shard-{shard_id}-{uuid.uuid4().hex[:12]}"

    def discard(self) -> None:
        """Close the shards and delete everything; what cannot be closed is deleted all the same."""
        self.close()
        shutil.rmtree(self.path, ignore_errors=True)

    def close(self) -> None:
        """Flush and close all shards."""
        for shard in self.shards.values():
            try:
                shard.close()
            except QdrantError:
                continue  # it is closed already, or broken: nothing more can be done for it
        if self.path.is_dir() and self.shards:
            self.save()

    def shard(self, shard_id: int) -> Shard:
        """Return a shard. Raises: QdrantError (404)."""
        try:
            return self.shards[shard_id]
        except KeyError:
            raise not_found(f"shard {shard_id} not found") from None

    def next_operation(self, steps: int = 1) -> int:
        """Count an update and return its id. Creating or dropping an index counts twice, as in Qdrant."""
        with self._lock:
            self._operations += steps
            return self._operations

    def set_shards(self, wanted: Sequence[int]) -> None:
        """Have these shards from now on: new ones are empty, the data of the others is deleted. Raises: QdrantError."""
        with self._lock:
            gone = [self.shards.pop(shard_id) for shard_id in set(self.shards) - set(wanted)]
            for shard_id in sorted(set(wanted) - set(self.shards)):
                self.shards[shard_id] = self._empty_shard(shard_id)
            self.save()
        for shard in gone:
            shard.discard()

    def replace_shard(self, shard_id: int, path: Path, opened: edge.EdgeShard) -> None:
        """Serve a shard from another directory of this collection, and delete what it had before."""
        with self._lock:
            self.placed_elsewhere = True
        self.shard(shard_id).replace(path, opened, self.save)

    def create_index(self, field: str, schema: FieldSchema) -> int:
        """Index a payload field in every shard and return the operation's id. Raises: QdrantError."""
        for shard in self.shards.values():
            shard.update(edge.UpdateOperation.create_field_index(field, edge_field_schema(schema)))
        with self._lock:
            self.schema[field] = schema
            self.save()
        return self.next_operation(2)

    def delete_index(self, field: str) -> int:
        """Drop the index of a payload field, if there is one, and return the operation's id."""
        for shard in self.shards.values():
            shard.update(edge.UpdateOperation.delete_field_index(field))
        with self._lock:
            self.schema.pop(field, None)
            self.save()
        return self.next_operation(2)

    def set_config(self, config: Config) -> None:
        """Take a changed configuration and write it down."""
        with self._lock:
            self.config = config
            self.save()

    def describe(self, infos: Sequence[Any]) -> dict[str, Any]:
        """Return CollectionInfo as GET /collections/{name} gives it, made of the infos of all shards."""
        indexed: dict[str, dict[str, Any]] = {}
        for info in infos:
            for field, found in info.payload_schema.items():
                if field in indexed:
                    indexed[field]["points"] += found.points
                else:
                    schema = self.schema[field] if field in self.schema else schema_of_engine(found)
                    indexed[field] = describe_field(schema, found.points)
        return {
            "status": "green",
            "optimizer_status": "ok",
            "indexed_vectors_count": sum(info.indexed_vectors_count for info in infos),
            "points_count": sum(info.points_count for info in infos),
            "segments_count": sum(info.segments_count for info in infos),
            "config": self.config,
            "payload_schema": indexed,
            "update_queue": {"length": 0},
        }
