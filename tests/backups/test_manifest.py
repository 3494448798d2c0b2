from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from apps.backups.manifest import (
    KeyFacts,
    Manifest,
    ManifestInvalid,
    ManifestTooNew,
    PartFacts,
    PeerFacts,
    ReplicaFacts,
    ShardFacts,
    parse_manifest,
)

MANIFEST = Manifest(
    name="20261121T020410Z-6f1d0f2e-9a52-4a1e-8f0c-0d7a54b1c001",
    job_id="6f1d0f2e-9a52-4a1e-8f0c-0d7a54b1c001",
    attempt=1,
    started_at=datetime(2026, 11, 21, 2, 4, 10, tzinfo=UTC),
    created_at=datetime(2026, 11, 21, 2, 5, 0, tzinfo=UTC),
    cluster_id="0c6e3b8a-2f1f-4d59-a3a9-111111111111",
    cluster_name="prod / eu",
    qdrant_version="1.18.3",
    peer_id=3192035001858980,
    collection_name="łódź films.v2",
    shard_id=None,
    config={"params": {"vectors": {"size": 4, "distance": "Dot"}, "shard_number": 2}},
    payload_schema={"city": {"data_type": "keyword", "points": 7}},
    aliases=("live",),
    shards=(ShardFacts(0, None, 328, 328), ShardFacts(1, "acme", 270, 272)),
    parts=(
        PartFacts(0, "shard-0.snapshot", 572928, "a" * 64, "etag", "films-shard-0.snapshot", 7, "the least to do"),
        PartFacts(1, "shard-1.snapshot", 542720, "b" * 64, "", "films-shard-1.snapshot", 7, "it has the only replica"),
    ),
    nodes=(PeerFacts(7, "http://qdrant-0:6333", "1.18.3"), PeerFacts(2**53, "", "")),
    placement=(ReplicaFacts(0, 7, "Active"), ReplicaFacts(0, 2**53, "Dead"), ReplicaFacts(1, 7, "Active")),
)
FIRST = (Path(__file__).parent / "manifests" / "format-1.json").read_bytes()


def altered(**changes: Any) -> bytes:
    document = MANIFEST.to_json()
    for path, value in changes.items():
        target = document
        *way, last = path.split("__")
        for step in way:
            target = target[int(step)] if isinstance(target, list) else target[step]
        if value is KeyError:
            del target[last]
        else:
            target[int(last) if isinstance(target, list) else last] = value
    return json.dumps(document).encode()


def test_what_was_written_is_read_back_whole() -> None:
    assert parse_manifest(MANIFEST.to_bytes()) == MANIFEST


def test_totals_add_up_the_parts_and_the_upper_bounds() -> None:
    assert MANIFEST.size_bytes == 572928 + 542720
    assert MANIFEST.points_count == 600


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not JSON"),
        (b'{"format": 1, "prod', "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[]", "not a manifest"),
        (b"null", "not a manifest"),
        (altered(product="other"), "not a manifest"),
        (altered(format=3), "update backupmgr"),
        (altered(format="1"), "which format"),
        (altered(backup__job_id=KeyError), "job_id"),
        (altered(backup__started_at="2026-11-21T02:04:10"), "zone"),
        (altered(backup__started_at=5), "garbles"),
        (altered(collection__config={}), "configuration"),
        (altered(collection__config=[1]), "garbles"),
        (altered(parts=[]), "one part for each shard"),
        (altered(parts__1__shard_id=0), "one part for each shard"),
        (altered(parts__0__file="../../etc/passwd"), "cannot be"),
        (altered(parts__0__file="shard-0.snapshot/../x"), "cannot be"),
        (altered(parts__0__sha256="A" * 64), "cannot be"),
        (altered(parts__0__sha256=""), "cannot be"),
        (altered(parts__0__size_bytes=-1), "cannot be"),
        (altered(shards__0__points_min="many"), "garbles"),
        (altered(format=True), "which format"),
        (altered(nodes=KeyError), "nodes"),
        (altered(placement__0__peer_id="one"), "garbles"),
        (altered(parts__0__why=KeyError), "why"),
        (altered(keys=KeyError), "counts of the shard keys"),
        (altered(keys__0__points_max=271), "counts of the shard keys"),
        (altered(keys=[]), "counts of the shard keys"),
    ],
)
def test_anything_else_is_refused_with_the_reason(data: bytes, words: str) -> None:
    with pytest.raises(ManifestInvalid, match=words):
        parse_manifest(data)


def test_a_manifest_of_one_shard_is_read_back() -> None:
    one = replace(MANIFEST, shard_id=1, shards=MANIFEST.shards[1:], parts=MANIFEST.parts[1:])

    assert parse_manifest(one.to_bytes()) == one


def test_points_of_a_key_are_those_of_its_shards() -> None:
    shards = (
        ShardFacts(4, "1", 7, 9), ShardFacts(1, 1, 10, 10), ShardFacts(5, "1", 5, 5), ShardFacts(9, None, 1, 1),
    )  # fmt: skip

    keys = replace(MANIFEST, shards=shards).keys

    assert keys == (KeyFacts(1, (1,), 10, 10), KeyFacts("1", (4, 5), 12, 14))
    assert [type(key.shard_key) for key in keys] == [int, str]


def test_a_node_that_is_alone_stands_for_every_peer_id() -> None:
    alone = replace(MANIFEST, nodes=(PeerFacts(None, "http://qdrant:6333", "1.18.3"),))

    assert alone.node_of(7) == alone.nodes[0]
    assert MANIFEST.node_of(7) == MANIFEST.nodes[0]
    assert MANIFEST.node_of(8) is None


def test_a_manifest_of_the_first_format_is_read_and_written_as_it_was() -> None:
    old = parse_manifest(FIRST)

    assert old.format == 1
    assert old.to_bytes() == FIRST
    assert [(key.shard_key, key.shard_ids, key.points_max) for key in old.keys] == [
        ("acme", (1,), 100), ("globex", (2, 3), 200), (42, (4,), 300),
    ]  # fmt: skip
    assert old.nodes == (PeerFacts(5530569175947208, "", "1.18.3"),)
    assert (old.placement, old.parts[0].peer_id, old.parts[0].why) == ((), None, "")


def test_one_of_a_later_version_is_told_from_a_damaged_one() -> None:
    with pytest.raises(ManifestTooNew, match="has format 7, this version of backupmgr reads up to 2: update") as told:
        parse_manifest(altered(format=7, parts="of another shape"))
    assert "Nothing is wrong with it" in str(told.value)
