"""The whole rule of a table, on methods that are one method under several names."""

from __future__ import annotations

import gc
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from reflora_cli.reporting import statistics
from reflora_cli.reporting.cells import Cell, Row
from reflora_cli.reporting.compared import compare, with_best
from reflora_cli.reporting.settings import Column, Setting

COLUMNS = tuple(Column(task, "validation", "accuracy", False, "") for task in ("one", "other"))
METHODS, SEEDS, REPEATED = 6, 20, 150
LEVEL = 0.05
MOST = LEVEL * REPEATED + 3 * math.sqrt(REPEATED * LEVEL * (1 - LEVEL))
"""The most tables of `REPEATED` that may say something wrong: the expected number and three standard deviations."""


@pytest.fixture(autouse=True)
def only_tests_that_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes long and decides nothing: intervals, the second test, and statsmodels' collecting of garbage
    for each correction.
    """
    monkeypatch.setattr(gc, "collect", lambda: 0)
    monkeypatch.setattr(statistics, "t_interval", lambda values: None)
    monkeypatch.setattr(statistics, "bootstrap", lambda values: (None, "BCa"))
    monkeypatch.setattr(statistics, "sign_flip", lambda values: 1.0)


def table(scores: NDArray[np.float64]) -> list[Row]:
    """Return the rows of a table. scores: [methods, columns, seeds]."""
    setting = Setting("lora", "lora", "lora", "one", {}, COLUMNS, {})
    return [
        Row(f"name {number}", "lora", "lora", (), {
            column: Cell(setting, dict(enumerate(map(float, own)))) for column, own in zip(COLUMNS, of, strict=True)
        })
        for number, of in enumerate(scores)
    ]  # fmt: skip


def said(scores: NDArray[np.float64]) -> tuple[list[str], list[str]]:
    """Return which rows are bold somewhere, and which are said to differ from the first one."""
    rows = table(scores)
    bold = [row.label for row in with_best(rows, COLUMNS)[0] for cell in row.cells.values() if cell.is_proved]
    found = compare(rows, COLUMNS, rows[0], is_one=True)
    return bold, [one.row for one in found if one.p is not None and one.p < LEVEL]


def drawn(generator: np.random.Generator) -> NDArray[np.float64]:
    """Return accuracies on 200 rows [methods, columns, seeds]: some seeds are luckier than others, for all methods."""
    luck = generator.normal(0, 0.03, size=(1, len(COLUMNS), SEEDS))
    return np.asarray(generator.binomial(200, 0.7 + luck, size=(METHODS, len(COLUMNS), SEEDS)) / 200)


def test_one_method_under_several_names_is_seldom_said_to_differ_from_itself() -> None:
    generator = np.random.default_rng(0)
    found = [said(drawn(generator)) for _ in range(REPEATED)]
    assert sum(bool(bold) for bold, _ in found) <= MOST
    assert 0 < sum(bool(differ) for _, differ in found) <= MOST


def test_a_method_that_is_better_is_said_to_be() -> None:
    generator = np.random.default_rng(1)
    found = []
    for _ in range(10):
        scores = drawn(generator)
        scores[3] += 0.08
        found.append(said(scores))
    assert sum(bold == ["name 3"] * 2 for bold, _ in found) >= 9
    assert sum(differ.count("name 3") == 2 for _, differ in found) >= 9
