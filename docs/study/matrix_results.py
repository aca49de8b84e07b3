"""Tune each method on each setting, report it on fresh seeds, and compare results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special
from statsmodels.stats.multitest import multipletests

from matrix_plan import VARIANTS, Budget
from matrix_runs import CEILING, Setting, losses_of

THRESHOLD = -2.0
"""log10 of the share of the first loss that counts as reached."""
NOTICEABLE = math.log10(1.1)
"""A difference of 10 % between losses, as log10."""
NOISY_STEPS = 10
"""The last steps, over which the loss of a noisy problem is averaged."""


@dataclass(frozen=True)
class Result:
    """What came of one method on one setting; losses are log10 of a loss over the first.

    rates: those tried.  tuning: final losses [rate][tuning seed].  rate: the one of the least mean.  fresh: final
    losses of fresh seeds at that rate.  reached: the steps to THRESHOLD, one more than there are where it was not
    reached.  curve: medians over fresh seeds, step by step.
    """

    setting: str
    variant: str
    rates: list[float]
    tuning: list[list[float]]
    rate: float
    fresh: list[float]
    reached: list[int]
    curve: list[float]

    @property
    def by_rate(self) -> list[float]:
        """The mean over tuning seeds for each rate."""
        return [float(np.mean(own)) for own in self.tuning]

    @property
    def good_range(self) -> float:
        """The largest over the smallest of the neighbouring rates whose loss is within twice the best."""
        means = self.by_rate
        best = first = last = self.rates.index(self.rate)
        while first > 0 and means[first - 1] <= means[best] + math.log10(2):
            first -= 1
        while last < len(means) - 1 and means[last + 1] <= means[best] + math.log10(2):
            last += 1
        return self.rates[last] / self.rates[first]

    @property
    def first_diverging(self) -> float:
        """The smallest rate at which a tuning seed diverged; infinite if none did."""
        return min(
            (rate for rate, own in zip(self.rates, self.tuning, strict=True) if CEILING in own), default=math.inf
        )

    @property
    def is_at_edge(self) -> bool:
        """Whether the best rate is the least or the largest that was tried."""
        return self.rate in (self.rates[0], self.rates[-1])


def result_of(setting: Setting, name: str, budget: Budget) -> Result:
    """Run one method on one setting: all rates on the tuning seeds, and the best of them on the fresh ones."""
    setting = replace(setting, steps=budget.steps)
    method, rates = VARIANTS[name].method(setting), list(budget.rates[setting.optimizer])
    window = NOISY_STEPS if "noisy" in setting.family.name else 1
    tuning = losses_of(setting, method, rates, budget.tuning)[-window:].mean(0)
    rate = rates[int(tuning.mean(1).argmin())]
    losses = losses_of(setting, method, [rate], budget.fresh)[:, 0]
    reached = [
        int((own <= THRESHOLD).nonzero()[0]) if (own <= THRESHOLD).any() else budget.steps + 1 for own in losses.T
    ]
    return Result(
        setting.key,
        name,
        rates,
        [[round(value, 4) for value in own] for own in tuning.tolist()],
        rate,
        [round(value, 5) for value in losses[-window:].mean(0).tolist()],
        reached,
        [round(value, 3) for value in losses.quantile(0.5, dim=1).tolist()],
    )


@dataclass(frozen=True)
class Comparison:
    """A method against another on one setting, over fresh seeds: the mean of paired differences of log10 loss, its 95 %
    interval by Student's t, standard error, and p of the paired t-test; corrected: p after Holm's correction."""

    difference: float
    low: float
    high: float
    error: float
    p: float
    corrected: float = 1.0

    @property
    def verdict(self) -> str:
        """Win, lose or tie: a corrected p below 0.05, and losses that differ by 10 %."""
        return self.judged(self.corrected < 0.05)

    @property
    def loose_verdict(self) -> str:
        """The same by the earlier study's rule: two standard errors and 10 %, without a correction."""
        return self.judged(abs(self.difference) > 2 * self.error)

    def judged(self, is_certain: bool) -> str:
        """Return the verdict on a difference that is certain, or not."""
        if not is_certain or abs(self.difference) <= NOTICEABLE:
            return "tie"
        return "win" if self.difference < 0 else "lose"


def compared(own: Result, other: Result) -> Comparison:
    """Return how much less the loss of the first is; differences that are all alike have an interval of no width."""
    differences = np.array(own.fresh) - np.array(other.fresh)
    mean, error = float(differences.mean()), float(differences.std(ddof=1)) / math.sqrt(len(differences))
    if error < 1e-9:
        return Comparison(mean, mean, mean, error, 0.0 if abs(mean) > 1e-9 else 1.0)
    freedom = len(differences) - 1
    p = 2 * special.stdtr(freedom, -abs(mean) / error)
    reach = error * special.stdtrit(freedom, 0.975)
    return Comparison(mean, mean - reach, mean + reach, error, float(p))


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return the comparisons with p after Holm's correction for all of them."""
    found = multipletests([own.p for own in comparisons], method="holm")[1] if comparisons else []
    return [replace(own, corrected=float(p)) for own, p in zip(comparisons, found, strict=True)]
