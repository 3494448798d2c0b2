"""The cluster as Qdrant sees it: health, raft, peers and what they hold."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from apps.api.fields import EnumField, PeerIdField
from apps.api.schema import operation
from apps.api.v1.passthrough import ClusterQuery, QdrantView, endpoint_at
from apps.clusters.models import Cluster
from apps.clusters.qdrant import CollectionNotFound, Placement, QdrantError, QdrantNode
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


class ClusterStatusView(QdrantView):
    scopes = {"GET": Scope.READ}

    @operation(
        "getClusterStatus", "Health, raft and peers", tag=TAG, query=[ClusterQuery], answer=ClusterStatusSerializer
    )
    def get(self, request: Request) -> Response:
        cluster = self.cluster()
        with self.node() as node:
            answer = node.call("GET", "/cluster")
            ready = node.is_ready()
            if answer.get("status") != "enabled":
                return Response(_standalone(node, ready=ready))
        return Response(_distributed(answer, ready=ready, cluster=cluster))


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
        cluster = self.cluster()
        with self.node() as node:
            answer = node.call("GET", "/cluster")
            placements = _placements(node)
            if answer.get("status") != "enabled":
                answer = _standalone(node, ready=True)
        raft = answer.get("raft_info") or {}
        voters = {answer["peer_id"]: bool(raft.get("is_voter"))} | _voters(cluster, but=answer["peer_id"])
        return Response(
            [
                {
                    "peer_id": peer,
                    "uri": entry["uri"],
                    "is_leader": peer == raft.get("leader"),
                    "is_voter": voters.get(peer),
                    "collections_count": sum(1 for held in placements if held.get(peer)),
                    "shards_count": sum(held.get(peer, 0) for held in placements),
                }
                for peer, entry in sorted((int(peer), entry) for peer, entry in answer["peers"].items())
            ]
        )


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


def _distributed(answer: dict[str, Any], *, ready: bool, cluster: Cluster) -> dict[str, Any]:
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
    for peer, reason in _silent_nodes(cluster, peers, but=answer["peer_id"]).items():
        yellow.append(f"Peer {peer}: {reason}")
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


def _silent_nodes(cluster: Cluster, peers: dict[str, Any], *, but: int) -> dict[str, str]:
    """Ask every other node whose REST address is registered; return peer id → why it is not fine."""
    silent = {}
    for peer in _other_nodes(cluster, but=but):
        if str(peer) not in peers:
            silent[str(peer)] = "it is registered here but no member of the cluster."
            continue
        try:
            with QdrantNode(endpoint_at(cluster, str(peer))) as node:
                if not node.is_ready():
                    silent[str(peer)] = "it says that not all of its shards are ready."
        except QdrantError as error:
            silent[str(peer)] = str(error)
    return silent


def _voters(cluster: Cluster, *, but: int) -> dict[int, bool]:
    """Ask every other registered node whether it votes; nodes that do not answer are left out."""
    voters = {}
    for peer in _other_nodes(cluster, but=but):
        try:
            with QdrantNode(endpoint_at(cluster, str(peer))) as node:
                raft = node.call("GET", "/cluster").get("raft_info") or {}
        except QdrantError:
            continue
        voters[peer] = bool(raft.get("is_voter"))
    return voters


def _other_nodes(cluster: Cluster, *, but: int) -> list[int]:
    return sorted(int(peer) for peer in cluster.nodes if int(peer) != but)


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
