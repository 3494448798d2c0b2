"""Endpoints of snapshots of collections and shards."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .archive import Sink
from .collection import Collection
from .errors import QdrantError, not_found
from .fetch import check_sha256
from .jsonbody import need, need_variant
from .messages import File, Request, Stream, Text, accepted
from .multipart import Upload, receive_upload
from .names import check_collection_name, parse_shard_id, shard_snapshot_name
from .recovery import Recovery
from .routing import Router
from .snapshots import Snapshots
from .store import Store

_PRIORITIES = ("no_sync", "snapshot", "replica")
_DEFAULT_PRIORITY = "snapshot"


class SnapshotsApi:
    """What clients do with snapshots."""

    def __init__(self, store: Store, snapshots: Snapshots, recovery: Recovery) -> None:
        self._store = store
        self._snapshots = snapshots
        self._recovery = recovery

    def register(self, router: Router) -> None:
        """Add the endpoints. Uploads read their body before `wait=false` lets go of the caller."""
        for base in ("/collections/{name}", "/collections/{name}/shards/{shard}"):
            router.add("GET", f"{base}/snapshots", self.list)
            router.add("POST", f"{base}/snapshots", self.create, access="manage", background=True)
            router.add("PUT", f"{base}/snapshots/recover", self.recover, access="manage", background=True)
            router.add("POST", f"{base}/snapshots/upload", self.upload, access="manage", plain=True)
            router.add("GET", f"{base}/snapshots/{{snapshot}}", self.download, plain=True)
            router.add("DELETE", f"{base}/snapshots/{{snapshot}}", self.delete, access="manage", background=True)
        router.add("GET", "/collections/{name}/shards/{shard}/snapshot", self.stream, access="manage", plain=True)

    def _place(
        self, request: Request, refused: str = "local or queue proxy shard"
    ) -> tuple[Collection, int | None, Path]:
        shard_id = parse_shard_id(request.params["shard"]) if "shard" in request.params else None
        collection = self._store.get(request.params["name"])
        if shard_id is not None:
            self._store.local_shard(collection, shard_id, refused)
        return collection, shard_id, self._snapshots.directory(collection.name, shard_id)

    def _shard(self, request: Request) -> tuple[Collection, int]:
        # Whoever recovers a shard need not have it yet.
        collection, shard_id = self._store.get(request.params["name"]), parse_shard_id(request.params["shard"])
        if shard_id not in self._store.replicas(collection):
            raise not_found(f"shard {shard_id} not found")
        return collection, shard_id

    def list(self, request: Request) -> list[dict[str, Any]]:
        """List the snapshots of a collection or shard."""
        return self._snapshots.list(self._place(request, "local shard")[2])

    def create(self, request: Request) -> dict[str, Any]:
        """Make a snapshot of a collection or shard."""
        collection, shard_id, _ = self._place(request)
        if shard_id is None:
            return self._snapshots.create_collection(collection)
        return self._snapshots.create_shard(collection, shard_id)

    def download(self, request: Request) -> File:
        """Send a snapshot."""
        return File(self._snapshots.find(self._place(request)[2], request.params["snapshot"]))

    def delete(self, request: Request) -> bool:
        """Delete a snapshot."""
        self._snapshots.delete(self._place(request)[2], request.params["snapshot"])
        return True

    def stream(self, request: Request) -> Stream:
        """Send a fresh snapshot of a shard that is never stored."""
        collection, shard_id, _ = self._place(request)
        assert shard_id is not None
        name = shard_snapshot_name(collection.name, shard_id, datetime.now(UTC))

        def write(sink: Sink) -> None:
            self._snapshots.stream_shard(collection, shard_id, sink)

        return Stream(name, write)

    def recover(self, request: Request) -> bool:
        """Put a snapshot in the place of a collection or shard; the source is an address or a file."""
        body = request.json()
        location = str(need(body, "location", request.raw))
        priority = need_variant(body.get("priority") or _DEFAULT_PRIORITY, _PRIORITIES, request.raw)
        checksum = check_sha256(body.get("checksum"))
        key = body.get("api_key")
        if "shard" in request.params:
            collection, shard_id = self._shard(request)
            directory = self._snapshots.directory(collection.name, shard_id)
            with self._snapshots.located_for_shard(directory, location, key, checksum) as archive:
                self._recovery.recover_shard(collection, shard_id, archive, priority)
            return True
        with self._snapshots.located(location, key, checksum) as archive:
            self._recovery.recover_collection(self._target(request), archive, priority)
        return True

    def upload(self, request: Request) -> Any:
        """Put an uploaded snapshot in the place of a collection or shard."""
        for_shard = "shard" in request.params
        priority = request.query.get("priority")
        if priority is not None and priority not in _PRIORITIES:
            return Text(
                400,
                f"Query deserialize error: unknown variant `{priority}`, expected one of "
                "`no_sync`, `snapshot`, `replica`",
            )
        checksum = request.query.get("checksum")
        if not for_shard:
            # The endpoint of shards takes any text here, and then finds that it does not match.
            check_sha256(checksum, "query parameters")
        apply = self._for_shard(request) if for_shard else self._for_collection(request)
        with self._snapshots.scratch("upload-") as scratch:
            try:
                upload = receive_upload(
                    request.body,
                    request.headers.get("Content-Type") or "",
                    "snapshot",
                    scratch / "upload.snapshot",
                )
            except QdrantError as error:
                return Text(error.status, error.message)
            self._snapshots.check_upload(upload.path, checksum)
            if not request.flag("wait", True):
                # The uploaded file lives only as long as this call, so the work is done within it; its
                # outcome is hidden all the same.
                with suppress(QdrantError):
                    apply(upload)
                return accepted()
            apply(upload)
        return None if for_shard else True

    def _for_shard(self, request: Request) -> Callable[[Upload], None]:
        collection, shard_id = self._shard(request)
        priority = request.query.get("priority", _DEFAULT_PRIORITY)
        return lambda upload: self._recovery.recover_shard(collection, shard_id, upload.path, priority)

    def _for_collection(self, request: Request) -> Callable[[Upload], None]:
        target = self._target(request)

        def apply(upload: Upload) -> None:
            kept = self._snapshots.keep_upload(target, upload.filename, upload.path)
            priority = request.query.get("priority", _DEFAULT_PRIORITY)
            self._recovery.recover_collection(target, kept, priority)

        return apply

    def _target(self, request: Request) -> str:
        # An alias stands for its collection: recovering onto it overwrites that.
        name = request.params["name"]
        collection = self._store.find(name)
        if collection is not None:
            return str(collection.name)
        check_collection_name(name)
        return name
