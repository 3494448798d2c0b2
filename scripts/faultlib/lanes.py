"""Lanes: several beds side by side, each in a process of its own, so that cells which wait overlap with busy ones.

A lane is this program once more (`faults_run.py lane`): it reads the name of a cell from its input and writes the
verdict as a line of JSON, until its input ends.
"""

from __future__ import annotations

import json
import os
import random
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from demolib import die

from .bed import Bed
from .cells import BEDS, Cell, all_cells
from .checker import Verdict
from .errors import FaultsError
from .report import Result
from .runner import Runner

_PROGRAM = Path(__file__).resolve().parent.parent / "faults_run.py"
#: A lane takes its bed apart when it ends.
_STOP_SECONDS = 60.0


def serve(folder: Path, orders: TextIO, answers: TextIO) -> None:
    """Be a lane: run each cell that is named on `orders`, on a bed that stays while the cells are of one bed."""
    cells = {cell.key: cell for cell in all_cells()}
    with ExitStack() as stack:
        bed = ""
        runner: Runner | None = None
        for line in orders:
            cell = cells[line.strip()]
            answer: dict[str, Any] = {"cell": cell.key}
            if cell.bed != bed:
                stack.close()
                bed, runner = cell.bed, None
                place = folder / bed
                number = 1
                while place.exists():
                    number += 1
                    place = folder / f"{bed}-{number}"
                place.mkdir(parents=True)
                try:
                    runner = Runner(Bed(place, stack, BEDS[bed]))
                except FaultsError as error:
                    missing = str(error)
            answer |= {"skipped": missing} if runner is None else {"verdict": vars(runner.run(cell))}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


class Plan:
    """The cells that are still to be run, and which of them comes next on a lane."""

    def __init__(self, cells: list[Cell]) -> None:
        # Mixed, so that not all lanes wait, or work, at the same time; always in the same way.
        mixed = random.Random(1).sample(cells, len(cells))
        self._left: dict[str, list[Cell]] = {}
        for bed in reversed(BEDS):  # the small ones first: the last lane to end is then never alone with a whole bed
            # A worker is started anew for other settings: those of one kind together.
            mine = sorted(
                (cell for cell in mixed if cell.bed == bed), key=lambda one: sorted(one.fault.settings.items())
            )
            if mine:
                self._left[bed] = mine
        self._lanes: dict[str, int] = {}

    def __len__(self) -> int:
        return sum(len(cells) for cells in self._left.values())

    def take(self, bed: str) -> Cell | None:
        """Return the next cell for a lane that has this bed ('' for none): of the same bed while there is one."""
        if not self._left.get(bed):
            # Making a bed costs as much as a cell: a bed that another lane is at is shared when much is left of it.
            free = [name for name, cells in self._left.items() if cells and not self._lanes.get(name)]
            long = sorted(self._left, key=lambda name: -len(self._left[name]))
            bed = (free or [name for name in long if self._left[name]] or [""])[0]
            if not bed:
                return None
            self._lanes[bed] = self._lanes.get(bed, 0) + 1
        return self._left[bed].pop(0)


@dataclass
class _Lane:
    number: int
    process: subprocess.Popen[str]
    cell: Cell | None = None
    bed: str = ""
    done: int = 0


@dataclass
class Lanes:
    """Runs cells on so many lanes. Use as a context manager: it ends them all."""

    folder: Path
    count: int
    _lanes: list[_Lane] = field(default_factory=list)
    _started: int = 0

    def __enter__(self) -> Lanes:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for lane in self._lanes:
            with suppress(OSError):
                assert lane.process.stdin is not None
                lane.process.stdin.close()
            if lane.cell is not None:  # it is in the middle of one
                lane.process.send_signal(signal.SIGTERM)
        for lane in self._lanes:
            try:
                lane.process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                lane.process.kill()
                lane.process.wait()
        self._lanes.clear()

    def run(self, cells: list[Cell], tell: Callable[[Result], None]) -> list[Result]:
        """Run them all; `tell` hears of each as it ends. Results are in the order of `cells`."""
        plan = Plan(cells)
        results: dict[str, Result] = {}
        with selectors.DefaultSelector() as selector:
            while len(self._lanes) < min(self.count, len(cells)):
                self._add()
            for lane in list(self._lanes):
                selector.register(lane.process.stdout, selectors.EVENT_READ, lane)  # type: ignore[arg-type]
                self._give(lane, plan)
            while any(lane.cell for lane in self._lanes):
                for key, _ in selector.select():
                    lane = key.data
                    for result in self._hear(lane):
                        results[result.cell.key] = result
                        tell(result)
                    if lane.process.poll() is not None:
                        selector.unregister(key.fileobj)
                        self._lanes.remove(lane)
                        lane = self._add()
                        selector.register(lane.process.stdout, selectors.EVENT_READ, lane)  # type: ignore[arg-type]
                    if lane.cell is None:
                        self._give(lane, plan)
        return [results[cell.key] for cell in cells]

    def _add(self) -> _Lane:
        # From the main thread: a lane ends with the thread that started it.
        self._started += 1
        parent = os.getpid()
        place = self.folder / f"lane-{self._started}"
        process = subprocess.Popen(
            [sys.executable, str(_PROGRAM), "lane", "--dir", str(place)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            start_new_session=True,
            preexec_fn=lambda: die.with_parent(parent),
        )
        lane = _Lane(self._started, process)
        self._lanes.append(lane)
        return lane

    @staticmethod
    def _give(lane: _Lane, plan: Plan) -> None:
        cell = plan.take(lane.bed)
        if cell is None:
            return
        lane.cell, lane.bed = cell, cell.bed
        assert lane.process.stdin is not None
        with suppress(OSError):  # it has ended: heard of at once
            lane.process.stdin.write(f"{cell.key}\n")
            lane.process.stdin.flush()

    @staticmethod
    def _hear(lane: _Lane) -> Iterator[Result]:
        assert lane.process.stdout is not None
        line = lane.process.stdout.readline()
        cell, lane.cell = lane.cell, None
        if cell is None:
            return
        if not line:
            lane.process.wait()
            yield Result(cell, Verdict([f"the lane ended by itself (exit code {lane.process.returncode})"]))
            return
        answer = json.loads(line)
        verdict = Verdict(**answer["verdict"]) if "verdict" in answer else None
        yield Result(cell, verdict, answer.get("skipped", ""))
