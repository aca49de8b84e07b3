"""Make of settings the tables of a report: rows are settings by name, columns are what they were scored on.

All numbers of a report are computed here, once; how they are shown is in `sections.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reflora_cli.ground.errors import InputError, Problem, nearest
from reflora_cli.methods.presets import PLAIN
from reflora_cli.reporting.records import RunRecord
from reflora_cli.reporting.settings import (
    RATE,
    Column,
    Setting,
    columns_of,
    label_of,
    settings_of,
    shown,
    spoken,
    telling_keys,
    varied_keys,
)
from reflora_cli.reporting.statistics import LEVEL, Difference, corrected, difference, p_of

SHARES = (
    "accuracy", "accuracy_by_character", "f1", "macro_f1", "micro_f1", "exact_match", "matthews", "pearson", "spearman",
)  # fmt: skip
"""Metrics up to 1, which papers show times 100."""


@dataclass(frozen=True)
class Cell:
    """The scores of one row in one column, by seed, in the units of the column. diverged: runs without a finite
    score. p_best: the largest corrected p of the best row against another one; None elsewhere.
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
    """Settings of one name, at most one in each column. others: the telling values less the method."""

    label: str
    method: str
    preset: str
    others: tuple[object, ...]
    cells: Mapping[Column, Cell]


@dataclass(frozen=True)
class Compared:
    """A row's difference to its baseline in one column, in the units of the column. p: corrected for all of the table;
    exact: not corrected.
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


def make_groups(runs: Sequence[RunRecord], tuning: Sequence[RunRecord], wanted: Wanted) -> list[Group]:
    """Return a table for each base, and for each value of the key by which runs are divided. tuning: the runs that only
    tune. Raises InputError for an unknown key or baseline.
    """
    by = key_named(wanted.by, runs) if wanted.by else None

    def part(run: RunRecord) -> tuple[str, str]:
        return run.base, f"{spoken(by)} {shown(run.keys.get(by))}" if by else ""

    parts: dict[tuple[str, str], list[RunRecord]] = {}
    for run in sorted(
        runs, key=lambda run: (run.base_name, run.base, str(run.keys.get(by or "")), run.seed, str(run.path))
    ):
        parts.setdefault(part(run), []).append(run)
    groups = [
        make_group(own, [run for run in tuning if part(run) == key], key[1], wanted) for key, own in parts.items()
    ]
    if wanted.is_asked and wanted.baseline is not None and all(group.baseline is None for group in groups):
        known = [name for group in groups for row in group.rows for name in (row.label, row.method)]
        raise InputError(
            Problem("no row has this name", "--baseline", wanted.baseline, remedy=nearest(wanted.baseline, known))
        )
    return groups


def key_named(name: str, runs: Sequence[RunRecord]) -> str:
    """Return the recipe key of a name, which may be its last part alone. Raises InputError if there is none."""
    known = dict.fromkeys(key for run in runs for key in run.keys)
    matches = [key for key in known if name in (key, key.rpartition(".")[2])]
    if name in known or len(matches) == 1:
        return name if name in known else matches[0]
    remedy = f"one of {', '.join(matches)}" if matches else nearest(name, known)
    raise InputError(Problem("no recipe of these runs has this key", "--by", name, "a key as method.rank", remedy))


def make_group(runs: Sequence[RunRecord], tuning: Sequence[RunRecord], by: str, wanted: Wanted) -> Group:
    """Return one table."""
    settings = settings_of(runs)
    tuned = tuple(dict.fromkeys((*wanted.tuned, RATE))) if tuning or wanted.tuned else ()
    telling = telling_keys(settings, tuned)
    columns = tuple(sorted({column for own in settings for column in own.columns}))
    scales = {column: scale_of(column, settings) for column in columns}
    rows, best_p = with_best(rows_of(settings, telling, scales), columns)
    baseline = baseline_of(rows, wanted)
    compared = compare(rows, columns, baseline, wanted.baseline)
    label = None if baseline is None else baseline.label
    return Group(
        base=runs[0].base_name,
        by=by,
        columns=columns,
        rows=tuple(rows),
        scales=scales,
        telling=telling,
        varied=varied_keys(settings, telling),
        compared=tuple(compared),
        baseline=label,
        average=averages(rows, columns),
        best_p=best_p,
        runs=tuple(runs),
        tuning=tuple(tuning),
        tuned=tuned,
        names=column_names(columns, runs),
    )


def scale_of(column: Column, settings: Sequence[Setting]) -> float:
    """Return 100 for a metric that papers show so, 1 for any other."""
    values = [score for own in settings for score in own.scores(column).values()]
    return 100.0 if column.metric in SHARES and all(abs(value) <= 1 for value in values) else 1.0


def rows_of(settings: Sequence[Setting], telling: Sequence[str], scales: Mapping[Column, float]) -> list[Row]:
    """Return the rows in the order of the settings."""
    cells: dict[str, dict[Column, Cell]] = {}
    firsts: dict[str, Setting] = {}
    for own in settings:
        label = label_of(own, telling)
        firsts.setdefault(label, own)
        for column in own.columns:
            cells.setdefault(label, {})[column] = cell_of(own, column, scales[column])
        cells.setdefault(label, {})
    return [
        Row(label, own.method, own.preset, tuple(own.keys.get(key) for key in telling), cells[label])
        for label, own in firsts.items()
    ]


def cell_of(setting: Setting, column: Column, scale: float) -> Cell:
    """Return the scores of a setting in a column; of fresh ones with those of validation beside them."""
    scores = {seed: score * scale for seed, score in setting.scores(column).items()}
    validation = {
        seed: own[column.metric] * scale
        for seed, run in setting.runs.items()
        if run.is_fresh and column.metric in (own := next(iter(run.validation.values()), {}))
    }
    diverged = sum(not run.is_finite for run in setting.runs.values())
    return Cell(setting, scores, diverged, validation=validation)


def with_best(rows: Sequence[Row], columns: Sequence[Column]) -> tuple[list[Row], dict[Column, float | None]]:
    """Mark the best row of every column, and whether the tests against all others prove it, corrected for all of them
    together. Returns the rows, and for each column the largest of those p values, None where a test was impossible.
    """
    tests: list[tuple[Column, float | None]] = []
    best: dict[Column, str] = {}
    for column in columns:
        own = [row for row in rows if column in row.cells and row.cells[column].n]
        if len(own) < 2:
            continue
        top = min(own, key=lambda row: better_first(row.cells[column], column))
        best[column] = top.label
        for other in own:
            if other is not top:
                tests.append((column, p_of(top.cells[column].scores, other.cells[column].scores)))
    found_p = list(zip((column for column, _ in tests), corrected([p for _, p in tests]), strict=True))
    largest: dict[Column, float | None] = {}
    for column in best:
        values = [p for own, p in found_p if own == column]
        known = [p for p in values if p is not None]
        largest[column] = max(known) if len(known) == len(values) else None
    proved = {column for column, p in largest.items() if p is not None and p < LEVEL}
    return [marked(row, best, proved) for row in rows], largest


def better_first(cell: Cell, column: Column) -> float:
    """Return what cells are sorted by, the best one first."""
    mean = cell.mean or 0.0
    return mean if column.lower_is_better else -mean


def marked(row: Row, best: Mapping[Column, str], proved: set[Column]) -> Row:
    """Return a row whose best cells are marked."""
    cells = {
        column: Cell(
            cell.setting,
            cell.scores,
            cell.diverged,
            best.get(column) == row.label,
            best.get(column) == row.label and column in proved,
            cell.validation,
        )
        for column, cell in row.cells.items()
    }
    return Row(row.label, row.method, row.preset, row.others, cells)


def baseline_of(rows: Sequence[Row], wanted: Wanted) -> Row | None:
    """Return the row that others are compared with: the one that is named, or else plain LoRA's, or else the first one.
    None if the user named one that is not there.
    """
    found = row_named(rows, wanted.baseline) or row_like(rows, wanted)
    if found is not None or wanted.is_asked:
        return found
    return row_named(rows, PLAIN) or (rows[0] if rows else None)


def row_named(rows: Sequence[Row], name: str | None) -> Row | None:
    """Return the row of this name, or else the first one of the method or preset."""
    labels = [(row.label, row) for row in rows]
    methods = [(row.method, row) for row in rows]
    presets = [(row.preset, row) for row in rows]
    return next((row for own, row in (*labels, *methods, *presets) if own == name), None)


def row_like(rows: Sequence[Row], wanted: Wanted) -> Row | None:
    """Return the row with the settings of the baseline's recipe, so far as the method's are known."""
    known = {key: value for key, value in wanted.baseline_keys.items() if key.startswith("method.")}
    known = {key: value for key, value in known.items() if key not in (*wanted.tuned, "method.name")}
    settings = ((row, cell.setting) for row in rows for cell in row.cells.values())
    alike = (row for row, own in settings if all(own.keys.get(key) == value for key, value in known.items()))
    return next(alike, None) if known else None


def compare(rows: Sequence[Row], columns: Sequence[Column], baseline: Row | None, named: str | None) -> list[Compared]:
    """Return the differences of all rows to their baselines, with p values corrected for all of them together."""
    if baseline is None:
        return []
    is_one = baseline.label == named
    found = [
        (row.label, other.label, column, result)
        for row in rows
        if (other := baseline if is_one else counterpart(row, rows, baseline)) is not None and other.label != row.label
        for column in columns
        if column in row.cells
        and column in other.cells
        and (result := difference(row.cells[column].scores, other.cells[column].scores, column.lower_is_better))
    ]
    p = corrected([result.p for *_, result in found])
    return [Compared(*own, corrected_p) for own, corrected_p in zip(found, p, strict=True)]


def counterpart(row: Row, rows: Sequence[Row], baseline: Row) -> Row | None:
    """Return the row of the baseline's method that differs from a row in nothing else; the baseline itself if its
    method has one row.
    """
    same = [other for other in rows if other.method == baseline.method]
    if len(same) == 1:
        return baseline
    alike = [other for other in same if other.others == row.others]
    return alike[0] if alike and row.method != baseline.method else None


def averages(rows: Sequence[Row], columns: Sequence[Column]) -> dict[str, float]:
    """Return the mean over tasks, of their first columns, for each row by name; nothing where one has not all, or the
    metrics are not alike in direction and range.
    """
    firsts = list({column.task: column for column in reversed(columns)}.values())
    has_all = all(column in row.cells and row.cells[column].n for row in rows for column in firsts)
    if len(firsts) < 2 or not has_all or any(column.metric not in SHARES for column in firsts):
        return {}
    return {row.label: float(np.mean([row.cells[column].mean or 0.0 for column in firsts])) for row in rows}


def column_names(columns: Sequence[Column], runs: Sequence[RunRecord]) -> dict[Column, str]:
    """Return a short name for each column: its task, with the split, the metric or the rows where tasks are not
    enough.
    """
    names = {}
    counts = {(column, run.row_counts.get(column.split)) for run in runs for column in columns_of(run)}
    for column in columns:
        same = [other for other in columns if other.task == column.task]
        name = column.task
        if len({other.split for other in same}) > 1:
            name += f" {column.split}"
        if len({other.metric for other in same}) > 1:
            name += f" {column.metric}"
        if len({other.is_fresh for other in same}) > 1:
            name += " (fresh)" if column.is_fresh else " (validation)"
        alike = [
            other
            for other in same
            if (other.split, other.metric, other.is_fresh) == (column.split, column.metric, column.is_fresh)
        ]
        if len(alike) > 1:
            rows = next((count for own, count in counts if own == column and count), None)
            name += f" ({rows} rows, {column.rows[:6]})" if rows else f" ({column.rows[:6]})"
        names[column] = name
    return names
