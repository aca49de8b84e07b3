"""Define the interface by which a command tells what it is doing, and the records that it tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, final


@dataclass(frozen=True)
class StepRecord:
    """One logged step. loss: the mean since the last record. rate: the learning rate of A."""

    step: int
    epoch: float
    loss: float
    rate: float
    gradient_norm: float
    examples_per_second: float


@dataclass(frozen=True)
class EvaluationRecord:
    """The scores of one split after `step` steps. best: whether the main score is the best so far."""

    step: int
    split: str
    scores: Mapping[str, float]
    best: bool


class Reporter(Protocol):
    """The interface by which a command tells what it is doing."""

    def facts(self, title: str, rows: Mapping[str, str]) -> None:
        """Show a titled list of names and values."""

    def begin(self, done: int, total: int) -> None:
        """Show that training starts at step `done` of `total`."""

    def step(self, record: StepRecord) -> None:
        """Show a logged step."""

    def evaluations(self, records: Sequence[EvaluationRecord]) -> None:
        """Show the scores of the evaluation splits."""

    def note(self, text: str) -> None:
        """Show a line about something notable."""

    def text(self, title: str, pieces: Sequence[tuple[str, bool]]) -> None:
        """Show a text under a title. pieces: its parts in order, each with whether it is marked."""

    def end(self) -> None:
        """End the display, because training has ended, successfully or not."""


@final
class SilentReporter:
    """A reporter that says nothing, for every process but the first."""

    def facts(self, title: str, rows: Mapping[str, str]) -> None: ...
    def begin(self, done: int, total: int) -> None: ...
    def step(self, record: StepRecord) -> None: ...
    def evaluations(self, records: Sequence[EvaluationRecord]) -> None: ...
    def note(self, text: str) -> None: ...
    def text(self, title: str, pieces: Sequence[tuple[str, bool]]) -> None: ...
    def end(self) -> None: ...
