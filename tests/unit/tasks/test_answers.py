"""Counts of predictions and their intervals."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from reflora_cli.tasks import answers
from reflora_cli.tasks.answers import AnswerCounts, Prediction, mean_interval, wilson


@given(rows=st.integers(1, 4000), share=st.floats(0, 1))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_wilson_s_ends_are_the_rates_from_which_the_found_one_is_1_96_deviations_away(rows: int, share: float) -> None:
    correct = round(rows * share)
    low, high = wilson(correct, rows)
    assert 0 <= low <= correct / rows <= high <= 1
    for end, is_bound in ((low, correct > 0), (high, correct < rows)):
        if is_bound:
            assert abs(correct / rows - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / rows), rel=1e-5)


def test_nothing_is_known_without_rows() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert mean_interval([]) == (0.0, 1.0)


def test_mean_interval_counts_every_task_the_same() -> None:
    """Of two tasks with many rows, where it is the normal one: the variance of (a + b) / 2."""
    tallies = [AnswerCounts(rows=10_000, correct=5_000), AnswerCounts(rows=40_000, correct=32_000)]
    deviation = math.sqrt(0.25 / 10_000 + 0.16 / 40_000) / 2
    assert mean_interval(tallies) == pytest.approx((0.65 - 1.96 * deviation, 0.65 + 1.96 * deviation), abs=1e-5)


@pytest.mark.parametrize("correct", [0, 1, 30, 60])
def test_the_mean_of_one_task_has_the_task_s_interval(correct: int) -> None:
    assert mean_interval([AnswerCounts(rows=60, correct=correct), AnswerCounts()]) == pytest.approx(
        wilson(correct, 60), abs=1e-15
    )


def test_the_mean_of_rates_of_zero_is_not_certain() -> None:
    """Each is 0 to 0.0602; two of them tell as much as twice the rows, at least."""
    low, high = mean_interval([AnswerCounts(rows=60, correct=0)] * 2)
    assert (low, round(wilson(0, 60)[1], 4)) == (0, 0.0602)
    assert wilson(0, 120)[1] < high < wilson(0, 60)[1]
    assert mean_interval([AnswerCounts(rows=60, correct=60)] * 2) == pytest.approx((1 - high, 1))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wilson's interval is asked for the same counts thousands of times."""
    monkeypatch.setattr(answers, "wilson", functools.cache(wilson))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("rates", [(0.02, 0.02), (0.05, 0.95), (0.5, 0.5), (0.2, 0.9), (0.01, 0.6)])
@pytest.mark.parametrize("rows", [(20, 12), (30, 30)])
def test_95_percent_of_the_mean_intervals_hold_the_true_mean(rates: tuple[float, float], rows: tuple[int, int]) -> None:
    """By going through all outcomes of two tasks: in 90% at rates of 0.02, where Wilson's own dips too and intervals of
    estimated variances hold it in 48%, and in 95% to 99% elsewhere."""
    held = 0.0
    for correct in itertools.product(*(range(count + 1) for count in rows)):
        low, high = mean_interval([AnswerCounts(rows=n, correct=k) for n, k in zip(rows, correct, strict=True)])
        if low <= sum(rates) / 2 <= high:
            held += math.prod(binom.pmf(k, n, p) for k, n, p in zip(correct, rows, rates, strict=True))
    assert (0.9 if max(rates) < 0.05 else 0.945) < held < 0.995


@pytest.mark.usefixtures("quick")
def test_95_percent_of_the_mean_intervals_hold_the_true_mean_of_eight_tasks() -> None:
    rates, rows = np.array([0.62, 0.83, 0.79, 0.95, 0.84, 0.02, 0.99, 0.8]), np.array([60, 40, 30, 200, 25, 50, 40, 20])
    draws = np.random.default_rng(0).binomial(rows, rates, size=(2000, 8)).tolist()
    intervals = [
        mean_interval([AnswerCounts(rows=n, correct=k) for n, k in zip(rows.tolist(), draw, strict=True)])
        for draw in draws
    ]
    held = [low <= rates.mean() <= high for low, high in intervals]
    assert 0.94 < np.mean(held) < 0.975


def test_rates_count_every_row() -> None:
    tally = AnswerCounts()
    for parsed, cut in (("a", False), ("b", False), (None, True), ("a", False)):
        tally.add(Prediction("a", parsed, output="x", cut=cut))
    assert tally.scores() == {"accuracy": 0.5, "unparsed": 0.25, "cut": 0.25}


def test_counts_of_several_processes_add_up() -> None:
    total = AnswerCounts.total([AnswerCounts(3, 2, 1, 0, 0, 0), AnswerCounts(4, 1, 0, 2, 4, 3)])
    assert total == AnswerCounts(rows=7, correct=3, unparsed=1, cut=2, scored=4, correct_by_character=3)


def test_choices_have_two_accuracies_and_are_always_parsed() -> None:
    tally = AnswerCounts()
    for parsed, by_character in (("a", "a"), ("b", "a"), ("b", "b")):
        tally.add(Prediction("a", parsed, scores={"a": -1.0, "b": -2.0}, by_character=by_character))
    assert tally.scores() == {"accuracy": 1 / 3, "accuracy_by_character": 2 / 3, "cut": 0.0}
