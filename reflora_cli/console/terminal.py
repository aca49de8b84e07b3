"""Report by a live display, for a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, cast, final

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from reflora_cli.console.reporter import EvaluationRecord, Score, StepRecord, Tell, Work, unscored
from reflora_cli.console.stream import LastingStream

SECONDS = 0.5
"""The least time between two computations of a score that is shown beside a bar."""


@final
class RichReporter:
    """A reporter with a live bar (loss, rate, speed, time left), a table at every evaluation, and panels. Other work
    has a bar of its own below that of training, which is gone when the work is done.
    """

    def __init__(self) -> None:
        self.console = terminal_console()
        self.progress = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            TimeRemainingColumn(),
            console=self.console,
        )
        self.live: Live | None = None

    def facts(self, title: str, rows: Mapping[str, str]) -> None:
        grid = Table.grid(padding=(0, 2))
        for name, value in rows.items():
            grid.add_row(Text(name, style="cyan"), Text(value))
        self.console.print(Panel(grid, title=Text(title), title_align="left", expand=False))

    def begin(self, done: int, total: int) -> None:
        self.task = self.progress.add_task("train", total=total, completed=done, text="")
        self.show()

    def show(self) -> None:
        """Show the bars, if they are not shown yet."""
        if self.live is None:
            self.live = Live(self.progress, console=self.console, refresh_per_second=4)
            self.live.start()

    def step(self, record: StepRecord) -> None:
        text = (
            f"epoch {record.epoch:.2f}  loss {record.loss:.4f}  lr {record.rate:.1e}  "
            f"{record.examples_per_second:.0f} examples/s"
        )
        self.progress.update(self.task, completed=record.step, text=text)

    def evaluations(self, records: Sequence[EvaluationRecord]) -> None:
        table = Table(title=f"after step {records[0].step}", title_justify="left")
        table.add_column("split")
        for name in records[0].scores:
            table.add_column(name, justify="right")
        for record in records:
            style = "bold green" if record.best else ""
            cells = (record.split, *(f"{value:.4f}" for value in record.scores.values()))
            table.add_row(*map(Text, cells), style=style)
        self.console.print(table)

    @contextmanager
    def counting(self, work: Work) -> Iterator[Tell]:
        bar = self.progress.add_task(work.what, total=work.total, completed=work.before, text="")
        self.show()
        try:
            yield Bar(self.progress, bar)
        finally:
            self.progress.remove_task(bar)
            if not self.progress.task_ids:
                self.end()

    def note(self, text: str) -> None:
        self.console.print(Text(text))

    def text(self, title: str, pieces: Sequence[tuple[str, bool]]) -> None:
        self.console.print(Text(title, style="cyan"))
        has_color = self.console.color_system is not None and not self.console.no_color
        for text, is_marked in pieces:
            shown = f"[[{text}]]" if is_marked and not has_color else text
            self.console.print(Text(shown, style="bold green" if is_marked else ""), end="")
        self.console.print()

    def end(self) -> None:
        if self.live is not None:
            self.live.transient = not self.progress.task_ids  # else an empty line would stay
            self.live.stop()
            self.live = None


@final
class Bar:
    """A function that moves one bar, and shows the score so far beside it."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self.progress, self.task = progress, task
        self.scored = float("-inf")

    def __call__(self, done: int, score: Score = unscored) -> None:
        self.progress.update(self.task, completed=done)
        if (now := time.monotonic()) - self.scored >= SECONDS:
            self.scored = now
            self.progress.update(self.task, text=score())


def terminal_console() -> Console:
    """Return rich's console on standard error."""
    return Console(file=cast(IO[str], LastingStream()))


def terminal_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Show a table with borders."""
    table = Table(*columns, title=Text(title), title_justify="left")
    for row in rows:
        table.add_row(*map(Text, row))
    terminal_console().print(table)


def terminal_error(title: str, text: str) -> None:
    """Show an error as one red panel."""
    panel = Panel(Text(text), title=Text(title), title_align="left", border_style="red")
    terminal_console().print(panel)
