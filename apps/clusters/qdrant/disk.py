"""How full a node's disk is, where Qdrant tells: `GET /quotas`, from 1.19 on."""

from __future__ import annotations

from apps.clusters.qdrant.node import QdrantNode, read_answer


def disk_usage_percent(node: QdrantNode) -> int | None:
    """Return how full the file system of the node's data is; None when it does not tell (before 1.19, or on a platform
    that does not let it know). Source: `usage.disk_usage_percent` in Qdrant's REST reference 1.19.

    Raises: QdrantError.
    """
    response = node.send("GET", "/quotas")
    if response.status_code == 404:
        return None
    answer = read_answer(node.endpoint, response.status_code, response.content)
    usage = answer.get("usage") if isinstance(answer, dict) else None
    percent = usage.get("disk_usage_percent") if isinstance(usage, dict) else None
    return percent if type(percent) is int and 0 <= percent <= 100 else None
