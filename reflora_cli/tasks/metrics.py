"""One function per metric: (predictions [n], labels [n]) -> score.

Where a score is undefined (constant predictions have no correlation, nor have predictions that are not finite) it is
0.0: results must be valid JSON, which has no NaN, and such a model has learned nothing. None of them ever warns.
"""

from __future__ import annotations

import math
import sys
import warnings

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
LOWER_IS_BETTER = ("mae", "rmse", "loss", "perplexity")
"""The scores that a better model lowers, those of a free text too."""


def accuracy(predictions: Values, labels: Values) -> float:
    """Return the share of equal values; 0.0 for no rows."""
    return float(np.mean(predictions == labels)) if len(labels) else 0.0


def f1(predictions: Values, labels: Values) -> float:
    """Return F1 of class 1 in a binary task; 0.0 when the class is neither predicted nor present."""
    from sklearn.metrics import f1_score

    if not len(labels):
        return 0.0
    return float(f1_score(labels == 1, predictions == 1, zero_division=0.0))


def macro_f1(predictions: Values, labels: Values) -> float:
    """Return the mean F1 of the classes that are predicted or present, or of all labels where a row may have several:
    F1 is 0.0 where a class is never both. 0.0 for no rows.
    """
    return averaged_f1(predictions, labels, "macro")


def micro_f1(predictions: Values, labels: Values) -> float:
    """Return F1 over all decisions about all labels together; 0.0 where no label is predicted or present."""
    return averaged_f1(predictions, labels, "micro")


def averaged_f1(predictions: Values, labels: Values, average: str) -> float:
    from sklearn.metrics import f1_score

    if not len(labels):
        return 0.0
    y, p = labels.astype(np.int64), predictions.astype(np.int64)
    return float(f1_score(y, p, average=average, zero_division=0.0))


def exact_match(predictions: Values, labels: Values) -> float:
    """Return the share of rows with exactly the right labels; 0.0 for no rows."""
    return float(np.mean((predictions == labels).all(axis=1))) if len(labels) else 0.0


def mae(predictions: Values, labels: Values) -> float:
    """Return the mean absolute error; the largest float where it is not finite, and 0.0 for no rows."""
    with np.errstate(all="ignore"):
        return error(float(np.mean(np.abs(predictions - labels)))) if len(labels) else 0.0


def rmse(predictions: Values, labels: Values) -> float:
    """Return the root of the mean squared error; the largest float where it is not finite, and 0.0 for no rows."""
    with np.errstate(all="ignore"):
        return error(float(np.sqrt(np.mean((predictions - labels) ** 2)))) if len(labels) else 0.0


def matthews(predictions: Values, labels: Values) -> float:
    """Matthews correlation of class ids; 0.0 when undefined: all predictions, or all labels, are one class."""
    from sklearn.metrics import matthews_corrcoef

    if constant(predictions) or constant(labels):
        return 0.0
    return float(matthews_corrcoef(labels.astype(np.int64), predictions.astype(np.int64)))


def pearson(predictions: Values, labels: Values) -> float:
    """Pearson correlation of real values; 0.0 when undefined: a side is constant or not finite."""
    from scipy.stats import pearsonr

    if constant(predictions) or constant(labels):
        return 0.0
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # of a nearly constant side, whose correlation is noise but a number
        return number(pearsonr(predictions, labels).statistic)


def spearman(predictions: Values, labels: Values) -> float:
    """Spearman rank correlation of real values, ties sharing their mean rank; 0.0 when undefined as for `pearson`."""
    from scipy.stats import rankdata

    if constant(predictions) or constant(labels):
        return 0.0
    return pearson(rankdata(predictions), rankdata(labels))


def constant(values: Values) -> bool:
    """Whether no correlation is defined: all values are equal, or one is not finite."""
    return len(values) < 2 or not bool(np.isfinite(values).all()) or bool((values == values[0]).all())


def number(score: float) -> float:
    """Replace the NaN of a correlation that over- or underflows by 0.0."""
    return float(score) if math.isfinite(score) else 0.0


def error(found: float) -> float:
    """Replace an error that is not finite by the largest float: no model is worse."""
    return found if math.isfinite(found) else sys.float_info.max
