"""Having a node recover from a snapshot; for the request that waits and for the worker alike."""

from __future__ import annotations

from collections.abc import Mapping

from apps.api.v1.locations import Source, check_node_reads_files_safely
from apps.api.v1.passthrough import passed_on
from apps.clusters.qdrant import Endpoint, QdrantDenied, QdrantNode
from apps.clusters.qdrant.node import snapshots_path
from apps.core.errors import BackupmgrError, Unprocessable


def recover(
    endpoint: Endpoint, collection: str, shard_id: int | None, source: Source, wanted: Mapping[str, str]
) -> None:
    """Have the node recover from `source` and wait for the end.

    `wanted` holds priority and, if given, checksum and api_key (of the source). Raises: BackupmgrErrors, without the
    signature of a presigned source.
    """
    body = {"location": source.url, "priority": wanted["priority"]}
    if "checksum" in wanted:
        body["checksum"] = wanted["checksum"]
    if "api_key" in wanted and not source.is_presigned:
        body["api_key"] = wanted["api_key"]
    with passed_on(), QdrantNode(endpoint) as node:
        if source.is_file:
            check_node_reads_files_safely(node)
        try:
            _send(node, f"{snapshots_path(collection, shard_id)}/recover", body)
        except BackupmgrError as error:
            raise source.without_secrets(error) from None


def _send(node: QdrantNode, path: str, body: dict[str, str]) -> None:
    try:
        node.call(
            "PUT", path, params={"wait": "true"}, json=body, timeout_seconds=node.endpoint.snapshot_timeout_seconds
        )
    except QdrantDenied as error:
        if error.status == 403 and body["location"].startswith("file:"):
            raise Unprocessable(f"The node may not read that file: {error}") from error
        raise
