"""Counts of predictions and their intervals."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from reflora_cli.objectives.prediction import Prediction, Tally, mean_interval, wilson


@given(rows=st.integers(1, 4000), share=st.floats(0, 1))
def test_wilson_is_that_of_scipy(rows: int, share: float) -> None:
    correct = round(rows * share)
    expected = binomtest(correct, rows).proportion_ci(0.95, method="wilson")
    assert wilson(correct, rows) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_nothing_is_known_without_rows() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert mean_interval([]) == (0.0, 1.0)


def test_mean_interval_counts_every_task_the_same() -> None:
    """Of two tasks with 100 and 400 rows: the variance of (a + b) / 2."""
    tallies = [Tally(rows=100, correct=50), Tally(rows=400, correct=320)]
    deviation = math.sqrt(0.25 / 100 + 0.16 / 400) / 2
    assert mean_interval(tallies) == pytest.approx((0.65 - 1.96 * deviation, 0.65 + 1.96 * deviation), abs=1e-4)


def test_rates_count_every_row() -> None:
    tally = Tally()
    for parsed, cut in (("a", False), ("b", False), (None, True), ("a", False)):
        tally.add(Prediction("a", parsed, output="x", cut=cut))
    assert tally.scores() == {"accuracy": 0.5, "unparsed": 0.25, "cut": 0.25}


def test_counts_of_several_processes_add_up() -> None:
    total = Tally.total([Tally(3, 2, 1, 0, 0, 0), Tally(4, 1, 0, 2, 4, 3)])
    assert total == Tally(rows=7, correct=3, unparsed=1, cut=2, scored=4, correct_by_character=3)


def test_choices_have_two_accuracies_and_are_always_parsed() -> None:
    tally = Tally()
    for parsed, by_character in (("a", "a"), ("b", "a"), ("b", "b")):
        tally.add(Prediction("a", parsed, scores={"a": -1.0, "b": -2.0}, by_character=by_character))
    assert tally.scores() == {"accuracy": 1 / 3, "accuracy_by_character": 2 / 3, "cut": 0.0}
