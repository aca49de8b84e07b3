"""Compare two settings by their scores under the same seeds, with scipy's and statsmodels' tests.

The test that decides is the two-sided paired t-test. The exact sign-flip permutation test stands beside it: it assumes
no normal distribution, but with n pairs it cannot be below 2 / 2**n, which is 0.06 for five seeds. p values of one
family are corrected by Holm's method. The t interval is Student's; the bootstrap interval is BCa or, of few pairs, the
percentile interval, and of fewer than `ENOUGH` pairs either is too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests

LEVEL = 0.05
"""A corrected p value below this one is called a difference."""
CONFIDENCE = 0.95
FEWEST = 3
"""The fewest pairs that are tested: two scores on the same few rows differ by the same amount too easily."""
MOST_FLIPPED = 12
"""The most pairs whose sign flips are all enumerated; of more, `DRAWN` flips are drawn."""
DRAWN = 9999
ENOUGH = 20
"""The fewest pairs of which the bootstrap's interval is about as wide as it should be."""
FEWEST_BCA = 8
"""The fewest pairs whose acceleration, which BCa needs, means anything."""
EQUAL = 1e-12
"""Differences that are equal up to this share of the scores are equal: rounding is no spread."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Difference:
    """How one setting differs from another under the same seeds.

    seeds: those that both have. mean, sd: of own minus other, in the units of the scores. t, bootstrap: intervals of
    the mean; None where there is none. bootstrap_kind: BCa or percentile. p: of the t-test, or of the exact test where
    all differences are equal; None if it is not tested. exact: of the sign-flip test. wins: the seeds under which the
    setting is better.
    """

    seeds: tuple[int, ...]
    mean: float
    sd: float | None
    t: Interval | None
    bootstrap: Interval | None
    bootstrap_kind: str
    p: float | None
    exact: float | None
    wins: int
    ties: int
    losses: int

    @property
    def n(self) -> int:
        return len(self.seeds)


def difference(own: Mapping[int, float], other: Mapping[int, float], lower_is_better: bool) -> Difference | None:
    """Return how one setting differs from another; None if they share no seed. own, other: finite scores by seed."""
    seeds = tuple(sorted(own.keys() & other.keys()))
    if not seeds:
        return None
    values = paired(own, other, seeds)
    better = -values if lower_is_better else values
    interval, kind = bootstrap(values)
    return Difference(
        seeds=seeds,
        mean=float(values.mean()),
        sd=float(values.std(ddof=1)) if len(values) > 1 else None,
        t=t_interval(values),
        bootstrap=interval,
        bootstrap_kind=kind,
        p=p_value(values),
        exact=sign_flip(values) if len(values) >= FEWEST else None,
        wins=int((better > 0).sum()),
        ties=int((better == 0).sum()),
        losses=int((better < 0).sum()),
    )


def p_of(own: Mapping[int, float], other: Mapping[int, float]) -> float | None:
    """Return the p by which two settings differ, not corrected; None if it cannot be tested."""
    seeds = tuple(sorted(own.keys() & other.keys()))
    return p_value(paired(own, other, seeds)) if seeds else None


def paired(own: Mapping[int, float], other: Mapping[int, float], seeds: Sequence[int]) -> NDArray[np.float64]:
    """Return own minus other for each seed [n]."""
    a, b = (np.array([scores[seed] for seed in seeds], dtype=np.float64) for scores in (own, other))
    return settled(a, b)


def settled(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a - b [n]; differences that differ by rounding alone are made equal, and those of rounding alone zero."""
    values = a - b
    close = EQUAL * max(float(np.abs(a).max()), float(np.abs(b).max()))
    values[np.abs(values) <= close] = 0.0
    spread = float(values.max() - values.min())
    return np.full_like(values, values[0]) if spread <= close else values


def has_spread(values: NDArray[np.float64]) -> bool:
    """Whether there are at least two values, and not all are equal."""
    return len(values) > 1 and bool((values != values[0]).any())


def t_interval(values: NDArray[np.float64]) -> Interval | None:
    """Return Student's interval of the mean; None of one value and of equal ones."""
    if not has_spread(values):
        return None
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(CONFIDENCE)
    return float(low), float(high)


def bootstrap(values: NDArray[np.float64]) -> tuple[Interval | None, str]:
    """Return the bootstrap's interval of the mean and its kind; None of one value and of equal ones."""
    kind = "BCa" if len(values) >= FEWEST_BCA else "percentile"
    if not has_spread(values):
        return None, kind
    found = stats.bootstrap(
        (values,), np.mean, confidence_level=CONFIDENCE, method=kind, rng=np.random.default_rng(0)
    ).confidence_interval
    return (float(found.low), float(found.high)), kind


def p_value(values: NDArray[np.float64]) -> float | None:
    """Return the two-sided p of the paired t-test; None of fewer than `FEWEST` pairs. Where all differences are equal
    there is no t: p is that of the sign-flip test, and 1 where they are zero.
    """
    if len(values) < FEWEST:
        return None
    return float(stats.ttest_1samp(values, 0.0).pvalue) if has_spread(values) else sign_flip(values)


def sign_flip(values: NDArray[np.float64]) -> float:
    """Return the two-sided p of the permutation test that flips the signs of differences, exact up to `MOST_FLIPPED`
    pairs.
    """
    count = math.inf if len(values) <= MOST_FLIPPED else DRAWN
    found = stats.permutation_test(
        (values,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=count,
        rng=np.random.default_rng(0),
    )
    return min(1.0, float(found.pvalue))


def corrected(values: Sequence[float | None]) -> list[float | None]:
    """Return p values corrected by Holm for their number; those that are None are no members of the family."""
    tested = [value for value in values if value is not None]
    if not tested:
        return list(values)
    adjusted = iter(multipletests(tested, alpha=LEVEL, method="holm")[1])
    return [None if value is None else float(next(adjusted)) for value in values]
