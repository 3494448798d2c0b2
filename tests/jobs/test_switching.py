"""Overwriting where clients come through an alias: beside, proved, switched in one call, and the old one kept."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest
from django.utils import timezone

from apps.backups import proving, restoring
from apps.backups.models import Backup, KeptCollection, Leftover, Verification
from apps.clusters.qdrant import QdrantNode, QdrantTimeout
from apps.jobs.drafting import UnableToCreateJob
from apps.jobs.models import Job
from apps.jobs.runner import run_job
from apps.jobs.services import JobRequest, create_job
from tests.support import Collections, RunJob, WorkerProcess, story, wait_until

pytestmark = pytest.mark.usefixtures("cluster", "storage")


@pytest.fixture
def films(run: RunJob, collections: Collections, tmp_path: Any, settings: Any) -> Collections:
    """A collection of 301 points with a backup, to which 49 points were added since."""
    settings.BACKUPMGR_SCRATCH_DIR = str(tmp_path / "scratch")
    settings.BACKUPMGR_LOST_ANSWER_SECONDS = 1
    collections.create("films", points=301)
    assert run("backup", "films").status == "completed"
    collections.fill("films", range(301, 350))
    return collections


def restore(run: RunJob, **fields: Any) -> Job:
    fields = {"overwrite": True, "verify_points": "none", **fields}
    return run("restore", "films", backup=Backup.objects.order_by("created_at").first(), **fields)


def alias(films: Collections, *names: str, collection: str = "films") -> None:
    films.call("POST", "/collections/aliases", {
        "actions": [{"create_alias": {"collection_name": collection, "alias_name": name}} for name in names]
    })  # fmt: skip


def alias_calls(node: Any) -> int:
    return sum(entry["path"] == "/collections/aliases" for entry in node.log())


def owners(films: Collections) -> dict[str, str]:
    found = films.call("GET", "/aliases")["result"]["aliases"]
    return {entry["alias_name"]: entry["collection_name"] for entry in found}


def test_an_alias_is_restored_beside_and_switched_and_the_old_collection_stays(
    run: RunJob, films: Collections, node: Any
) -> None:
    alias(films, "live", "other")
    wait_until(lambda: alias_calls(node) == 1, what="the node's log")

    job = restore(run, target_collection="live")

    assert job.status == "completed", story(job)
    new = owners(films)["live"]
    assert new.startswith("live-")
    assert owners(films)["other"] == "films"
    assert (films.count(new), films.count("films")) == (301, 350)
    assert "'films' was kept" in story(job)
    assert alias_calls(node) == 2, "one call for all of it"
    assert Backup.objects.count() == 1, "what is kept needs no safety backup"
    assert not Leftover.objects.exists()
    kept = KeptCollection.objects.get()
    assert (kept.collection_name, kept.replaced_by, kept.aliases, kept.points_count) == ("films", new, ["live"], 350)
    assert (kept.job_id, kept.switched_at is not None) == (job.pk, True)


def test_a_collection_with_aliases_is_switched_by_all_of_them(run: RunJob, films: Collections, node: Any) -> None:
    alias(films, "live", "shop")
    films.create("unrelated", points=3)
    alias(films, "elsewhere", collection="unrelated")
    wait_until(lambda: alias_calls(node) == 2, what="the node's log")

    job = restore(run)

    assert job.status == "completed", story(job)
    new = owners(films)["live"]
    assert new.startswith("films-")
    assert owners(films) == {"live": new, "shop": new, "elsewhere": "unrelated"}
    assert (films.count(new), films.count("films")) == (301, 350)
    assert alias_calls(node) == 3, "one call for all of it"
    assert "Clients come to 'films' through the aliases 'live', 'shop'" in story(job)
    assert "Whoever uses the name 'films' itself" in story(job)


def test_in_place_can_be_chosen_although_there_are_aliases(run: RunJob, films: Collections) -> None:
    alias(films, "live")

    job = restore(run, overwrite_method="in_place")

    assert job.status == "completed", story(job)
    assert owners(films) == {"live": "films"}
    assert films.count("films") == 301
    assert films.names() == ["films"]
    assert Backup.objects.get(job_id=job.pk).points_count == 350, "the safety backup"
    assert "in place, as asked for" in story(job)
    assert not KeptCollection.objects.exists()


def test_without_an_alias_it_goes_in_place_and_says_why(run: RunJob, films: Collections) -> None:
    job = restore(run)

    assert job.status == "completed", story(job)
    assert films.names() == ["films"]
    assert films.count("films") == 301
    assert "No alias leads to 'films', and Qdrant cannot rename collections" in story(job)


@pytest.mark.parametrize(
    ("target", "method", "words"),
    [
        ("films", "switch", "No alias leads to 'films'"),
        ("nothing", "switch", "neither an alias nor a collection 'nothing'"),
        ("live", "in_place", "name it as the target"),
    ],
)
def test_a_way_that_does_not_exist_is_refused_before_anything_is_touched(
    target: str, method: str, words: str, run: RunJob, films: Collections
) -> None:
    if target == "live":
        alias(films, "live")

    job = restore(run, target_collection=target, overwrite_method=method)

    assert job.status == "failed"
    assert words in job.error
    assert (films.names(), films.count("films")) == (["films"], 350)


def test_a_way_without_overwriting_is_no_request(films: Collections) -> None:
    backup = Backup.objects.get()
    for fields in (
        {"type": "restore", "overwrite": False, "overwrite_method": "switch"},
        {"type": "shard_restore", "overwrite": True, "overwrite_method": "switch", "shard_id": 0},
    ):
        with pytest.raises(UnableToCreateJob):
            create_job(request=JobRequest(collection_name="films", backup=backup, **fields), now=timezone.now())  # type: ignore[arg-type]


def test_another_configuration_is_no_obstacle_beside(run: RunJob, films: Collections) -> None:
    """In place the configuration has to be the same; what is switched to is made anew."""
    films.delete("films")
    films.put("/collections/films", {"vectors": {"size": 3, "distance": "Dot"}})
    alias(films, "live")

    assert "another configuration" in restore(run, overwrite_method="in_place").error
    job = restore(run)

    assert job.status == "completed", story(job)
    assert films.count(owners(films)["live"]) == 301


def test_the_other_aliases_of_the_backup_come_back_in_the_same_call(run: RunJob, films: Collections, node: Any) -> None:
    alias(films, "live", "shop")
    backup = run("backup", "films")
    films.call("POST", "/collections/aliases", {"actions": [{"delete_alias": {"alias_name": "shop"}}]})
    wait_until(lambda: alias_calls(node) == 2, what="the node's log")

    job = run(
        "restore", "films", snapshot_name=backup.snapshot_name, target_collection="live", overwrite=True,
        restore_aliases=True,
    )  # fmt: skip

    assert job.status == "completed", story(job)
    assert set(owners(films)) == {"live", "shop"}
    assert len(set(owners(films).values())) == 1
    assert alias_calls(node) == 3, "one call for all of it"


# --- what goes wrong -----------------------------------------------------------------------------------------
def test_an_alias_stays_where_it_is_when_the_proof_fails(
    run: RunJob, films: Collections, monkeypatch: pytest.MonkeyPatch
) -> None:
    alias(films, "live")

    def fail(*args: Any) -> None:
        raise proving.RestoreDiffers("It differs.")

    monkeypatch.setattr(restoring, "prove", fail)

    job = restore(run, target_collection="live")

    assert job.status == "failed"
    assert owners(films) == {"live": "films"}
    assert (films.names(), films.count("films")) == (["films"], 350)
    assert not KeptCollection.objects.exists()


def test_a_damaged_part_is_found_before_anything_is_made(run: RunJob, films: Collections, folder: Any) -> None:
    alias(films, "live")
    part = folder / Backup.objects.get().parts.order_by("-shard_id")[0].key
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)

    job = restore(run, target_collection="live")

    assert job.status == "failed"
    assert "was altered in the storage" in job.error
    assert (owners(films), films.names()) == ({"live": "films"}, ["films"])


def test_a_switch_whose_answer_is_lost_is_looked_up(
    run: RunJob, films: Collections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The restored collection must not be removed as half a one once clients come to it."""
    alias(films, "live")
    genuine = QdrantNode.switch_aliases
    seen: list[Any] = []

    def lost(self: Any, names: Any, collection: str, **more: Any) -> None:
        seen.extend(Job.objects.get(type="restore").checkpoint["traces"])
        genuine(self, names, collection, **more)
        raise QdrantTimeout("Qdrant did not answer.")

    monkeypatch.setattr(QdrantNode, "switch_aliases", lost)

    job = restore(run, target_collection="live")

    assert job.status == "completed", story(job)
    assert films.count(owners(films)["live"]) == 301
    assert [trace["switching"] for trace in seen] == [["live"]], "whoever cleans up has to look at the alias first"


def test_a_switch_that_was_refused_takes_the_new_collection_back(
    run: RunJob, films: Collections, monkeypatch: pytest.MonkeyPatch
) -> None:
    alias(films, "live")

    def refuse(self: Any, names: Any, collection: str, **more: Any) -> None:
        raise QdrantTimeout("Qdrant did not answer.")

    monkeypatch.setattr(QdrantNode, "switch_aliases", refuse)

    job = restore(run, target_collection="live")

    assert job.status != "completed"
    assert owners(films) == {"live": "films"}
    assert films.names() == ["films"]
    assert not KeptCollection.objects.exists()


def test_when_nobody_tells_whether_it_was_switched_the_next_attempt_finds_out(
    run: RunJob, films: Collections, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    alias(films, "live")
    settings.BACKUPMGR_RETRY_DELAYS_SECONDS = [0]
    genuine_switch, genuine_aliases = QdrantNode.switch_aliases, QdrantNode.aliases
    silent: list[bool] = []

    def switch(self: Any, names: Any, collection: str, **more: Any) -> None:
        genuine_switch(self, names, collection, **more)
        silent.append(True)
        raise QdrantTimeout("Qdrant did not answer.")

    def aliases(self: Any) -> dict[str, str]:
        if silent:
            raise QdrantTimeout("Qdrant did not answer.")
        return genuine_aliases(self)

    monkeypatch.setattr(QdrantNode, "switch_aliases", switch)
    monkeypatch.setattr(QdrantNode, "aliases", aliases)

    job = restore(run, target_collection="live")

    assert job.status == "pending", story(job)
    new = owners(films)["live"]
    assert films.count(new) == 301, "it was not taken for half a collection"
    silent.clear()
    run_job(str(job.pk))
    job.refresh_from_db()
    assert job.status == "completed", story(job)
    assert "taking that over" in story(job)
    assert films.names() == ["films", new]
    assert Verification.objects.get().kind == "restored"
    assert KeptCollection.objects.get().switched_at is not None


@pytest.mark.parametrize("moment", ["before the switch", "after the switch"])
def test_a_worker_that_is_killed_around_the_switch(
    moment: str, films: Collections, start_worker: Callable[..., WorkerProcess], node: Any
) -> None:
    """Before it, clients keep the old collection and the half-way one goes; after it, the work is done."""
    alias(films, "live")
    if moment == "before the switch":
        node.faults.add("delay", method="POST", path="/collections/aliases", seconds=30)
    else:
        node.faults.add("stall", method="POST", path="/collections/aliases", bytes=0)
    backup = Backup.objects.get()
    request = JobRequest(
        type="restore", collection_name="films", backup=backup, target_collection="live", overwrite=True
    )
    job = create_job(request=request, now=timezone.now())
    worker = start_worker()
    wait_until(lambda: node.faults.describe()[0]["fired"], 60, what="the switch to be asked for")
    if moment == "after the switch":
        wait_until(lambda: owners(films)["live"] != "films", what="the switch")
    worker.process.send_signal(signal.SIGKILL)
    worker.kill()
    node.faults.clear()
    assert films.count("films") == 350

    start_worker()
    wait_until(lambda: Job.objects.filter(pk=job.pk, status__in=["completed", "failed"]).exists(), 90, what="the job")

    job.refresh_from_db()
    assert job.status == "completed", story(job)
    new = owners(films)["live"]
    assert films.names() == sorted(["films", new])
    assert (films.count("films"), films.count(new)) == (350, 301)
    assert KeptCollection.objects.get().replaced_by == new
    assert ("taking that over" in story(job)) == (moment == "after the switch")


def test_cleaning_up_never_removes_what_an_alias_was_switched_to(films: Collections, cluster: Any) -> None:
    from apps.backups.removing import remove
    from apps.backups.traces import CollectionTrace

    alias(films, "live")
    trace = CollectionTrace(str(cluster.pk), "films", created=True, switching=("live",))
    assert remove(trace) is False
    assert films.names() == ["films"]
    assert remove(CollectionTrace(str(cluster.pk), "films", created=True, switching=("gone",))) is True
