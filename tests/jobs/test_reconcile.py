"""The reconciler finds what is out of place on both sides, removes what is provably ours, and touches nothing else."""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from apps.backups.models import Backup, Leftover, MadeSnapshot, Orphan, OrphanState, Reconciliation
from apps.clusters.models import Cluster
from apps.core.abort import Abort
from apps.core.errors import Conflict
from apps.jobs.cleaning import clean_leftovers
from apps.jobs.models import Job
from apps.jobs.orphans import OrphanDecided, adopt_orphan, delete_orphan, dismiss_orphan
from apps.jobs.reconciling import Outcome, reconcile
from apps.jobs.services import delete_backup
from apps.sandbox import SandboxCluster, SandboxNode
from apps.storage.local import LocalStore
from apps.storage.models import StorageConfig
from apps.storage.services import open_store
from tests.support import Collections, RunJob, files, open_uploads, story

CREATE = "/collections/films/shards/0/snapshots$"
DELETE = "/collections/films/shards/0/snapshots/.*"


def look(**options: Any) -> Outcome:
    """Reconcile when everything that is there now is old."""
    return reconcile(**({"trigger": "command", "now": timezone.now() + timedelta(hours=30)} | options))


def states() -> list[tuple[str, str]]:
    return sorted(Orphan.objects.values_list("kind", "state"))


@pytest.fixture
def films(cluster: Cluster, collections: Collections) -> Collections:
    collections.create("films", points=20, shards=1)
    return collections


@pytest.fixture
def backup(run: RunJob, storage: StorageConfig, films: Collections) -> Backup:
    job = run("backup", "films")
    assert job.status == "completed", story(job)
    return Backup.objects.get()


def come_to_nothing(backup: Backup, status: str = "failed") -> Job:
    """Make it as if the job had ended (or not) before the manifest was written."""
    open_store(backup.storage).delete(f"{backup.path}/manifest.json")
    Job.objects.filter(pk=backup.job_id).update(status=status)
    job = Job.objects.get(pk=backup.job_id)
    backup.delete()
    return job


class TestStorage:
    def test_a_tidy_storage_shows_nothing(self, backup: Backup, storage: StorageConfig) -> None:
        outcome = look()

        assert (outcome.found, outcome.cleaned, outcome.failed) == (0, 0, [])
        assert [(place.kind, place.name, place.looked_at) for place in outcome.places] == [
            ("storage", "folder", 1),
            ("cluster", "main", 1),
        ]
        run = Reconciliation.objects.get()
        assert (run.status, run.trigger, run.found) == ("completed", "command", 0)
        backup.refresh_from_db()
        assert backup.status == "completed"

    def test_files_of_a_job_that_came_to_nothing_are_removed(self, backup: Backup, folder: Path) -> None:
        job = come_to_nothing(backup)
        assert len(files(folder)) == 1

        outcome = look()

        assert (outcome.found, outcome.cleaned) == (1, 1)
        assert files(folder) == []
        orphan = Orphan.objects.get()
        assert (orphan.kind, orphan.state, orphan.is_ours, orphan.job_id) == ("files", "cleaned", True, job.pk)
        assert orphan.ended_at is not None
        assert not Leftover.objects.exists()

    @pytest.mark.parametrize("status", ["pending", "running"])
    def test_files_of_a_job_at_work_are_left_alone(self, backup: Backup, folder: Path, status: str) -> None:
        come_to_nothing(backup, status)

        assert look().found == 0
        assert len(files(folder)) == 1

    def test_what_is_young_is_left_alone(self, backup: Backup, folder: Path) -> None:
        job = come_to_nothing(backup)

        assert look(now=timezone.now()).found == 0
        assert look(now=timezone.now() + timedelta(hours=23)).found == 0
        # The files are old, the job's end is not.
        Job.objects.filter(pk=job.pk).update(completed_at=timezone.now() + timedelta(hours=20))
        assert look().found == 0
        assert len(files(folder)) == 1

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({}, "Nobody here knows the job"),
            ({"type": "restore"}, "to write something else"),
            ({"collection_name": "others"}, "to write something else"),
            ({"attempt": 0}, "with fewer attempts"),
        ],
    )
    def test_what_is_not_proved_to_be_ours_is_listed_and_stays(
        self, backup: Backup, folder: Path, change: dict[str, Any], words: str
    ) -> None:
        job = come_to_nothing(backup)
        Job.objects.filter(pk=job.pk).update(**change) if change else job.delete()

        outcome = look()

        assert (outcome.found, outcome.cleaned) == (1, 0)
        orphan = Orphan.objects.get()
        assert (orphan.kind, orphan.state, orphan.is_ours) == ("files", "open", False)
        assert words in orphan.reason
        assert len(files(folder)) == 1

    def test_files_of_others_are_not_even_mentioned(self, storage: StorageConfig, folder: Path) -> None:
        for name in ("readme.txt", "main/films/notes.md", "a/b/c/d/e.bin", "shard-0.snapshot.bak", "x/manifest.json~"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"x")
        stray = folder / "main" / "films" / "20261301T000000Z-nonsense" / "shard-0.snapshot"
        stray.parent.mkdir(parents=True)
        stray.write_bytes(b"x")

        assert look().found == 0
        assert len(files(folder)) == 6

    def test_a_foreign_file_among_ours_keeps_the_folder(self, backup: Backup, folder: Path) -> None:
        come_to_nothing(backup)
        (folder / backup.path / "note.txt").write_text("keep")

        look()

        orphan = Orphan.objects.get()
        assert (orphan.state, orphan.is_ours) == ("open", False)
        assert "none of ours" in orphan.reason
        assert len(files(folder)) == 2
        with pytest.raises(Conflict, match="by hand"):
            delete_orphan(orphan_id=orphan.pk, now=timezone.now())

    def test_a_backup_that_the_catalogue_does_not_know_is_offered_and_adopted(
        self, backup: Backup, folder: Path
    ) -> None:
        Backup.objects.all().delete()

        assert look().found == 1
        assert look().found == 1, "found again, it is the same"

        orphan = Orphan.objects.get()
        assert (orphan.kind, orphan.state, orphan.collection_name) == ("backup", "open", "films")
        adopted = adopt_orphan(orphan_id=orphan.pk, now=timezone.now())
        assert adopted.state == "adopted"
        assert adopted.backup is not None
        assert adopted.backup.snapshot_name == backup.snapshot_name
        assert look().found == 0
        with pytest.raises(OrphanDecided, match="adopted"):
            dismiss_orphan(orphan_id=orphan.pk, now=timezone.now())

    def test_a_manifest_that_cannot_be_read_is_listed(self, backup: Backup, folder: Path) -> None:
        Backup.objects.all().delete()
        (folder / backup.path / "manifest.json").write_text("{")

        look()

        assert "cannot be read" in Orphan.objects.get().reason

    def test_rows_whose_files_are_gone_or_changed_say_so(
        self, run: RunJob, backup: Backup, storage: StorageConfig, folder: Path
    ) -> None:
        run("backup", "films")
        run("backup", "films")
        gone, short, altered = Backup.objects.order_by("created_at")
        shutil.rmtree(folder / gone.path)
        part = folder / short.path / "shard-0.snapshot"
        part.write_bytes(part.read_bytes()[:-1])
        manifest = folder / altered.path / "manifest.json"
        manifest.write_text(manifest.read_text().replace("films", "filmz"))

        outcome = look(dry_run=True)
        assert outcome.found == 3
        assert set(Backup.objects.values_list("status", flat=True)) == {"completed"}, "a dry run changes nothing"
        outcome = look()

        assert (outcome.found, outcome.cleaned) == (3, 0)
        assert dict(Backup.objects.values_list("pk", "status")) == {
            gone.pk: "missing",
            short.pk: "damaged",
            altered.pk: "damaged",
        }
        assert states() == [("row", "open")] * 3
        orphan = Orphan.objects.get(backup=gone)
        assert delete_orphan(orphan_id=orphan.pk, now=timezone.now()).state == "cleaned"
        assert not Backup.objects.filter(pk=gone.pk).exists()

    def test_a_backup_that_is_back_is_good_again(self, backup: Backup, folder: Path) -> None:
        away = folder.with_name("elsewhere")
        (folder / backup.path).rename(away)
        look()
        assert Backup.objects.get().status == "missing"
        away.rename(folder / backup.path)

        assert look().found == 0

        assert Backup.objects.get().status == "completed"
        assert states() == [("row", "gone")]

    def test_one_that_is_being_deleted_is_left_to_its_tombstone(self, backup: Backup, folder: Path) -> None:
        (folder / backup.path / "manifest.json").unlink()
        delete_backup(backup_id=backup.pk, now=timezone.now())

        assert look().found == 0
        assert Backup.objects.get().status == "deleting"

    def test_unfinished_files_are_removed_one_by_one(
        self, backup: Backup, storage: StorageConfig, folder: Path
    ) -> None:
        """Beside a good backup, and alone in a folder."""
        attempt = f"{backup.path}-2"
        for key in (f"{backup.path}/shard-0.snapshot", f"{attempt}/shard-0.snapshot"):
            part = folder / f"{key}.{'a' * 16}.part"
            part.parent.mkdir(exist_ok=True)
            part.write_bytes(b"x")
        foreign = folder / "main" / f"x.txt.{'b' * 16}.part"
        foreign.write_bytes(b"x")
        Job.objects.update(attempt=2)

        outcome = look()

        assert (outcome.found, outcome.cleaned) == (2, 2)
        assert len(files(folder)) == 3, "backup and what is not ours"
        assert foreign.exists()
        assert not (folder / attempt).exists()

    def test_what_connection_tests_left_is_removed(self, storage: StorageConfig, folder: Path) -> None:
        store = open_store(storage)
        store.put(f".probe-{'0' * 16}", b"x")
        (folder / f".probe-{'1' * 16}.{'a' * 16}.part").write_bytes(b"x")
        (folder / ".probe-mine").write_bytes(b"x")

        outcome = look()

        assert (outcome.found, outcome.cleaned) == (2, 2)
        assert files(folder) == [".probe-mine"]

    def test_a_storage_within_another_is_looked_at_once(
        self, run: RunJob, backup: Backup, storage: StorageConfig, folder: Path
    ) -> None:
        inner = StorageConfig.objects.create(name="inner", type="local", path=str(folder / "inner"))
        twin = StorageConfig.objects.create(name="twin", type="local", path=str(folder))
        (folder / "inner").mkdir()
        job = run("backup", "films", storage=inner)
        assert job.status == "completed", story(job)

        assert look().found == 0

        come_to_nothing(Backup.objects.get(storage=inner))
        come_to_nothing(backup)
        outcome = look()
        assert (outcome.found, outcome.cleaned) == (2, 2)
        assert set(Orphan.objects.values_list("storage__name", flat=True)) == {"folder", "inner"}
        assert not Orphan.objects.filter(storage=twin).exists()

    def test_what_resists_is_tried_again_by_its_tombstone(
        self, backup: Backup, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        come_to_nothing(backup)
        (folder / backup.path).chmod(0o500)
        if os.geteuid() == 0:
            from apps.storage.errors import StorageDenied

            def refuse(store: LocalStore, path: str) -> int:
                raise StorageDenied("The folder cannot be used.")

            monkeypatch.setattr(LocalStore, "clear", refuse)

        outcome = look()

        assert (outcome.found, outcome.cleaned) == (1, 0)
        orphan = Orphan.objects.get()
        assert orphan.state == "open"
        left = Leftover.objects.get()
        assert (left.orphan, left.kind, left.tries) == (orphan, "folder", 1)
        assert "cannot be used" in left.last_error
        assert look().found == 0, "the tombstone sees to it"
        orphan.refresh_from_db()
        assert orphan.state == "open"
        monkeypatch.undo()
        (folder / backup.path).chmod(0o700)
        assert clean_leftovers(now=timezone.now() + timedelta(hours=1)) == 1
        orphan.refresh_from_db()
        assert orphan.state == "cleaned"


class TestDecisions:
    @pytest.fixture
    def orphan(self, backup: Backup) -> Orphan:
        Job.objects.all().delete()
        Backup.objects.all().delete()
        open_store(backup.storage).delete(f"{backup.path}/manifest.json")
        look()
        return Orphan.objects.get()

    def test_what_is_dismissed_stays_and_is_not_brought_up_again(self, orphan: Orphan, folder: Path) -> None:
        assert dismiss_orphan(orphan_id=orphan.pk, now=timezone.now()).state == "dismissed"

        look()

        assert states() == [("files", "dismissed")]
        assert len(files(folder)) == 1

    def test_what_a_person_deletes_goes(self, orphan: Orphan, folder: Path, settings: Any) -> None:
        with pytest.raises(Conflict, match="written lately"):
            delete_orphan(orphan_id=orphan.pk, now=timezone.now())
        settings.BACKUPMGR_RECONCILE_AGE_HOURS = 0

        assert delete_orphan(orphan_id=orphan.pk, now=timezone.now()).state == "cleaned"
        assert files(folder) == []

    def test_only_a_backup_is_adopted(self, orphan: Orphan) -> None:
        with pytest.raises(Conflict, match="no backup"):
            adopt_orphan(orphan_id=orphan.pk, now=timezone.now())

    def test_one_that_went_by_itself_is_gone(self, orphan: Orphan, folder: Path) -> None:
        shutil.rmtree(folder / orphan.name)

        look()

        assert states() == [("files", "gone")]

    def test_one_that_comes_back_is_open_again(self, orphan: Orphan, folder: Path) -> None:
        Orphan.objects.update(state=OrphanState.CLEANED, ended_at=timezone.now())

        look()

        orphan.refresh_from_db()
        assert (orphan.state, orphan.ended_at) == ("open", None)

    def test_a_job_that_comes_back_to_life_keeps_its_files(
        self, backup: Backup, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is retried between the finding and the removal."""
        from apps.backups.reconcile import recording

        job = come_to_nothing(backup)
        record = recording.record_finding

        def retried(*args: Any, **options: Any) -> Orphan:
            orphan = record(*args, **options)
            Job.objects.filter(pk=job.pk).update(status="pending")
            return orphan

        monkeypatch.setattr("apps.jobs.reconciling.record_finding", retried)

        outcome = look()

        assert (outcome.found, outcome.cleaned) == (1, 0)
        assert len(files(folder)) == 1
        assert not Leftover.objects.exists()

    def test_a_job_that_comes_back_to_life_keeps_its_files_from_the_tombstone(
        self, backup: Backup, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = come_to_nothing(backup)
        monkeypatch.setattr("apps.jobs.reconciling.try_leftover", lambda *args, **options: False)
        look()
        monkeypatch.undo()
        assert Leftover.objects.exists()
        Job.objects.filter(pk=job.pk).update(status="running")

        assert clean_leftovers(now=timezone.now() + timedelta(hours=1)) == 0
        assert len(files(folder)) == 1


class TestNodes:
    def make(self, films: Collections) -> str:
        return str(films.call("POST", "/collections/films/shards/0/snapshots")["result"]["name"])

    @pytest.fixture
    def left(self, run: RunJob, storage: StorageConfig, films: Collections, node: SandboxNode) -> str:
        """A snapshot that a job could not delete, and whose tombstone got lost."""
        node.faults.add(action="status", method="DELETE", path=DELETE, status=503, body="later")
        job = run("backup", "films")
        node.faults.clear()
        assert job.status == "completed", story(job)
        Leftover.objects.all().delete()
        (name,) = films.snapshots("films", shards=1)
        return name

    def test_evidence_goes_with_the_snapshot(self, backup: Backup) -> None:
        assert not MadeSnapshot.objects.exists()

    def test_one_of_ours_is_removed_and_those_of_others_stay(self, left: str, films: Collections) -> None:
        time.sleep(1.1)
        theirs = self.make(films)
        whole = films.call("POST", "/collections/films/snapshots")["result"]["name"]

        outcome = look()

        assert (outcome.found, outcome.cleaned) == (1, 1), outcome
        assert sorted(films.snapshots("films", shards=1)) == sorted([theirs, whole])
        orphan = Orphan.objects.get()
        assert (orphan.kind, orphan.name, orphan.shard_id, orphan.state) == ("snapshot", left, 0, "cleaned")
        assert not MadeSnapshot.objects.exists()

    def test_the_manifest_alone_proves_it(self, left: str, films: Collections) -> None:
        """The database was lost, and rebuilt by a rescan."""
        MadeSnapshot.objects.all().delete()
        Job.objects.all().delete()

        outcome = look()

        assert (outcome.found, outcome.cleaned) == (1, 1)
        assert "The manifest of" in Orphan.objects.get().reason
        assert films.snapshots("films", shards=1) == []

    def test_another_file_of_that_name_is_listed_and_stays(self, left: str, films: Collections) -> None:
        MadeSnapshot.objects.update(checksum="0" * 64)
        Backup.objects.all().delete()
        Job.objects.update(status="failed")

        outcome = look(clusters=list(Cluster.objects.all()))

        assert (outcome.found, outcome.cleaned) == (1, 0)
        assert films.snapshots("films", shards=1) == [left]

    def test_a_young_one_and_one_of_a_job_at_work_are_left_alone(self, left: str, films: Collections) -> None:
        assert look(now=timezone.now()).found == 0
        Job.objects.update(status="running")
        assert look().found == 0
        Job.objects.update(status="pending")
        assert look().found == 0
        assert films.snapshots("films", shards=1) == [left]

    def test_one_that_may_be_ours_is_listed_and_a_person_decides(
        self, cluster: Cluster, storage: StorageConfig, films: Collections
    ) -> None:
        made = {"cluster": cluster, "collection_name": "films", "shard_id": 0, "job_id": uuid.uuid4()}
        MadeSnapshot.objects.create(**made, requested_at=timezone.now(), node_time=timezone.now())
        name = self.make(films)

        outcome = look()

        assert (outcome.found, outcome.cleaned) == (1, 0)
        orphan = Orphan.objects.get()
        assert "it may be this, or somebody else's" in orphan.reason
        assert films.snapshots("films", shards=1) == [name]
        assert delete_orphan(orphan_id=orphan.pk, now=timezone.now()).state == "cleaned"
        assert films.snapshots("films", shards=1) == []
        assert not MadeSnapshot.objects.exists()

    def test_evidence_outlives_a_collection_that_was_dropped(
        self, run: RunJob, storage: StorageConfig, films: Collections, node: SandboxNode, cluster: Cluster
    ) -> None:
        """Qdrant keeps the file out of sight, and shows it again with a collection of that name."""
        MadeSnapshot.objects.create(
            cluster=cluster,
            collection_name="dropped",
            shard_id=0,
            job_id=uuid.uuid4(),
            name="dropped-shard-0.snapshot",
            requested_at=timezone.now(),
        )
        look()
        assert MadeSnapshot.objects.exists(), "the collection is not there: nobody can tell"
        films.create("dropped", points=1, shards=1)

        look()

        assert not MadeSnapshot.objects.exists(), "all nodes were asked, and it is not there"


class TestManyNodes:
    @pytest.fixture
    def three(self, db: None, sandbox_cluster: SandboxCluster) -> Cluster:
        first, *others = sandbox_cluster.urls
        return Cluster.objects.create(name="three", url=first, other_urls=others)

    def test_what_is_left_on_any_node_goes_and_a_node_that_is_away_is_told(
        self, run: RunJob, storage: StorageConfig, three: Cluster, sandbox_cluster: SandboxCluster
    ) -> None:
        films = Collections(sandbox_cluster.urls[0])
        films.create("films", points=60, shards=3)
        for number in range(3):
            sandbox_cluster.node(number).faults.add(
                action="status", method="DELETE", path=".*/snapshots/.*", status=503
            )
        job = run("backup", "films", cluster=three)
        assert job.status == "completed", story(job)
        for number in range(3):
            sandbox_cluster.node(number).faults.clear()
        Leftover.objects.all().delete()
        assert MadeSnapshot.objects.count() == 3
        sandbox_cluster.stop(2)

        outcome = look()

        (place,) = outcome.failed
        assert place.name == "three"
        there = outcome.cleaned
        assert 1 <= there <= 3
        assert MadeSnapshot.objects.count() == 3 - there, "what nobody could look at stays known"
        sandbox_cluster.start(2)
        outcome = look()
        assert (outcome.cleaned, outcome.failed) == (3 - there, [])
        assert not MadeSnapshot.objects.exists()
        assert set(Orphan.objects.values_list("state", flat=True)) == {"cleaned"}


class TestHalfRestored:
    UPLOAD = "/collections/films/shards/[0-9]+/snapshots/upload"

    def test_a_collection_that_a_restore_left_half_replaced_is_told_until_it_is_whole(
        self, run: RunJob, backup: Backup, films: Collections, node: SandboxNode
    ) -> None:
        node.faults.add(action="status", method="POST", path=self.UPLOAD, status=400, body="no")
        broken = run("restore", "films", backup=backup, overwrite=True)
        node.faults.clear()
        assert broken.status == "failed", story(broken)

        assert look().found == 1

        orphan = Orphan.objects.get()
        assert (orphan.kind, orphan.name, orphan.job_id, orphan.is_ours) == ("collection", "films", broken.pk, False)
        assert "restore it again" in orphan.reason
        with pytest.raises(Conflict, match="Restore it again"):
            delete_orphan(orphan_id=orphan.pk, now=timezone.now())
        assert films.count("films") >= 0, "it is still there"
        assert run("restore", "films", backup=backup, overwrite=True).status == "completed"
        assert look().found == 0
        orphan.refresh_from_db()
        assert orphan.state == "gone"

    def test_a_restore_that_was_refused_before_it_touched_anything_is_none(
        self, run: RunJob, backup: Backup, folder: Path
    ) -> None:
        part = folder / backup.path / "shard-0.snapshot"
        part.write_bytes(part.read_bytes()[:-1] + b"x")
        assert run("restore", "films", backup=backup, overwrite=True).status == "failed"

        look()

        assert not Orphan.objects.filter(kind="collection").exists()


class TestPlaces:
    def test_one_that_is_away_is_told_and_stops_no_other(
        self, backup: Backup, storage: StorageConfig, folder: Path
    ) -> None:
        StorageConfig.objects.create(name="away", type="local", path=str(folder / "gone"))
        bucket = StorageConfig(name="bucket", type="s3", s3_endpoint="http://127.0.0.1:9", s3_bucket="b")
        bucket.save()
        Cluster.objects.create(name="down", url="http://127.0.0.1:9")
        come_to_nothing(backup)

        outcome = look()

        assert {place.name for place in outcome.failed} == {"away", "bucket", "down"}
        assert outcome.cleaned == 1
        assert files(folder) == []
        errors = {place["name"]: place["error"] for place in Reconciliation.objects.get().places}
        assert "does not exist" in errors["away"]
        assert "cannot be reached" in errors["down"]

    def test_what_was_found_at_a_place_that_is_away_stays_open(self, backup: Backup, folder: Path) -> None:
        Backup.objects.all().delete()
        look()
        folder.rename(folder.with_name("unmounted"))

        look()

        assert states() == [("backup", "open")]

    def test_a_storage_that_is_away_makes_no_backup_missing(self, backup: Backup, folder: Path) -> None:
        folder.rename(folder.with_name("unmounted"))

        look()

        assert Backup.objects.get().status == "completed"


class TestCommand:
    def call(self, *arguments: str) -> tuple[int, str]:
        out = StringIO()
        try:
            call_command("reconcile", *arguments, stdout=out)
        except SystemExit as end:
            return int(str(end.code)), out.getvalue()
        return 0, out.getvalue()

    def test_it_tells_what_it_did_and_what_is_left(self, backup: Backup, folder: Path, settings: Any) -> None:
        settings.BACKUPMGR_RECONCILE_AGE_HOURS = 0
        assert self.call()[0] == 0
        Backup.objects.all().delete()

        code, text = self.call()

        assert code == 2
        assert f"open: backup that the catalogue does not know {backup.path}" in text
        assert "storage folder: looked at, 1 orphan found, 0 removed" in text

    def test_json_is_one_document(self, backup: Backup, settings: Any) -> None:
        settings.BACKUPMGR_RECONCILE_AGE_HOURS = 0
        Backup.objects.all().delete()

        code, text = self.call("--json")

        document = json.loads(text)
        assert code == 2
        assert (document["found"], document["cleaned"], len(document["orphans"])) == (1, 0, 1)
        assert document["orphans"][0]["name"] == backup.path
        assert [place["name"] for place in document["places"]] == ["folder", "main"]
        assert json.loads(self.call("--json", "--cluster", "main")[1])["orphans"] == []

    def test_a_dry_run_changes_nothing(self, backup: Backup, folder: Path, settings: Any) -> None:
        settings.BACKUPMGR_RECONCILE_AGE_HOURS = 0
        come_to_nothing(backup)

        code, text = self.call("--dry-run")

        assert code == 0
        assert "would be cleaned: files of an unfinished backup" in text
        assert len(files(folder)) == 1
        assert not Orphan.objects.exists()
        assert not Reconciliation.objects.exists()

    def test_a_place_that_cannot_be_looked_at_is_code_3(self, backup: Backup) -> None:
        Cluster.objects.create(name="down", url="http://127.0.0.1:9")

        code, text = self.call("--cluster", "down")

        assert code == 3
        assert "cluster down: could not be looked at" in text

    @pytest.mark.parametrize("option", ["--cluster", "--storage"])
    def test_unknown_names_are_said(self, db: None, option: str) -> None:
        with pytest.raises(CommandError, match="nobody"):
            call_command("reconcile", option, "nobody")

    def test_two_do_not_look_at_once(self, backup: Backup) -> None:
        Reconciliation.objects.create(
            status="running", trigger="command", created_at=timezone.now(), seen_at=timezone.now()
        )

        with pytest.raises(CommandError, match="under way"):
            call_command("reconcile")


@pytest.mark.s3
@pytest.mark.xdist_group("s3")
class TestBucket:
    @pytest.fixture
    def bucket(self, transactional_db: None, s3_config: StorageConfig) -> StorageConfig:
        s3_config.save()
        return s3_config

    def keys(self, bucket: StorageConfig) -> list[str]:
        return sorted(stored.key for stored in open_store(bucket).list(""))

    def test_files_and_uploads_of_ours_go_and_those_of_others_stay(
        self, run: RunJob, bucket: StorageConfig, films: Collections, cluster: Cluster
    ) -> None:
        good = run("backup", "films")
        assert good.status == "completed", story(good)
        bad = run("backup", "films")
        come_to_nothing(Backup.objects.get(job_id=bad.pk))
        store = open_store(bucket)
        kept = Backup.objects.get()
        stranger = f"main/films/20260101T000000Z-{uuid.uuid4()}"
        for key in (f"{kept.path}/shard-7.snapshot", f"{stranger}/shard-0.snapshot", "photos/large.jpg"):
            store.sink(key, 20_000_000, Abort())
        store.put(f"{stranger}/shard-1.snapshot", b"x")
        store.put("photos/small.jpg", b"x")

        outcome = look()

        assert (outcome.found, outcome.cleaned) == (4, 2), list(Orphan.objects.values_list("kind", "name", "reason"))
        assert states() == [
            ("files", "cleaned"), ("files", "open"), ("upload", "cleaned"), ("upload", "open"),
        ]  # fmt: skip
        assert len(self.keys(bucket)) == 4
        assert sorted(key.rpartition("/")[2] for key in open_uploads(bucket)) == ["large.jpg", "shard-0.snapshot"]

    def test_a_bucket_is_the_catalogue_s_source_again(
        self, run: RunJob, bucket: StorageConfig, films: Collections, cluster: Cluster
    ) -> None:
        run("backup", "films")
        Backup.objects.all().delete()

        look()
        adopt_orphan(orphan_id=Orphan.objects.get().pk, now=timezone.now())

        assert Backup.objects.get().status == "completed"


def test_ten_thousand_objects_take_bounded_memory_and_time(
    transactional_db: None, storage: StorageConfig, folder: Path, cluster: Cluster
) -> None:
    import tracemalloc

    for number in range(500):
        home = folder / "main" / f"c{number % 50}" / f"20260101T000000Z-{uuid.UUID(int=number)}"
        home.mkdir(parents=True)
        for shard in range(20):
            (home / f"shard-{shard}.snapshot").write_bytes(b"x")
    tracemalloc.start()
    started = time.monotonic()

    outcome = look()

    took, peak = time.monotonic() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert outcome.found == 500
    assert Orphan.objects.filter(state="open", kind="files").count() == 500
    print(f"{took:.1f} s, {peak / 1e6:.1f} MB at most")
    assert peak < 25e6
    assert took < 120  # generous: it takes some seconds when nobody else is at work
