"""Report how well each class of a classifier is found, and which classes are taken for one another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.int64]


def class_report(predictions: Values, labels: Values, names: Sequence[str]) -> dict[str, Any]:
    """Return `classes`, with precision, recall, f1 and rows of each, and the `confusion` matrix.

    predictions, labels: class ids [n]. The matrix has a row for each true class and a column for each predicted one.
    """
    confusion = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(confusion, (labels, predictions), 1)
    right = confusion.diagonal()
    lines = lines_of(names, right, confusion.sum(axis=0), confusion.sum(axis=1))
    return {"classes": lines, "confusion": confusion.tolist()}


def label_report(predictions: Values, labels: Values, names: Sequence[str]) -> dict[str, Any]:
    """Return `classes`, with precision, recall, f1 and rows of each label. predictions, labels: 0 and 1 [n, labels]."""
    right = (predictions * labels).sum(axis=0)
    return {"classes": lines_of(names, right, predictions.sum(axis=0), labels.sum(axis=0))}


def lines_of(names: Sequence[str], right: Values, predicted: Values, present: Values) -> dict[str, dict[str, float]]:
    """Return the line of each class. right, predicted, present: counts of rows [classes]; 0 / 0 is 0.0."""
    return {
        name: {
            "precision": share(int(hits), int(found)),
            "recall": share(int(hits), int(rows)),
            "f1": share(2 * int(hits), int(found) + int(rows)),
            "rows": int(rows),
        }
        for name, hits, found, rows in zip(names, right, predicted, present, strict=True)
    }


def share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
