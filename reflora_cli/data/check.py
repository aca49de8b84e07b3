"""Turn columns into Examples; count every row that cannot be one, and show the first few of them."""

from __future__ import annotations

import difflib
import math
import reprlib
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from reflora_cli.data.read import Table
from reflora_cli.ground.errors import InputError, Problem, near
from reflora_cli.tasks.base import SequenceTask
from reflora_cli.tasks.examples import Example, Row, has_surrogates

SHOWN = 3
"""The number of bad rows that are described in full; all are counted."""

UNLABELLED = -1
"""The label in GLUE's test splits."""

SHORT = reprlib.Repr()
SHORT.maxstring = SHORT.maxother = 80


def examples_of(table: Table, task: SequenceTask) -> list[Example]:
    """Return one Example for each row. Raises InputError for missing columns, no rows, or bad rows."""
    check_columns(table, task.columns, task.name, lambda row: is_example(row, task))
    labels, hidden = table.columns[task.label], 0
    texts = list(zip(*(table.columns[name] for name in task.text), strict=True))
    examples: list[Example] = []
    problems: list[Problem] = []
    for row, (cells, value) in enumerate(zip(texts, labels, strict=True), start=1):
        where = f"{table.where}, row {row}"
        label = label_of(value, task)
        if label == UNLABELLED and not in_range(label, task):
            hidden += 1
        elif label is None or not in_range(label, task):
            problems.append(bad_label(value, task, where))
        elif problem := bad_text(cells, task, where):
            problems.append(problem)
        else:
            examples.append(Example(cells, label))
    if hidden:
        problems.insert(0, unlabelled(hidden, table, task))
    if problems:
        raise InputError(*summary(problems, table.height - len(examples), table))
    return examples


def check_columns(
    table: Table, needed: Sequence[str], task_name: str, accepts: Callable[[Row], bool] = lambda _: False
) -> None:
    """Raises InputError for a table without rows, or without a column that the task needs.

    accepts: whether a row is one of the task's. Another column is proposed for a missing one only if the first row is
    accepted with it.
    """
    listed = ", ".join(needed)
    if not table.height:
        raise InputError(Problem("there are no rows", table.where, expected=f"rows with {listed}"))
    missing = [name for name in needed if name not in table.columns]
    if not missing:
        return
    nearest_names = similar(missing, [name for name in table.names if name not in needed])
    renames = {old: new for new, old in nearest_names.items()}
    if not accepts({renames.get(name, name): value for name, value in table.first.items()}):
        nearest_names = {}
    found = ", ".join(table.names) or "no columns"
    problems = []
    for name in missing:
        like = nearest_names.get(name)
        remedy = f"did you mean {like!r}? Rename the column to {name!r}." if like else ""
        problems.append(
            Problem(f"column {name!r} is missing", table.where, found, f"{listed} (task {task_name})", remedy)
        )
    raise InputError(*problems)


def similar(missing: Sequence[str], others: Sequence[str]) -> dict[str, str]:
    """Return for each missing column the other column whose name is most like its own; each is proposed once."""
    found: dict[str, str] = {}
    for name in missing:
        free = [other for other in others if other not in found.values()]
        if like := difflib.get_close_matches(name, free, n=1, cutoff=0.5):
            found[name] = like[0]
    return found


def is_example(row: Row, task: SequenceTask) -> bool:
    """Whether the columns of the task that the row has are those of an example."""
    texts = [row[name] for name in task.text if name in row]
    labels = [label_of(row[name], task) for name in (task.label,) if name in row]
    return all(isinstance(text, str) for text in texts) and all(
        label is not None and in_range(label, task) for label in labels
    )


def bad_text(cells: Sequence[Any], task: SequenceTask, where: str) -> Problem | None:
    """Say what is wrong with the first cell that is not a text; None when all are texts. An empty text is a text."""
    for name, cell in zip(task.text, cells, strict=True):
        if cell is None:
            return Problem(f"{name!r} is missing", where, found="nothing", expected="a text")
        if not isinstance(cell, str):
            found = f"{SHORT.repr(cell)}, of type {type(cell).__name__}"
            return Problem(f"{name!r} is not a text", where, found, expected="a text")
        if has_surrogates(cell):
            return Problem(f"{name!r} is not valid Unicode", where, SHORT.repr(cell), expected="no lone surrogates")
    return None


def label_of(value: Any, task: SequenceTask) -> float | None:
    """Return the label as a finite number, whole where it is a class id; None when the value does not give one."""
    if isinstance(value, str) and value.strip() in task.label_names:
        return float(task.label_names.index(value.strip()))
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        return None
    try:
        label = float(value)
    except (ValueError, OverflowError):
        return None
    usable = math.isfinite(label) and (task.is_regression or label.is_integer())
    return label if usable else None


def in_range(label: float, task: SequenceTask) -> bool:
    if task.label_names:
        return 0 <= label < len(task.label_names)
    low, high = task.label_range or (-math.inf, math.inf)
    return low <= label <= high


def bad_label(value: Any, task: SequenceTask, where: str) -> Problem:
    if value is None or value == "":
        return Problem(f"{task.label!r} is missing", where, "nothing", expected_label(task))
    label, remedy = label_of(value, task), ""
    if label is not None:
        what = f"{task.label!r} is out of range"
    elif task.is_regression:
        what = f"{task.label!r} is not a finite number"
    else:
        what = f"{task.label!r} is neither a class id nor a class name"
        remedy = near(value, task.label_names) if isinstance(value, str) else ""
    return Problem(what, where, SHORT.repr(value), expected_label(task), remedy)


def expected_label(task: SequenceTask) -> str:
    if task.label_names:
        names = ", ".join(f"{index} {name}" for index, name in enumerate(task.label_names))
        return f"0 to {len(task.label_names) - 1}, or a name ({names})"
    return "a number from {:g} to {:g}".format(*task.label_range) if task.label_range else "a number"


def unlabelled(hidden: int, table: Table, task: SequenceTask) -> Problem:
    return Problem(
        "rows are unlabelled (hidden test labels)",
        table.where,
        found=f"label {UNLABELLED} in {hidden} of {table.height} rows",
        expected=expected_label(task),
        remedy=f"use a split with labels: {', '.join((task.train, *task.evaluation))}",
    )


def summary(problems: list[Problem], bad: int, table: Table) -> list[Problem]:
    """Return the first few problems and, when not all are shown, the number of bad rows."""
    if len(problems) <= SHOWN:
        return problems
    total = Problem(f"{bad} of {table.height} rows are bad; the first are shown", table.where)
    return [*problems[:SHOWN], total]
