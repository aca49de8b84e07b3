"""Turn columns into Examples of a task that a recipe describes; whatever is wrong names its row."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from reflora_cli.data.check import SHORT, bad_text, label_of, similar, summary
from reflora_cli.data.read import Table
from reflora_cli.ground.errors import InputError, Problem, near
from reflora_cli.tasks.base import OwnLabels, SequenceTask
from reflora_cli.tasks.examples import Example

MARKS = {"0": 0.0, "1": 1.0, "false": 0.0, "true": 1.0}
"""What a cell of a column for one label may be, as text."""
LARGEST = 1e18
"""The largest number of a regression: the square of an error must be finite in float32, for sums of many rows too."""
MOST_NAMED = 12
"""The most labels that a message names."""


def own_examples(table: Table, task: SequenceTask, own: OwnLabels) -> list[Example]:
    """Return one Example for each row. Raises InputError for missing columns, no rows, or bad rows."""
    check_own_columns(table, task, own)
    texts = zip(*(table.columns[name] for name in task.text), strict=True)
    examples: list[Example] = []
    problems: list[Problem] = []
    for (where, cells), row in zip(label_cells(table, own), texts, strict=True):
        label = label_in(cells, task, own, where)
        problem = label if isinstance(label, Problem) else bad_text(row, task, where)
        if problem is not None:
            problems.append(problem)
        elif not isinstance(label, Problem):
            examples.append(Example(row, label))
    if problems:
        raise InputError(*summary(problems, len(problems), table))
    return examples


def check_own_columns(table: Table, task: SequenceTask, own: OwnLabels) -> None:
    """Raises InputError for a table without rows, or without a column that the recipe names."""
    check_named_columns(table, {name: "task.label" if name in own.columns else "task.text" for name in task.columns})


def check_named_columns(table: Table, keys: Mapping[str, str]) -> None:
    """Raises InputError for a table without rows, or without a column. keys: the recipe's keys that name the columns,
    by column.
    """
    if not table.height:
        raise InputError(Problem("there are no rows", table.where, expected=f"rows with {', '.join(keys)}"))
    missing = [name for name in keys if name not in table.columns]
    meant = similar(missing, [name for name in table.names if name not in keys])
    problems = []
    for name in missing:
        key = keys[name]
        remedy = column_remedy(key, meant.get(name))
        problems.append(
            Problem(f"column {name!r} is missing", table.where, ", ".join(table.names), f"{name} ({key})", remedy)
        )
    if problems:
        raise InputError(*problems)


def column_remedy(key: str, meant: str | None) -> str:
    """Return what to do about a column that is missing. meant: the likely one."""
    if key == "task.wording":
        return f"did you mean {meant!r}? Write {{{meant}}} in {key}." if meant else f"name one of them in {key}"
    return f"did you mean {meant!r}? Set {key} to it." if meant else f"set {key} to one of them"


def label_cells(table: Table, own: OwnLabels) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield where each row is, and its cells in the columns of labels."""
    rows = zip(*(table.columns[name] for name in own.columns), strict=True)
    return ((f"{table.where}, row {number}", cells) for number, cells in enumerate(rows, start=1))


def label_in(
    cells: tuple[Any, ...], task: SequenceTask, own: OwnLabels, where: str
) -> float | tuple[float, ...] | Problem:
    """Return a row's label as an Example has it, or what is wrong with it."""
    if task.is_regression:
        return number_in(cells[0], task, where)
    names = names_in(cells, task, own, where)
    if isinstance(names, Problem):
        return names
    if unknown := [name for name in names if name not in task.label_names]:
        what, expected = f"{task.label!r} is not one of the task's labels", listed(task.label_names)
        return Problem(what, where, SHORT.repr(unknown[0]), expected, near(unknown[0], task.label_names))
    if task.several:
        return tuple(float(name in names) for name in task.label_names)
    return float(task.label_names.index(names[0]))


def number_in(cell: Any, task: SequenceTask, where: str) -> float | Problem:
    """Return a cell as a finite number, or what is wrong with it."""
    if is_empty(cell):
        return Problem(f"{task.label!r} is missing", where, "nothing", "a number")
    number = label_of(cell, task)
    if number is None:
        return Problem(f"{task.label!r} is not a finite number", where, SHORT.repr(cell), "a number")
    if abs(number) > LARGEST:
        what, remedy = f"{task.label!r} is too large to be learned", "write the numbers in a smaller unit"
        return Problem(what, where, SHORT.repr(cell), f"at most {LARGEST:.0e}", remedy)
    return number


def names_in(cells: tuple[Any, ...], task: SequenceTask, own: OwnLabels, where: str) -> tuple[str, ...] | Problem:
    """Return the names of a row's labels as they are written, or what is wrong with its cells."""
    if not task.several:
        return name_in(cells[0], task.label, where)
    if len(own.columns) > 1:
        return marked_in(cells, own.columns, where)
    cell = cells[0]
    if isinstance(cell, str):
        if cell.strip().startswith("[") and cell.strip().endswith("]"):
            remedy = "separate the labels by a separator (task.separator), or write the file as JSON lines"
            return Problem(f"{task.label!r} is a list written as text", where, SHORT.repr(cell), remedy=remedy)
        parts = cell.split(own.separator) if own.separator else [cell]
        return tuple(part.strip() for part in parts if part.strip())
    if not isinstance(cell, list | tuple):
        found = "nothing" if is_empty(cell) else SHORT.repr(cell)
        return Problem(
            f"{task.label!r} is not a list of labels", where, found, "a list or a text, empty if there is no label"
        )
    found_names = [name_in(part, task.label, where) for part in cell]
    problem = next((replace(name, remedy="") for name in found_names if isinstance(name, Problem)), None)
    return problem or tuple(name for names in found_names if not isinstance(names, Problem) for name in names)


def marked_in(cells: Sequence[Any], columns: Sequence[str], where: str) -> tuple[str, ...] | Problem:
    """Return the names of the columns that hold 1."""
    marks = [MARKS.get((label_text(cell) or "").lower()) for cell in cells]
    for column, mark, cell in zip(columns, marks, cells, strict=True):
        if mark is None:
            return Problem(f"{column!r} is neither 0 nor 1", where, SHORT.repr(cell), "0 or 1")
    return tuple(column for column, mark in zip(columns, marks, strict=True) if mark)


def name_in(cell: Any, column: str, where: str) -> tuple[str, ...] | Problem:
    """Return the one label that a cell names, or what is wrong with it."""
    if is_empty(cell):
        return Problem(f"{column!r} is missing", where, "nothing" if cell is None else repr(cell), "a label")
    name = label_text(cell)
    if name is None:
        found = f"{SHORT.repr(cell)}, of type {type(cell).__name__}"
        remedy = "set task.kind=multilabel" if isinstance(cell, list) else ""
        return Problem(f"{column!r} is not a label", where, found, "a text or a number", remedy)
    return (name,)


def is_empty(cell: Any) -> bool:
    """Whether a cell holds nothing, or what programs write for nothing."""
    if isinstance(cell, float | Decimal):
        return math.isnan(cell)
    return cell is None or (isinstance(cell, str) and cell.strip().lower() in ("", "nan"))


def label_text(cell: Any) -> str | None:
    """Return the name of a label: a text without blanks around it, or a number as it is written; None for others."""
    match cell:
        case str():
            return cell.strip()
        case bool():
            return str(cell).lower()
        case int():
            return str(cell)
        case float() | Decimal() if math.isfinite(cell):
            return str(int(cell)) if cell == int(cell) else str(cell)
        case _:
            return None


def listed(names: Sequence[str]) -> str:
    """Return names as messages show them."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(map(in_one_line, names[:MOST_NAMED])) + more


def in_one_line(name: str) -> str:
    """Return a label as messages show it: as it is, or quoted where it holds line ends or other controls."""
    return name if name.isprintable() else repr(name)
