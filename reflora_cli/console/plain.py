"""Report one plain line per event, for logs and pipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import final

from reflora_cli.console.pace import Pace
from reflora_cli.console.reporter import EvaluationRecord, StepRecord, Tell, Work
from reflora_cli.console.stream import say


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

    def counting(self, work: Work) -> AbstractContextManager[Tell]:
        return nullcontext(Pace(work, self.note))

    def note(self, text: str) -> None:
        say(text)

    def text(self, title: str, pieces: Sequence[tuple[str, bool]]) -> None:
        self.note(title)
        self.note("".join(f"[[{text}]]" if is_marked else text for text, is_marked in pieces))

    def end(self) -> None: ...
