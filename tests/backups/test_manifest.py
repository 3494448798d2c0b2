from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from apps.backups.manifest import Manifest, ManifestInvalid, PartFacts, ShardFacts, parse_manifest

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
        PartFacts(0, "shard-0.snapshot", 572928, "a" * 64, "etag", "films-shard-0.snapshot"),
        PartFacts(1, "shard-1.snapshot", 542720, "b" * 64, "", "films-shard-1.snapshot"),
    ),
)


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
        (altered(format=2), "update backupmgr"),
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
    ],
)
def test_anything_else_is_refused_with_the_reason(data: bytes, words: str) -> None:
    with pytest.raises(ManifestInvalid, match=words):
        parse_manifest(data)


def test_a_manifest_of_one_shard_is_read_back() -> None:
    one = replace(MANIFEST, shard_id=1, shards=MANIFEST.shards[1:], parts=MANIFEST.parts[1:])

    assert parse_manifest(one.to_bytes()) == one
