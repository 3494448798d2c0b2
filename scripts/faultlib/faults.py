"""The faults: what is done to a job that stands at a point."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, replace

from .api import Refused
from .bed import PATIENT, QUICK
from .errors import FaultsError, NotReached
from .points import S3, Point
from .rules import Action, Moment, Where
from .scene import Scene
from .wire_faults import Answer, Outage, Refuse, Reset, Slow, Stall, Truncate, qdrant_says, s3_says

#: A worker that was told to stop may take so long.
_STOP_SECONDS = 20.0
#: A cancelled job has ended by then, whatever it was waiting for.
CANCEL_SECONDS = 5.0


@dataclass(frozen=True)
class Fault:
    """Does nothing: the subclasses say what and when. `settings` are those of the worker."""

    key: str
    title: str

    @property
    def settings(self) -> dict[str, str]:
        return QUICK

    def expects(self, point: Point) -> tuple[str, ...]:
        """The ends that a job under this fault may come to."""
        return ("completed", "failed")

    def arm(self, scene: Scene) -> None:
        """Prepare, before the job is asked for."""
        scene.hold()

    def created(self, scene: Scene) -> None:
        """Do what belongs between the job's creation and its start."""

    def strike(self, scene: Scene) -> None:
        """Do it, while the job stands at the point."""

    def after(self, scene: Scene) -> None:
        """Repair what a person or a service manager would, once the request has been let go."""

    def heal(self, scene: Scene) -> None:
        """End what lasts, once the job has ended or was given up."""


@dataclass(frozen=True)
class WireFault(Fault):
    """Happens on the wire by itself when the request of the point comes along."""

    def arm(self, scene: Scene) -> None:
        where = scene.point.where
        assert where is not None
        scene.rule = scene.arm(self.action(scene), self.place(where))

    def place(self, where: Where) -> Where:
        if self.key == "truncated" and where.moment in (Moment.REQUEST, Moment.ANSWER):
            return replace(where, moment=Moment.DOWNLOAD, at=0.5)  # half an answer
        if self.key in ("500", "503", "429", "full") and where.moment == Moment.UPLOAD:
            return replace(where, moment=Moment.REQUEST)
        return where

    def action(self, scene: Scene) -> Action:
        says = s3_says if scene.point.side == S3 else qdrant_says
        actions: dict[str, Action] = {
            "refused": Refuse(1.2),
            "reset": Reset(),
            "stalled": Stall(),
            "truncated": Truncate(),
            "slow": Slow(),
            "lost": Truncate(),
            "500": says(500),
            "503": says(503),
            "429": says(429),
            "outage": Outage(says(503), 2.5),
            "full": Answer(507, b"<Error><Code>InsufficientStorage</Code></Error>", "application/xml"),
            "fooled": Answer(200, b"", fields=(("ETag", '"00000000000000000000000000000000"'),)),
        }
        return actions[self.key]

    def after(self, scene: Scene) -> None:
        """Wait until it has struck. Raises: NotReached."""
        rule = scene.rule
        assert rule is not None
        deadline = time.monotonic() + 45
        while not rule.fired:
            if time.monotonic() > deadline or scene.facts()[0] in ("completed", "failed", "cancelled"):
                time.sleep(0.1)
                if rule.fired:
                    return
                raise NotReached(f"{scene.point.key} was never reached")
            time.sleep(0.02)


@dataclass(frozen=True)
class Gone(Fault):
    """The server is away from here on, and comes back when the job has ended."""

    def strike(self, scene: Scene) -> None:
        scene.proxy.down()

    def heal(self, scene: Scene) -> None:
        scene.proxy.up()


@dataclass(frozen=True)
class Signal(Fault):
    """A signal to one process of the worker, or to all of them."""

    number: int = signal.SIGKILL
    whom: str = "worker"

    def strike(self, scene: Scene) -> None:
        worker = scene.worker
        if self.number == signal.SIGTERM and scene.point.before_last_write:
            scene.later(0.5, scene.unlock)
        if self.whom == "group":
            worker.signal_group(self.number)
        elif self.whom == "main":
            worker.signal_main(self.number)
        elif scene.point.key == "pending":
            raise FaultsError("Nobody runs a pending job.")
        else:
            pid = scene.job_process()
            os.kill(worker.family()[pid] if self.whom == "sentinel" else pid, self.number)
        if self.whom in ("main", "group"):
            started = time.monotonic()
            try:
                worker.wait_gone(_STOP_SECONDS)
            except FaultsError as error:
                scene.problems.append(str(error))
            scene.notes.append(f"gone after {time.monotonic() - started:.1f} s")

    def after(self, scene: Scene) -> None:
        if self.whom in ("main", "group"):
            scene.replace_worker()


@dataclass(frozen=True)
class Cancel(Fault):
    """An operator cancels; what the job waits for goes on waiting until it has ended."""

    @property
    def settings(self) -> dict[str, str]:
        return PATIENT

    def expects(self, point: Point) -> tuple[str, ...]:
        # In front of its last write a job has done everything: it may be faster than the word to stop.
        return ("cancelled", "completed") if point.before_last_write else ("cancelled",)

    def strike(self, scene: Scene) -> None:
        locked = scene.point.before_last_write
        if locked:  # the API writes, too
            scene.later(0.3, scene.unlock)
        asked = time.monotonic()
        try:
            scene.bed.api.cancel_job(scene.job_id)
        except Refused:
            if not locked:
                raise
            scene.notes.append("it had completed before")
        job = scene.bed.api.wait(scene.job_id, 4 * CANCEL_SECONDS)
        seconds = time.monotonic() - asked
        scene.notes.append(f"ended after {seconds:.1f} s")
        if seconds > CANCEL_SECONDS:
            scene.problems.append(f"cancel took {seconds:.1f} s (the job is {job['status']})")


WIRE = [
    WireFault("refused", "connection refused for 1.2 s"),
    WireFault("reset", "connection reset"),
    WireFault("stalled", "stalled"),
    WireFault("truncated", "truncated"),
    WireFault("slow", "slow (1 MB/s)"),
    WireFault("500", "HTTP 500"),
    WireFault("503", "HTTP 503"),
    WireFault("429", "HTTP 429"),
    WireFault("outage", "HTTP 503 to everything for 2.5 s"),
    WireFault("lost", "answer lost after it was done"),
    WireFault("full", "HTTP 507, no room left"),
    WireFault("fooled", "HTTP 200 for a part that was not stored"),
]
PROCESSES = [
    Signal("kill-worker", "kill -9 of the job's process", signal.SIGKILL, "worker"),
    Signal("kill-parent", "kill -9 of its parent", signal.SIGKILL, "sentinel"),
    Signal("kill-main", "kill -9 of the supervisor", signal.SIGKILL, "main"),
    Signal("kill-group", "kill -9 of the whole group", signal.SIGKILL, "group"),
    Signal("term-main", "SIGTERM of the supervisor", signal.SIGTERM, "main"),
    Signal("term-group", "SIGTERM of the group", signal.SIGTERM, "group"),
]
CANCEL = Cancel("cancel", "cancelled")
GONE = Gone("gone", "gone until the job has ended")
