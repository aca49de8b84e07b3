"""A tally collects the outcomes of rows and turns them into scores.

Accuracies, correlations and losses are tallies, and so is any further score, as BLEU: a subclass of `Tally`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, Self, TypeVar

OutcomeT = TypeVar("OutcomeT")


class Tally(ABC, Generic[OutcomeT]):
    """The outcomes of some rows. Every process fills one of its own; it is sent to the others by pickle.

    rows: the number of rows whose outcomes were added.
    """

    rows: int

    @abstractmethod
    def add(self, outcome: OutcomeT) -> None:
        """Take in one outcome: of a row, or of a batch of rows."""

    @classmethod
    @abstractmethod
    def total(cls, tallies: Sequence[Self]) -> Self:
        """Return one tally with the outcomes of all, which are of one split: those of its processes, at least one. They
        took its batches in turn.
        """

    @abstractmethod
    def scores(self) -> dict[str, float]:
        """Return the scores of all rows, the main one first; whose name is the same whatever the outcomes."""

    def so_far(self) -> dict[str, float]:
        """Return the main score of the rows added so far, which may be a part of a split; nothing where that takes
        long.
        """
        return {}

    def interval(self) -> tuple[float, float] | None:
        """Return the 95% interval of the main score; None where no interval of it is known."""
        return None

    def report(self) -> dict[str, Any] | None:
        """Return more than scores, ready for JSON, such as a confusion matrix; None where there is no more."""
        return None
