"""Bring a part of a backup to a node: the node fetches it by itself, or the worker sends the bytes."""

from __future__ import annotations

from time import monotonic

from django.conf import settings

from apps.backups.manifest import PartFacts
from apps.backups.restore_order import Restoration
from apps.backups.transfer import chunks
from apps.clusters.qdrant import Endpoint, QdrantDenied, QdrantError, recover_snapshot, upload_snapshot
from apps.core.errors import NotFound
from apps.core.text import format_rate, format_size


class Sender:
    """Restores replicas of shards, one after another. What a node could not fetch is sent from then on."""

    def __init__(self, restoration: Restoration) -> None:
        self._restoration = restoration
        self._run = restoration.run
        self._pull_refused = False

    def send(self, part: PartFacts, peer_id: int) -> None:
        """Restore one replica of a shard: the node pulls a presigned address, or else we send the bytes.

        Every replica gets the same file. Left to Qdrant, the others would be dead until it has copied them itself.
        Raises: QdrantError, StorageError; the reason of the abort.
        """
        started = monotonic()
        endpoint = self._restoration.fleet.node(peer_id).endpoint
        way = "pulled by the node" if self._pull(part, endpoint) else "sent to the node"
        if way == "sent to the node":
            self._upload(part, endpoint)
        seconds = max(monotonic() - started, 1e-3)
        self._run.tell(
            f"Shard {part.shard_id} restored{self._restoration.on_peer(peer_id)} ({way}), "
            f"{format_size(part.size_bytes)}, {format_rate(part.size_bytes / seconds)}.",
            shard_id=part.shard_id,
            bytes=part.size_bytes,
            seconds=round(seconds, 3),
            way=way,
        )

    def _pull(self, part: PartFacts, endpoint: Endpoint) -> bool:
        """Let the node fetch the part by itself; False when it cannot, and nothing has been changed then."""
        url = None
        if not self._pull_refused:
            url = self._restoration.store.presign(self._key(part), settings.BACKUPMGR_PRESIGN_SECONDS)
        if url is None:
            return False
        collection = self._restoration.collection
        try:
            recover_snapshot(endpoint, collection, part.shard_id, url, part.sha256, self._run.abort)
        except (QdrantError, NotFound) as error:
            status = error.status if isinstance(error, QdrantError) else error.http_status
            if status is None or (isinstance(error, QdrantDenied) and status == 401):
                raise
            # The node cannot reach the storage, or is not allowed to pull. Its words would show the signed
            # address: they stay out of the story.
            self._pull_refused = True
            self._run.warn(
                f"Qdrant could not fetch shard {part.shard_id} from the storage by itself (answer {status}); "
                f"sending it instead."
            )
            return False
        self._run.advance(part.size_bytes)
        return True

    def _upload(self, part: PartFacts, endpoint: Endpoint) -> None:
        with self._restoration.store.source(self._key(part), self._run.abort) as source:
            upload_snapshot(
                endpoint,
                self._restoration.collection,
                part.shard_id,
                chunks(source, self._run.abort, self._run.advance),
                part.size_bytes,
                part.sha256,
                self._run.abort,
            )

    def _key(self, part: PartFacts) -> str:
        return f"{self._restoration.order.backup.path}/{part.file}"
