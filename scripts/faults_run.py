"""The Python part of scripts/faults: reads the command line, runs the cells, prints the table."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(1, str(REPOSITORY))

from faultlib import report  # noqa: E402
from faultlib.bed import Bed, Needs, fresh_folder, remove_folder  # noqa: E402
from faultlib.cells import BEDS, QUICK_CELLS, Cell, all_cells  # noqa: E402
from faultlib.errors import FaultsError  # noqa: E402
from faultlib.runner import Runner  # noqa: E402
from faultlib.soak import Load, soak  # noqa: E402


class Stopped(BaseException):
    """A signal ended us."""


def main() -> int:
    """Return 0 when every cell is green, 1 when one is red, 2 when there is no result."""
    options = _options()
    if options.what == "soak":
        return _soak(options)
    cells = [cell for cell in all_cells() if not options.only or any(word in cell.key for word in options.only)]
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
        for bed in BEDS:
            mine = [cell for cell in cells if cell.bed == bed]
            if mine:
                results += _run_bed(bed, mine, folder / bed, options)
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


def _run_bed(name: str, cells: list[Cell], folder: Path, options: argparse.Namespace) -> list[report.Result]:
    results = []
    with ExitStack() as stack:
        _say(options, f"Making the bed {name!r} for {len(cells)} cells ...")
        try:
            folder.mkdir()
            runner = Runner(Bed(folder, stack, BEDS[name]))
        except FaultsError as error:
            _say(options, f"left out: {error}")
            return [report.Result(cell, None, str(error)) for cell in cells]
        for cell in cells:
            result = report.Result(cell, runner.run(cell))
            _say(options, result.line())
            results.append(result)
    return results


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
        choices=["table", "soak"],
        default="table",
        help="the table, or many workers",
    )
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
