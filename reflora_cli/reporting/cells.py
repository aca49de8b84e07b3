"""The records of a table: cells, rows, differences, and the table itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reflora_cli.reporting.records import RunRecord
from reflora_cli.reporting.settings import Column, Setting
from reflora_cli.reporting.statistics import Difference

SHARES = (
    "accuracy", "accuracy_by_character", "f1", "macro_f1", "micro_f1", "exact_match", "matthews", "pearson", "spearman",
)  # fmt: skip
"""Metrics up to 1, which papers show times 100."""


@dataclass(frozen=True)
class Cell:
    """The scores of one row in one column, by seed, in the units of the column.

    diverged: the number of runs without a finite score. is_best: whether the mean is the column's best; is_proved:
    whether tests show it. validation: the scores by which adapters were selected, where `scores` are of fresh rows.
    """

    setting: Setting
    scores: Mapping[int, float]
    diverged: int = 0
    is_best: bool = False
    is_proved: bool = False
    validation: Mapping[int, float] = field(default_factory=dict)

    @property
    def n(self) -> int:
        return len(self.scores)

    @property
    def mean(self) -> float | None:
        return float(np.mean([*self.scores.values()])) if self.scores else None

    @property
    def sd(self) -> float | None:
        return float(np.std([*self.scores.values()], ddof=1)) if self.n > 1 else None

    @property
    def validation_mean(self) -> float | None:
        return float(np.mean([*self.validation.values()])) if self.validation else None


@dataclass(frozen=True)
class Row:
    """Settings of one name, at most one in each column. others: the values of the keys in the name, without the
    method.
    """

    label: str
    method: str
    preset: str
    others: tuple[object, ...]
    cells: Mapping[Column, Cell]


@dataclass(frozen=True)
class Compared:
    """A row's difference to its baseline in one column, in the units of the column. p: that of `found`, corrected for
    all differences of the table.
    """

    row: str
    baseline: str
    column: Column
    found: Difference
    p: float | None


@dataclass(frozen=True)
class Group:
    """One table: runs on one base. by: the key and the value by which runs were divided, empty if they were not.

    telling: the keys in the rows' names. varied: those that differ beside them. average: by label, of rows with all
    columns; empty of one column. best_p: for each column, the largest corrected p of its best row against another.
    """

    base: str
    by: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    scales: Mapping[Column, float]
    telling: tuple[str, ...]
    varied: tuple[str, ...]
    compared: tuple[Compared, ...]
    baseline: str | None
    average: Mapping[str, float]
    best_p: Mapping[Column, float | None]
    runs: tuple[RunRecord, ...]
    tuning: tuple[RunRecord, ...]
    tuned: tuple[str, ...]
    names: Mapping[Column, str]

    def cell(self, label: str, column: Column) -> Cell | None:
        return next((row.cells.get(column) for row in self.rows if row.label == label), None)


@dataclass(frozen=True)
class Wanted:
    """What is asked of the tables. baseline: a name of a row or of a method, and whether the user asked for it. by: a
    recipe key. tuned: the keys that were tuned. baseline_keys: what is known of the baseline's recipe beside its name.
    """

    baseline: str | None = None
    is_asked: bool = False
    by: str | None = None
    tuned: tuple[str, ...] = ()
    baseline_keys: Mapping[str, Any] = field(default_factory=dict)
