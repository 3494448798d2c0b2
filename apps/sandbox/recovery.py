"""Putting snapshots in the place of collections and shards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .archive import unpack_collection, unpack_shard
from .collection import Collection
from .config import config_of_snapshot, explain_vectors
from .errors import QdrantError, internal, wrong_input
from .schema import FieldSchema, check_field_schema
from .shard import open_shard
from .snapshots import Snapshots
from .store import Store


class Recovery:
    """Recoveries of a node that is alone. Priorities make no difference there: no other replica could win."""

    def __init__(self, store: Store, snapshots: Snapshots) -> None:
        self._store = store
        self._snapshots = snapshots

    def recover_collection(self, name: str, archive: Path, priority: str) -> None:
        """Put an archive in the place of a collection, which is created when it is missing.

        Live data is left alone until every shard is unpacked and opened. Raises: QdrantError.
        """
        with (
            self._snapshots.running(self._snapshots.recovering, name),
            self._snapshots.scratch("recover-") as scratch,
        ):
            target = scratch / "unpacked"
            shards = unpack_collection(archive, target)
            config = config_of_snapshot(read_json(target / "config.json"))
            if shards != list(range(config["params"]["shard_number"])):
                raise internal("Can't restore snapshot in local mode with missing data at some shard")
            collection = self._store.find(name)
            if collection is None:
                schema = snapshot_schema(target / "payload_index.json")
                parts = {shard_id: target / str(shard_id) for shard_id in shards}
                path = self._store.new_collection_path()
                self._store.add(Collection.adopt(path, name, config, schema, parts))
                return
            check_compatible(collection, config)
            with collection.recovering:
                replace_shards(collection, {shard_id: target / str(shard_id) for shard_id in shards})

    def recover_shard(self, collection: Collection, shard_id: int, archive: Path, priority: str) -> None:
        """Put an archive in the place of one shard; nothing is compared but what the engine compares.

        Live data is left alone until the archive is unpacked and opened. Raises: QdrantError.
        """
        collection.shard(shard_id)
        with (
            self._snapshots.running(self._snapshots.recovering, collection.name),
            self._snapshots.scratch("recover-") as scratch,
        ):
            target = scratch / "unpacked"
            unpack_shard(archive, target)
            with collection.recovering:
                replace_shards(collection, {shard_id: target})


def replace_shards(collection: Collection, parts: Mapping[int, Path]) -> None:
    """Move unpacked shards in, all of them or none. Raises: QdrantError when the engine refuses one."""
    ready: dict[int, tuple[Path, Any]] = {}
    try:
        for shard_id, part in parts.items():
            path = collection.new_shard_path(shard_id)
            part.rename(path)
            ready[shard_id] = (path, None)
            ready[shard_id] = (path, open_shard(path, collection.config, collection.schema))
    except BaseException:
        for path, opened in ready.values():
            if opened is not None:
                opened.close()
            shutil.rmtree(path, ignore_errors=True)
        raise
    for shard_id, (path, opened) in ready.items():
        collection.replace_shard(shard_id, path, opened)


def check_compatible(collection: Collection, config: dict[str, Any]) -> None:
    """Compare what Qdrant compares of a snapshot and its target. Raises: QdrantError (400)."""
    ours, theirs = collection.config["params"], config["params"]
    if ours["vectors"] != theirs["vectors"]:
        collection_has, snapshot_has = explain_vectors(collection.config), explain_vectors(config)
        raise wrong_input(
            "Snapshot is not compatible with existing collection: "
            f"Collection vectors: {collection_has} Snapshot Vectors: {snapshot_has}"
        )
    if ours["shard_number"] != theirs["shard_number"]:
        collection_has, snapshot_has = ours["shard_number"], theirs["shard_number"]
        raise wrong_input(
            "Snapshot is not compatible with existing collection: "
            f"Collection shard number: {collection_has} Snapshot shard number: {snapshot_has}"
        )


def read_json(path: Path) -> Any:
    """Read a JSON file of a snapshot. Raises: QdrantError (500)."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise internal(f"Failed to read {path.name} of the snapshot: {error}") from error


def snapshot_schema(path: Path) -> dict[str, FieldSchema]:
    """Read the payload indexes of a collection snapshot; none when it has no such file. Raises: QdrantError (500)."""
    if not path.is_file():
        return {}
    data = read_json(path)
    raw = path.read_bytes()
    try:
        return {field: check_field_schema(value, raw) for field, value in data["schema"].items()}
    except (KeyError, TypeError, AttributeError, QdrantError) as error:
        raise internal(f"Failed to read {path.name} of the snapshot") from error
