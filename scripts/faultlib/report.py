"""The table for people: faults down, points across, and why a cell is red."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cells import Cell
from .checker import Verdict
from .points import POINTS, TABLES

#: How the problems begin that a busy machine alone may cause.
_ABOUT_TIME = ("cancel took ", "not reached: ", "the cell itself failed: ")


@dataclass(frozen=True)
class Result:
    """A cell with its verdict; `skipped` says why it was not run.

    `again`: the verdict is that of a second run, alone, after the first one had taken too long beside other cells.
    """

    cell: Cell
    verdict: Verdict | None
    skipped: str = ""
    again: bool = False

    @property
    def is_red(self) -> bool:
        return self.verdict is not None and not self.verdict.is_green

    @property
    def is_about_time(self) -> bool:
        """Whether everything that is wrong may come from a machine that was too busy."""
        return self.verdict is not None and all(problem.startswith(_ABOUT_TIME) for problem in self.verdict.problems)

    @property
    def mark(self) -> str:
        """Return C, F, X (completed, failed with a reason, cancelled), RED, or – for one that was left out."""
        if self.verdict is None:
            return "–"
        if not self.verdict.is_green:
            return "RED"
        return {"completed": "C", "failed": "F", "cancelled": "X"}.get(self.verdict.status, "?")

    def line(self) -> str:
        if self.verdict is None:
            return f"left out  {self.cell.key}: {self.skipped}"
        verdict = self.verdict
        facts = f"{verdict.status}, attempt {verdict.attempts}, {verdict.seconds:.1f} s"
        text = f"{'green' if verdict.is_green else 'RED  '}  {self.cell.key}  ({facts})"
        return "\n".join([text, *(f"         {problem}" for problem in verdict.problems)])

    def as_json(self) -> dict[str, Any]:
        verdict = self.verdict
        return {
            "cell": self.cell.key,
            "fault": self.cell.fault.title,
            "point": self.cell.point.title,
            "result": self.mark,
            "skipped": self.skipped,
            **({} if verdict is None else vars(verdict)),
        }


def _sections(results: Iterable[Result]) -> dict[tuple[str, str], list[Result]]:
    sections: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        sections.setdefault((result.cell.point.table, result.cell.bed), []).append(result)
    return sections


_BEDS = {
    "main": "",
    "short": " (SQLite that waits 2 s for a lock)",
    "clock": " (a host whose clock is set)",
    "postgres": " (PostgreSQL)",
}
_TITLES = {**TABLES, "backup-tight": "Backup to a small disk"}


def tables(results: list[Result]) -> str:
    """Return the tables as Markdown: one for each kind of job, bed and storage."""
    pieces = []
    for (table, bed), found in _sections(results).items():
        order = list(POINTS.get(table, POINTS["backup-folder"]))
        points = sorted(
            {result.cell.point.key: result.cell.point for result in found}.values(), key=lambda p: order.index(p.key)
        )
        faults: dict[str, str] = {}
        for result in found:
            faults.setdefault(result.cell.fault.key, result.cell.fault.title)
        marks = {(result.cell.fault.key, result.cell.point.key): result.mark for result in found}
        lines = [f"### {_TITLES[table]}{_BEDS[bed]}", ""]
        lines.append("| fault | " + " | ".join(point.title for point in points) + " |")
        lines.append("|---|" + ":-:|" * len(points))
        for key, title in faults.items():
            row = [marks.get((key, point.key), "") for point in points]
            lines.append(f"| {title} | " + " | ".join(row) + " |")
        pieces.append("\n".join(lines))
    return "\n\n".join(pieces)


_BEGIN, _END = "<!-- table: begin -->", "<!-- table: end -->"


def write_docs(page: Path, results: list[Result], seconds: float) -> None:
    """Put tables and summary between the marks of the page."""
    before, _, rest = page.read_text().partition(_BEGIN)
    _, _, after = rest.partition(_END)
    red = "\n\n".join(f"    {line}" for result in results if result.is_red for line in result.line().splitlines())
    pieces = [summary(results, seconds), *([f"Red:\n\n{red}"] if red else []), tables(results)]
    page.write_text(f"{before}{_BEGIN}\n" + "\n\n".join(pieces) + f"\n{_END}{after}")


def summary(results: list[Result], seconds: float) -> str:
    """Return one sentence about all cells."""
    ran = [result for result in results if result.verdict is not None]
    red = sum(result.is_red for result in ran)
    ends = {mark: sum(result.mark == mark for result in ran) for mark in ("C", "F", "X")}
    text = (
        f"{len(ran)} cells in {seconds / 60:.0f} minutes: {len(ran) - red} green ({ends['C']} completed, "
        f"{ends['F']} failed with a reason, {ends['X']} cancelled), {red} red"
    )
    left_out = len(results) - len(ran)
    again = [result.cell.key for result in results if result.again]
    if again:
        text += f"; run once more, alone, because it had taken too long beside others: {', '.join(again)}"
    return f"{text}; {left_out} left out." if left_out else f"{text}."
