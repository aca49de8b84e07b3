"""Count how long steps take, in little space: a run may have a million of them, and every checkpoint has the counts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

GROWTH = math.log(1.02)
"""The logarithm of the ratio of two neighbouring bins, so that a quantile is right to within 1%."""
SHORTEST = 1e-9
"""Seconds below which a clock says nothing."""


@dataclass
class StepTimes:
    """A histogram of durations. counts: the number of steps by bin; bin k is around 1.02^k seconds. The keys are text,
    as in JSON.
    """

    counts: dict[str, int] = field(default_factory=dict)

    def add(self, seconds: float) -> None:
        key = str(round(math.log(max(seconds, SHORTEST)) / GROWTH))
        self.counts[key] = self.counts.get(key, 0) + 1

    def quantile(self, share: float) -> float | None:
        """Return the seconds that this share of the steps did not exceed, to within 1%; None without any step."""
        left = share * sum(self.counts.values())
        for key in sorted(map(int, self.counts)):
            left -= self.counts[str(key)]
            if left <= 0:
                return math.exp(key * GROWTH)
        return None
