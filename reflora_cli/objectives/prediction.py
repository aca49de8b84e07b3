"""What a protocol says about one row, and the counts of many."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from reflora_cli.tasks.base import PromptExample, PromptTask

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Prediction:
    """One row's outcome.

    parsed: the label that was chosen, None when no answer was found. output: the generated text. scores: the
    candidates' log-likelihoods by label; by_character: the label with the largest of them per character. cut: the
    prompt was too long for the model and lost its beginning.
    """

    label: str
    parsed: str | None
    output: str | None = None
    scores: dict[str, float] | None = None
    by_character: str | None = None
    cut: bool = False

    @property
    def correct(self) -> bool:
        return self.parsed == self.label


class Scorer(ABC):
    """A protocol at work on one model: from examples to predictions, a batch at a time."""

    @abstractmethod
    def predict(self, task: PromptTask, examples: Sequence[PromptExample]) -> list[Prediction]:
        """One prediction for each example, in their order; all of them in one batch."""

    def notes(self) -> list[str]:
        """What a user should know of how rows are read; nothing where that is as fast as it can be."""
        return []

    @abstractmethod
    def settings(self) -> dict[str, object]:
        """All that decides its outcomes beside model and data."""


@dataclass
class Tally:
    """Counts of predictions, whose number does not make it larger."""

    rows: int = 0
    correct: int = 0
    unparsed: int = 0
    cut: int = 0
    scored: int = 0
    correct_by_character: int = 0

    def add(self, prediction: Prediction) -> None:
        self.rows += 1
        self.correct += prediction.correct
        self.unparsed += prediction.parsed is None
        self.cut += prediction.cut
        self.scored += prediction.scores is not None
        self.correct_by_character += prediction.by_character == prediction.label

    @classmethod
    def total(cls, tallies: Sequence[Tally]) -> Tally:
        """The counts of several taken together."""
        return cls(*(sum(counts) for counts in zip(*map(astuple, tallies), strict=True)))

    def scores(self) -> dict[str, float]:
        """Accuracy first, then what belongs to the protocol, as rates. All rows count, the unparsed ones as wrong."""
        count = max(1, self.rows)
        own = (
            {"accuracy_by_character": self.correct_by_character / count}
            if self.scored
            else {"unparsed": self.unparsed / count}
        )
        return {"accuracy": self.correct / count, **own, "cut": self.cut / count}


def wilson(correct: int, rows: int) -> tuple[float, float]:
    """The 95% interval of a rate (Wilson 1927): never outside [0, 1], right for few rows and for rates near 0 or 1."""
    from scipy.stats import binomtest

    if not rows:
        return 0.0, 1.0
    interval = binomtest(correct, rows).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def mean_interval(tallies: Sequence[Tally]) -> tuple[float, float]:
    """The 95% interval of the mean of the tasks' accuracies, every task counting the same; of one task, its own.

    The distances from the rates to the ends of their Wilson intervals are added in squares, below and above each apart:
    the method of variance estimates recovery (Zou, Huang, Zhang 2009, Computational Statistics & Data Analysis 53).
    Estimated variances would be 0, and so the interval's width, where every task has all right or all wrong.
    """
    counts = [(tally.correct, tally.rows) for tally in tallies if tally.rows]
    if not counts:
        return 0.0, 1.0
    rates = [correct / rows for correct, rows in counts]
    lows, highs = zip(*(wilson(correct, rows) for correct, rows in counts), strict=True)
    mean = sum(rates) / len(rates)
    return mean - math.dist(rates, lows) / len(rates), mean + math.dist(rates, highs) / len(rates)
