"""The engine as a witness: what it says of genuine parts, of broken ones, and of a host that is too small."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from apps.backups import engine as engine_module
from apps.backups.compare import vector_sizes
from apps.backups.engine import EngineUnavailable, Opened, PartUnreadable, open_part
from apps.backups.engine.points import digest
from apps.backups.scratch import check_room, scratch_folder
from apps.core.abort import Abort
from tests.support import wait_until

RECORDINGS = Path(__file__).resolve().parent.parent / "recordings"
CLUSTER = RECORDINGS / "cluster"


def opened(
    archive: Path, tmp_path: Path, wanted: Any = "none", abort: Abort | None = None, **more: Any
) -> tuple[Opened, dict[Any, str]]:
    """Open a copy of the archive; return what the engine says and the hashes of the points asked for."""
    copy, folder = tmp_path / "part.snapshot", tmp_path / "shard"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copy(archive, copy)
    with open_part(copy, folder, wanted=wanted, abort=abort or Abort(), **more) as part:
        return part.opened, dict(point for page in part.points() for point in page)


def facts(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((CLUSTER / f"{name}.facts.json").read_text())
    return found


@pytest.mark.parametrize("name", ["films", "tenants"])
def test_every_point_of_genuine_parts_is_the_one_that_the_node_answered(name: str, tmp_path: Path) -> None:
    """Points as a real cluster gave them, against the shard snapshots that it made."""
    described = facts(name)
    answered: dict[tuple[Any, Any], str] = {}
    for line in (CLUSTER / f"{name}.points.jsonl").read_text().splitlines():
        point = json.loads(line)
        key = (point.get("shard_key"), point["id"])
        answered[key] = digest(point["id"], point["payload"], point["vector"])
    found: dict[tuple[Any, Any], str] = {}
    for shard in described["shards"]:
        seen, points = opened(
            CLUSTER / shard["file"], tmp_path, "all", vectors=vector_sizes(described["info"]["config"])
        )
        assert seen.points == shard["points"] == len(points)
        found |= {(shard["shard_key"], point_id): value for point_id, value in points.items()}

    assert found == answered


def test_a_sample_is_part_of_the_whole(tmp_path: Path) -> None:
    archive = RECORDINGS / "films.shard-0.streamed.snapshot"

    _, whole = opened(archive, tmp_path, "all")
    _, sample = opened(archive, tmp_path, "sample", sample=50)
    _, everything = opened(archive, tmp_path, "sample", sample=10_000)

    assert len(sample) == 50
    assert sample.items() <= whole.items()
    assert everything == whole
    assert len(whole) == 328


def test_vectors_of_another_configuration_are_found(tmp_path: Path) -> None:
    archive = RECORDINGS / "films.shard-0.snapshot"
    right: dict[str, int | None] = {"text": 32, "image": 16, "keywords": None}

    opened(archive, tmp_path, "sample", sample=5, vectors=right)

    for wrong in ({"text": 33}, {"image": None}, {"keywords": 5}):
        with pytest.raises(PartUnreadable, match="dimensions"):
            opened(archive, tmp_path, "sample", sample=5, vectors=right | wrong)
    with pytest.raises(PartUnreadable, match="lacks"):
        opened(archive, tmp_path, "sample", sample=5, vectors={"text": 32, "image": 16})


def test_what_is_no_part_is_refused(tmp_path: Path) -> None:
    genuine = (RECORDINGS / "films.shard-0.snapshot").read_bytes()
    without = tmp_path / "without.tar"
    with tarfile.open(without, "w") as tar:
        tar.add(__file__, "shard_config.json")
    for name, data in {"text": b"no archive" * 200, "cut": genuine[: len(genuine) // 2]}.items():
        path = tmp_path / f"{name}.tar"
        path.write_bytes(data)
        with pytest.raises(PartUnreadable, match="Qdrant's engine"):
            opened(path, tmp_path)
    with pytest.raises(PartUnreadable, match="Qdrant's engine"):
        opened(without, tmp_path)


def test_damage_inside_never_takes_the_caller_with_it(tmp_path: Path) -> None:
    """Bytes changed all over an archive: opened, or refused; never a crash of ours, never a hang."""
    genuine = (RECORDINGS / "films.shard-1.snapshot").read_bytes()
    outcomes = set()
    for step in range(12):
        at = 600 + step * (len(genuine) // 13)
        damaged = bytearray(genuine)
        damaged[at : at + 64] = bytes(value ^ 0xFF for value in damaged[at : at + 64])
        path = tmp_path / "damaged.tar"
        path.write_bytes(damaged)
        try:
            seen, _ = opened(path, tmp_path, "all")
        except PartUnreadable:
            outcomes.add("refused")
        else:
            outcomes.add("opened" if seen.points == 272 else "miscounted")

    # The engine alone does not find every change: that is what the SHA-256 is for.
    assert "refused" in outcomes
    assert not list(tmp_path.glob("core*"))


def test_abort_ends_the_engine_at_once(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    abort = Abort()
    threading.Timer(0.05, abort.trip, [Stop()]).start()
    with pytest.raises(Stop):
        for _ in range(100):
            opened(RECORDINGS / "films.shard-0.snapshot", tmp_path, "all", abort=abort)


def fake_program(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Run `code` in place of the engine's program."""
    genuine = engine_module.subprocess.Popen

    def start(command: list[str], **options: Any) -> Any:
        return genuine([sys.executable, "-c", code], **options)

    monkeypatch.setattr(engine_module.subprocess, "Popen", start)


@pytest.mark.parametrize(
    ("code", "error", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", PartUnreadable, "crashed"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", EngineUnavailable, "out of memory"),
        ("import sys; sys.exit('memory allocation of 9 bytes')", EngineUnavailable, "BACKUPMGR_ENGINE_MEMORY_MB"),
        ("raise SystemExit(3)", EngineUnavailable, "exit code 3"),
        ("import time; time.sleep(60)", EngineUnavailable, "BACKUPMGR_ENGINE_TIMEOUT_SECONDS"),
    ],
)  # fmt: skip
def test_how_the_process_ends_is_a_verdict_only_when_it_says_something(
    code: str, error: type[Exception], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    settings.BACKUPMGR_ENGINE_TIMEOUT_SECONDS = 2
    fake_program(monkeypatch, code)

    with pytest.raises(error, match=words):
        opened(RECORDINGS / "films.shard-0.snapshot", tmp_path)


def test_a_stop_of_the_worker_is_no_crash_of_the_engine(tmp_path: Path) -> None:
    """A SIGTERM to the whole process group reaches the engine's process, too."""
    others = own_children()  # servers of other tests
    with open_part_of_films(tmp_path, "all") as part:
        (engine,) = own_children() - others
        os.kill(engine, signal.SIGTERM)
        time.sleep(0.1)

        assert sum(len(page) for page in part.points()) == 328


def own_children() -> set[int]:
    return set(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()))


def open_part_of_films(tmp_path: Path, wanted: Any) -> Any:
    copy = tmp_path / "part.snapshot"
    shutil.copy(RECORDINGS / "films.shard-0.snapshot", copy)
    return open_part(copy, tmp_path / "shard", wanted=wanted, abort=Abort())


def test_without_the_engine_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module.importlib.util, "find_spec", lambda name: None)

    with pytest.raises(EngineUnavailable, match="qdrant-edge-py"):
        opened(RECORDINGS / "films.shard-0.snapshot", tmp_path)


def test_too_little_memory_is_no_verdict(tmp_path: Path, settings: Any) -> None:
    settings.BACKUPMGR_ENGINE_MEMORY_MB = 24
    settings.BACKUPMGR_ENGINE_TIMEOUT_SECONDS = 5  # so starved, it may also stand still

    with pytest.raises(EngineUnavailable, match="BACKUPMGR_ENGINE_|could not be started"):
        opened(RECORDINGS / "films.shard-0.snapshot", tmp_path)


def test_scratch_is_cleared_also_of_what_a_killed_process_left(tmp_path: Path, settings: Any) -> None:
    settings.BACKUPMGR_SCRATCH_DIR = str(tmp_path / "scratch")
    ready, release = threading.Event(), threading.Event()

    with scratch_folder() as left:
        (left / "big").write_bytes(b"x")
        copied = left.with_name("part-killed")
        shutil.copytree(left, copied)  # the same files, and nobody holds their lock
        other = threading.Thread(target=_hold, args=(ready, release))
        other.start()
        ready.wait(10)
        with scratch_folder() as mine:
            assert not copied.exists()
            assert left.exists()
            assert len(list(mine.parent.iterdir())) == 3
        release.set()
        other.join(10)
    assert wait_until(lambda: not list((tmp_path / "scratch").iterdir()), 5) is True


def _hold(ready: threading.Event, release: threading.Event) -> None:
    with scratch_folder():
        ready.set()
        release.wait(10)


def test_no_room_is_said_before_anything_is_fetched(tmp_path: Path, settings: Any) -> None:
    settings.BACKUPMGR_SCRATCH_DIR = str(tmp_path)

    with scratch_folder() as folder, pytest.raises(EngineUnavailable, match="BACKUPMGR_SCRATCH_DIR"):
        check_room(folder, 10**18)
