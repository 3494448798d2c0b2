"""The sandbox cluster answers as a real one did, and genuine files of a real cluster restore through it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from apps.sandbox import SandboxCluster
from tests.sandbox.test_sandbox_recordings import load, steady

NODES = ["127.0.0.1:7410", "127.0.0.1:7420", "127.0.0.1:7430"]
# Where the recorded cluster happened to put the replicas.
FILMS = [[0, 2], [0, 1], [1, 2], [0, 2], [0, 1], [1, 2]]
TENANTS: dict[Any, list[list[int]]] = {"acme": [[0, 2]], "globex": [[0, 2], [1, 2]], 42: [[0, 1]]}
# Answers that a server gave by chance of the moment, and why ours differ.
DIFFERS = {
    ("service", NODES[1], "/readyz"): "it was asked before that node had caught up; a sandbox node is ready at once",
}
HASH_ORDERED = {"shard_keys": json.dumps, "remote_shards": lambda one: (one["shard_id"], one["peer_id"])}
VOLATILE_RAFT = {"term", "commit", "last_update"}


def peer_ids(exchanges: list[dict[str, Any]]) -> list[int]:
    answers = {one["node"]: one["body"]["result"]["peer_id"] for one in exchanges if one["path"] == "/cluster"}
    return [answers[node] for node in NODES]


def compared(data: Any, names: dict[Any, str], key: str = "") -> Any:
    """Return an answer without what cannot be the same in two clusters; peers and their addresses get names.

    "peer_id" is compared here, although one node's own test leaves it out.
    """
    if isinstance(data, dict):
        return {names.get(name, name): compared(value, names, name) for name, value in data.items()}
    if isinstance(data, list):
        items = [compared(one, names, key) for one in data]
        return sorted(items, key=HASH_ORDERED[key]) if key in HASH_ORDERED else items
    if isinstance(data, str) and key == "name":
        data = re.sub(r"\d{4}(-\d\d){5}", "now", data)
        for peer, name in names.items():
            data = data.replace(f"-{peer}-", f"-{name}-")
    if key in VOLATILE_RAFT:
        return "volatile"
    return names.get(data, data) if key in ("peer_id", "leader", "uri") else steady(data, key)


def fill(cluster: SandboxCluster, client: Any, recordings: Path, collection: str) -> dict[str, Any]:
    """Put the genuine snapshot of every shard into each of its replicas, as the product does; return the facts."""
    facts = json.loads((recordings / "cluster" / f"{collection}.facts.json").read_text())
    for shard in facts["shards"]:
        content = (recordings / "cluster" / shard["file"]).read_bytes()
        for number in cluster.holders(collection, shard["shard_id"]):
            path = f"/collections/{collection}/shards/{shard['shard_id']}/snapshots/upload"
            path += f"?priority=no_sync&checksum={shard['sha256']}"
            answer = client(cluster.urls[number]).upload(path, content)
            assert (answer.status, answer.result) == (200, None), answer.content
    cluster.settle()
    return facts


def test_a_cluster_answers_as_recorded(
    sandbox_cluster: SandboxCluster, client: Any, recordings: Path, same: Callable[..., bool]
) -> None:
    exchanges = load(recordings / "cluster.jsonl")
    assert {one["node"] for one in exchanges} == set(NODES)
    theirs: dict[Any, str] = {f"http://127.0.0.1:74{number + 1}5/": f"uri {number}" for number in range(3)}
    for number, peer_id in enumerate(peer_ids(exchanges)):
        theirs |= {peer_id: f"peer {number}", str(peer_id): f"peer {number}"}
    ours: dict[Any, str] = {}
    for number in range(3):
        peer = sandbox_cluster.consensus.peers[sandbox_cluster.peer_id(number)]
        ours |= {peer.peer_id: f"peer {number}", str(peer.peer_id): f"peer {number}", peer.uri: f"uri {number}"}
    sandbox_cluster.plan_placement("films", FILMS)
    for key, nodes in TENANTS.items():
        sandbox_cluster.plan_placement("tenants", nodes, key)

    differs, names, filled = [], {}, False
    for call in exchanges:
        if call["label"] == "read" and not filled:
            # The recording lacks the calls that wrote the points; the files of its shards have them.
            for collection in ("films", "tenants"):
                fill(sandbox_cluster, client, recordings, collection)
            filled = True
        what = f"{call['label']}: {call['method']} {call['node']}{call['path']}"
        number = NODES.index(call["node"])
        target = call["path"] + ("?" + urlencode(call["params"]) if call.get("params") else "")
        answer = client(sandbox_cluster.urls[number])(
            call["method"], target, call.get("json"), {"Accept-Encoding": "identity"}
        )
        if (call["label"], call["node"], call["path"]) in DIFFERS:
            differs.append((call["label"], call["node"], call["path"]))
            continue
        assert answer.status == call["status"], f"{what}: {answer.content[:300]!r}"
        for header in ("content-type", "vary", "transfer-encoding"):
            assert answer.headers.get(header) == call["headers"].get(header), f"{what}: {header}"
        if isinstance(call["body"], str):
            assert answer.content.decode() == call["body"], what
            continue
        mine = answer.json()
        if isinstance(call["body"].get("result"), dict) and "checksum" in call["body"]["result"]:
            names[call["body"]["result"]["name"]] = mine["result"]["name"]
        expected, got = compared(call["body"], theirs), compared(mine, ours)
        assert same(got, expected), f"{what}:\n{got}\n{expected}"
    assert differs == list(DIFFERS)
    # Six shards and three nodes: the names of shard snapshots carry no peer, so those of two replicas are the same.
    assert len(names) == 9


@pytest.mark.parametrize("collection", ["films", "tenants"])
def test_genuine_files_of_a_cluster_give_back_every_point_key_by_key(
    collection: str, sandbox_cluster: SandboxCluster, client: Any, recordings: Path, same: Callable[..., bool]
) -> None:
    api = client(sandbox_cluster.urls[0])
    facts = json.loads((recordings / "cluster" / f"{collection}.facts.json").read_text())
    params, config = facts["info"]["config"]["params"], facts["info"]["config"]
    body = {**params, "hnsw_config": config["hnsw_config"], "optimizers_config": config["optimizer_config"]}
    assert api("PUT", f"/collections/{collection}", body).result is True
    for field, schema in facts["info"]["payload_schema"].items():
        asked = {"field_name": field, "field_schema": schema["data_type"]}
        assert api("PUT", f"/collections/{collection}/index?wait=true", asked).status == 200
    keys = list(dict.fromkeys(one["shard_key"] for one in facts["shards"] if one["shard_key"] is not None))
    for key in keys:
        count = sum(one["shard_key"] == key for one in facts["shards"])
        asked = {"shard_key": key, "shards_number": count}
        assert api("PUT", f"/collections/{collection}/shards", asked).result is True

    fill(sandbox_cluster, client, recordings, collection)

    lines = (recordings / "cluster" / f"{collection}.points.jsonl").read_text().splitlines()
    wanted = [json.loads(line) for line in lines]
    for number, url in enumerate(sandbox_cluster.urls):
        for key in keys or [None]:
            expected = [one for one in wanted if one.get("shard_key") == key]
            got = client(url).scroll(collection, **({} if key is None else {"shard_key": key}))
            assert len(got) == len(expected) > 0
            assert same(got, expected), f"node {number}, key {key}"
    info = api("GET", f"/collections/{collection}").result
    assert info["config"] == config
    assert info["payload_schema"] == facts["info"]["payload_schema"]
    for shard in facts["shards"]:
        for number in sandbox_cluster.holders(collection, shard["shard_id"]):
            path = f"/collections/{collection}/shards/{shard['shard_id']}/points/count"
            assert client(sandbox_cluster.urls[number])("POST", path, {}).result["count"] == shard["points"]
    assert {state for nodes in sandbox_cluster.states(collection).values() for state in nodes.values()} == {"Active"}
