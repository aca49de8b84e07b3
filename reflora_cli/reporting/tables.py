"""Make of settings the tables of a report: rows are settings by name, columns are what they were scored on.

All numbers of a report are computed here and in `compared.py`, once; how they are shown is in `sections.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from reflora_cli.ground.errors import InputError, Problem, nearest
from reflora_cli.reporting.cells import SHARES, Cell, Group, Row, Wanted
from reflora_cli.reporting.compared import baseline_of, compare, with_best
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
            Problem(
                "no row has this name",
                "--baseline",
                wanted.baseline,
                "the name of a row, or of a method",
                nearest(wanted.baseline, known),
            )
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
    label = None if baseline is None else baseline.label
    is_one = label == wanted.baseline or bool(wanted.baseline_keys)
    compared = compare(rows, columns, baseline, is_one=is_one)
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
