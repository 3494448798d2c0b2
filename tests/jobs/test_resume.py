"""What breaks goes on where it broke: bytes are counted on the wire, at a real size, with a real S3 server."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from apps.backups.leftovers import retry_leftovers
from apps.backups.models import Backup
from apps.clusters.models import Cluster
from apps.clusters.qdrant import transfer
from apps.sandbox import SandboxNode
from apps.storage.models import StorageConfig
from apps.storage.s3_sink import CONCURRENCY, PART_SIZE
from tests.proxy import CuttingProxy
from tests.support import Collections, RunJob, open_uploads, story

MIB = 1024 * 1024
DOWNLOAD = "/collections/[^/]+/shards/[0-9]+/snapshots/[^/]+[.]snapshot"


def large(collections: Collections, mebibytes: int = 80) -> None:
    """A collection of one shard whose snapshot has about so many MiB."""
    collections.create("large", points=mebibytes * 16, payload_bytes=64 * 1024, shards=1)


@pytest.mark.s3
@pytest.mark.xdist_group("s3")
@pytest.mark.usefixtures("cluster")
class TestCutFiveTimes:
    @pytest.fixture
    def bucket(self, transactional_db: None, s3_config: StorageConfig) -> StorageConfig:
        s3_config.save()
        return s3_config

    def test_a_download_cut_five_times_at_90_percent_moves_hardly_a_byte_twice(
        self, run: RunJob, bucket: StorageConfig, collections: Collections, cluster: Cluster
    ) -> None:
        large(collections)
        with CuttingProxy(collections.url, watch="down") as proxy:
            Cluster.objects.filter(pk=cluster.pk).update(url=proxy.endpoint)
            proxy.arm(cut_after=72 * MIB, cuts=5, step=MIB)

            job = run("backup", "large")

        assert job.status == "completed", story(job)
        size = Backup.objects.get().size_bytes
        assert size > 64 * MIB
        assert proxy.cuts_left == 0
        assert proxy.down_bytes <= 1.1 * size
        assert story(job).count("going on from there") == 5

    def test_an_upload_cut_five_times_at_90_percent_sends_only_the_parts_under_way_again(
        self, run: RunJob, bucket: StorageConfig, collections: Collections
    ) -> None:
        large(collections)
        with CuttingProxy(bucket.s3_endpoint, watch="up") as proxy:
            bucket.s3_endpoint = proxy.endpoint
            bucket.save()
            proxy.arm(cut_after=72 * MIB, cuts=5, step=MIB)

            job = run("backup", "large")

        assert job.status == "completed", story(job)
        size = Backup.objects.get().size_bytes
        assert size > 64 * MIB
        assert proxy.cuts_left == 0
        # A part is the least that S3 takes: a cut costs what was under way of those. All of them at the first cut,
        # one at each later one, because fewer are under way after a break. From 1 GiB on that is below a tenth.
        assert proxy.up_bytes <= size + (CONCURRENCY + 4) * PART_SIZE + MIB
        assert (CONCURRENCY + 4) * PART_SIZE < 0.1 * 1024 * MIB
        assert "is sent again" in story(job)
        assert job.attempt == 1

    def test_an_upload_whose_connections_break_one_by_one_sends_only_those_parts_again(
        self, run: RunJob, bucket: StorageConfig, collections: Collections, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("apps.storage.s3_sink.CONCURRENCY", 1)
        large(collections)
        with CuttingProxy(bucket.s3_endpoint, watch="up") as proxy:
            bucket.s3_endpoint = proxy.endpoint
            bucket.save()
            proxy.arm(cut_after=72 * MIB, cuts=5, step=MIB)

            job = run("backup", "large")

        assert job.status == "completed", story(job)
        # Cut a mebibyte after each restart: that much of a part is lost.
        assert proxy.up_bytes <= Backup.objects.get().size_bytes + PART_SIZE + 5 * MIB

    @pytest.mark.parametrize("side", ["node", "storage"])
    def test_an_outage_of_some_seconds_costs_no_attempt_and_hardly_a_byte(
        self,
        run: RunJob,
        bucket: StorageConfig,
        collections: Collections,
        cluster: Cluster,
        settings: Any,
        side: str,
    ) -> None:
        settings.BACKUPMGR_OUTAGE_SECONDS = 60
        large(collections)
        endpoint = collections.url if side == "node" else bucket.s3_endpoint
        with CuttingProxy(endpoint, watch="down" if side == "node" else "up") as proxy:
            if side == "node":
                Cluster.objects.filter(pk=cluster.pk).update(url=proxy.endpoint)
            else:
                bucket.s3_endpoint = proxy.endpoint
                bucket.save()
            proxy.arm(cut_after=40 * MIB, cuts=1, step=0, away_seconds=20)

            job = run("backup", "large")

        assert (job.status, job.attempt) == ("completed", 1), story(job)
        assert proxy.cuts_left == 0
        size = Backup.objects.get().size_bytes
        if side == "node":
            assert proxy.down_bytes <= 1.1 * size
        else:
            assert proxy.up_bytes <= size + CONCURRENCY * PART_SIZE + MIB

    def test_a_storage_that_stays_away_is_given_up_and_leaves_no_upload(
        self,
        run: RunJob,
        bucket: StorageConfig,
        collections: Collections,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("apps.storage.s3_sink._PART_TRIES", 2)
        large(collections, 20)
        real = bucket.s3_endpoint
        with CuttingProxy(real, watch="up") as proxy:
            bucket.s3_endpoint = proxy.endpoint
            bucket.save()
            proxy.arm(cut_after=4 * MIB, cuts=10_000, step=1)

            job = run("backup", "large")

            proxy.arm(cut_after=0, cuts=0, step=0)

            retry_leftovers(now=timezone.now() + timedelta(minutes=1), is_busy=lambda *_: False)

        assert job.status == "failed", story(job)
        assert "broke" in job.error
        bucket.s3_endpoint = real
        assert open_uploads(bucket) == []
        assert collections.snapshots("large", shards=1) == []


@pytest.mark.usefixtures("cluster", "storage")
class TestSnapshotChanged:
    """The snapshot on the node goes away, or becomes another one, while it is fetched."""

    def test_gone_in_the_middle_it_starts_over_by_itself(
        self, run: RunJob, collections: Collections, node: SandboxNode, folder: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        collections.create("films", points=600, payload_bytes=16_000)
        node.faults.add(action="truncate", method="GET", path=DOWNLOAD, bytes=100_000, times=1)
        real = transfer.SnapshotDownload._break
        deleted: list[str] = []

        def delete_meanwhile(self: Any, cause: str, error: Any = None, **more: Any) -> None:
            if not deleted:
                name = collections.call("GET", "/collections/films/shards/0/snapshots")["result"][0]["name"]
                collections.call("DELETE", f"/collections/films/shards/0/snapshots/{name}")
                deleted.append(name)
            real(self, cause, error, **more)

        monkeypatch.setattr(transfer.SnapshotDownload, "_break", delete_meanwhile)

        job = run("backup", "films")

        assert job.status == "completed", story(job)
        assert len(deleted) == 1
        assert "Making and fetching it once more" in story(job)
        assert collections.snapshots("films") == []
        assert job.attempt == 1

    def test_changed_in_the_middle_it_starts_over_by_itself(
        self, run: RunJob, collections: Collections, node: SandboxNode, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        collections.create("films", points=600, payload_bytes=16_000, shards=1)
        node.faults.add(action="truncate", method="GET", path=DOWNLOAD, bytes=100_000, times=1)
        real = transfer.SnapshotDownload._break
        changed: list[bool] = []

        def touch_meanwhile(self: Any, cause: str, error: Any = None, **more: Any) -> None:
            if not changed:
                for path in node.snapshots_path.rglob("*.snapshot"):
                    data = bytearray(path.read_bytes())
                    data[-1] ^= 1
                    path.unlink()
                    path.write_bytes(data)
                    changed.append(True)
            real(self, cause, error, **more)

        monkeypatch.setattr(transfer.SnapshotDownload, "_break", touch_meanwhile)

        job = run("backup", "films")

        assert job.status == "completed", story(job)
        assert changed
        assert "Making and fetching it once more" in story(job)
