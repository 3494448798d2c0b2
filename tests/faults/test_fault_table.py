"""The small part of the fault table: one cell of each kind. scripts/faults runs all of them.

The cells take minutes on a small machine: BACKUPMGR_TEST_FAULTS=1 has them run here, else scripts/faults --quick does.
"""

from __future__ import annotations

import os

import pytest
from faultlib.cells import QUICK_CELLS, all_cells
from faultlib.runner import Runner

pytestmark = [pytest.mark.worker, pytest.mark.s3, pytest.mark.xdist_group("faults")]

CELLS = {cell.key: cell for cell in all_cells()}


@pytest.mark.skipif(
    not os.environ.get("BACKUPMGR_TEST_FAULTS"),
    reason="takes minutes: BACKUPMGR_TEST_FAULTS=1, or scripts/faults --quick",
)
@pytest.mark.parametrize("key", QUICK_CELLS)
def test_a_cell_is_green(runner: Runner, key: str) -> None:
    verdict = runner.run(CELLS[key])

    assert verdict.problems == []


def test_the_table_is_as_large_as_promised() -> None:
    cells = [cell for cell in all_cells() if cell.fault.key != "cancel"]

    assert len(cells) >= 200
    assert len(CELLS) == len(all_cells()), "two cells of one name"
    kinds = {(cell.point.kind, cell.point.storage) for cell in cells}
    assert {("backup", "folder"), ("backup", "s3"), ("restore", "folder"), ("restore", "s3")} <= kinds
    assert len({cell.point.key for cell in all_cells() if cell.fault.key == "cancel"}) >= 20
