"""The checker: what has to be true after every cell, asked of node, storages, database and API themselves."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import Any

from .api import ENDED, Refused
from .bed import Bed
from .errors import FaultsError
from .scene import Scene
from .world import Wrong

#: How long a job may go on before it counts as one that never ends by itself (with the short times of bed.QUICK).
END_SECONDS = 75.0
#: How long what could not be removed at once may take to go.
CLEAN_SECONDS = 45.0
#: How long the next job may take.
NEXT_SECONDS = 75.0
_SECRETS = re.compile(r"X-Amz-|Signature=|Traceback")
_INTERNAL = "An internal error stopped"


@dataclass
class Verdict:
    """What the checker found; green when there is no problem."""

    problems: list[str] = field(default_factory=list)
    status: str = ""
    attempts: int = 0
    error: str = ""
    seconds: float = 0.0

    @property
    def is_green(self) -> bool:
        return not self.problems


class Checker:
    """Judges one cell. `before` is the world as it was; everything in it belongs to others by now."""

    def __init__(self, bed: Bed, before: dict[str, str]) -> None:
        self._bed = bed
        self._before = before

    def judge(self, scene: Scene, expects: tuple[str, ...]) -> Verdict:
        """Wait for the end and ask everything. The world is as before afterwards, when it is green."""
        verdict = Verdict(problems=list(scene.problems))
        job = self._bed.api.wait(scene.job_id, END_SECONDS)
        verdict.status, verdict.attempts, verdict.error = job["status"], job["attempt"], job["error"] or ""
        verdict.problems += self.end(job, expects)
        if job["status"] not in ENDED:
            return verdict
        verdict.problems += self.truth(scene, job)
        verdict.problems += self.row(scene.job_id)
        verdict.problems += self.story(scene.job_id, job)
        verdict.problems += self.leftovers(scene, job)
        verdict.problems += self.listed()
        verdict.problems += self.next_job(scene)
        verdict.problems += self.back_to_before(scene)
        return verdict

    def end(self, job: dict[str, Any], expects: tuple[str, ...]) -> list[str]:
        """Did it reach an end by itself, one that is possible here, and is a failure's reason fit to read?"""
        status = job["status"]
        if status not in ENDED:
            return [
                f"no end after {END_SECONDS:.0f} s: {status}, attempt {job['attempt']}, {job['phase'] or 'no phase'}"
            ]
        problems = []
        if status not in expects:
            problems.append(f"{status} instead of {' or '.join(expects)}: {job['error']}")
        reason = job["error"] or ""
        if status == "failed":
            if not reason:
                problems.append("failed without a reason")
            if _INTERNAL in reason:
                problems.append(f"failed for a reason that nobody foresaw: {reason}")
        elif reason:
            problems.append(f"{status}, and still with an error: {reason}")
        if _SECRETS.search(reason) or "\n" in reason:
            problems.append("the reason shows what it must not")
        return problems

    def truth(self, scene: Scene, job: dict[str, Any]) -> list[str]:
        """Is it so? A backup is restored by hand from its files, a restore is compared with its source."""
        mine = [backup for backup in self._bed.api.backups() if backup["job_id"] == job["id"]]
        if scene.point.kind == "backup":
            if job["status"] != "completed":
                return [f"{job['status']}, but the backup {mine[0]['path']} is listed"] if mine else []
            if len(mine) != 1:
                return [f"completed, and {len(mine)} backups are listed"]
            try:
                self._bed.world.prove(scene.storage, mine[0]["path"], scene.collection)
            except Wrong as wrong:
                return [f"completed, but not restorable: {wrong}"]
            return []
        is_there = scene.subject in self._bed.world.collections()
        if job["status"] == "completed":
            if not is_there:
                return ["completed, but the collection is not there"]
            found, wanted = self._bed.world.digest(scene.subject), self._bed.world.digests[scene.collection]
            if found != wanted:
                return [f"completed, but the points differ: {found[:40]}… instead of {wanted[:40]}…"]
            if f"alias {scene.collection}-live" not in self._bed.world.state():
                return ["completed, but the alias is not there"]
        return []

    def row(self, job_id: str) -> list[str]:
        """Does nobody hold the job any more, and does it remember nothing unfinished?"""
        key = self._bed.database.key(job_id)
        rows = self._bed.database.rows("SELECT lease_token, checkpoint FROM jobs_job WHERE id = ?", key)
        problems = []
        if rows[0][0] is not None:
            problems.append("ended, but somebody still holds its lease")
        if rows[0][1] not in ("{}", {}):
            problems.append("ended, but it still remembers unfinished things")
        return problems

    def story(self, job_id: str, job: dict[str, Any]) -> list[str]:
        """Does the story tell every attempt, once, and the end?"""
        events = self._bed.api.events(job_id)
        started = [event["attempt"] for event in events if event["message"].startswith("Attempt ")]
        problems = []
        if started != sorted(set(started)):
            problems.append(f"an attempt was made twice: {started}")
        if started and started[-1] != job["attempt"]:
            problems.append(f"the story ends with attempt {started[-1]}, the job with {job['attempt']}")
        if any(_SECRETS.search(event["message"]) for event in events):
            problems.append("the story shows what it must not")
        return problems

    def leftovers(self, scene: Scene, job: dict[str, Any]) -> list[str]:
        """Is nothing of others changed, and is nothing of ours left but what a completed job is for?"""
        explained = self._explained(scene, job)
        deadline = time.monotonic() + CLEAN_SECONDS
        while True:
            now = self._bed.world.state()
            mine = sorted(name for name in now.keys() - self._before.keys() if not name.startswith(explained))
            waiting = self._bed.database.rows("SELECT kind, last_error FROM backups_leftover")
            if (not mine and not waiting) or time.monotonic() > deadline:
                break
            time.sleep(0.3)
        problems = [f"left lying about: {name}" for name in mine]
        problems += [f"a left-over is still not gone: {kind} ({error})" for kind, error in waiting]
        return problems + self.foreign(now)

    def foreign(self, now: dict[str, str]) -> list[str]:
        """Is everything that was there before still as it was?"""
        problems = [f"touched what is not ours: {name} is gone" for name in sorted(self._before.keys() - now.keys())]
        changed = sorted(name for name in self._before.keys() & now.keys() if self._before[name] != now[name])
        return problems + [f"touched what is not ours: {name} was {self._before[name]}" for name in changed]

    def listed(self) -> list[str]:
        """Is every listed backup whole?"""
        now = self._bed.world.state()
        problems = []
        for backup in self._bed.api.backups():
            detail = self._bed.api.call("GET", f"/backups/{backup['id']}")
            keys = [part["key"] for part in detail["parts"]] + [f"{backup['path']}/manifest.json"]
            missing = [key for key in keys if self._bed.world.stored(backup["storage"], key) not in now]
            if missing or backup["status"] != "completed":
                problems.append(f"listed, but not whole: {backup['path']} ({backup['status']}; missing: {missing})")
        return problems

    def next_job(self, scene: Scene) -> list[str]:
        """Does the next job on the same collection run?"""
        overwrite = scene.point.kind == "restore" and scene.subject in self._bed.world.collections()
        alias = f"alias {scene.collection}-live"
        if overwrite and alias in self._bed.world.state():
            # With it the next one would go beside this collection, and keep it; here the very same is to be replaced.
            self._bed.world.remove(alias)
        try:
            job_id = self._bed.api.create_job(**scene.request(overwrite=overwrite))
        except Refused as refused:
            return [f"the next job was refused: {refused}"]
        job = self._bed.api.wait(job_id, NEXT_SECONDS)
        if job["status"] != "completed":
            return [f"the next job did not complete: {job['status']}, {job['error']}"]
        if scene.point.kind == "restore":
            return self.truth(scene, job)
        return []

    def back_to_before(self, scene: Scene) -> list[str]:
        """Remove what the jobs of this cell were for: is the world as before then?"""
        if scene.point.kind == "restore" and scene.subject in self._bed.world.collections():
            self._bed.world.delete_collection(scene.subject)
        problems = []
        for backup in self._bed.api.backups():
            if self._bed.world.stored(backup["storage"], f"{backup['path']}/manifest.json") not in self._before:
                try:
                    self._bed.delete_backup(backup["id"])
                except (Refused, FaultsError) as error:
                    problems.append(f"a backup could not be deleted: {error}")
        now = self._bed.world.state()
        problems += [f"still there at the end: {name}" for name in sorted(now.keys() - self._before.keys())]
        return problems + self.foreign(now)

    def _explained(self, scene: Scene, job: dict[str, Any]) -> tuple[str, ...]:
        """Return how the names of the things start that a completed job leaves on purpose."""
        if job["status"] != "completed":
            return ("nothing",)
        if scene.point.kind == "restore":
            return (f"collection {scene.subject}", f"alias {scene.collection}-live")
        paths = [backup["path"] for backup in self._bed.api.backups() if backup["job_id"] == job["id"]]
        return tuple(self._bed.world.stored(scene.storage, f"{path}/") for path in paths) or ("nothing",)
