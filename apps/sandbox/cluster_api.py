"""Endpoints that only a node of a cluster has: peers, shard keys, operations on replicas."""

from __future__ import annotations

import json
from typing import Any

from .caretaker import Caretaker
from .errors import QdrantError, bad_format, bad_request, not_found
from .jsonbody import need, place
from .member_store import MemberStore
from .messages import Request
from .placement import TRANSFER_METHODS, ShardKey, Transfer
from .routing import Router

_OPERATIONS = "data did not match any variant of untagged enum ClusterOperations"


class ClusterApi:
    """What clients do with a cluster as a whole."""

    def __init__(self, store: MemberStore, caretaker: Caretaker) -> None:
        self._store = store
        self._consensus = store.consensus
        self._caretaker = caretaker

    def register(self, router: Router) -> None:
        """Add the endpoints; they come before those with which a node that is alone refuses."""
        router.add("GET", "/cluster", lambda _: self._consensus.describe(self._store.peer_id))
        router.add("POST", "/cluster/recover", lambda _: True, access="manage")
        router.add("DELETE", "/cluster/peer/{peer}", self.remove_peer, access="manage")
        router.add("PUT", "/collections/{name}/shards", self.create_key, access="manage")
        router.add("POST", "/collections/{name}/shards/delete", self.delete_key, access="manage")
        router.add("POST", "/collections/{name}/cluster", self.operate, access="manage")

    def remove_peer(self, request: Request) -> bool:
        """Forget a peer that holds nothing, or is to be forgotten by force."""
        text = request.params["peer"]
        if not text.isdecimal():
            raise QdrantError(400, f'Deserialize error in path parameters: can not parse "{text}" to a u64')
        self._consensus.remove(int(text), force=request.flag("force", False))
        return True

    def create_key(self, request: Request) -> bool:
        """Create a shard key."""
        return self._create_key(request, request.json())

    def delete_key(self, request: Request) -> bool:
        """Delete a shard key and its points."""
        return self._delete_key(request, request.json())

    def operate(self, request: Request) -> bool:
        """Do one of the operations on replicas, transfers and keys."""
        body = request.json()
        name = self._store.get(request.params["name"]).name
        if len(body) != 1:
            raise bad_format(_OPERATIONS)
        [(kind, given)] = body.items()
        if not isinstance(given, dict):
            raise bad_format(_OPERATIONS)
        if kind == "create_sharding_key":
            return self._create_key(request, given)
        if kind == "drop_sharding_key":
            return self._delete_key(request, given)
        try:
            if kind in ("move_shard", "replicate_shard", "restart_transfer"):
                return self._transfer(name, kind, given)
            if kind == "abort_transfer":
                return self._abort(name, int(given["shard_id"]), int(given["from_peer_id"]), int(given["to_peer_id"]))
            if kind == "drop_replica":
                return self._drop(name, int(given["shard_id"]), int(given["peer_id"]))
        except (KeyError, TypeError, ValueError) as error:
            raise bad_format(_OPERATIONS) from error
        raise bad_format(_OPERATIONS)

    def _transfer(self, name: str, kind: str, given: dict[str, Any]) -> bool:
        source, target, shard_id = int(given["from_peer_id"]), int(given["to_peer_id"]), int(given["shard_id"])
        method = given.get("method") or "snapshot"
        if method not in TRANSFER_METHODS:
            raise bad_format(_OPERATIONS)
        if shard_id not in self._consensus.agreed(name).placement.shards:
            raise bad_request(f"Shard {shard_id} of {name} does not exist")
        for peer in (target, source):
            self._check_peer(peer)
        if kind == "restart_transfer":
            self._abort(name, shard_id, source, target)
        self._caretaker.transfer(name, Transfer(shard_id, source, target, sync=kind != "move_shard", method=method))
        return True

    def _abort(self, name: str, shard_id: int, source: int, target: int) -> bool:
        transfer = self._consensus.agreed(name).placement.find_transfer(shard_id, source, target)
        if transfer is None:
            raise not_found(f"Shard transfer {source} -> {target} for collection {name}:{shard_id} does not exist")
        self._caretaker.abort(name, transfer)
        return True

    def _drop(self, name: str, shard_id: int, peer: int) -> bool:
        if shard_id not in self._consensus.agreed(name).placement.shards:
            raise bad_request(f"Shard {shard_id} of {name} does not exist")
        self._check_peer(peer)

        def operation() -> None:
            with self._consensus.change(name) as agreed:
                agreed.placement.drop_replica(shard_id, peer)

        self._consensus.propose(operation)
        return True

    def _check_peer(self, peer: int) -> None:
        if peer not in self._consensus.peers:
            raise bad_request(f"Peer {peer} does not exist")

    def _create_key(self, request: Request, body: dict[str, Any]) -> bool:
        name = self._store.get(request.params["name"]).name
        key = _shard_key(body, request.raw)
        state, placement = body.get("initial_state"), body.get("placement")
        if state not in (None, "Active", "Partial"):
            raise bad_request(f"Initial state cannot be {state}, only Active or Partial are allowed")
        if placement is not None and not placement:
            raise bad_request(
                f"Sharding key {json.dumps(key)} placement cannot be empty. "
                "If you want to use random placement, do not specify placement"
            )
        factor = _count(body, "replication_factor", request.raw)
        self._consensus.create_key(
            name,
            key,
            shards=_count(body, "shards_number", request.raw),
            # A key whose data is still to come has one replica, which is copied later.
            replication_factor=factor or (1 if state is not None else None),
            peers=placement,
            state=state or "Active",
        )
        return True

    def _delete_key(self, request: Request, body: dict[str, Any]) -> bool:
        name = self._store.get(request.params["name"]).name
        self._consensus.drop_key(name, _shard_key(body, request.raw))
        return True


def _shard_key(body: dict[str, Any], raw: bytes) -> ShardKey:
    key = need(body, "shard_key", raw)
    if not isinstance(key, int | str) or isinstance(key, bool) or (isinstance(key, int) and key < 0):
        raise bad_format(f"data did not match any variant of untagged enum ShardKey {place(raw)}")
    return key


def _count(body: dict[str, Any], field: str, raw: bytes) -> int | None:
    value = body.get(field)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise bad_format(f"invalid value: integer `{value}`, expected a nonzero u32 {place(raw)}")
    return value
