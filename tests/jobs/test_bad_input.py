"""What goes wrong, each for real: one sentence for the operator, nothing touched without need, nothing left behind."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from apps.backups import snapshots
from apps.backups.models import Backup, Leftover
from apps.clusters.models import Cluster
from apps.core.errors import Conflict, InvalidRequest, NotFound, Unprocessable
from apps.jobs.services import JobRequest, create_job
from apps.sandbox import SandboxNode
from apps.storage.models import StorageConfig
from tests.support import Collections, RunJob, assert_failed_cleanly, files, story

pytestmark = pytest.mark.usefixtures("cluster", "storage")

DOWNLOAD = "/collections/[^/]+/shards/[0-9]+/snapshots/[^/]+[.]snapshot"
CREATE = "/collections/[^/]+/shards/[0-9]+/snapshots"


@pytest.fixture
def films(collections: Collections) -> Collections:
    collections.create("films", points=200)
    return collections


class TestQdrant:
    def test_an_unknown_collection(self, run: RunJob, folder: Path) -> None:
        assert_failed_cleanly(run("backup", "nope"), "no such collection", folder)

    def test_a_node_that_is_down(self, run: RunJob, films: Collections, node: SandboxNode, folder: Path) -> None:
        node.stop()

        assert_failed_cleanly(run("backup", "films"), "cannot be reached", folder)

    def test_an_address_where_something_else_answers(self, run: RunJob, films: Collections, folder: Path) -> None:
        import http.server

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        Cluster.objects.update(url=f"http://127.0.0.1:{server.server_address[1]}/static")

        job = run("backup", "films")
        server.shutdown()

        assert job.status == "failed"
        assert "check the address" in job.error or "404" in job.error

    @pytest.mark.parametrize(
        ("status", "words"),
        [(401, "API key"), (403, "forbids"), (429, "fault (429)"), (500, "fault (500)"), (503, "fault (503)")],
    )
    @pytest.mark.parametrize("path", ["/collections/films", "/collections/films/cluster", CREATE, DOWNLOAD])
    def test_answers_that_are_faults(
        self, run: RunJob, films: Collections, node: SandboxNode, folder: Path, status: int, words: str, path: str
    ) -> None:
        method = "POST" if path == CREATE else "GET"
        node.faults.add(action="status", method=method, path=f"{path}$", status=status, body="told so")

        job = run("backup", "films")

        node.faults.clear()
        assert_failed_cleanly(job, words, folder)
        assert films.snapshots("films") == []

    def test_a_wrong_key_and_then_the_right_one(self, run: RunJob, tmp_path: Path, folder: Path) -> None:
        with SandboxNode(tmp_path / "locked", api_key="right") as locked:
            Cluster.objects.update(url=locked.url)

            assert_failed_cleanly(run("backup", "films"), "does not accept the API key", folder)

            cluster = Cluster.objects.get()
            cluster.api_key = "right"
            cluster.save()
            assert_failed_cleanly(run("backup", "films"), "no such collection", folder)

    def test_a_node_that_answers_too_late(
        self, run: RunJob, films: Collections, node: SandboxNode, folder: Path, settings: Any
    ) -> None:
        settings.BACKUPMGR_QDRANT_TIMEOUT_SECONDS = 1
        node.faults.add(action="delay", method="GET", path="/collections/films$", seconds=5)

        assert_failed_cleanly(run("backup", "films"), "did not answer within 1 seconds", folder)

    def test_a_slow_node_is_waited_for(self, run: RunJob, films: Collections, node: SandboxNode, settings: Any) -> None:
        settings.BACKUPMGR_QDRANT_TIMEOUT_SECONDS = 1
        node.faults.add(action="delay", method="POST", path=CREATE, seconds=2)

        assert run("backup", "films").status == "completed"

    @pytest.mark.parametrize("action", ["truncate", "reset"])
    def test_a_download_that_is_cut_goes_on_from_there(
        self, run: RunJob, films: Collections, node: SandboxNode, action: str
    ) -> None:
        node.faults.add(action=action, method="GET", path=DOWNLOAD, bytes=10_000, times=3)

        job = run("backup", "films")

        assert job.status == "completed", story(job)
        assert story(job).count("going on from there") == 3

    @pytest.mark.parametrize("action", ["truncate", "reset"])
    def test_a_download_that_is_cut_for_ever_fails(
        self, run: RunJob, films: Collections, node: SandboxNode, folder: Path, action: str
    ) -> None:
        node.faults.add(action=action, method="GET", path=DOWNLOAD, bytes=0, after=1)
        node.faults.add(action=action, method="GET", path=DOWNLOAD, bytes=5000, times=1)

        job = run("backup", "films")

        node.faults.clear()
        assert_failed_cleanly(job, "broke off after", folder)
        assert films.snapshots("films") == []

    def test_a_download_that_stalls_goes_on(
        self, run: RunJob, films: Collections, node: SandboxNode, settings: Any
    ) -> None:
        settings.BACKUPMGR_STALL_SECONDS = 1
        node.faults.add(action="stall", method="GET", path=DOWNLOAD, bytes=5000, times=1)

        job = run("backup", "films")

        assert job.status == "completed", story(job)
        assert "no byte came for 1 seconds" in story(job)

    def test_a_promised_length_that_never_comes(
        self, run: RunJob, films: Collections, node: SandboxNode, folder: Path
    ) -> None:
        node.faults.add(action="short_length", method="GET", path=DOWNLOAD, bytes=100)

        job = run("backup", "films")

        assert_failed_cleanly(job, "bytes and sends", folder)
        assert films.snapshots("films") == []

    def test_a_checksum_that_is_a_lie(self, run: RunJob, films: Collections, node: SandboxNode, folder: Path) -> None:
        node.faults.add(action="lie_checksum", method="POST", path=CREATE)

        job = run("backup", "films")

        node.faults.clear()
        assert_failed_cleanly(job, "another SHA-256", folder)
        assert films.snapshots("films") == []

    def test_a_byte_that_flips_on_the_way_is_found_and_fetched_anew(
        self, run: RunJob, films: Collections, node: SandboxNode, folder: Path
    ) -> None:
        node.faults.add(action="flip", method="GET", path=DOWNLOAD, offset=4321, times=1)

        job = run("backup", "films")

        assert job.status == "completed", story(job)
        assert "once more" in story(job)
        assert films.snapshots("films") == []

    def test_an_answer_that_gets_lost_is_looked_for_and_not_asked_for_twice(
        self, run: RunJob, films: Collections, node: SandboxNode
    ) -> None:
        node.faults.add(action="drop_result", method="POST", path=CREATE, times=1)

        job = run("backup", "films")

        assert job.status == "completed", story(job)
        assert "looking whether it makes one all the same" in story(job)
        assert films.snapshots("films") == []

    def test_an_answer_lost_to_an_impatient_proxy_is_waited_for_while_the_node_works(
        self, run: RunJob, films: Collections, node: SandboxNode, settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The connection gives up after one second; the node takes four.
        settings.BACKUPMGR_SNAPSHOT_TIMEOUT_SECONDS = 30
        real = snapshots.create_snapshot

        def impatient(endpoint: Any, *rest: Any) -> Any:
            return real(replace(endpoint, snapshot_timeout_seconds=1.0), *rest)

        monkeypatch.setattr(snapshots, "create_snapshot", impatient)
        settings.BACKUPMGR_LOST_ANSWER_SECONDS = 10
        node.faults.add(action="delay", method="POST", path=CREATE, seconds=4, times=1)

        job = run("backup", "films")

        assert job.status == "completed", story(job)
        creations = [e for e in node.log() if e["method"] == "POST" and e["path"].endswith("/shards/0/snapshots")]
        assert len(creations) == 1
        assert films.snapshots("films") == []

    def test_a_name_too_long_for_snapshots_is_refused_before_any_job(self, films: Collections) -> None:
        with pytest.raises(Unprocessable, match="file name becomes too long"):
            create_job(request=JobRequest(type="backup", collection_name="x" * 255), now=timezone.now())

    def test_an_index_made_during_the_backup_is_noticed(
        self, run: RunJob, films: Collections, node: SandboxNode, folder: Path
    ) -> None:
        node.faults.add(action="delay", method="POST", path="/collections/films/shards/1/snapshots", seconds=1.5)
        index = {"field_name": "late", "field_schema": "bool"}
        threading.Timer(0.9, lambda: films.put("/collections/films/index?wait=true", index)).start()

        job = run("backup", "films")

        assert_failed_cleanly(job, "'films' changed while it was backed up", folder)

    def test_a_node_that_refuses_to_count(
        self, run: RunJob, films: Collections, node: SandboxNode, folder: Path
    ) -> None:
        answer = {"status": {"error": "Bad request: Exact search disabled!. Help: Set exact=false."}, "time": 0}
        node.faults.add(action="status", method="POST", path=".*/points/count", status=400, body=answer)

        assert_failed_cleanly(run("backup", "films"), "search_allow_exact", folder)

    def test_an_alias_is_not_a_collection(self, run: RunJob, films: Collections, folder: Path) -> None:
        alias = {"actions": [{"create_alias": {"collection_name": "films", "alias_name": "live"}}]}
        films.call("POST", "/collections/aliases", alias)

        assert_failed_cleanly(run("backup", "live"), "alias of 'films'", folder)

    def test_a_shard_that_is_not_there(self, run: RunJob, films: Collections, folder: Path) -> None:
        assert_failed_cleanly(run("shard_backup", "films", shard_id=7), "no shard 7", folder)


class TestRequests:
    @pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a\x00b", "a<b", "x" * 256, "ł" * 128])
    def test_names_that_qdrant_refuses(self, name: str) -> None:
        with pytest.raises(Unprocessable):
            create_job(request=JobRequest(type="backup", collection_name=name), now=timezone.now())

    @pytest.mark.parametrize(
        "name", ["unknown", "../../etc/passwd", "a/../b", "20261121T000000Z-x", "\x00", "x" * 5000]
    )
    def test_snapshot_names_that_nobody_knows(self, name: str) -> None:
        with pytest.raises(NotFound, match="no backup named"):
            create_job(
                request=JobRequest(type="restore", collection_name="films", snapshot_name=name), now=timezone.now()
            )

    @pytest.mark.parametrize(
        "fields",
        [
            {"type": "explode"},
            {"type": "restore"},
            {"type": "shard_backup"},
            {"type": "shard_restore", "snapshot_name": "x"},
            {"type": "backup", "shard_id": 1},
            {"type": "backup", "snapshot_name": "x"},
            {"type": "backup", "target_collection": "x"},
        ],
    )
    def test_fields_that_do_not_fit_together(self, fields: dict[str, Any]) -> None:
        with pytest.raises(InvalidRequest):
            create_job(request=JobRequest(collection_name="films", **fields), now=timezone.now())

    def test_no_storage_and_no_cluster_yet(self) -> None:
        StorageConfig.objects.all().delete()
        with pytest.raises(InvalidRequest, match="No storage is set up yet"):
            create_job(request=JobRequest(type="backup", collection_name="films"), now=timezone.now())
        Cluster.objects.all().delete()
        with pytest.raises(InvalidRequest, match="No cluster is registered yet"):
            create_job(request=JobRequest(type="backup", collection_name="films"), now=timezone.now())


class TestFolder:
    def test_a_folder_that_is_gone(self, run: RunJob, films: Collections, folder: Path) -> None:
        shutil.rmtree(folder)

        assert_failed_cleanly(run("backup", "films"), "does not exist")
        assert films.snapshots("films") == []

    def test_a_folder_that_cannot_be_written(self, run: RunJob, films: Collections, folder: Path) -> None:
        # A file where the cluster's folder would be: not even root can write below it.
        (folder / "main").write_text("in the way")

        job = run("backup", "films")

        assert job.status == "failed"
        assert str(folder) in job.error
        assert files(folder) == ["main"]
        assert films.snapshots("films") == []

    def test_a_folder_that_left_the_allowed_roots(
        self, run: RunJob, films: Collections, folder: Path, tmp_path: Path
    ) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (folder / "backups").symlink_to(elsewhere)
        StorageConfig.objects.update(path=str(folder / "backups"))

        job = run("backup", "films")

        assert job.status == "failed"
        assert "must lie below" in job.error
        assert files(elsewhere) == []

    def test_a_disk_that_is_full(
        self, run: RunJob, films: Collections, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written = 0
        real = os.pwrite

        def full(descriptor: int, data: Any, offset: int) -> int:
            nonlocal written
            written += len(data)
            if written > 150_000:
                raise OSError(28, "No space left on device")
            return real(descriptor, data, offset)

        monkeypatch.setattr(os, "pwrite", full)

        job = run("backup", "films")

        monkeypatch.undo()
        assert_failed_cleanly(job, "room", folder)
        assert films.snapshots("films") == []


class TestRestore:
    """A stored backup that is not what it was; a target that is not what it should be."""

    @pytest.fixture
    def backup(self, run: RunJob, films: Collections) -> Backup:
        assert run("backup", "films").status == "completed"
        return Backup.objects.get()

    @pytest.fixture
    def restore(self, run: RunJob, backup: Backup) -> Callable[..., Any]:
        def restore(**fields: Any) -> Any:
            return run("restore", "films", snapshot_name=backup.snapshot_name, **fields)

        return restore

    @pytest.mark.parametrize("position", [0, 77_777, -1])
    def test_one_flipped_bit(
        self, restore: Any, backup: Backup, films: Collections, folder: Path, position: int
    ) -> None:
        part = folder / backup.path / "shard-1.snapshot"
        data = bytearray(part.read_bytes())
        data[position] ^= 1
        part.write_bytes(data)
        before = films.points("films")

        job = restore(overwrite=True)

        assert job.status == "failed"
        assert "shard-1.snapshot was altered" in job.error
        assert films.points("films") == before
        backup.refresh_from_db()
        assert backup.status == "damaged"
        with pytest.raises(Conflict, match="damaged"):
            restore(target_collection="again")

    def test_a_truncated_part(self, restore: Any, backup: Backup, films: Collections, folder: Path) -> None:
        part = folder / backup.path / "shard-0.snapshot"
        os.truncate(part, part.stat().st_size // 2)

        job = restore(target_collection="copy")

        assert "should have" in job.error
        assert films.names() == ["films"]

    def test_a_missing_part(self, restore: Any, backup: Backup, films: Collections, folder: Path) -> None:
        (folder / backup.path / "shard-0.snapshot").unlink()

        job = restore(target_collection="copy")

        assert "shard-0.snapshot is not in the storage any more" in job.error
        assert films.names() == ["films"]

    @pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"\x00" * 100])
    def test_a_manifest_that_is_none(
        self, restore: Any, backup: Backup, films: Collections, folder: Path, content: bytes
    ) -> None:
        (folder / backup.path / "manifest.json").write_bytes(content)

        job = restore(target_collection="copy")

        assert job.status == "failed"
        assert "manifest" in job.error
        assert films.names() == ["films"]

    def test_a_manifest_that_somebody_changed(
        self, restore: Any, backup: Backup, films: Collections, folder: Path
    ) -> None:
        path = folder / backup.path / "manifest.json"
        path.write_text(path.read_text().replace('"m": 8', '"m": 9'))

        job = restore(target_collection="copy")

        assert "not the one that was written" in job.error
        assert films.names() == ["films"]

    def test_a_manifest_that_is_gone(self, restore: Any, backup: Backup, folder: Path) -> None:
        (folder / backup.path / "manifest.json").unlink()

        job = restore(target_collection="copy")

        assert "not in the storage any more" in job.error
        backup.refresh_from_db()
        assert backup.status == "missing"

    def test_an_existing_collection_without_the_word(self, restore: Any, films: Collections) -> None:
        films.fill("films", range(200, 210))

        job = restore()

        assert "exists with 210 points: set overwrite" in job.error
        assert films.count("films") == 210

    def test_an_existing_collection_of_another_shape(self, restore: Any, films: Collections) -> None:
        films.put("/collections/other", {"vectors": {"size": 4, "distance": "Dot"}})

        job = restore(target_collection="other", overwrite=True)

        assert job.status == "failed"
        assert "exists with another configuration" in job.error
        assert films.call("GET", "/collections/other")["result"]["config"]["params"]["vectors"]["size"] == 4

    def test_a_node_of_another_version(self, restore: Any, backup: Backup, films: Collections, folder: Path) -> None:
        path = folder / backup.path / "manifest.json"
        path.write_text(path.read_text().replace('"version": "1.18.3"', '"version": "1.12.1"'))
        from apps.backups.catalogue import rescan

        rescan(backup.storage, timezone.now())

        job = restore(target_collection="copy")

        assert "made by Qdrant 1.12.1" in job.error
        assert films.names() == ["films"]

    def test_a_node_that_refuses_the_upload(self, restore: Any, films: Collections, node: SandboxNode) -> None:
        node.faults.add(action="status", method="POST", path=".*/snapshots/upload", status=500, body="no")

        job = restore(target_collection="copy")

        assert_failed_cleanly_restore(job, "fault (500)", films)

    @pytest.mark.parametrize("action", ["reset", "truncate"])
    def test_an_upload_that_is_cut(self, restore: Any, films: Collections, node: SandboxNode, action: str) -> None:
        node.faults.add(action=action, method="POST", path=".*/shards/1/snapshots/upload", on="request", bytes=50_000)

        job = restore(target_collection="copy")

        assert_failed_cleanly_restore(job, "broke the connection", films)

    def test_a_result_that_is_not_what_was_backed_up(self, restore: Any, films: Collections, node: SandboxNode) -> None:
        answer = {"result": {"count": 3}, "status": "ok", "time": 0}
        node.faults.add(
            action="status", method="POST", path="/collections/copy/shards/0/points/count", status=200, body=answer
        )

        job = restore(target_collection="copy")

        assert_failed_cleanly_restore(job, "shard 0 holds 3 points", films)

    def test_a_collection_that_appears_meanwhile_is_left_alone(
        self, restore: Any, films: Collections, node: SandboxNode
    ) -> None:
        # As when somebody creates one of that name between our plan and our request.
        answer = {"status": {"error": "Wrong input: Collection `copy` already exists!"}, "time": 0}
        node.faults.add(action="status", method="PUT", path="/collections/copy$", status=409, body=answer)

        job = restore(target_collection="copy")

        assert "appeared on the target meanwhile" in job.error
        assert not any(
            entry["method"] == "DELETE" and entry["path"].startswith("/collections/copy") for entry in node.log()
        )


def assert_failed_cleanly_restore(job: Any, words: str, films: Collections) -> None:
    """The restore failed with one sentence that holds `words`; the half-made collection is gone again."""
    assert job.status == "failed", story(job)
    assert words in job.error, job.error
    assert films.names() == ["films"]
    assert not Leftover.objects.exists()
