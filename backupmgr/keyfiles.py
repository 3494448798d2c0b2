"""Secret files that the first start makes for itself, so that no default secret ever ships."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path


def load_or_create(path: Path, make: Callable[[], str]) -> str:
    """Return the text of `path`; when the file is missing, create it (mode 0600) with `make()`.

    Two processes that start at once agree: the text is written whole to a file of its own and linked into
    place, and the loser reads what the winner linked.

    Raises: OSError when the folder cannot be written or the file cannot be read.
    """
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        pass
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as handle:
        handle.write(make() + "\n")
    with contextlib.suppress(FileExistsError):
        os.link(scratch, path)
    scratch.unlink()
    return path.read_text().strip()
