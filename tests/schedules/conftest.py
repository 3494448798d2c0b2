"""Rows that most tests of schedules start from."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from apps.backups.models import Backup
from apps.backups.policies import RetentionPolicy
from apps.clusters.models import Cluster
from apps.schedules.draft import ScheduleData
from apps.schedules.models import Schedule
from apps.schedules.services import create_schedule
from apps.storage.models import StorageConfig

#: A Thursday.
NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def simulated_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests hand the tick any time they like: that is no jump of a clock."""
    monkeypatch.setattr("apps.schedules.tick._watch.jumped_by", lambda now: timedelta())


@pytest.fixture
def away(db: None, folder: Any) -> Cluster:
    """A cluster that nobody answers at, and a storage."""
    StorageConfig.objects.create(name="folder", type="local", path=str(folder))
    return Cluster.objects.create(name="main", url="http://127.0.0.1:9")


@pytest.fixture
def make(away: Cluster) -> Callable[..., Schedule]:
    """Make a schedule on the cluster that is away: daily at 02:30 UTC unless said otherwise."""
    return maker(away)


def maker(cluster: Cluster) -> Callable[..., Schedule]:
    def make(name: str = "nightly", now: datetime = NOW, **fields: Any) -> Schedule:
        fields.setdefault("kind", "cron")
        if fields["kind"] == "cron":
            fields.setdefault("cron", "30 2 * * *")
        fields.setdefault("storages", list(StorageConfig.objects.all()))
        fields.setdefault("cluster", cluster)
        return create_schedule(data=ScheduleData(name=name, **fields), now=now)

    return make


def make_policy(name: str = "policy", **fields: Any) -> RetentionPolicy:
    fields = {"keep_last": 3, "min_redundancy": 1, "confirmed_version": 1, "grace_days": 1} | fields
    return RetentionPolicy.objects.create(name=name, **fields)


def make_backup(cluster: Cluster, storage: StorageConfig, taken_at: datetime, **fields: Any) -> Backup:
    name = f"{taken_at:%Y%m%dT%H%M%S}Z-{uuid.uuid4()}"
    values = {
        "cluster_name": cluster.name, "collection_name": "films", "snapshot_name": name,
        "path": f"{cluster.name}/films/{name}", "size_bytes": 40, "points_count": 1, "shard_count": 1, "manifest": {},
        "manifest_sha256": "0" * 64, "started_at": taken_at, "created_at": taken_at + timedelta(minutes=1),
    }  # fmt: skip
    return Backup.objects.create(cluster=cluster, storage=storage, **(values | fields))
