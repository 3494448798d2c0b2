"""run_operation: what the queue calls to do what a request with `wait=false` asked for."""

from __future__ import annotations

import json
import logging
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import DatabaseError, connection
from django.utils import timezone

from apps.api.v1.locations import resolve
from apps.api.v1.passthrough import choose_node, passed_on
from apps.api.v1.recovery import recover
from apps.api.v1.snapshots import shown_snapshot
from apps.clusters.models import Purpose
from apps.clusters.qdrant import QdrantNode, create_snapshot
from apps.clusters.qdrant.endpoint import segment
from apps.clusters.qdrant.node import snapshots_path
from apps.core.abort import Abort
from apps.core.errors import BackupmgrError
from apps.jobs import drain
from apps.jobs.operations import NodeOperation, OperationKind, claim_operation, end_operation, keep_operation
from apps.jobs.runner import WORKER_ENV

logger = logging.getLogger(__name__)

_BEAT_SECONDS = 1.0
_DELETE_SECONDS = 120


class WorkerStopped(BackupmgrError):
    """The worker is being stopped while a node works."""


def run_operation(operation_id: str, **unknown: Any) -> str | None:
    """Do what the operation asks for, once, and write down its outcome; None when there was nothing to do."""
    if drain.requested():
        return None  # the tick delivers again
    worker = os.environ.get(WORKER_ENV, "")
    operation = claim_operation(operation_id=uuid.UUID(operation_id), worker=worker, now=timezone.now())
    if operation is None:
        return None
    outcome: dict[str, Any]
    try:
        with _heartbeat(operation) as abort, passed_on():
            outcome = _work(operation, abort)
    except BackupmgrError as error:
        outcome = {"error": str(error)}
    except Exception as error:  # the outer edge: every end is written down
        logger.exception("Operation %s failed in a way nobody foresaw", operation.pk)
        outcome = {"error": f"An internal error stopped it ({type(error).__name__}); the worker's log has the details."}
    end_operation(operation_id=operation.pk, now=timezone.now(), **outcome)
    return operation_id


def _work(operation: NodeOperation, abort: Abort) -> dict[str, Any]:
    """Return what end_operation is to write down. Raises: BackupmgrErrors."""
    collection, shard_id = operation.collection_name, operation.shard_id
    body = json.loads(operation.body.reveal() or "{}")
    source = resolve(body["location"]) if operation.kind == OperationKind.RECOVER else None
    purpose = Purpose.RESTORE if source is not None else Purpose.BACKUP
    chosen = choose_node(operation.cluster, collection, shard_id, operation.node or None, purpose)
    endpoint = chosen.endpoint
    if operation.kind == OperationKind.CREATE:
        made = create_snapshot(endpoint, collection, shard_id, abort)
        return {"result": shown_snapshot(made, chosen.peer_id), "snapshot_name": made.name}
    if source is not None:
        recover(endpoint, collection, shard_id, source, body)
        return {}
    with QdrantNode(endpoint) as node:
        path = f"{snapshots_path(collection, shard_id)}/{segment(operation.snapshot_name)}"
        node.call("DELETE", path, params={"wait": "true"}, timeout_seconds=_DELETE_SECONDS)
    return {}


@contextmanager
def _heartbeat(operation: NodeOperation) -> Iterator[Abort]:
    """While the block runs, say every second that somebody is at it, and look whether the worker is being stopped."""
    abort, done = Abort(), threading.Event()

    def beat() -> None:
        try:
            while not done.wait(_BEAT_SECONDS):
                if drain.requested():
                    abort.trip(
                        WorkerStopped("The worker was stopped before the node answered: look there what became of it.")
                    )
                try:
                    keep_operation(operation_id=operation.pk, now=timezone.now())
                except DatabaseError:
                    logger.warning("The heartbeat of operation %s could not be written; trying again", operation.pk)
                    connection.close()
        finally:
            connection.close()

    thread = threading.Thread(target=beat, name=f"heartbeat {operation.pk}", daemon=True)
    thread.start()
    try:
        yield abort
    finally:
        done.set()
        thread.join()
