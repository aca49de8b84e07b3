"""Every metric against its textbook formula or the reference library, and where it is undefined."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics as reference

from reflora_cli.tasks.base import Metric
from reflora_cli.tasks.metrics import (
    LOWER_IS_BETTER,
    accuracy,
    exact_match,
    f1,
    macro_f1,
    mae,
    matthews,
    micro_f1,
    pearson,
    rmse,
    spearman,
)

ALL = (accuracy, f1, matthews, pearson, spearman, mae, rmse)
Values = NDArray[np.float64]

binary = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=30)
classes = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30)
reals = st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=2, max_size=30)
wild = st.lists(st.tuples(st.floats(), st.floats(0, 5)), max_size=10)


def sides(pairs: list[tuple[float, float]]) -> tuple[Values, Values]:
    """Predictions and labels."""
    table = np.asarray(pairs, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def counts(p: Values, y: Values) -> tuple[int, int, int, int]:
    """True positives, false positives, false negatives, true negatives."""
    tp, fp, fn, tn = (int(np.sum((p == a) & (y == b))) for a, b in ((1, 1), (1, 0), (0, 1), (0, 0)))
    return tp, fp, fn, tn


@given(classes)
def test_accuracy(pairs: list[tuple[float, float]]) -> None:
    p, y = sides(pairs)
    assert accuracy(p, y) == pytest.approx(reference.accuracy_score(y, p))


@given(binary)
def test_f1(pairs: list[tuple[float, float]]) -> None:
    """2 TP / (2 TP + FP + FN)."""
    p, y = sides(pairs)
    tp, fp, fn, _ = counts(p, y)
    below = 2 * tp + fp + fn
    assert f1(p, y) == pytest.approx(2 * tp / below if below else 0.0)


@given(binary)
def test_matthews_of_two_classes(pairs: list[tuple[float, float]]) -> None:
    """(TP TN - FP FN) / sqrt((TP + FP)(TP + FN)(TN + FP)(TN + FN))."""
    p, y = sides(pairs)
    tp, fp, fn, tn = counts(p, y)
    below = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert matthews(p, y) == pytest.approx((tp * tn - fp * fn) / below if below else 0.0)


@pytest.mark.filterwarnings("ignore:A single label was found")  # the reference warns, ours must not
@given(classes)
def test_matthews_of_three_classes(pairs: list[tuple[float, float]]) -> None:
    p, y = sides(pairs)
    assert matthews(p, y) == pytest.approx(reference.matthews_corrcoef(y.astype(int), p.astype(int)))


@given(reals)
def test_correlations(pairs: list[tuple[float, float]]) -> None:
    p, y = sides(pairs)
    if np.ptp(p) and np.ptp(y):
        assert pearson(p, y) == pytest.approx(np.corrcoef(p, y)[0, 1])
        assert spearman(p, y) == pytest.approx(stats.spearmanr(p, y).statistic)
    else:
        assert (pearson(p, y), spearman(p, y)) == (0.0, 0.0)


@pytest.mark.parametrize("metric", [matthews, pearson, spearman])
def test_constant_predictions_have_no_correlation(metric: Metric) -> None:
    assert metric(np.ones(4), np.array([0.0, 1.0, 0.0, 1.0])) == 0.0


@pytest.mark.parametrize("metric", [one for one in ALL if one.__name__ not in LOWER_IS_BETTER])
def test_perfect_predictions_score_one(metric: Metric) -> None:
    y = np.array([0.0, 1.0, 1.0, 0.0])
    assert metric(y, y) == pytest.approx(1.0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("metric", [accuracy, pearson, spearman])
@given(wild)
def test_always_a_finite_number_and_never_a_warning(metric: Metric, pairs: list[tuple[float, float]]) -> None:
    assert math.isfinite(metric(*sides(pairs)))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("metric", [f1, matthews])
@given(classes)
def test_class_metrics_never_warn(metric: Metric, pairs: list[tuple[float, float]]) -> None:
    assert math.isfinite(metric(*sides(pairs)))


@pytest.mark.parametrize("metric", ALL)
def test_no_rows(metric: Metric) -> None:
    assert metric(np.array([]), np.array([])) == 0.0


@given(classes)
def test_macro_f1_of_classes(pairs: list[tuple[float, float]]) -> None:
    """The mean over the classes that occur on a side."""
    p, y = sides(pairs)
    own = []
    for one in {*p, *y}:
        hits = np.sum((p == one) & (y == one))
        own.append(2 * hits / (np.sum(p == one) + np.sum(y == one)))
    assert macro_f1(p, y) == pytest.approx(np.mean(own))


@given(st.lists(st.lists(st.integers(0, 1), min_size=6, max_size=6), min_size=1, max_size=20))
def test_scores_of_several_labels(rows: list[list[int]]) -> None:
    """Three labels, predicted and present."""
    table = np.asarray(rows, dtype=np.float64)
    p, y = table[:, :3], table[:, 3:]
    hits, both = (p * y).sum(0), p.sum(0) + y.sum(0)
    assert micro_f1(p, y) == pytest.approx(2 * hits.sum() / both.sum() if both.sum() else 0.0)
    assert macro_f1(p, y) == pytest.approx(np.mean(np.divide(2 * hits, both, out=np.zeros(3), where=both > 0)))
    assert exact_match(p, y) == pytest.approx(np.mean([(a == b).all() for a, b in zip(p, y, strict=True)]))


@given(reals)
def test_errors(pairs: list[tuple[float, float]]) -> None:
    p, y = sides(pairs)
    assert mae(p, y) == pytest.approx(reference.mean_absolute_error(y, p))
    assert rmse(p, y) == pytest.approx(reference.root_mean_squared_error(y, p))


def test_no_model_is_worse_than_one_whose_numbers_are_not_finite() -> None:
    labels = np.zeros(2)
    for metric in (mae, rmse):
        assert metric(np.array([np.nan, 0.0]), labels) > metric(np.array([1e100, 0.0]), labels)
