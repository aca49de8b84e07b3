"""Show the user everything; this is the only importer of rich.

Everything but a command's JSON goes to stderr: a live display on a terminal, plain lines elsewhere or under NO_COLOR.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any, Protocol, cast, final

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class StepRecord:
    """One logged step. `loss` is the mean since the last record, `rate` the learning rate of A."""

    step: int
    epoch: float
    loss: float
    rate: float
    gradient_norm: float
    examples_per_second: float


@dataclass(frozen=True)
class EvaluationRecord:
    """The scores of one split after `step` steps; `best` when the main score is the best so far."""

    step: int
    split: str
    scores: Mapping[str, float]
    best: bool


class Reporter(Protocol):
    """The interface by which a command tells what it is doing."""

    def facts(self, title: str, rows: Mapping[str, str]) -> None:
        """Show a titled list of names and values."""

    def begin(self, done: int, total: int) -> None:
        """Training starts at step `done` of `total`."""

    def step(self, record: StepRecord) -> None:
        """A step was logged."""

    def evaluations(self, records: Sequence[EvaluationRecord]) -> None:
        """The evaluation splits were scored."""

    def note(self, text: str) -> None:
        """Show a line about something notable."""

    def end(self) -> None:
        """Training is over, successfully or not."""


@final
class SilentReporter:
    """A reporter that says nothing, for every process but the first."""

    def facts(self, title: str, rows: Mapping[str, str]) -> None: ...
    def begin(self, done: int, total: int) -> None: ...
    def step(self, record: StepRecord) -> None: ...
    def evaluations(self, records: Sequence[EvaluationRecord]) -> None: ...
    def note(self, text: str) -> None: ...
    def end(self) -> None: ...


@final
class PlainReporter:
    """A reporter with one plain line per event, for logs and pipes."""

    def __init__(self) -> None:
        self.total = 0

    def facts(self, title: str, rows: Mapping[str, str]) -> None:
        width = max(map(len, rows), default=0)
        self.note(title)
        for name, value in rows.items():
            self.note(f"  {name.ljust(width)}  {value}")

    def begin(self, done: int, total: int) -> None:
        self.total = total

    def step(self, record: StepRecord) -> None:
        self.note(
            f"step {record.step}/{self.total}  epoch {record.epoch:.2f}  loss {record.loss:.4f}  "
            f"lr {record.rate:.2e}  {record.examples_per_second:.1f} examples/s"
        )

    def evaluations(self, records: Sequence[EvaluationRecord]) -> None:
        for record in records:
            scores = "  ".join(f"{name} {value:.4f}" for name, value in record.scores.items())
            self.note(
                f"evaluation after step {record.step}  {record.split}  {scores}{'  (best)' if record.best else ''}"
            )

    def note(self, text: str) -> None:
        say(text)

    def end(self) -> None: ...


@final
class RichReporter:
    """A reporter with a live bar (loss, rate, speed, time left), a table at every evaluation, and panels."""

    def __init__(self) -> None:
        self.console = terminal_console()
        self.progress = Progress(
            TextColumn("[bold]train"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
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

    def note(self, text: str) -> None:
        self.console.print(Text(text))

    def end(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None


class LastingStream:
    """Standard error that may fail: a run goes on when its terminal was closed or its reader has ended."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


def say(text: str) -> None:
    """Write plain lines on standard error."""
    print(text, file=LastingStream(), flush=True)


def terminal_console() -> Console:
    return Console(file=cast(IO[str], LastingStream()))


def make_reporter() -> Reporter:
    """Return the live display on a terminal, plain lines elsewhere."""
    return RichReporter() if is_terminal() else PlainReporter()


def is_terminal() -> bool:
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def show_error(title: str, text: str) -> None:
    """Show one panel on a terminal, one block of plain lines elsewhere."""
    if is_terminal():
        panel = Panel(Text(text), title=Text(title), title_align="left", border_style="red")
        terminal_console().print(panel)
    else:
        say(f"{title}: {text}")


def print_json(value: Any) -> None:
    """Print one JSON object on stdout, the only thing a command prints there. Characters that its encoding lacks are
    escaped.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, allow_nan=False)
    print(text, flush=True)


@contextmanager
def unused_stdout() -> Iterator[None]:
    """Drop what libraries print on stdout, those in other languages too: stdout is for a command's JSON."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # stdout is closed
        yield
        return
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Show a table on stderr."""
    if is_terminal():
        table = Table(*columns, title=Text(title), title_justify="left")
        for row in rows:
            table.add_row(*map(Text, row))
        terminal_console().print(table)
        return
    widths = [max(len(str(cell)) for cell in column) for column in zip(columns, *rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (columns, *rows)]
    say("\n".join([title, *lines]))
