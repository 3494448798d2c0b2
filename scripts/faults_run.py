"""The Python part of scripts/faults: reads the command line, runs the cells, prints the table."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import FrameType

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(1, str(REPOSITORY))

from faultlib import report  # noqa: E402
from faultlib.bed import Bed, Needs, fresh_folder, remove_folder  # noqa: E402
from faultlib.cells import QUICK_CELLS, Cell, all_cells, default_cells  # noqa: E402
from faultlib.errors import FaultsError  # noqa: E402
from faultlib.lanes import Lanes, serve  # noqa: E402
from faultlib.soak import Load, soak  # noqa: E402

#: What two cores bear: most of a cell is waiting, but the processes that a kill takes with it have to start again.
LANES = 3


class Stopped(BaseException):
    """A signal ended us."""


def main() -> int:
    """Return 0 when every cell is green, 1 when one is red, 2 when there is no result."""
    options = _options()
    if options.what == "soak":
        return _soak(options)
    if options.what == "lane":
        return _lane(options)
    # Whoever names cells means all of that name.
    cells = all_cells() if options.all or options.only else default_cells()
    cells = [cell for cell in cells if not options.only or any(word in cell.key for word in options.only)]
    if options.quick:
        cells = [cell for cell in cells if cell.key in QUICK_CELLS]
    if options.list:
        print("\n".join(cell.key for cell in cells))
        return 0
    if not cells:
        print("No cell is called so: scripts/faults --list tells the names.", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _stop)
    started = time.monotonic()
    try:
        folder = fresh_folder(options.dir.absolute())
    except FaultsError as error:
        print(error, file=sys.stderr)
        return 2
    results: list[report.Result] = []
    try:
        results = _run(cells, folder, options)
    except Stopped:
        print("Stopped; everything was removed.", file=sys.stderr)
        return 130
    finally:
        if not options.keep:
            remove_folder(folder)
    seconds = time.monotonic() - started
    if options.write_docs:
        report.write_docs(REPOSITORY / "docs" / "reliability.md", results, seconds)
    if options.json:
        print(json.dumps([result.as_json() for result in results], indent=2))
    else:
        print("\n" + report.tables(results) + "\n")
        print(report.summary(results, seconds))
    return 1 if any(result.is_red for result in results) else 0


def _run(cells: list[Cell], folder: Path, options: argparse.Namespace) -> list[report.Result]:
    """Run them on lanes. What was red only because it took too long is run once more, alone: see report.Result."""
    count = max(1, min(options.lanes, len(cells)))
    _say(options, f"{len(cells)} cells on {count} lane{'s' if count > 1 else ''} ...")
    with Lanes(folder, count) as lanes:
        results = lanes.run(cells, lambda result: _say(options, result.line()))
    slow = [result.cell for result in results if result.is_red and result.is_about_time]
    if not slow or count == 1:
        return results
    _say(options, f"Once more, one by one: {len(slow)} that took too long beside the others ...")
    with Lanes(folder / "alone", 1) as lanes:
        alone = {result.cell.key: result for result in lanes.run(slow, lambda result: _say(options, result.line()))}
    return [replace(alone[result.cell.key], again=True) if result.cell.key in alone else result for result in results]


def _lane(options: argparse.Namespace) -> int:
    """Be a lane of another run (faultlib/lanes.py)."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _stop)
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        try:
            serve(options.dir.absolute(), sys.stdin, answers)
        except Stopped:
            return 130
    return 0


def _soak(options: argparse.Namespace) -> int:
    """Run the soak; 0 when nothing is wrong, 1 when something is, 2 when there is no result."""
    load = Load(jobs=options.jobs, collections=max(1, options.jobs // 4), seed=options.seed)
    needs = Needs(s3=False, database="postgres" if options.postgres else "sqlite")
    outcome = None
    try:
        folder = fresh_folder(options.dir.absolute())
        try:
            with ExitStack() as stack:
                outcome = soak(Bed(folder, stack, needs), load)
        finally:
            if not options.keep:
                remove_folder(folder)
    except FaultsError as error:
        print(f"No result: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"database": needs.database, **outcome.facts, "problems": outcome.problems}, indent=2))
    return 1 if outcome.problems else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/faults",
        description="Breaks backups and restores at every step, for real, and looks whether the truth is told.",
        epilog="Ends with 0 when every cell is green, 1 when one is red, 2 when there is no result.",
    )
    parser.add_argument(
        "what",
        nargs="?",
        choices=["table", "soak", "lane"],
        default="table",
        help="the table, or many workers (lane: used by the table itself)",
    )
    parser.add_argument("--all", action="store_true", help="every cell; else each fault at every fourth point of a job")
    parser.add_argument("--lanes", type=int, default=LANES, help=f"so many cells at the same time ({LANES})")
    parser.add_argument("--quick", action="store_true", help="the small part that scripts/test runs, too")
    parser.add_argument("--write-docs", action="store_true", help="put the result into docs/reliability.md")
    parser.add_argument("--postgres", action="store_true", help="soak: on PostgreSQL instead of SQLite")
    parser.add_argument("--jobs", type=int, default=200, help="soak: so many jobs (200)")
    parser.add_argument("--seed", type=int, default=1, help="soak: of what is random (1)")
    parser.add_argument("--only", action="append", metavar="TEXT", help="cells whose name holds this; may be repeated")
    parser.add_argument("--list", action="store_true", help="print the names of the cells")
    parser.add_argument("--json", action="store_true", help="the result as JSON; the progress goes to stderr")
    parser.add_argument("--keep", action="store_true", help="keep the folder with the logs")
    parser.add_argument(
        "--dir",
        type=Path,
        default=REPOSITORY / "var" / "faults",
        metavar="DIR",
        help="folder of all data; must not exist, is removed afterwards (var/faults)",
    )
    return parser.parse_args()


def _say(options: argparse.Namespace, text: str) -> None:
    print(text, file=sys.stderr if options.json else sys.stdout, flush=True)


def _stop(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise Stopped


if __name__ == "__main__":
    raise SystemExit(main())
