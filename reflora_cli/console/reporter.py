"""Define the interface by which a command tells what it is doing, and the records that it tells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol, TypeVar, final

ItemT = TypeVar("ItemT")
Score = Callable[[], str]
"""A function that returns the score of what is done so far as a text, empty where there is none. It is called when the
score is shown."""


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


@dataclass(frozen=True)
class Work:
    """A piece of work whose parts are counted. unit: what its parts are called. before: the number of parts that were
    done when it began.
    """

    what: str
    total: int
    unit: str = "rows"
    before: int = 0


def unscored() -> str:
    """Return no score."""
    return ""


class Tell(Protocol):
    """A function that is told how many parts of some work are done, as often as that is known."""

    def __call__(self, done: int, score: Score = unscored) -> None: ...


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

    def counting(self, work: Work) -> AbstractContextManager[Tell]:
        """Return a context in which it is shown how far some work is, with the time left and the score so far."""

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
    def counting(self, work: Work) -> AbstractContextManager[Tell]:
        return nullcontext(unheard)

    def note(self, text: str) -> None: ...
    def text(self, title: str, pieces: Sequence[tuple[str, bool]]) -> None: ...
    def end(self) -> None: ...


SILENT = SilentReporter()


def unheard(done: int, score: Score = unscored) -> None:
    """Tell nobody."""


def counted(items: Iterable[ItemT], tell: Tell) -> Iterator[ItemT]:
    """Yield the items, and tell after each one how many there were, when the next one is asked for."""
    for done, item in enumerate(items, start=1):
        yield item
        tell(done)
