"""The checker must find what it looks for: a table that cannot get red would be worth nothing."""

from __future__ import annotations

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

pytestmark = [pytest.mark.worker, pytest.mark.s3, pytest.mark.xdist_group("faults"), pytest.mark.timeout(600)]


class Case:
    """A job that nothing was done to, with the checker that judges it."""

    def __init__(self, runner: Runner, table: str, point: str = "plan") -> None:
        self.runner = runner
        self.bed = runner.bed
        self.before = self.bed.world.state()
        self.checker = Checker(self.bed, self.before)
        self.scene = Scene(self.bed, POINTS[table][point], runner.base, {})
        self.job: dict[str, Any] = {}
        self.after: dict[str, str] = {}

    def run(self) -> Case:
        self.scene.job_id = self.scene.create_job()
        self.job = self.bed.api.wait(self.scene.job_id, 120)
        assert self.job["status"] == "completed", self.job["error"]
        return self

    def planted(self) -> str:
        """Return the one thing that is there and was not there after the job; removed again."""
        [name] = self.bed.world.state().keys() - self.after.keys()
        self.bed.world.remove(name)
        return name

    def settle(self) -> Case:
        self.after = self.bed.world.state()
        return self

    @property
    def backup(self) -> dict[str, Any]:
        return next(backup for backup in self.bed.api.backups() if backup["job_id"] == self.job["id"])


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checker_module, "CLEAN_SECONDS", 0.5)


@pytest.fixture
def clean(runner: Runner) -> Iterator[Runner]:
    runner.make_ready()
    yield runner
    runner.tidy()


def _done(runner: Runner, table: str) -> Iterator[Case]:
    runner.make_ready()
    yield Case(runner, table).run().settle()
    runner.tidy()


@pytest.fixture(scope="class")
def backed_up(runner: Runner) -> Iterator[Case]:
    yield from _done(runner, "backup-folder")


@pytest.fixture(scope="class")
def restored(runner: Runner) -> Iterator[Case]:
    yield from _done(runner, "restore-folder")


class TestOfABackup:
    """What is planted beside a completed backup, and taken away again."""

    def test_a_snapshot_left_on_the_node(self, backed_up: Case) -> None:
        backed_up.bed.world.call("POST", f"/collections/{SMALL}/shards/1/snapshots?wait=true")

        [problem] = backed_up.checker.leftovers(backed_up.scene, backed_up.job)

        assert problem.startswith(f"left lying about: snapshot {SMALL}/shards/1/")
        assert problem.endswith(backed_up.planted())

    def test_an_unfinished_file_in_the_folder(self, backed_up: Case) -> None:
        place = backed_up.bed.storages["folder"] / "main" / SMALL / "20990101T000000Z-ours"
        place.mkdir()
        (place / "shard-0.snapshot.0123456789abcdef.part").write_text("half")

        [problem] = backed_up.checker.leftovers(backed_up.scene, backed_up.job)

        assert problem == f"left lying about: {backed_up.planted()}"
        place.rmdir()

    def test_an_upload_left_open_in_the_bucket(self, backed_up: Case) -> None:
        backed_up.bed.world.open_upload(f"main/{SMALL}/20990101T000000Z-ours/shard-0.snapshot")

        [problem] = backed_up.checker.leftovers(backed_up.scene, backed_up.job)

        assert problem == f"left lying about: {backed_up.planted()}"
        assert "upload " in problem

    def test_a_stored_part_that_was_altered(self, backed_up: Case) -> None:
        part = backed_up.bed.storages["folder"] / backed_up.backup["path"] / "shard-0.snapshot"
        whole = part.read_bytes()
        data = bytearray(whole)
        data[len(data) // 2] ^= 1
        part.write_bytes(data)

        [problem] = backed_up.checker.truth(backed_up.scene, backed_up.job)

        assert "not restorable: shard-0.snapshot is not what its manifest says" in problem
        part.write_bytes(whole)
        assert backed_up.checker.truth(backed_up.scene, backed_up.job) == []

    def test_a_backup_that_is_listed_and_lacks_a_part(self, backed_up: Case) -> None:
        part = backed_up.bed.storages["folder"] / backed_up.backup["path"] / "shard-1.snapshot"
        aside = part.rename(backed_up.bed.folder / "aside")

        [problem] = backed_up.checker.listed()

        assert "listed, but not whole" in problem
        assert "shard-1.snapshot" in problem
        aside.rename(part)
        assert backed_up.checker.listed() == []

    def test_a_backup_that_is_listed_although_its_job_failed(self, backed_up: Case) -> None:
        [problem] = backed_up.checker.truth(backed_up.scene, {**backed_up.job, "status": "failed"})

        assert problem.startswith("failed, but the backup ")

    def test_a_next_job_that_does_not_run(self, backed_up: Case) -> None:
        where = POINTS["backup-folder"]["plan"].aimed(SMALL).where
        assert where is not None
        backed_up.bed.node_proxy.add(where, Answer(500), times=None)

        [problem] = backed_up.checker.next_job(backed_up.scene)

        backed_up.bed.node_proxy.clear()
        assert problem.startswith("the next job did not complete")


class TestOfARestore:
    """What is wrong with a completed restore."""

    def test_nothing_when_nothing_was_done_to_it(self, restored: Case) -> None:
        assert restored.checker.truth(restored.scene, restored.job) == []
        assert restored.checker.leftovers(restored.scene, restored.job) == []

    def test_a_collection_that_a_failed_one_left_half_filled(self, restored: Case) -> None:
        [alias, collection] = sorted(restored.checker.leftovers(restored.scene, {**restored.job, "status": "failed"}))

        assert "left lying about: alias" in alias
        assert "left lying about: collection copy" in collection

    def test_a_point_that_differs(self, restored: Case) -> None:
        body = {"points": [3], "payload": {"city": "elsewhere"}}
        restored.bed.world.call("POST", "/collections/copy/points/payload?wait=true", body)

        [problem] = restored.checker.truth(restored.scene, restored.job)

        assert problem.startswith("completed, but the points differ")


@pytest.mark.parametrize("table", ["backup-folder", "restore-s3"])
def test_nothing_is_wrong_with_a_job_that_nothing_was_done_to(clean: Runner, table: str) -> None:
    case = Case(clean, table).run()

    assert case.checker.judge(case.scene, ("completed",)).problems == []
    assert clean.bed.world.state() == case.before


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
