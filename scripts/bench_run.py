"""The Python part of scripts/bench: reads the command line, runs the rounds, prints what came out."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(1, str(REPOSITORY))

from benchlib import latency, report  # noqa: E402
from benchlib.bed import MIB, Bed  # noqa: E402
from benchlib.contest import CONTESTANTS, Contestant, Lap, our_backup  # noqa: E402
from benchlib.processes import BenchError  # noqa: E402
from demolib.errors import DemoError  # noqa: E402

_MEMORY_MIB = (256, 4096)
_QUICK_MIB = 256
_QUICK_ROUNDS = 3
# A step is one contestant's lap; nothing here is slower than this unless it hangs.
_STEP_SECONDS = 60.0
_STEP_BYTES_PER_SECOND = 10e6


class Stopped(BaseException):
    """A signal ended us."""


def main() -> int:
    """Return 0 when every target was reached, 1 when one was missed, 2 when there is no result."""
    options = _options()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _stop)
    folder = options.dir.absolute()
    if folder.exists():
        print(f"{folder} exists already: another run's? Remove it, or give another --dir.", file=sys.stderr)
        return 2
    try:
        return _latency(options, folder) if options.what == "latency" else _measure(options, folder)
    except (BenchError, DemoError, RuntimeError, OSError) as error:
        print(f"No result: {error}", file=sys.stderr)
        return 2
    except Stopped:
        print("Stopped; everything was removed.", file=sys.stderr)
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _latency(options: argparse.Namespace, folder: Path) -> int:
    _say(options, "Starting a sandbox node, a web server and a worker ...")
    found = latency.measure(folder, jobs=options.rounds * 4)
    facts = _machine()
    if options.json:
        print(json.dumps({"machine": facts, "latency": found.as_json()}, indent=2))
    else:
        print(f"\n{', '.join(f'{name}: {value}' for name, value in facts.items())}\n{found.lines()}")
    return 0 if found.reached else 1


def _measure(options: argparse.Namespace, folder: Path) -> int:
    machine = _machine()
    largest = max([options.size_mib, *(_MEMORY_MIB if options.memory else ())])
    _require_room(folder, options)
    with ExitStack() as stack:
        stack.callback(_say, options, "Cleaning up ...")
        _say(options, "Starting a sandbox node, an S3 server and a database ...")
        bed = Bed(folder, stack, step_seconds=_STEP_SECONDS + largest * MIB / _STEP_BYTES_PER_SECOND)
        laps = _race(bed, options)
        memory = _memory(bed, options) if options.memory else {}
    targets = report.speed_targets(laps) + report.memory_targets(memory)
    if options.json:
        print(json.dumps(report.as_json(machine, laps, memory, targets), indent=2))
    else:
        facts = ", ".join(f"{name}: {value}" for name, value in machine.items())
        print(f"\n{options.size_mib} MiB of payload, {options.rounds} rounds; {facts}\n")
        print(report.table(laps))
        print("\nTargets (median of the rounds):")
        print("\n".join(target.line() for target in targets))
    return 0 if all(target.reached for target in targets) else 1


def _race(bed: Bed, options: argparse.Namespace) -> dict[str, list[Lap]]:
    _say(options, f"Loading {options.size_mib} MiB ...")
    bed.load("bench", options.size_mib)
    # Unmeasured: the S3 server sets up its volumes, the disk its journal.
    for storage in _storages(options):
        bed.settle()
        our_backup(bed, "bench", storage)
    contestants = _contestants(options)
    laps: dict[str, list[Lap]] = {contestant.name: [] for contestant in contestants}
    for number in range(options.rounds):
        # Everybody is first once, and nobody always after the same one.
        turn = number % len(contestants)
        order = contestants[turn:] + contestants[:turn]
        for contestant in order if number % 2 == 0 else order[::-1]:
            bed.settle()
            lap = contestant.run(bed, "bench")
            laps[contestant.name].append(lap)
            rate = lap.size_bytes / 1e6 / lap.transfer_seconds
            _say(options, f"round {number + 1}/{options.rounds}  {contestant.name:28}  {rate:6.0f} MB/s")
    bed.unload("bench")
    bed.settle()
    return laps


def _memory(bed: Bed, options: argparse.Namespace) -> dict[tuple[str, int], Lap]:
    found = {}
    for size in _MEMORY_MIB:
        _say(options, f"Memory: loading {size} MiB ...")
        bed.load(f"memory-{size}", size)
        for storage in _storages(options):
            lap = found[storage, size] = our_backup(bed, f"memory-{size}", storage)
            above, idle = lap.memory_bytes / MIB, lap.idle_bytes / MIB
            _say(options, f"memory  {storage:6}  {size:5} MiB: {above:.0f} MiB above {idle:.0f} MiB")
            bed.settle()
        bed.unload(f"memory-{size}")
    return found


def _storages(options: argparse.Namespace) -> tuple[str, ...]:
    return (options.only,) if options.only else ("folder", "s3")


def _contestants(options: argparse.Namespace) -> tuple[Contestant, ...]:
    groups = _storages(options)
    return tuple(one for one in CONTESTANTS if one.group in groups and shutil.which(one.needs))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measures our backups against what a script would do. All on loopback, with servers of its own.",
        epilog="Ends with 0 when every target is reached, 1 when one is missed, 2 when there is no result.",
    )
    parser.add_argument(
        "what",
        choices=["transfer", "latency"],
        help="transfer: from a node to a folder, and to S3; latency: from POST /jobs to running, and CPU at rest",
    )
    parser.add_argument("--size-mib", type=int, default=1024, metavar="N", help="payload to back up (1024)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds, interleaved (5)")
    parser.add_argument("--memory", action="store_true", help="also the job's peak memory at 256 MiB and at 4 GiB")
    parser.add_argument("--only", choices=["folder", "s3"], help="one kind of storage")
    parser.add_argument("--quick", action="store_true", help="256 MiB, 3 rounds: to see that it works, not how fast")
    parser.add_argument("--json", action="store_true", help="the result as JSON; the progress goes to stderr")
    parser.add_argument(
        "--dir",
        type=Path,
        default=REPOSITORY / "var" / "bench",
        metavar="DIR",
        help="folder of all data; must not exist, is removed afterwards (var/bench)",
    )
    options = parser.parse_args()
    if options.quick:
        options.size_mib, options.rounds = _QUICK_MIB, _QUICK_ROUNDS
    if options.size_mib < 64 or options.rounds < 1:
        parser.error("--size-mib must be 64 or more, --rounds 1 or more")
    return options


def _require_room(folder: Path, options: argparse.Namespace) -> None:
    """Raises: BenchError. The S3 server frees what was deleted late: each of its laps counts."""
    s3_laps = sum(contestant.group == "s3" for contestant in _contestants(options)) * options.rounds + 1
    needed = options.size_mib * (s3_laps + 5)
    if options.memory:
        needed += sum(_MEMORY_MIB) * 4
    parent = next(path for path in folder.parents if path.exists())
    free = shutil.disk_usage(parent).free // MIB
    if free < needed * 1.1:
        raise BenchError(
            f"{needed * 1.1 / 1024:.0f} GiB of free disk are needed below {parent}, {free // 1024} are there."
        )


def _machine() -> dict[str, str | int]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": os.cpu_count() or 0,
        "GiB of RAM": round(memory / 1024**3),
        "load before": f"{os.getloadavg()[0]:.1f}",
        "Python": ".".join(map(str, sys.version_info[:3])),
    }


def _say(options: argparse.Namespace, text: str) -> None:
    print(text, file=sys.stderr if options.json else sys.stdout, flush=True)


def _stop(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise Stopped


if __name__ == "__main__":
    raise SystemExit(main())
