"""Against a real Qdrant, named by QDRANT_URL (and QDRANT_API_KEY): what the sandbox node only stands in for."""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from apps.backups.models import Backup
from apps.clusters.models import Cluster
from apps.sandbox import SandboxNode
from apps.storage.models import StorageConfig
from tests.support import Collections, RunJob, story

URL = os.environ.get("QDRANT_URL", "")
KEY = os.environ.get("QDRANT_API_KEY", "")

pytestmark = [pytest.mark.live, pytest.mark.skipif(not URL, reason="QDRANT_URL names no real Qdrant")]

MADE: list[str] = []

DENSE: dict[str, Any] = {"vectors": {"size": 16, "distance": "Dot"}, "shard_number": 1}
KINDS: dict[str, dict[str, Any]] = {
    "one vector": DENSE,
    "named and sparse": {
        "vectors": {
            "text": {"size": 16, "distance": "Cosine"},
            "image": {"size": 8, "distance": "Euclid", "on_disk": True},
        },
        "sparse_vectors": {"words": {"index": {"on_disk": True}}, "idf": {"modifier": "idf"}},
        "shard_number": 3,
        "hnsw_config": {"m": 8, "ef_construct": 64},
        "optimizers_config": {"default_segment_number": 2},
        "on_disk_payload": True,
        "metadata": {"owner": "shop"},
    },
    "quantized": DENSE | {"quantization_config": {"scalar": {"type": "int8", "always_ram": True}}},
    "multivector": {
        "vectors": {"colbert": {"size": 4, "distance": "Cosine", "multivector_config": {"comparator": "max_sim"}}},
        "shard_number": 2,
    },
    "half floats": {"vectors": {"size": 16, "distance": "Manhattan", "datatype": "float16"}},
    "strict": DENSE | {"strict_mode_config": {"enabled": True, "max_query_limit": 1000}},
}
INDEXES: dict[str, Any] = {
    "city": "keyword",
    "n": {"type": "integer", "lookup": True, "range": True},
    "price": "float",
    "where": "geo",
    "text": {"type": "text", "tokenizer": "word", "min_token_len": 2, "lowercase": True},
    "sold": "bool",
    "at": "datetime",
    "ref": "uuid",
    "tenant": {"type": "keyword", "is_tenant": True},
}


class RealCollections(Collections):
    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = requests.request(method, self.url + path, json=body, headers={"api-key": KEY}, timeout=60)
        assert answer.ok, answer.text
        return answer.json()


@pytest.fixture
def real() -> Iterator[RealCollections]:
    """Collections on the real node; those of this test, known by their names, are removed at the end."""
    collections = RealCollections(URL.rstrip("/"))
    yield collections
    while MADE:
        collections.delete(MADE.pop())


@pytest.fixture
def cluster(transactional_db: None) -> Cluster:
    return Cluster.objects.create(name="real", url=URL, api_key=KEY, is_default=True)


def name() -> str:
    """Return a collection name that nobody else uses; the collection is removed at the end of the test."""
    MADE.append(f"backupmgr-test-{secrets.token_hex(4)}")
    return MADE[-1]


def vectors_of(config: dict[str, Any], chance: random.Random) -> Any:
    def dense(params: dict[str, Any]) -> Any:
        def row() -> list[float]:
            return [chance.uniform(-1, 1) for _ in range(params["size"])]

        return [row() for _ in range(3)] if "multivector_config" in params else row()

    if "size" in config["vectors"]:
        return dense(config["vectors"])
    vector = {key: dense(params) for key, params in config["vectors"].items()}
    for key in config.get("sparse_vectors", {}):
        vector[key] = {"indices": sorted(chance.sample(range(500), 4)), "values": [chance.random() for _ in range(4)]}
    return vector


def create(real: Collections, collection: str, body: dict[str, Any], points: int = 300) -> None:
    chance = random.Random(7)
    real.put(f"/collections/{collection}", body)
    for field, schema in INDEXES.items():
        real.put(f"/collections/{collection}/index?wait=true", {"field_name": field, "field_schema": schema})
    batch = [
        {
            "id": i if i % 3 else f"00000000-0000-4000-8000-{i:012d}",
            "vector": vectors_of(body, chance),
            "payload": {
                "city": ("Kyiv", "Łódź", "東京")[i % 3], "n": i, "price": i / 7, "sold": i % 2 == 0, "nothing": None,
                "where": {"lon": 13.4, "lat": 52.5}, "text": f"some words {i}", "at": "2026-11-21T00:00:00Z",
                "ref": f"00000000-0000-4000-8000-{i:012d}", "nested": {"a": [1, {"b": "c"}]}, "tenant": f"t{i % 5}",
            },
        }
        for i in range(points)
    ]  # fmt: skip
    real.put(f"/collections/{collection}/points?wait=true", {"points": batch})


def facts(real: Collections, collection: str) -> tuple[Any, Any]:
    info = real.call("GET", f"/collections/{collection}")["result"]
    schema = {
        field: {k: v for k, v in entry.items() if k != "points"} for field, entry in info["payload_schema"].items()
    }
    return info["config"], schema


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_collection_comes_back_whole(
    kind: str,
    run: RunJob,
    cluster: Cluster,
    storage: StorageConfig,
    real: RealCollections,
) -> None:
    films = name()
    create(real, films, KINDS[kind])
    before, config = real.points(films), facts(real, films)
    backup = run("backup", films)
    assert backup.status == "completed", story(backup)
    assert real.snapshots(films, shards=KINDS[kind].get("shard_number", 1)) == []
    real.delete(films)

    job = run("restore", films, snapshot_name=backup.snapshot_name)

    assert job.status == "completed", story(job)
    assert real.points(films) == before
    assert facts(real, films) == config


def test_an_overwritten_collection_has_the_old_points_again(
    run: RunJob,
    cluster: Cluster,
    storage: StorageConfig,
    real: RealCollections,
) -> None:
    films = name()
    create(real, films, KINDS["named and sparse"])
    before = real.points(films)
    backup = run("backup", films)
    real.call("POST", f"/collections/{films}/points/delete?wait=true", {"filter": {"must": []}, "points": [1, 2, 4]})

    job = run("restore", films, snapshot_name=backup.snapshot_name, overwrite=True)

    assert job.status == "completed", story(job)
    assert real.points(films) == before


@pytest.mark.s3
def test_the_node_pulls_from_s3_by_a_presigned_address(
    run: RunJob,
    cluster: Cluster,
    s3_config: StorageConfig,
    real: RealCollections,
) -> None:
    s3_config.save()
    films = name()
    create(real, films, KINDS["named and sparse"])
    before = real.points(films)
    backup = run("backup", films)
    assert backup.status == "completed", story(backup)
    real.delete(films)

    job = run("restore", films, snapshot_name=backup.snapshot_name)

    assert job.status == "completed", story(job)
    assert story(job).count("pulled by the node") == 3
    assert real.points(films) == before


def test_what_the_sandbox_made_restores_into_the_real_node_and_back(
    run: RunJob,
    cluster: Cluster,
    storage: StorageConfig,
    real: RealCollections,
    node: SandboxNode,
) -> None:
    sandbox = Cluster.objects.create(name="sandbox", url=node.url)
    there = Collections(node.url)
    films = name()
    there.create(films, points=400)
    before = there.points(films)
    to_real = run("backup", films, cluster=sandbox)
    assert to_real.status == "completed", story(to_real)

    job = run("restore", films, snapshot_name=to_real.snapshot_name, target_cluster=cluster)

    assert job.status == "completed", story(job)
    assert real.points(films) == before
    back = run("backup", films, cluster=cluster)
    assert back.status == "completed", story(back)
    there.delete(films)
    job = run("restore", films, snapshot_name=back.snapshot_name, target_cluster=sandbox)
    assert job.status == "completed", story(job)
    assert there.points(films) == before


def test_a_part_restores_without_us(
    run: RunJob,
    cluster: Cluster,
    storage: StorageConfig,
    real: RealCollections,
    folder: Path,
) -> None:
    """The way that docs/operations.md shows: the manifest's config, and each part by one upload."""
    from apps.backups.compare import create_body
    from apps.backups.manifest import parse_manifest

    films = name()
    create(real, films, KINDS["named and sparse"])
    before = real.points(films)
    assert run("backup", films).status == "completed"
    backup = Backup.objects.get()
    manifest = parse_manifest((folder / backup.path / "manifest.json").read_bytes())
    real.delete(films)

    real.put(f"/collections/{films}", create_body(manifest))
    for part in manifest.parts:
        with (folder / backup.path / part.file).open("rb") as data:
            answer = requests.post(
                f"{real.url}/collections/{films}/shards/{part.shard_id}/snapshots/upload",
                params={"priority": "no_sync", "checksum": part.sha256},
                files={"snapshot": data},
                headers={"api-key": KEY},
                timeout=60,
            )
        assert answer.ok, answer.text

    assert real.points(films) == before
