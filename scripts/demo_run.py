"""The Python part of scripts/demo: reads the command line and the environment, says errors in one sentence."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import traceback
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(1, str(REPOSITORY))

from demolib.errors import DemoError, Interrupted  # noqa: E402
from demolib.screen import Screen  # noqa: E402
from demolib.story import Options, heed_signals, tell_story  # noqa: E402

_MAX_POINTS = 1_000_000
_MAX_NODES = 5


def main() -> int:
    """Return 0 when everything was equal, 1 when not or when something failed, 128 + n after signal n."""
    options = read_options()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without a tick is no reason to fail
    screen = Screen()
    heed_signals()
    try:
        return tell_story(options, screen)
    except DemoError as error:
        screen.failed(str(error))
        return 1
    except Interrupted as interrupted:
        screen.failed("Stopped before the end; nothing was left running.")
        return 128 + interrupted.number
    except Exception as error:
        # Nobody foresaw it: the details are for us, the sentence is for the user.
        log = options.folder / "logs" / "demo.log"
        with contextlib.suppress(OSError):
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(traceback.format_exc())
        screen.failed(f"This should not happen ({type(error).__name__}); the details are in {log}.")
        return 1


def read_options() -> Options:
    """Read the command line; what is wrong there ends the program with code 2."""
    parser = argparse.ArgumentParser(
        prog="scripts/demo",
        description="Backs up a collection with backupmgr, deletes it, restores it, and compares every point.",
        epilog="QDRANT_URL (and QDRANT_API_KEY) make it use that Qdrant node instead of a sandbox node, in collections "
        "of its own that it removes.",
    )
    parser.add_argument("--once", action="store_true", help="end after the comparison; exit code 0 only if all equal")
    parser.add_argument("--s3", action="store_true", help="do it with a real S3 server, too")
    parser.add_argument(
        "--nodes", type=_nodes, default=1, metavar="N", help="a cluster of N sandbox nodes instead of one (up to 5)"
    )
    parser.add_argument("--points", type=_points, default=20_000, metavar="N", help="points to load (20,000)")
    parser.add_argument("--port", type=_port, metavar="P", help="of the web server (8000, or else a free one)")
    parser.add_argument(
        "--dir",
        type=Path,
        default=REPOSITORY / "var" / "demo",
        metavar="DIR",
        help="folder of data and logs, made anew at each run (var/demo)",
    )
    given = parser.parse_args()
    if given.nodes > 1 and os.environ.get("QDRANT_URL"):
        parser.error("--nodes starts sandbox nodes of its own: unset QDRANT_URL, or leave --nodes out")
    return Options(
        folder=given.dir.absolute(),
        once=given.once,
        s3=given.s3,
        points=given.points,
        port=given.port,
        qdrant_url=os.environ.get("QDRANT_URL", "").strip(),
        qdrant_api_key=os.environ.get("QDRANT_API_KEY", "").strip() if os.environ.get("QDRANT_URL") else "",
        nodes=given.nodes,
    )


def _points(text: str) -> int:
    return _number(text, 1, _MAX_POINTS)


def _nodes(text: str) -> int:
    return _number(text, 1, _MAX_NODES)


def _port(text: str) -> int:
    return _number(text, 1, 65535)


def _number(text: str, low: int, high: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = low - 1
    if not low <= number <= high:
        raise argparse.ArgumentTypeError(f"a whole number from {low:,} to {high:,} is needed")
    return number


if __name__ == "__main__":
    raise SystemExit(main())
