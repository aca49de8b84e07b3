"""Read columns of the library `datasets`, whose columns of classes hold numbers and know the names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reflora_cli.data.read import Table
from reflora_cli.tasks.base import DataTask

if TYPE_CHECKING:
    from datasets import Dataset


def table_from(rows: Dataset, where: str, wanted: tuple[str, ...], limit: int | None) -> Table:
    """Return the wanted columns of the first `limit` rows, all of them for None."""
    names = tuple(rows.column_names)
    known = [name for name in wanted if name in names]
    rows = rows.select(range(len(rows) if limit is None else min(limit, len(rows))))
    columns = rows.select_columns(known)[:] if known else {}
    return Table(where, len(rows), names, columns)


def with_class_names(table: Table, rows: Dataset, task: DataTask) -> Table:
    """Return the table of a task that a recipe describes with the names of classes in the place of their numbers.

    rows: the data set that the table was read from. Hidden labels, which are negative, become None. A regression and a
    task that is known by its name read numbers.
    """
    if not task.reads_names:
        return table
    columns = {name: named(cells, rows.features[name]) for name, cells in table.columns.items()}
    return Table(table.where, table.height, table.names, columns, table.first)


def named(cells: list[Any], feature: Any) -> list[Any]:
    """Return cells with names for numbers of classes, also in lists."""
    from datasets import ClassLabel, LargeList, List

    if isinstance(feature, ClassLabel):
        return [feature.int2str(cell) if isinstance(cell, int) and cell >= 0 else None for cell in cells]
    if isinstance(feature, List | LargeList) and isinstance(feature.feature, ClassLabel):
        return [None if cell is None else named(cell, feature.feature) for cell in cells]
    return cells
