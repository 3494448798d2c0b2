"""The small part of the fault table: one cell of each kind. scripts/faults runs all of them."""

from __future__ import annotations

import pytest
from faultlib.cells import QUICK_CELLS, all_cells
from faultlib.runner import Runner

pytestmark = [pytest.mark.worker, pytest.mark.s3, pytest.mark.xdist_group("faults")]

CELLS = {cell.key: cell for cell in all_cells()}


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
