"""Report by a live display, for a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Literal, cast, final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.measure import Measurement
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

from reflora_cli.console.layout import extents, fitting, parts_of, shortened_name
from reflora_cli.console.reporter import EvaluationRecord, Score, StepRecord, Tell, Work, unscored
from reflora_cli.console.stream import LastingStream

SECONDS = 0.5
"""The least time between two computations of a score that is shown beside a bar."""


WIDE = 100
"""The least width of a terminal in which bars are long."""


@final
class NameColumn(ProgressColumn):
    """What is done, without its middle where it would take more than a quarter of the width."""

    def __init__(self, console: Console) -> None:
        super().__init__(Column(no_wrap=True))
        self.console = console

    def render(self, task: Task) -> Text:
        return Text(shortened_name(task.description, self.console.width // 4), style="bold")


@dataclass(frozen=True)
class Pieces:
    """What is told beside a bar: as many pieces as there is room for, and none of them cut."""

    texts: Sequence[str]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(fitting(self.texts, options.max_width))

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(0, len(fitting(self.texts, options.max_width)))


@final
class PiecesColumn(ProgressColumn):
    """The pieces of a bar, which give way to everything else in its line."""

    def render(self, task: Task) -> Any:
        return Pieces(task.fields["pieces"])


@final
class RichReporter:
    """A reporter with a live bar (loss, rate, speed, time left), a table at every evaluation, and panels. Other work
    has a bar of its own below that of training, which is gone when the work is done.
    """

    def __init__(self) -> None:
        self.console = terminal_console()
        whole = Column(no_wrap=True)
        self.progress = Progress(
            NameColumn(self.console),
            BarColumn(bar_width=40 if self.console.width >= WIDE else 10, table_column=whole),
            MofNCompleteColumn(table_column=whole),
            TimeRemainingColumn(table_column=whole),
            PiecesColumn(),
            console=self.console,
        )
        self.live: Live | None = None

    def facts(self, title: str, rows: Mapping[str, str]) -> None:
        grid = Table.grid(Column(no_wrap=True), Column(overflow="fold"), padding=(0, 2))
        most = self.console.width // 2
        for name, value in rows.items():
            grid.add_row(Text(shortened_name(name, most), style="cyan"), Text(value))
        self.console.print(Panel(grid, title=Text(title), title_align="left", expand=False))

    def begin(self, done: int, total: int) -> None:
        self.task = self.progress.add_task("train", total=total, completed=done, pieces=())
        self.show()

    def show(self) -> None:
        """Show the bars, if they are not shown yet."""
        if self.live is None:
            self.live = Live(self.progress, console=self.console, refresh_per_second=4)
            self.live.start()

    def step(self, record: StepRecord) -> None:
        pieces = (
            f"loss {record.loss:.4f}",
            f"epoch {record.epoch:.2f}",
            f"lr {record.rate:.1e}",
            f"{record.examples_per_second:.0f} examples/s",
        )
        self.progress.update(self.task, completed=record.step, pieces=pieces)

    def evaluations(self, records: Sequence[EvaluationRecord]) -> None:
        names = list(dict.fromkeys(name for record in records for name in record.scores))
        rows = [[record.split, *(score(record.scores.get(name)) for name in names)] for record in records]
        best = [place for place, record in enumerate(records) if record.best]
        for table in tables(f"after step {records[0].step}", ["split", *names], rows, self.console.width):
            for place in best:
                table.rows[place].style = "bold green"
            self.console.print(table)

    @contextmanager
    def counting(self, work: Work) -> Iterator[Tell]:
        bar = self.progress.add_task(work.what, total=work.total, completed=work.before, pieces=())
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
            self.progress.update(self.task, pieces=(score(),))


def terminal_console() -> Console:
    """Return rich's console on standard error."""
    return Console(file=cast(IO[str], LastingStream()))


def terminal_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Show a table with borders, in parts where it is too wide for the terminal."""
    console = terminal_console()
    for table in tables(title, columns, rows, console.width):
        console.print(table)


def tables(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Iterator[Table]:
    """Yield a table, in parts below each other where it is too wide. Numbers stay whole, and stand on the right."""
    sizes = extents(columns, rows, width)
    for part in parts_of(columns, rows, width):
        table = Table(title=Text(title), title_justify="left")
        for place, own in zip(part.columns, part.widths, strict=True):
            justify: Literal["left", "right"] = "right" if sizes[place].is_number else "left"
            table.add_column(Text(columns[place]), width=own, justify=justify, overflow="fold")
        for row in rows:
            name = shortened_name(row[0], part.widths[0])
            table.add_row(Text(name), *(Text(row[place]) for place in part.columns[1:]))
        yield table


def score(value: float | None) -> str:
    """Return a score as a cell; empty where a split has no such score."""
    return "" if value is None else f"{value:.4f}"


def terminal_error(title: str, text: str) -> None:
    """Show an error as one red panel."""
    panel = Panel(Text(text), title=Text(title), title_align="left", border_style="red")
    terminal_console().print(panel)
