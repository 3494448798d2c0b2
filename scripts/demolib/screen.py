"""What the demo prints: one line a step, progress bars where something takes time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn

from apps.core.text import format_duration, format_rate, format_size

_SHOWN_DIFFERENCES = 50


class Screen:
    """A terminal, or whatever standard output is: without a terminal there are no bars, only the lines."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, soft_wrap=True)

    def title(self, text: str) -> None:
        self.console.print(f"\n[bold]{text}[/bold]")

    def done(self, text: str, seconds: float | None = None) -> None:
        duration = f"  [dim]{format_duration(seconds)}[/dim]" if seconds is not None else ""
        self.console.print(f"  [green]✓[/green] {escape(text)}{duration}")

    def bad(self, text: str) -> None:
        self.console.print(f"  [red]✗[/red] {escape(text)}")

    def failed(self, sentence: str, program: str = "scripts/demo") -> None:
        """Print the sentence that the program ends with, on standard error."""
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"\n{program}: {sentence}", markup=False)

    def line(self, text: str = "") -> None:
        self.console.print(f"    {text}", markup=False)

    def differences(self, found: list[str]) -> None:
        """List differences; of very many, the first ones."""
        for sentence in found[:_SHOWN_DIFFERENCES]:
            self.line(sentence)
        if len(found) > _SHOWN_DIFFERENCES:
            self.line(f"… and {len(found) - _SHOWN_DIFFERENCES:,} more")

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a bar over `total` points; what is yielded adds to it."""
        started, done = time.monotonic(), 0
        with self._progress() as progress:
            task = progress.add_task(what, total=total, state="")

            def moved(count: int) -> None:
                nonlocal done
                done += count
                rate = done / max(time.monotonic() - started, 1e-3)
                progress.update(task, completed=done, state=f"{done:,} points, {rate:,.0f}/s")

            yield moved

    @contextmanager
    def job(self, what: str) -> Iterator[Callable[[dict[str, Any]], None]]:
        """Show a bar that follows a job; what is yielded takes the job as the API answers it."""
        with self._progress() as progress:
            task = progress.add_task(what, total=100, state="queued")

            def show(job: dict[str, Any]) -> None:
                words = [job["phase"] or ("queued" if job["status"] == "pending" else job["status"])]
                if job["bytes_total"]:
                    words.append(f"{format_size(job['bytes_done'])} of {format_size(job['bytes_total'])}")
                if job["rate_bytes_per_second"]:
                    words.append(format_rate(job["rate_bytes_per_second"]))
                progress.update(task, completed=job["progress"], state=" · ".join(words))

            yield show

    def _progress(self) -> Progress:
        return Progress(
            TextColumn("  [blue]…[/blue] {task.description}"),
            BarColumn(bar_width=32),
            TextColumn("{task.percentage:>3.0f} %  [dim]{task.fields[state]}[/dim]"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
