"""A bed for the cells and for the checker's own tests: a whole backupmgr with proxies around it, made once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.support import REPOSITORY

# scripts/ is a folder of programs: its libraries are found as the programs find them.
sys.path.insert(1, str(REPOSITORY / "scripts"))

if TYPE_CHECKING:
    from faultlib.runner import Runner


@pytest.fixture(scope="session")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """Runs cells on a bed with a small collection, a folder and a bucket."""
    from faultlib.bed import Bed, Needs
    from faultlib.runner import Runner

    with ExitStack() as stack:
        yield Runner(Bed(tmp_path_factory.mktemp("faults"), stack, Needs()))
