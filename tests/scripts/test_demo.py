"""scripts/demo as its user runs it: real processes, and none of them left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

REPOSITORY = Path(__file__).resolve().parent.parent.parent

pytestmark = [pytest.mark.worker, pytest.mark.xdist_group("demo")]


class Run:
    """A run of scripts/demo. What it starts carries a mark in its environment, whatever session it is in."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self._mark = f"DEMO_TEST={uuid.uuid4()}".encode()
        kept = {name: value for name, value in os.environ.items() if not name.startswith("QDRANT_")}
        self.process = subprocess.Popen(
            [str(REPOSITORY / "scripts" / "demo"), "--dir", str(folder), *arguments],
            env={**kept, "DEMO_TEST": self._mark.decode().partition("=")[2], **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def read_until(self, text: str) -> str:
        """Return the output up to the line that holds `text`."""
        assert self.process.stdout is not None
        output = ""
        for line in self.process.stdout:
            output += line
            if text in line:
                return output
        raise AssertionError(f"{text!r} was not printed:\n{output}")

    def finish(self) -> str:
        output, _ = self.process.communicate(timeout=150)
        return output

    def alive(self) -> dict[int, list[str]]:
        """Return pid → command line of every live process of the run."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if self._mark in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
        return found

    def gone(self, seconds: float) -> bool:
        """Wait until no process of the run is left."""
        end = time.monotonic() + seconds
        while self.alive() and time.monotonic() < end:
            time.sleep(0.05)
        return not self.alive()


@pytest.fixture
def runs() -> Iterator[list[Run]]:
    started: list[Run] = []
    yield started
    for run in started:
        for pid in run.alive():
            os.kill(pid, signal.SIGKILL)
        run.process.wait(10)


def test_once_compares_everything_and_ends_with_zero_and_no_process(tmp_path: Path, runs: list[Run]) -> None:
    run = Run(tmp_path / "demo", "--once", "--points", "2000")
    runs.append(run)

    output = run.finish()

    assert run.process.returncode == 0, output
    assert run.alive() == {}
    assert (
        "Compared 2,000 points (id, payload, every vector), the configuration, 8 payload indexes and 1 alias" in output
    )
    assert "EQUAL: all 2,000 points came back from folder as they were" in output
    hashes = re.findall(r"SHA-256 ([0-9a-f]{64})", output)
    assert len(hashes) == 2
    assert len(list((tmp_path / "demo" / "storages").rglob("*.snapshot"))) == 2
    assert "\x1b" not in output, "colours and bars are for terminals"


def test_a_cluster_of_three_nodes_comes_back_in_every_replica(tmp_path: Path, runs: list[Run]) -> None:
    run = Run(tmp_path / "demo", "--once", "--points", "300", "--nodes", "3")
    runs.append(run)

    output = run.finish()

    assert run.process.returncode == 0, output
    assert run.alive() == {}
    assert "a cluster of 3 sandbox nodes" in output
    assert "Counted every replica on every node: 3 shards, 2 Active replicas of each, 300 points" in output
    assert "EQUAL: all 300 points came back from folder as they were" in output
    assert len(list((tmp_path / "demo" / "storages").rglob("*.snapshot"))) == 3


def test_it_stays_up_with_a_login_until_it_is_stopped_and_tells_no_secret_but_there(
    tmp_path: Path, runs: list[Run]
) -> None:
    folder = tmp_path / "demo"
    run = Run(folder, "--points", "300")
    runs.append(run)
    output = run.read_until("Ctrl-C ends everything")
    found = {word: re.search(rf"^ +{word} +(\S+)$", output, re.MULTILINE) for word in ("Admin", "Login", "Password")}
    admin, login, password = (match[1] for match in found.values() if match)

    with requests.Session() as session:
        page = session.get(admin, timeout=20)
        form = {"username": login, "password": password, "csrfmiddlewaretoken": session.cookies["backupmgr_csrf"]}
        inside = session.post(page.url, data={**form, "next": "/admin/"}, headers={"Referer": page.url}, timeout=20)
    commands = [" ".join(command) for command in run.alive().values()]
    logs = "".join(path.read_text() for path in (folder / "logs").iterdir())
    run.process.send_signal(signal.SIGINT)
    run.finish()

    assert inside.status_code == 200
    assert "backupmgr_session" in session.cookies
    assert len(commands) > 4
    for secret in (password, session.cookies["backupmgr_session"]):
        assert secret not in " ".join(commands)
        assert secret not in logs
    assert run.process.returncode == 0
    assert run.alive() == {}


def test_kill_9_of_the_demo_takes_everything_with_it(tmp_path: Path, runs: list[Run]) -> None:
    run = Run(tmp_path / "demo", "--once", "--points", "300")
    runs.append(run)
    run.read_until("a worker are ready")
    assert len(run.alive()) > 4

    run.process.kill()

    assert run.gone(5), run.alive()


def test_what_is_wrong_is_said_in_one_sentence(tmp_path: Path, runs: list[Run]) -> None:
    run = Run(tmp_path / "demo", "--once", QDRANT_URL="http://127.0.0.1:1")
    runs.append(run)

    output = run.finish()

    assert run.process.returncode == 1
    assert "scripts/demo: The Qdrant node at http://127.0.0.1:1 cannot be reached" in output
    assert "Traceback" not in output
    assert run.alive() == {}


def test_nodes_of_its_own_and_a_given_node_are_not_mixed(tmp_path: Path, runs: list[Run]) -> None:
    run = Run(tmp_path / "demo", "--once", "--nodes", "3", QDRANT_URL="http://127.0.0.1:1")
    runs.append(run)
    assert "unset QDRANT_URL, or leave --nodes out" in run.finish()
    assert run.process.returncode == 2
