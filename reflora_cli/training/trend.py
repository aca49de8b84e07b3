"""Tell whether a step's loss is out of line with those before it."""

from __future__ import annotations

import math
from dataclasses import dataclass

MEMORY = 0.95
"""The share of the past that stays with each step: some twenty steps count."""
FIRST = 20
"""The number of steps before anything is called a spike."""
DEVIATIONS = 6.0
"""The standard deviations above the mean from which on a loss is a spike; of normally distributed losses one in a
billion is."""

SPIKE = 0.2
"""The share of a spike that counts towards mean and variance."""


@dataclass
class LossTrend:
    """The running mean and variance of the steps' losses."""

    steps: int = 0
    mean: float = 0.0
    variance: float = 0.0

    def is_spike(self, loss: float) -> bool:
        """Return whether the loss is a spike, and take it in; a spike counts only in part, so that what lasts
        becomes ordinary.
        """
        spike = self.steps >= FIRST and loss > self.mean + DEVIATIONS * math.sqrt(self.variance)
        self.add(self.mean + SPIKE * (loss - self.mean) if spike else loss)
        return spike

    def add(self, loss: float) -> None:
        self.steps += 1
        weight = max(1 - MEMORY, 1 / self.steps)
        apart = loss - self.mean
        self.mean += weight * apart
        self.variance = (1 - weight) * (self.variance + weight * apart**2)
