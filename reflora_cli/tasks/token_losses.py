"""The loss per supervised token and its exponential, the perplexity, which are the only scores of free text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Self, final

from reflora_cli.tasks.tally import Tally

LARGEST = 700.0
"""The largest loss whose exponential is a number."""


@dataclass(frozen=True)
class BatchLoss:
    """The summed loss of a batch. tokens: the number of its supervised tokens."""

    loss: float
    rows: int
    tokens: int


@final
@dataclass
class TokenLosses(Tally[BatchLoss]):
    """The losses of batches, kept apart: the last bits of their sum depend on the order, which is that of the rows."""

    losses: list[float] = field(default_factory=list)
    rows: int = 0
    tokens: int = 0

    def add(self, outcome: BatchLoss) -> None:
        self.losses.append(outcome.loss)
        self.rows += outcome.rows
        self.tokens += outcome.tokens

    @classmethod
    def total(cls, tallies: Sequence[Self]) -> Self:
        """Return one tally, with the losses in the order of the batches, which processes take in turn."""
        turns = zip_longest(*(tally.losses for tally in tallies))
        losses = [loss for turn in turns for loss in turn if loss is not None]
        return cls(losses, sum(tally.rows for tally in tallies), sum(tally.tokens for tally in tallies))

    def so_far(self) -> dict[str, float]:
        return self.scores() if self.tokens else {}

    def scores(self) -> dict[str, float]:
        loss = sum(self.losses) / self.tokens
        return {"loss": loss, "perplexity": math.exp(min(loss, LARGEST))}
