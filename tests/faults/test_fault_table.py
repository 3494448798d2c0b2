"""The small part of the fault table: what is over soon. scripts/faults runs the rest."""

from __future__ import annotations

import pytest
from faultlib.cells import BEDS, QUICK_CELLS, Cell, all_cells, default_cells
from faultlib.lanes import Plan
from faultlib.report import Result
from faultlib.runner import Runner

# The time-out is for the making of the bed, which the first test waits for, beside other tests on a small machine.
pytestmark = [pytest.mark.worker, pytest.mark.s3, pytest.mark.xdist_group("faults"), pytest.mark.timeout(600)]

CELLS = {cell.key: cell for cell in all_cells()}


@pytest.mark.parametrize("key", QUICK_CELLS)
def test_a_cell_is_green(runner: Runner, key: str) -> None:
    verdict = runner.run(CELLS[key])
    if verdict.problems and Result(CELLS[key], verdict).is_about_time:  # beside other tests five seconds may be short
        verdict = runner.run(CELLS[key])

    assert verdict.problems == []


def test_the_table_is_as_large_as_promised() -> None:
    cells = [cell for cell in all_cells() if cell.fault.key != "cancel"]

    assert len(cells) >= 200
    assert len(CELLS) == len(all_cells()), "two cells of one name"
    kinds = {(cell.point.kind, cell.point.storage) for cell in cells}
    assert {("backup", "folder"), ("backup", "s3"), ("restore", "folder"), ("restore", "s3")} <= kinds
    assert len({cell.point.key for cell in all_cells() if cell.fault.key == "cancel"}) >= 20


def test_what_is_run_when_nothing_is_named_has_every_fault_and_every_point() -> None:
    chosen = default_cells()

    assert len(chosen) >= 250
    assert set(QUICK_CELLS) <= {cell.key for cell in chosen}
    for part in (lambda cell: (cell.point.table, cell.fault.key), lambda cell: cell.bed):
        assert {part(cell) for cell in chosen} == {part(cell) for cell in all_cells()}
    assert {cell.key for cell in all_cells() if cell.fault.key == "cancel"} <= {cell.key for cell in chosen}


@pytest.mark.parametrize("count", [1, 2, 5])
def test_lanes_share_all_cells_and_change_their_bed_seldom(count: int) -> None:
    plan = Plan(default_cells())
    beds = [""] * count
    taken: list[Cell] = []
    changes = 0
    while len(plan):
        for lane in range(count):
            cell = plan.take(beds[lane])
            if cell is None:
                continue
            changes += cell.bed != beds[lane]
            beds[lane] = cell.bed
            taken.append(cell)

    assert sorted(cell.key for cell in taken) == sorted(cell.key for cell in default_cells())
    assert changes <= len(BEDS) + 2 * count
    assert all(plan.take(bed) is None for bed in beds)
