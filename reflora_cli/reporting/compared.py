"""Find what a table shows: the best row of each column, the baseline, and the differences to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reflora_cli.methods.presets import PLAIN
from reflora_cli.reporting.cells import Cell, Compared, Row, Wanted
from reflora_cli.reporting.settings import Column
from reflora_cli.reporting.statistics import LEVEL, corrected, difference, p_of


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
                tests.append((column, p_of_best(top.cells[column], other.cells[column], column)))
    found_p = list(zip((column for column, _ in tests), corrected([p for _, p in tests]), strict=True))
    largest: dict[Column, float | None] = {}
    for column in best:
        values = [p for own, p in found_p if own == column]
        known = [p for p in values if p is not None]
        largest[column] = max(known) if len(known) == len(values) else None
    proved = {column for column, p in largest.items() if p is not None and p < LEVEL}
    return [marked(row, best, proved) for row in rows], largest


def p_of_best(top: Cell, other: Cell, column: Column) -> float | None:
    """Return the p, not corrected, by which a row is better than another one; 1 where its mean over the seeds that both
    have is not the better one, though its mean over all its seeds may be.
    """
    common = top.scores.keys() & other.scores.keys()
    gain = sum(top.scores[seed] - other.scores[seed] for seed in common)
    p = p_of(top.scores, other.scores)
    return 1.0 if p is not None and (gain >= 0) == column.lower_is_better else p


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
    """Return the row that others are compared with: that of the setting of a plan, or else the one that is named, or
    else plain LoRA's, or else the first one. None if the user named one that is not there.
    """
    found = row_like(rows, wanted) or row_named(rows, wanted.baseline)
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
    """Return the row with the settings of the baseline's recipe. Its method must be the same; of rows with that method,
    it is the one that has most of the recipe's other values, some of which a run settles when it begins.
    """
    known = {key: value for key, value in wanted.baseline_keys.items() if key not in (*wanted.tuned, "method.name")}
    method = {key: value for key, value in known.items() if key.startswith("method.")}
    settings = [(row, cell.setting.keys) for row in rows for cell in row.cells.values()]
    alike = [(row, keys) for row, keys in settings if all(keys.get(key) == value for key, value in method.items())]
    if not method or not alike:
        return None
    return max(alike, key=lambda each: sum(each[1].get(key) == value for key, value in known.items()))[0]


def compare(rows: Sequence[Row], columns: Sequence[Column], baseline: Row | None, *, is_one: bool) -> list[Compared]:
    """Return the differences of all rows to their baselines, with p values corrected for all of them together.

    is_one: whether the baseline of every row is this one row; otherwise it is the baseline's method with the row's
    other settings.
    """
    if baseline is None:
        return []
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
