"""Find the labels of a task that a recipe describes in the rows of its training file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reflora_cli.data.own import MOST_NAMED, check_own_columns, in_one_line, label_cells, listed, names_in
from reflora_cli.data.read import Table
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.tasks.base import OwnLabels, SequenceTask

SEPARATORS = ("|", ";", ",")
"""What may stand between the labels of a cell; the first that occurs in any cell is taken."""
FEW = 20
"""Up to this number of labels, they may be as many as there are rows."""


@dataclass(frozen=True)
class Found:
    """The labels of training rows, in the order of class ids, with the number of rows of each.

    separator: what stands between the labels of one cell; None where cells hold one label, or lists.
    """

    counts: dict[str, int]
    rows: int
    separator: str | None

    def weights(self, *, several: bool) -> list[float]:
        """Return the weight of each label with which rare labels count as much as frequent ones.

        several: whether a row may have several labels: then it is the weight of the rows that have the label.
        """
        if several:
            return [max(1, self.rows - count) / count for count in self.counts.values()]
        return [self.rows / (len(self.counts) * count) for count in self.counts.values()]


def find_labels(table: Table, task: SequenceTask, own: OwnLabels, given: Sequence[str] | None) -> Found:
    """Return the labels of the table's rows. given: those of the recipe, which every row must keep to.

    Raises InputError for labels that no classifier can be trained on.
    """
    check_own_columns(table, task, own)
    own = replace(own, separator=own.separator or separator_in(table, task, own))
    counts, problems = Counter[str](), list[Problem]()
    for where, cells in label_cells(table, own):
        match names_in(cells, task, own, where):
            case Problem() as problem:
                problems.append(problem)
            case names:
                counts.update(set(names))
    if not problems and not task.several:
        problems = mixed(table, own)
    if problems:
        raise InputError(*problems[:3])
    named = given or (own.columns if len(own.columns) > 1 else sorted(counts, key=in_order(counts)))
    refuse_useless(named, counts, table, task)
    return Found({name: counts[name] for name in named}, table.height, own.separator)


def separator_in(table: Table, task: SequenceTask, own: OwnLabels) -> str | None:
    """Return what stands between the labels of a cell of a multilabel task, if anything does."""
    if not task.several or len(own.columns) > 1:
        return None
    texts = [cell for cell in table.columns[own.columns[0]] if isinstance(cell, str)]
    return next((mark for mark in SEPARATORS if any(mark in text for text in texts)), None)


def mixed(table: Table, own: OwnLabels) -> list[Problem]:
    """Return the problem of a column that holds texts in some rows and numbers in others."""
    kinds: dict[str, str] = {}
    for where, (cell,) in label_cells(table, own):
        kinds.setdefault("texts" if isinstance(cell, str) else "numbers", f"{cell!r} in {where}")
    if len(kinds) < 2:
        return []
    what, found = f"{own.columns[0]!r} holds texts and numbers", "; ".join(kinds.values())
    return [Problem(what, table.where, found, "labels of one type", "write all of them as texts, or as numbers")]


def in_order(names: Counter[str]) -> Callable[[str], Any] | None:
    """Return the key by which labels are sorted: as numbers if all of them are finite numbers, else as texts."""

    def number(name: str) -> float:
        try:
            return float(name)
        except ValueError:
            return math.nan

    if all(math.isfinite(number(name)) for name in names):
        return lambda name: (number(name), name)
    return None


def refuse_useless(labels: Sequence[str], counts: Counter[str], table: Table, task: SequenceTask) -> None:
    """Raises InputError for labels without rows, one class only, and labels that are as many as rows."""
    if never := [name for name in labels if not counts[name]]:
        what, found = "no training row has the label", listed(never)
        remedy = "remove it from task.labels or task.label, or add rows that have it"
        raise InputError(Problem(what, table.where, found, f"rows of each of {listed(labels)}", remedy))
    if not labels or (len(labels) == 1 and not task.several):
        found = f"{listed(labels) or 'no label'} in all {table.height} rows"
        what, where = "the rows have fewer than two different labels", f"{table.where}, {task.label}"
        raise InputError(Problem(what, where, found, "two labels"))
    if len(labels) > max(FEW, table.height // 2):
        found = f"{len(labels)} labels in {table.height} rows: {listed(labels)}"
        what, remedy = "nearly every row has a label of its own", "name another task.label, or set task.kind=regression"
        raise InputError(Problem(what, f"{table.where}, {task.label}", found, "rows that share labels", remedy))


def in_words(counts: dict[str, int]) -> str:
    """Return labels with their numbers of rows; of many the most and the least frequent."""
    order = sorted(counts, key=lambda name: -counts[name]) if len(counts) > MOST_NAMED else list(counts)
    shown = order if len(order) <= MOST_NAMED else [*order[:4], "...", *order[-3:]]
    text = ", ".join(f"{in_one_line(name)} ({counts[name]:,})" if name in counts else name for name in shown)
    return f"{len(counts)}: {text}"
