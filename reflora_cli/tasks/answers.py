"""Hold what a protocol says about the answer to one row, and count it for many rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Self, final

from reflora_cli.tasks.tally import Tally

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Prediction:
    """One row's outcome.

    parsed: the label that was chosen, None when no answer was found. output: the generated text. scores: the
    candidates' log-likelihoods by label. by_character: the label with the largest log-likelihood per character. cut:
    the prompt was too long for the model and lost its beginning. references: the texts with which a free text is
    compared, which is `parsed`.
    """

    label: str
    parsed: str | None
    output: str | None = None
    scores: dict[str, float] | None = None
    by_character: str | None = None
    cut: bool = False
    references: tuple[str, ...] = ()

    @property
    def correct(self) -> bool:
        return self.parsed in (self.references or (self.label,))


@final
@dataclass
class AnswerCounts(Tally[Prediction]):
    """Counts of right and wrong answers; its size does not depend on their number."""

    rows: int = 0
    correct: int = 0
    unparsed: int = 0
    cut: int = 0
    scored: int = 0
    correct_by_character: int = 0

    def add(self, outcome: Prediction) -> None:
        self.rows += 1
        self.correct += outcome.correct
        self.unparsed += outcome.parsed is None
        self.cut += outcome.cut
        self.scored += outcome.scores is not None
        self.correct_by_character += outcome.by_character == outcome.label

    @classmethod
    def total(cls, tallies: Sequence[Self]) -> Self:
        return cls(*(sum(counts) for counts in zip(*map(astuple, tallies), strict=True)))

    def scores(self) -> dict[str, float]:
        """Return the accuracy, then the protocol's other rates. All rows count, those without an answer as wrong."""
        count = max(1, self.rows)
        own = (
            {"accuracy_by_character": self.correct_by_character / count}
            if self.scored
            else {"unparsed": self.unparsed / count}
        )
        return {"accuracy": self.correct / count, **own, "cut": self.cut / count}

    def so_far(self) -> dict[str, float]:
        return {"accuracy": self.correct / self.rows} if self.rows else {}

    def interval(self) -> tuple[float, float]:
        """Return Wilson's interval of the accuracy."""
        return wilson(self.correct, self.rows)


def wilson(correct: int, rows: int) -> tuple[float, float]:
    """Return the 95% interval of a rate (Wilson 1927): never outside [0, 1], right for few rows and for rates near 0
    or 1.
    """
    from scipy.stats import binomtest

    if not rows:
        return 0.0, 1.0
    interval = binomtest(correct, rows).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def mean_interval(tallies: Sequence[AnswerCounts]) -> tuple[float, float]:
    """Return the 95% interval of the mean of the tasks' accuracies, each task counting the same; for one task, its own.

    The distances from the rates to the ends of their Wilson intervals are added in squares, separately below and above:
    the method of variance estimates recovery (Zou, Huang, Zhang 2009, Computational Statistics & Data Analysis 53).
    Estimated variances, and so the interval's width, would be 0 where every task has all answers right or all wrong.
    """
    counts = [(tally.correct, tally.rows) for tally in tallies if tally.rows]
    if not counts:
        return 0.0, 1.0
    rates = [correct / rows for correct, rows in counts]
    lows, highs = zip(*(wilson(correct, rows) for correct, rows in counts), strict=True)
    mean = sum(rates) / len(rates)
    return mean - math.dist(rates, lows) / len(rates), mean + math.dist(rates, highs) / len(rates)
