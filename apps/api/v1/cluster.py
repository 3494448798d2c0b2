"""The cluster as Qdrant sees it: health, raft, peers and what they hold."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.fields import EnumField, PeerIdField
from apps.api.schema import operation
from apps.api.v1.passthrough import ClusterQuery, QdrantView
from apps.clusters.nodes import ResolvedCluster
from apps.clusters.qdrant import CollectionNotFound, Placement, QdrantError, QdrantNode
from apps.clusters.registry import NodeReport
from apps.core.permissions import Scope

TAG = "cluster"
GREEN, YELLOW, RED = "green", "yellow", "red"


class PeerSerializer(serializers.Serializer[Any]):
    """A peer as raft knows it."""

    uri = serializers.CharField(help_text="Address between peers; of a standalone node its REST address")


class RaftInfoSerializer(serializers.Serializer[Any]):
    """Raft's state. A standalone node has no raft: it leads itself, and the numbers are 0."""

    term = serializers.IntegerField()
    commit = serializers.IntegerField()
    pending_operations = serializers.IntegerField()
    leader = PeerIdField(help_text="Peer id; 0 while there is no leader")
    role = serializers.CharField()
    is_voter = serializers.BooleanField()


class ClusterStatusSerializer(serializers.Serializer[Any]):
    """Health of the cluster. `problems` says why it is not green."""

    status = EnumField("ClusterHealth", [GREEN, YELLOW, RED])
    peer_id = PeerIdField(help_text="0 when a standalone node has not told it yet (no collection)")
    peers = serializers.DictField(child=PeerSerializer())
    raft_info = RaftInfoSerializer()
    distributed = serializers.BooleanField(help_text="false on a standalone node")
    problems = serializers.ListField(child=serializers.CharField())


class ClusterNodeSerializer(serializers.Serializer[Any]):
    """A peer and what it holds."""

    peer_id = PeerIdField()
    uri = serializers.CharField()
    is_leader = serializers.BooleanField()
    is_voter = serializers.BooleanField(allow_null=True, help_text="null when that node cannot be asked")
    collections_count = serializers.IntegerField(help_text="Collections with a replica on it")
    shards_count = serializers.IntegerField(help_text="Replicas on it")
    url = serializers.CharField(allow_blank=True, help_text="REST address; empty when none is registered")
    version = serializers.CharField(allow_null=True, help_text="null when that node cannot be asked")


class ClusterStatusView(QdrantView):
    scopes = {"GET": Scope.READ}

    @operation(
        "getClusterStatus", "Health, raft and peers", tag=TAG, query=[ClusterQuery], answer=ClusterStatusSerializer
    )
    def get(self, request: Request) -> Response:
        with self.first_of_all() as (node, nodes):
            answer = node.call("GET", "/cluster")
            ready = node.is_ready()
            if answer.get("status") != "enabled":
                return Response(_standalone(node, ready=ready))
            return Response(_distributed(answer, ready=ready, nodes=nodes))


class ClusterNodesView(QdrantView):
    scopes = {"GET": Scope.READ}

    @operation(
        "listClusterNodes",
        "One entry a peer",
        tag=TAG,
        query=[ClusterQuery],
        answer=ClusterNodeSerializer(many=True),
    )
    def get(self, request: Request) -> Response:
        with self.first_of_all() as (node, nodes):
            version = _version(node)
            answer = node.call("GET", "/cluster")
            placements = _placements(node)
            if answer.get("status") != "enabled":
                answer = _standalone(node, ready=True)
            url = node.endpoint.url
        raft = answer.get("raft_info") or {}
        known = {each.peer_id: each for each in nodes.report.nodes if each.is_usable} if nodes else {}
        known[answer["peer_id"]] = NodeReport(
            answer["peer_id"], url, version=version, is_voter=bool(raft.get("is_voter"))
        )
        registered = {peer: url for url, peer in self.cluster().addresses.items() if peer is not None}
        return Response(
            [
                {
                    "peer_id": peer,
                    "uri": entry["uri"],
                    "is_leader": peer == raft.get("leader"),
                    "is_voter": known[peer].is_voter if peer in known else None,
                    "url": known[peer].url if peer in known else registered.get(peer, ""),
                    "version": known[peer].version if peer in known else None,
                    "collections_count": sum(1 for held in placements if held.get(peer)),
                    "shards_count": sum(held.get(peer, 0) for held in placements),
                }
                for peer, entry in sorted((int(peer), entry) for peer, entry in answer["peers"].items())
            ]
        )


def _version(node: QdrantNode) -> str | None:
    """Return the version of Qdrant, None when the node does not tell it."""
    try:
        answer = node.call("GET", "/", enveloped=False)
    except QdrantError:
        return None
    return str(answer["version"]) if isinstance(answer, dict) and "version" in answer else None


def _standalone(node: QdrantNode, *, ready: bool) -> dict[str, Any]:
    """Describe a node outside any cluster, in a cluster's terms."""
    peer_id = _own_peer_id(node)
    return {
        "status": GREEN if ready else YELLOW,
        "peer_id": peer_id,
        "peers": {str(peer_id): {"uri": node.endpoint.url}},
        "raft_info": {
            "term": 0,
            "commit": 0,
            "pending_operations": 0,
            "leader": peer_id,
            "role": "Leader",
            "is_voter": True,
        },
        "distributed": False,
        "problems": [] if ready else ["The node says that not all of its shards are ready."],
    }


def _own_peer_id(node: QdrantNode) -> int:
    """Return the id that a standalone node gives itself (only the placement of a collection tells), 0 for none."""
    for name in node.collections()[:1]:
        try:
            return node.placement(name).peer_id
        except CollectionNotFound:  # deleted just now
            break
    return 0


def _distributed(answer: dict[str, Any], *, ready: bool, nodes: ResolvedCluster | None) -> dict[str, Any]:
    raft = answer.get("raft_info") or {}
    peers = answer.get("peers") or {}
    red, yellow = [], []
    thread = answer.get("consensus_thread_status") or {}
    if thread.get("consensus_thread_status", "working") != "working":
        red.append(f"Consensus has stopped on this node: {thread.get('err') or 'no reason given'}.")
    if not raft.get("leader"):
        red.append("The peers have no leader: more than half of them must be reachable.")
    failing = answer.get("message_send_failures") or {}
    if failing:
        yellow.append(f"Peers that cannot be reached from here: {', '.join(sorted(failing))}.")
    if len(failing) * 2 >= len(peers) > 1:
        red.append("Half of the peers or more cannot be reached from here.")
    if raft.get("pending_operations"):
        yellow.append(f"{raft['pending_operations']} consensus operations are pending.")
    if not ready:
        yellow.append("The node says that not all of its shards are ready.")
    yellow += _silent_nodes(nodes, but=answer["peer_id"])
    return {
        "status": RED if red else YELLOW if yellow else GREEN,
        "peer_id": answer["peer_id"],
        "peers": {str(peer): {"uri": entry.get("uri", "")} for peer, entry in peers.items()},
        "raft_info": {
            "term": raft.get("term") or 0,
            "commit": raft.get("commit") or 0,
            "pending_operations": raft.get("pending_operations") or 0,
            "leader": raft.get("leader") or 0,
            "role": raft.get("role") or "Unknown",
            "is_voter": bool(raft.get("is_voter")),
        },
        "distributed": True,
        "problems": red + yellow,
    }


def _silent_nodes(nodes: ResolvedCluster | None, *, but: int) -> list[str]:
    """Say of every registered address what is wrong with it, and of every other node whether its shards are ready."""
    if nodes is None:
        return []
    told = [each.message for each in nodes.problems if each.is_error and each.url is not None]
    for peer, endpoint in nodes.endpoints.items():
        if peer == but:
            continue
        try:
            with QdrantNode(endpoint) as node:
                if not node.is_ready():
                    told.append(f"Peer {peer}: it says that not all of its shards are ready.")
        except QdrantError as error:
            told.append(f"Peer {peer}: {error}")
    return told


def _placements(node: QdrantNode) -> list[dict[int, int]]:
    """Return per collection: peer id → replicas on it."""
    placements = []
    for name in node.collections():
        try:
            placement: Placement = node.placement(name)
        except CollectionNotFound:  # deleted just now
            continue
        held: dict[int, int] = {placement.peer_id: len(placement.local_shards)}
        for shard in placement.remote_shards:
            held[shard.peer_id] = held.get(shard.peer_id, 0) + 1
        placements.append(held)
    return placements
