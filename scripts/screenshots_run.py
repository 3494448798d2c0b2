"""The Python part of scripts/screenshots: makes the demo's data, opens the pages in chromium, writes the pictures."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(1, str(REPOSITORY))

from demolib.errors import DemoError, Interrupted  # noqa: E402
from demolib.folder import fresh_folder  # noqa: E402
from demolib.gallery import furnish  # noqa: E402
from demolib.installation import Installation  # noqa: E402
from demolib.pictures import take_pictures  # noqa: E402
from demolib.screen import Screen  # noqa: E402
from demolib.story import heed_signals, ignore_signals  # noqa: E402


def main() -> int:
    """Return 0 when all pictures were taken, 1 when something failed, 128 + n after signal n."""
    parser = argparse.ArgumentParser(
        prog="scripts/screenshots",
        description="Fills a backupmgr with the demo's data and takes pictures of the main pages of its admin.",
    )
    parser.add_argument(
        "--to",
        type=Path,
        default=REPOSITORY / "docs" / "screenshots",
        metavar="DIR",
        help="where the pictures go (docs/screenshots); a picture of the same name is replaced",
    )
    target = parser.parse_args().to.absolute()
    screen = Screen()
    heed_signals()
    try:
        with (
            # A plain name: it is seen in the pictures, wherever a storage's folder is told.
            fresh_folder(Path(tempfile.gettempdir()) / "backupmgr") as folder,
            ExitStack() as stack,
        ):
            stack.callback(shutil.rmtree, folder, ignore_errors=True)  # when all processes have ended
            try:
                installation = Installation(folder, stack)
                screen.title("Something to look at")
                shop = furnish(installation, stack, screen)
                screen.title(f"Pictures, into {target}")
                take_pictures(installation, shop, target, screen)
            finally:
                ignore_signals()
    except DemoError as error:
        screen.failed(str(error), "scripts/screenshots")
        return 1
    except Interrupted as interrupted:
        screen.failed("Stopped before the end; nothing was left running.", "scripts/screenshots")
        return 128 + interrupted.number
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
