"""The checker must find what it looks for: a table that cannot get red would be worth nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from faultlib import checker as checker_module
from faultlib.bed import SMALL
from faultlib.checker import Checker
from faultlib.points import POINTS
from faultlib.runner import Runner
from faultlib.scene import Scene
from faultlib.wire_faults import Answer, Hold

pytestmark = [
    pytest.mark.worker,
    pytest.mark.s3,
    pytest.mark.xdist_group("faults"),
    pytest.mark.skipif(
        not os.environ.get("BACKUPMGR_TEST_FAULTS"), reason="takes minutes: BACKUPMGR_TEST_FAULTS=1 runs it"
    ),
]


class Case:
    """A job that nothing was done to, with the checker that judges it."""

    def __init__(self, runner: Runner, table: str, point: str = "plan") -> None:
        self.runner = runner
        self.bed = runner.bed
        runner.make_ready()
        self.before = self.bed.world.state()
        self.checker = Checker(self.bed, self.before)
        self.scene = Scene(self.bed, POINTS[table][point], runner.base, {})
        self.job: dict[str, Any] = {}

    def run(self) -> Case:
        self.scene.job_id = self.scene.create_job()
        self.job = self.bed.api.wait(self.scene.job_id, 60)
        assert self.job["status"] == "completed", self.job["error"]
        return self

    @property
    def backup(self) -> dict[str, Any]:
        return next(backup for backup in self.bed.api.backups() if backup["job_id"] == self.job["id"])


@pytest.fixture
def clean(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runner]:
    monkeypatch.setattr(checker_module, "CLEAN_SECONDS", 0.5)
    yield runner
    runner.calm()


@pytest.mark.parametrize("table", ["backup-folder", "restore-folder", "restore-s3"])
def test_nothing_is_wrong_with_a_job_that_nothing_was_done_to(clean: Runner, table: str) -> None:
    case = Case(clean, table).run()

    assert case.checker.judge(case.scene, ("completed",)).problems == []
    assert clean.bed.world.state() == case.before


def test_a_snapshot_left_on_the_node(clean: Runner) -> None:
    case = Case(clean, "backup-folder").run()
    clean.bed.world.call("POST", f"/collections/{SMALL}/shards/1/snapshots?wait=true")

    [problem] = case.checker.leftovers(case.scene, case.job)

    assert problem.startswith(f"left lying about: snapshot {SMALL}/shards/1/")


def test_an_upload_left_open_in_the_bucket(clean: Runner) -> None:
    case = Case(clean, "restore-s3").run()
    clean.bed.world.open_upload(f"main/{SMALL}/20990101T000000Z-ours/shard-0.snapshot")

    [problem] = case.checker.leftovers(case.scene, case.job)

    assert problem.startswith("left lying about: upload ")


def test_an_unfinished_file_in_the_folder(clean: Runner) -> None:
    case = Case(clean, "backup-folder").run()
    place = clean.bed.storages["folder"] / "main" / SMALL / "20990101T000000Z-ours"
    place.mkdir()
    (place / "shard-0.snapshot.0123456789abcdef.part").write_text("half")

    [problem] = case.checker.leftovers(case.scene, case.job)

    assert "left lying about: file folder:" in problem


def test_a_collection_that_a_failed_restore_left_half_filled(clean: Runner) -> None:
    case = Case(clean, "restore-folder").run()

    [alias, collection] = sorted(case.checker.leftovers(case.scene, {**case.job, "status": "failed"}))

    assert "left lying about: alias" in alias
    assert "left lying about: collection copy" in collection


def test_a_point_that_differs(clean: Runner) -> None:
    case = Case(clean, "restore-folder").run()
    body = {"points": [3], "payload": {"city": "elsewhere"}}
    clean.bed.world.call("POST", "/collections/copy/points/payload?wait=true", body)

    [problem] = case.checker.truth(case.scene, case.job)

    assert problem.startswith("completed, but the points differ")


def test_a_stored_part_that_was_altered(clean: Runner) -> None:
    case = Case(clean, "backup-folder").run()
    part = clean.bed.storages["folder"] / case.backup["path"] / "shard-0.snapshot"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)

    [problem] = case.checker.truth(case.scene, case.job)

    assert "not restorable: shard-0.snapshot is not what its manifest says" in problem


def test_a_backup_that_is_listed_and_lacks_a_part(clean: Runner) -> None:
    case = Case(clean, "backup-folder").run()
    (clean.bed.storages["folder"] / case.backup["path"] / "shard-1.snapshot").unlink()

    [problem] = case.checker.listed()

    assert "listed, but not whole" in problem
    assert "shard-1.snapshot" in problem


def test_a_backup_that_is_listed_although_its_job_failed(clean: Runner) -> None:
    case = Case(clean, "backup-folder").run()

    [problem] = case.checker.truth(case.scene, {**case.job, "status": "failed"})

    assert problem.startswith("failed, but the backup ")


@pytest.mark.parametrize("kind", ["snapshot", "file", "object", "upload"])
def test_something_of_others_that_was_removed(clean: Runner, kind: str) -> None:
    case = Case(clean, "backup-folder")
    foreign = next(name for name in case.before if name.startswith(kind))
    now = {name: facts for name, facts in case.before.items() if name != foreign}

    assert case.checker.foreign(now) == [f"touched what is not ours: {foreign} is gone"]
    [problem] = case.checker.foreign(case.before | {foreign: "another size"})
    assert problem.startswith(f"touched what is not ours: {foreign} was ")


def test_a_job_that_does_not_end(clean: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checker_module, "END_SECONDS", 1.0)
    case = Case(clean, "backup-folder", "middle")
    case.scene.hold()
    case.scene.job_id = case.scene.create_job()
    case.scene.reach()

    verdict = case.checker.judge(case.scene, ("completed", "failed"))

    case.scene.let_go()
    assert verdict.problems == ["no end after 1 s: running, attempt 1, copying shard 0"]


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ({"status": "failed", "error": None}, "failed without a reason"),
        ({"status": "failed", "error": "An internal error stopped the job (KeyError)."}, "nobody foresaw"),
        ({"status": "failed", "error": "http://s3/x?X-Amz-Signature=abc refused."}, "shows what it must not"),
        ({"status": "completed", "error": "Something."}, "completed, and still with an error"),
        ({"status": "cancelled", "error": None}, "cancelled instead of completed or failed"),
    ],
)
def test_an_end_that_is_not_true(clean: Runner, job: dict[str, Any], words: str) -> None:
    case = Case(clean, "backup-folder")

    assert any(words in problem for problem in case.checker.end(job, ("completed", "failed")))


def test_a_next_job_that_does_not_run(clean: Runner) -> None:
    case = Case(clean, "backup-folder").run()
    clean.bed.node_proxy.add(POINTS["backup-folder"]["plan"].aimed(SMALL).where, Answer(500), times=None)

    [problem] = case.checker.next_job(case.scene)

    assert problem.startswith("the next job did not complete")


def test_a_cell_whose_point_is_never_reached_is_red(clean: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from faultlib import scene
    from faultlib.cells import Cell
    from faultlib.faults import PROCESSES
    from faultlib.rules import Where

    monkeypatch.setattr(scene, "_REACH_SECONDS", 2.0)
    nowhere = replace(POINTS["backup-folder"]["middle"], where=Where("GET", "/never"))

    verdict = clean.run(Cell(PROCESSES[0], nowhere))

    assert not verdict.is_green
    assert verdict.problems[0].startswith("not reached")


def test_a_hold_ends_by_itself(runner: Runner) -> None:
    hold = Hold(most_seconds=0.1)
    hold.strike(None)  # type: ignore[arg-type]
    assert hold.reached.is_set()
