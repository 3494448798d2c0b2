"""How soon a job runs that was asked for over the API, and what a worker costs that has nothing to do."""

from __future__ import annotations

import os
import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import requests
from demolib.errors import DemoError
from demolib.installation import Installation
from demolib.manager import Manager

#: The issue's promise: the median at rest.
TARGET_SECONDS = 1.0
#: Of one core. A worker that polls its queue three times a second is below; one that spins is far above.
TARGET_CPU_PERCENT = 10.0
_REST_SECONDS = 1.5
_IDLE_SECONDS = 20.0


@dataclass(frozen=True)
class Latency:
    """Seconds from the request to `running` of each job, and the CPU of the idle worker in percent of a core."""

    seconds: list[float]
    cpu_percent: float

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def reached(self) -> bool:
        return self.median <= TARGET_SECONDS and self.cpu_percent <= TARGET_CPU_PERCENT

    def as_json(self) -> dict[str, Any]:
        return {
            "median_seconds": round(self.median, 3),
            "worst_seconds": round(max(self.seconds), 3),
            "jobs": len(self.seconds),
            "target_seconds": TARGET_SECONDS,
            "idle_cpu_percent": round(self.cpu_percent, 2),
            "target_idle_cpu_percent": TARGET_CPU_PERCENT,
            "reached": self.reached,
        }

    def lines(self) -> str:
        return (
            f"POST /jobs to running: median {self.median:.2f} s, worst {max(self.seconds):.2f} s "
            f"of {len(self.seconds)} jobs (target: median {TARGET_SECONDS:.0f} s)\n"
            f"idle worker: {self.cpu_percent:.1f} % of a core (target: {TARGET_CPU_PERCENT:.0f} %)\n"
            f"{'reached' if self.reached else 'MISSED'}"
        )


def measure(folder: Path, *, jobs: int) -> Latency:
    """Start a web server, a worker and a node in `folder`, ask for backups one after another. Raises: DemoError."""
    with ExitStack() as stack:
        installation = Installation(folder, stack)
        installation.prepare()
        (url,), key = installation.start_nodes()
        installation.start(0)
        manager = Manager(installation.url, installation.token, installation.check)
        _load(url, key)
        manager.add_cluster(name="bench", urls=[url], api_key=key)
        manager.add_storage({"name": "folder", "type": "local", "path": str(installation.storages / "folder")})
        idle = _idle_cpu(installation.worker_pid)
        return Latency([_one(manager) for _ in range(jobs)], idle)


def _one(manager: Manager) -> float:
    """Ask for a job at rest; return the seconds until it ran."""
    time.sleep(_REST_SECONDS)
    asked = time.time()
    job = manager.start_job({"type": "backup", "collection_name": "small"})
    ended = manager.wait(job["id"], lambda job: None)
    return max(0.0, datetime.fromisoformat(ended["started_at"]).timestamp() - asked)


def _idle_cpu(worker: int) -> float:
    time.sleep(5)  # its processes have started and looked around
    before, began = _cpu_seconds(worker), time.monotonic()
    time.sleep(_IDLE_SECONDS)
    return 100 * (_cpu_seconds(worker) - before) / (time.monotonic() - began)


def _cpu_seconds(worker: int) -> float:
    """CPU time of all processes in the worker's session."""
    ticks = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == worker:
            ticks += sum(int(value) for value in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def _load(url: str, key: str) -> None:
    with requests.Session() as session:
        session.trust_env = False
        session.headers["api-key"] = key
        config = {"vectors": {"size": 4, "distance": "Dot"}, "shard_number": 1}
        points = [{"id": number, "vector": [1.0, 0.0, 0.5, 0.1]} for number in range(100)]
        for path, body in (("", config), ("/points?wait=true", {"points": points})):
            answer = session.put(f"{url}/collections/small{path}", json=body, timeout=60)
            if answer.status_code != 200:
                raise DemoError(f"The sandbox node refused the collection (HTTP {answer.status_code}).")
