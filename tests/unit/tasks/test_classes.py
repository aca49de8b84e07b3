"""What is reported of each class, against scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from reflora_cli.tasks.classes import class_report, label_report

NAMES = ("a", "b", "c", "never")


def check(lines: dict[str, dict[str, float]], expected: Any) -> None:
    for index, name in enumerate(NAMES):
        values = [lines[name][key] for key in ("precision", "recall", "f1", "rows")]
        assert values == pytest.approx([float(column[index]) for column in expected])


def test_classes() -> None:
    generator = np.random.default_rng(0)
    labels, predictions = generator.integers(0, 3, 50), generator.integers(0, 3, 50)
    report = class_report(predictions, labels, NAMES)
    ids = list(range(4))
    check(report["classes"], precision_recall_fscore_support(labels, predictions, labels=ids, zero_division=0))
    assert report["confusion"] == confusion_matrix(labels, predictions, labels=ids).tolist()


def test_several_labels() -> None:
    generator = np.random.default_rng(1)
    labels, predictions = generator.integers(0, 2, (50, 4)), generator.integers(0, 2, (50, 4))
    labels[:, 3] = predictions[:, 3] = 0
    report = label_report(predictions, labels, NAMES)
    check(report["classes"], precision_recall_fscore_support(labels, predictions, zero_division=0))
    assert "confusion" not in report
