"""What a restore is asked for beyond the plain one: points compared, a safety backup, an alias, other replicas."""

from __future__ import annotations

from typing import Any

import pytest

from apps.backups import comparing, restoring, safety, sending
from apps.backups.engine import EngineUnavailable
from apps.backups.models import Backup, Verification
from apps.clusters.qdrant import QdrantTimeout
from apps.jobs.models import Job
from tests.support import Collections, RunJob, story

pytestmark = pytest.mark.usefixtures("cluster", "storage")


@pytest.fixture
def films(run: RunJob, collections: Collections, tmp_path: Any, settings: Any) -> Collections:
    settings.BACKUPMGR_SCRATCH_DIR = str(tmp_path / "scratch")
    settings.BACKUPMGR_RETRY_DELAYS_SECONDS = []
    collections.create("films", points=301)
    assert run("backup", "films").status == "completed"
    return collections


def restore(run: RunJob, **fields: Any) -> Job:
    return run("restore", "films", backup=Backup.objects.order_by("created_at").first(), **fields)


# --- points compared ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(("wanted", "points"), [("", 200), ("sample", 200), ("all", 301), ("none", 0)])
def test_points_are_read_back_and_compared_one_by_one(
    wanted: str, points: int, run: RunJob, films: Collections
) -> None:
    job = restore(run, target_collection="again", verify_points=wanted)

    assert job.status == "completed", story(job)
    kept = Verification.objects.get()
    assert (kept.kind, kept.result, kept.points_compared) == ("restored", "ok", points)
    assert "301 points in 2 shards" in kept.method
    assert "Restored into 'again' on 'main'" in kept.method


@pytest.mark.parametrize("change", ["payload", "vector", "id"])
def test_one_point_that_differs_fails_the_restore_and_its_collection_goes(
    change: str, run: RunJob, films: Collections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts, configuration and schema are right; somebody changed one point behind Qdrant's back."""
    genuine = restoring.prove

    def prove(restoration: Any, topology: Any) -> str:
        told = genuine(restoration, topology)
        point = films.point(7)
        if change == "payload":
            point["payload"]["city"] = "Rome"
        elif change == "vector":
            point["vector"]["text"] = [1, 0, 0, 0, 0, 0, 0, 0.5]
        else:
            films.call("POST", "/collections/again/points/delete?wait=true", {"points": [7]})
            return told
        films.put("/collections/again/points?wait=true", {"points": [point]})
        return told

    monkeypatch.setattr(restoring, "prove", prove)

    job = restore(run, target_collection="again", verify_points="all")

    assert job.status == "failed"
    assert f"point 7 of shard {0 if '0' in job.error.split('shard ')[1][:1] else 1}" in job.error
    assert ("is missing" if change == "id" else "differs") in job.error
    assert films.names() == ["films"]
    assert not Verification.objects.filter(result="ok").exists()


def test_large_parts_are_opened_on_demand_only(run: RunJob, films: Collections, settings: Any) -> None:
    settings.BACKUPMGR_SAMPLE_MAX_MB = 0

    assert restore(run, target_collection="one").status == "completed"
    assert restore(run, target_collection="two", verify_points="sample").status == "completed"

    second, first = Verification.objects.order_by("-created_at")
    assert (first.points_compared, second.points_compared) == (0, 200)
    assert "verify_points" in first.method


def test_what_cannot_be_compared_here_is_told_or_refused_before_anything_is_touched(
    run: RunJob, films: Collections, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(folder: Any, size_bytes: int) -> None:
        raise EngineUnavailable("There is no room.")

    monkeypatch.setattr(comparing, "check_room", no_room)

    lenient = restore(run, target_collection="one")
    strict = restore(run, target_collection="two", verify_points="all")

    assert lenient.status == "completed"
    assert "could not be compared one by one: There is no room." in story(lenient)
    assert (strict.status, strict.error) == ("failed", "There is no room.")
    assert films.names() == ["films", "one"]


# --- safety backup -----------------------------------------------------------------------------------------
def test_what_is_overwritten_is_backed_up_first(run: RunJob, films: Collections) -> None:
    films.fill("films", range(301, 400))
    before = films.points("films")

    job = restore(run, overwrite=True)

    assert job.status == "completed", story(job)
    assert films.count("films") == 301
    kept = Backup.objects.get(job_id=job.pk)
    assert kept.points_count == 400
    assert kept.snapshot_name in story(job)
    assert run("restore", "films", backup=kept, target_collection="back").status == "completed"
    assert films.points("back") == before


def test_a_safety_backup_can_be_declined_and_an_empty_collection_needs_none(run: RunJob, films: Collections) -> None:
    assert restore(run, overwrite=True, safety_backup=False).status == "completed"
    films.call("POST", "/collections/films/points/delete?wait=true", {"points": list(range(301))})
    assert films.count("films") == 0
    assert restore(run, overwrite=True).status == "completed"

    assert Backup.objects.count() == 1
    assert films.count("films") == 301


def test_a_failure_in_the_middle_names_the_safety_backup(
    run: RunJob, films: Collections, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Any, part: Any, endpoint: Any) -> None:
        raise QdrantTimeout("Qdrant did not answer.")

    monkeypatch.setattr(sending.Sender, "_upload", fail)

    job = restore(run, overwrite=True)

    kept = Backup.objects.get(job_id=job.pk)
    assert f"what it held before is in the backup {kept.snapshot_name}" in f"{job.error} {job.wait_reason}"
    again = run("restore", "films", backup=Backup.objects.get(pk=kept.pk), target_collection="back")
    assert again.status != "completed"  # the same fault
    assert Backup.objects.filter(job_id=job.pk).count() == 1


def test_without_a_safety_backup_nothing_is_touched(
    run: RunJob, films: Collections, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> Any:
        raise safety.PlanBlocked("No replica.")

    monkeypatch.setattr(safety, "make_backup", fail)
    films.fill("films", range(301, 310))

    job = restore(run, overwrite=True)

    assert job.status == "failed"
    assert "could not be made, so nothing was touched: No replica. To go without one" in job.error
    assert films.count("films") == 310


# --- replicas ----------------------------------------------------------------------------------------------
def test_the_replication_factor_can_be_another_and_what_cannot_be_is_refused(run: RunJob, films: Collections) -> None:
    job = restore(run, target_collection="again", replication_factor=1)
    more = restore(run, target_collection="more", replication_factor=2)
    in_place = restore(run, overwrite=True, replication_factor=1)

    assert job.status == "completed", story(job)
    assert (more.status, in_place.status) == ("failed", "failed")
    assert "2 replicas of each shard were asked for, and the target has 1 node" in more.error
    assert "its replication factor stays as it is" in in_place.error
    assert films.names() == ["again", "films"]
