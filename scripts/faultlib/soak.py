"""Many workers, many jobs, random kills: each effect once, never two at once on one collection, in fair order."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any

from .api import ENDED
from .bed import QUICK, Bed
from .errors import FaultsError

_SAMPLE_SECONDS = 0.05
#: A worker whose jobs are done may use so much of a core.
_MOST_IDLE_SHARE = 0.35


@dataclass(frozen=True)
class Load:
    """How much, and for how long at most."""

    jobs: int = 200
    collections: int = 50
    workers: int = 4
    kills: int = 12
    seed: int = 1
    most_seconds: float = 900.0


@dataclass
class Outcome:
    """What came of it; nothing is wrong when there is no problem."""

    problems: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def soak(bed: Bed, load: Load) -> Outcome:
    """Run it. Raises: FaultsError when it cannot be run at all."""
    chance = random.Random(load.seed)
    settings = QUICK | {"BACKUPMGR_WORKERS": "2", "BACKUPMGR_MAX_ATTEMPTS": "20"}
    names = [f"soak-{number:02}" for number in range(load.collections)]
    for name in names:
        bed.world.fill(name, points=20, payload_bytes=200)
    bed.stop_workers()
    started = time.monotonic()
    order = [chance.choice(names) for _ in range(load.jobs)]
    storage = bed.storage_ids["folder"]
    jobs = [bed.api.create_job(type="backup", collection_name=name, storage_id=storage) for name in order]
    for _ in range(load.workers):
        bed.start_worker(settings)
    outcome = Outcome()
    watch = _Watch(bed)
    watch.start()
    kills = _kill_now_and_then(bed, load, chance, settings, jobs, started)
    watch.stop()
    ended = bed.database.rows("SELECT id, status FROM jobs_job")
    states = Counter(status for _, status in ended)
    outcome.facts = {
        "jobs": load.jobs,
        "collections": load.collections,
        "workers": load.workers,
        "kills": kills,
        "seconds": round(time.monotonic() - started, 1),
        "ends": dict(states),
        "samples": watch.samples,
        "most_at_once": watch.most,
    }
    outcome.problems += watch.problems
    outcome.problems += _once(bed, jobs)
    outcome.problems += _fair(bed, jobs)
    outcome.problems += _idle(bed, outcome)
    return outcome


class _Watch:
    """Samples which jobs run, from the database itself."""

    def __init__(self, bed: Bed) -> None:
        self._bed = bed
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.samples = 0
        self.most = 0
        self.problems: list[str] = []

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(30)

    def _look(self) -> None:
        while not self._ended.wait(_SAMPLE_SECONDS):
            rows = self._bed.database.rows("SELECT subject_collection FROM jobs_job WHERE status = 'running'")
            self.samples += 1
            self.most = max(self.most, len(rows))
            twice = [name for name, count in Counter(row[0] for row in rows).items() if count > 1]
            if twice:
                self.problems.append(f"two jobs ran at once on {', '.join(twice)}")


def _kill_now_and_then(
    bed: Bed, load: Load, chance: random.Random, settings: dict[str, str], jobs: list[str], started: float
) -> int:
    """Kill a process of some worker, or all of one, at random moments until every job has ended; return how often."""
    kills, next_kill = 0, time.monotonic() + 1.0
    while _open_jobs(bed):
        if time.monotonic() - started > load.most_seconds:
            raise FaultsError(f"{_open_jobs(bed)} of {len(jobs)} jobs had not ended after {load.most_seconds:.0f} s.")
        if kills < load.kills and time.monotonic() > next_kill:
            index = chance.randrange(len(bed.workers))
            worker = bed.workers[index]
            family = sorted(worker.family())
            if chance.random() < 0.5 or not family:
                worker.signal_group(signal.SIGKILL)
            else:
                _kill(chance.choice(family))
            kills += 1
            next_kill = time.monotonic() + chance.uniform(0.3, 2.0)
        for index, worker in enumerate(bed.workers):
            if not worker.is_running:  # as a service manager does
                worker.stop()
                bed.workers[index] = bed.start_worker(settings)
                bed.workers.pop()
        time.sleep(0.1)
    return kills


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _open_jobs(bed: Bed) -> int:
    marks = ", ".join(f"'{status}'" for status in ENDED)
    return int(bed.database.rows(f"SELECT count(*) FROM jobs_job WHERE status NOT IN ({marks})")[0][0])


def _once(bed: Bed, jobs: list[str]) -> list[str]:
    """Has every job completed, with one backup in the catalogue and one folder with a manifest in the storage?"""
    keys = {bed.database.key(job): job for job in jobs}
    statuses = {str(key): status for key, status in bed.database.rows("SELECT id, status FROM jobs_job")}
    rows = bed.database.rows("SELECT job_id, path FROM backups_backup")
    listed = Counter(str(key) for key, _ in rows)
    folder = bed.storages["folder"]
    manifests = {str(path.parent.relative_to(folder)) for path in folder.rglob("manifest.json")}
    problems = [f"job {keys[key]} is {statuses.get(key)}" for key in keys if statuses.get(key) != "completed"]
    problems += [f"job {keys[key]} has {listed[key]} backups" for key in keys if listed[key] != 1]
    paths = {str(path) for _, path in rows}
    problems += [f"{path} has a manifest and is not listed" for path in sorted(manifests - paths)]
    problems += [f"{path} is listed and has no manifest" for path in sorted(paths - manifests)]
    deadline = time.monotonic() + 30
    while left := bed.database.rows("SELECT kind, last_error FROM backups_leftover"):
        if time.monotonic() > deadline:
            problems += [f"a left-over is still not gone: {kind} ({error})" for kind, error in left]
            break
        time.sleep(0.3)
    ours = {f"{path}/shard-{shard}.snapshot" for path in paths for shard in (0, 1)}
    found = {str(path.relative_to(folder)) for path in folder.rglob("soak-*/*/*.snapshot*")}
    problems += [f"left lying about: {name}" for name in sorted(found - ours)]
    state = bed.world.state()
    problems += [f"left lying about: {name}" for name in sorted(state) if name.startswith("snapshot soak-")]
    return problems


def _fair(bed: Bed, jobs: list[str]) -> list[str]:
    """Did the jobs of one collection start in the order in which they were asked for, first attempts compared?"""
    first: dict[str, tuple[str, datetime]] = {}
    for key, collection, at in bed.database.rows(
        "SELECT j.id, j.subject_collection, min(e.at) FROM jobs_job j JOIN jobs_jobevent e ON e.job_id = j.id "
        "WHERE e.message LIKE ? GROUP BY j.id, j.subject_collection",
        "Attempt 1 %",
    ):
        first[str(key)] = (str(collection), at)
    by_collection: dict[str, list[Any]] = {}
    for job in jobs:
        found = first.get(bed.database.key(job))
        if found is not None:
            by_collection.setdefault(found[0], []).append(found[1])
    # A job whose worker vanished waits a little, and others of its collection may start meanwhile; first attempts not.
    late = [name for name, times in by_collection.items() if any(later < earlier for earlier, later in pairwise(times))]
    return [f"the jobs of {name} did not start in their order" for name in late]


def _idle(bed: Bed, outcome: Outcome) -> list[str]:
    """Do workers without work rest?"""
    before = sum(worker.cpu_seconds() for worker in bed.workers)
    time.sleep(5)
    share = (sum(worker.cpu_seconds() for worker in bed.workers) - before) / 5 / max(len(bed.workers), 1)
    outcome.facts["idle_cpu_share"] = round(share, 3)
    return [f"an idle worker uses {share:.0%} of a core"] if share > _MOST_IDLE_SHARE else []
