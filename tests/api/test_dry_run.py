"""The plan of a job, asked for without creating it."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
from rest_framework.test import APIClient

from apps.backups import room
from apps.backups.models import Backup
from apps.clusters.models import Cluster
from apps.jobs.models import Job
from apps.storage.models import StorageConfig
from tests.api.conftest import V1, result_of
from tests.support import Collections, RunJob


@pytest.fixture
def films(run: RunJob, cluster: Cluster, storage: StorageConfig, collections: Collections) -> Backup:
    collections.create("films", points=30)
    assert run("backup", "films").status == "completed"
    return Backup.objects.get()


def plan(api: APIClient, **body: Any) -> Any:
    before = Job.objects.count()
    shown = result_of(api.post(f"{V1}/jobs?dry_run=true", {"collection_name": "films", **body}, format="json"))
    assert Job.objects.count() == before, "nothing is created"
    assert shown["status"] == "pending"
    return shown["plan"]


def test_a_backup_tells_which_replica_from_which_node_and_why(api: APIClient, films: Backup, node: Any) -> None:
    found = plan(api, type="backup")

    assert (found["blocked"], found["unknown"]) == ("", "")
    assert [shard["shard_id"] for shard in found["shards"]] == [0, 1]
    assert {shard["node"] for shard in found["shards"]} == {node.url}
    assert "it has the only replica" in found["shards"][0]["why"]
    assert "2 shards of 'films' from 1 node" in found["steps"][0]
    storage, on_node = found["room"]
    assert (storage["place"], storage["state"], storage["needed_bytes"]) == ("storage", "enough", films.size_bytes)
    assert storage["free_bytes"] > films.size_bytes
    assert (on_node["place"], on_node["state"], on_node["free_bytes"]) == ("node", "unknown", None)
    assert "does not tell" in on_node["sentence"]


def test_what_stands_in_the_way_is_the_answer(api: APIClient, films: Backup, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no such collection" in plan(api, type="backup", collection_name="nothing")["blocked"]
    assert "has no shard 9" in plan(api, type="shard_backup", shard_id=9)["blocked"]
    monkeypatch.setattr(room, "free_bytes", lambda storage: 10)
    assert "10 B of room" in plan(api, type="backup")["blocked"]
    Cluster.objects.update(url="http://127.0.0.1:9")
    away = plan(api, type="backup")
    assert (away["blocked"], "cannot be reached" in away["unknown"]) == ("", True)


def test_a_restore_tells_what_it_would_replace(api: APIClient, films: Backup, collections: Collections) -> None:
    name = films.snapshot_name

    beside = plan(api, type="restore", snapshot_name=name, target_collection="again")
    refused = plan(api, type="restore", snapshot_name=name)
    over = plan(api, type="restore", snapshot_name=name, overwrite=True)
    bare = plan(api, type="restore", snapshot_name=name, overwrite=True, safety_backup=False)
    collections.call(
        "POST",
        "/collections/aliases",
        {"actions": [{"create_alias": {"collection_name": "films", "alias_name": "live"}}]},
    )
    switched = plan(api, type="restore", snapshot_name=name, overwrite=True, target_collection="live")

    assert "nothing that exists is touched" in " ".join(beside["steps"])
    assert "set overwrite" in refused["blocked"]
    assert "is backed up to 'folder'" in " ".join(over["steps"])
    assert "is backed up" not in " ".join(bare["steps"])
    assert "switched from 'films' to the new collection in one call" in " ".join(switched["steps"])
    assert collections.names() == ["films"]


def test_a_gone_storage_is_told_and_nothing_is_marked(api: APIClient, films: Backup, folder: Any) -> None:
    shutil.rmtree(folder / films.path)

    found = plan(api, type="restore", snapshot_name=films.snapshot_name, target_collection="again")

    assert "not in the storage any more" in found["blocked"]
    films.refresh_from_db()
    assert films.status == "completed"


def test_a_verification_and_many_collections_have_a_plan_too(api: APIClient, films: Backup) -> None:
    assert "opened in Qdrant's engine" in plan(api, type="verify", snapshot_name=films.snapshot_name)["steps"][0]
    assert "each collection of 'main' that matches: *" in plan(api, type="backup", collection_name="*")["steps"][0]


def test_a_wrong_request_is_refused_as_without_dry_run(api: APIClient, films: Backup) -> None:
    for body, status in (({"type": "backup", "collection_name": "a/b"}, 422), ({"type": "shard_backup"}, 400)):
        request = {"collection_name": "films", **body}
        assert api.post(f"{V1}/jobs?dry_run=true", request, format="json").status_code == status
