"""Tests and intervals agree with scipy on raw arrays, and with sums written out by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from reflora_cli.reporting.statistics import corrected, difference, p_of, sign_flip

OWN = {0: 0.71, 1: 0.74, 2: 0.69, 3: 0.75, 4: 0.72}
OTHER = {4: 0.70, 3: 0.71, 2: 0.68, 1: 0.70, 0: 0.71, 9: 0.99}


def test_a_difference_pairs_equal_seeds_as_scipy_does() -> None:
    found = difference(OWN, OTHER, lower_is_better=False)
    assert found is not None
    a, b = [OWN[seed] for seed in range(5)], [OTHER[seed] for seed in range(5)]
    expected = stats.ttest_rel(a, b)
    assert found.seeds == (0, 1, 2, 3, 4)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-12)
    assert found.t == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-12)
    assert found.mean == pytest.approx(np.mean(a) - np.mean(b))
    assert (found.wins, found.ties, found.losses) == (4, 1, 0)


def test_lower_errors_win() -> None:
    found = difference(OWN, OTHER, lower_is_better=True)
    assert found is not None
    assert (found.wins, found.ties, found.losses) == (0, 1, 4)
    assert found.mean > 0, "the sign of a difference is that of the scores"


@pytest.mark.parametrize("values", [[0.02, 0.01, -0.005, 0.03], [0.5, -0.25, 0.125, 0.25, 0.75, -1.0]])
def test_the_sign_flip_test_enumerates_all_signs(values: list[float]) -> None:
    means = [np.mean(np.multiply(signs, values)) for signs in itertools.product((1, -1), repeat=len(values))]
    expected = np.mean([abs(mean) >= abs(np.mean(values)) - 1e-12 for mean in means])
    assert sign_flip(np.array(values)) == pytest.approx(expected)


def test_few_pairs_are_bootstrapped_by_percentiles_and_more_by_bca() -> None:
    few = difference(OWN, OTHER, lower_is_better=False)
    generator = np.random.default_rng(3)
    many = {seed: float(generator.normal(0.7, 0.1)) for seed in range(12)}
    more = difference(many, dict.fromkeys(range(12), 0.6), lower_is_better=False)
    assert few is not None
    assert more is not None
    assert (few.bootstrap_kind, more.bootstrap_kind) == ("percentile", "BCa")
    values = np.array([many[seed] - 0.6 for seed in range(12)])
    expected = stats.bootstrap((values,), np.mean, method="BCa", rng=np.random.default_rng(0)).confidence_interval
    assert more.bootstrap == pytest.approx(tuple(expected))
    assert few.bootstrap is not None
    assert few.t is not None
    assert few.bootstrap[1] - few.bootstrap[0] < few.t[1] - few.t[0], "of five pairs the bootstrap is too narrow"


def test_one_seed_has_a_difference_and_no_interval_or_test() -> None:
    found = difference({3: 0.5}, {3: 0.25}, lower_is_better=False)
    assert found is not None
    assert (found.mean, found.sd, found.t, found.bootstrap, found.p, found.exact) == (
        0.25,
        None,
        None,
        None,
        None,
        None,
    )


def test_two_seeds_have_an_interval_and_are_not_tested() -> None:
    found = difference({0: 0.5, 1: 0.75}, {0: 0.25, 1: 0.375}, lower_is_better=False)
    assert found is not None
    assert found.t is not None
    assert found.p is None


def test_scores_without_a_common_seed_do_not_compare() -> None:
    assert difference({0: 0.5}, {1: 0.5}, lower_is_better=False) is None


def test_equal_scores_are_no_difference() -> None:
    found = difference(dict.fromkeys(range(6), 0.5), dict.fromkeys(range(6), 0.5), lower_is_better=False)
    assert found is not None
    assert (found.mean, found.p, found.exact, found.t, found.ties) == (0.0, 1.0, 1.0, None, 6)


@pytest.mark.parametrize("step", [0.1, 1 / 60])
def test_equal_differences_prove_no_more_than_their_signs(step: float) -> None:
    """Their spread is rounding: a t-test of it would find p below 1e-15."""
    other = {0: 0.1, 1: 0.3, 2: 0.7}
    found = difference({seed: score + step for seed, score in other.items()}, other, lower_is_better=False)
    assert found is not None
    assert found.p == pytest.approx(2 / 2**3)
    assert found.t is None


@pytest.mark.parametrize("seeds", [3, 5, 20])
def test_a_null_experiment_finds_no_more_than_chance_allows(seeds: int) -> None:
    """Accuracies on a hundred rows, the same under two names: one in twenty is called a difference."""
    generator = np.random.default_rng(seeds)
    drawn = generator.binomial(100, 0.7, size=(400, 2, seeds)) / 100
    found = [p_of(dict(enumerate(own)), dict(enumerate(other))) for own, other in drawn]
    called = sum(p is not None and p < 0.05 for p in found)
    assert 0 < called <= 32, "the chance of 33 or more among 400 at 0.05 is 0.004"


def test_holm_by_hand() -> None:
    # In order .01 .02 .03 .04 times 4 3 2 1 is .04 .06 .06 .04, and each is at least the one before it.
    assert corrected([0.03, None, 0.01, 0.04, 0.02]) == pytest.approx([0.06, None, 0.04, 0.06, 0.06])
    assert corrected([None, None]) == [None, None]
    assert corrected([]) == []


scores = st.dictionaries(st.integers(0, 12), st.floats(-1, 1, allow_subnormal=False), max_size=9)


@settings(max_examples=40, deadline=None)
@given(own=scores, other=scores)
def test_whatever_the_scores_are_the_numbers_are_sound(own: dict[int, float], other: dict[int, float]) -> None:
    found, reverse = difference(own, other, lower_is_better=False), difference(other, own, lower_is_better=False)
    if found is None or reverse is None:
        assert not own.keys() & other.keys()
        return
    assert found.wins + found.ties + found.losses == found.n == len(own.keys() & other.keys())
    assert (found.wins, found.losses) == (reverse.losses, reverse.wins)
    assert found.mean == pytest.approx(-reverse.mean)
    assert found.p == pytest.approx(reverse.p)
    for p in (found.p, found.exact):
        assert p is None or 0 <= p <= 1
    for interval in (found.t, found.bootstrap):
        assert interval is None or all(map(math.isfinite, interval))
