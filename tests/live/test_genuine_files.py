"""Snapshots that a real cluster made give back the points that it answered with then, restored as a backup is.

Each test runs against a sandbox cluster, and against a real one when QDRANT_URLS names its nodes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from apps.backups.catalogue import rescan
from apps.backups.engine.points import digest
from apps.backups.manifest import PartFacts, ShardFacts
from apps.backups.models import Backup, Verification
from apps.clusters.models import Cluster
from apps.storage.keys import backup_folder
from apps.storage.models import StorageConfig
from tests.backups.test_manifest import MANIFEST
from tests.live.places import KEY, Place, real_place, sandbox_place
from tests.live.test_real_cluster import REAL
from tests.support import RunJob, story

RECORDINGS = Path(__file__).resolve().parent.parent / "recordings" / "cluster"


@pytest.fixture(params=["sandbox", REAL])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with sandbox_place(tmp_path) if request.param == "sandbox" else real_place() as found:
        yield found


def stored(name: str, storage: StorageConfig, folder: Path) -> Backup:
    """Make a backup of the recorded files, manifest and all, and have it found by a rescan."""
    facts = json.loads((RECORDINGS / f"{name}.facts.json").read_text())
    shards = facts["shards"]
    manifest = replace(
        MANIFEST,
        collection_name=name,
        config=facts["info"]["config"],
        payload_schema=facts["info"]["payload_schema"],
        aliases=(),
        shards=tuple(ShardFacts(one["shard_id"], one["shard_key"], one["points"], one["points"]) for one in shards),
        parts=tuple(
            PartFacts(one["shard_id"], f"shard-{one['shard_id']}.snapshot", one["size"], one["sha256"], "", one["file"])
            for one in shards
        ),
        nodes=(),
        placement=(),
    )
    path = folder / backup_folder("recorded", name, manifest.name)
    path.mkdir(parents=True)
    for one in shards:
        shutil.copy(RECORDINGS / one["file"], path / f"shard-{one['shard_id']}.snapshot")
    (path / "manifest.json").write_bytes(manifest.to_bytes())
    rescan(storage, timezone.now())
    return Backup.objects.get()


@pytest.mark.parametrize("name", ["films", "tenants"])
def test_recorded_files_give_back_their_points_key_by_key(
    name: str, place: Place, run: RunJob, storage: StorageConfig, folder: Path
) -> None:
    first, *others = place.three.urls
    three = Cluster.objects.create(name="three", url=first, other_urls=others, api_key=KEY, is_default=True)
    backup = stored(name, storage, folder)
    answered: dict[Any, dict[Any, str]] = {}
    for line in (RECORDINGS / f"{name}.points.jsonl").read_text().splitlines():
        point = json.loads(line)
        of_key = answered.setdefault(point.get("shard_key"), {})
        of_key[point["id"]] = digest(point["id"], point["payload"], point["vector"])
    target = place.three.name()

    job = run("restore", name, backup=backup, target_collection=target, target_cluster=three, verify_points="all")

    assert job.status == "completed", story(job)
    assert set(place.three.keys(target)) == set(answered)
    for number in place.three.numbers:
        found = {
            key: {
                point["id"]: digest(point["id"], point["payload"], point["vector"])
                for point in place.three.points(target, key, node=number)
            }
            for key in answered
        }
        assert found == answered, f"node {number}"
    proof = Verification.objects.get()
    assert (proof.kind, proof.result, proof.points_compared) == ("restored", "ok", 600)
