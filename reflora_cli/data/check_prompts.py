"""Turn columns into PromptExamples; count every row that cannot be one, and show the first few of them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from reflora_cli.data.check import SHORT, check_columns, summary
from reflora_cli.data.layouts import layout_of
from reflora_cli.data.own import check_named_columns
from reflora_cli.data.read import Table
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.tasks.base import PromptTask
from reflora_cli.tasks.examples import PromptExample, Row, has_surrogates

WORDS = {str: "a text", list: "a list of texts", int: "a whole number", object: "a text or a list"}
LISTS = {"messages": "a list of messages", "conversations": "a list of messages"}
"""What the columns hold whose lists are not of texts."""


def prompt_examples(table: Table, task: PromptTask) -> list[PromptExample]:
    """Return one PromptExample for each row. Raises InputError for missing columns, no rows, or bad rows."""
    task = task.laid_out(layout_of(table, task)) if task.layouts else task
    if task.keys:
        check_named_columns(table, task.keys)
    else:
        accepts = partial(is_example, task=task)
        check_columns(table, tuple(task.fields), task.name, accepts)
    examples: list[PromptExample] = []
    problems: list[Problem] = []
    for number, row in enumerate(rows_of(table), start=1):
        match example_of(row, task, f"{table.where}, row {number}"):
            case Problem() as problem:
                problems.append(problem)
            case example:
                examples.append(example)
    if problems:
        raise InputError(*summary(problems, len(problems), table))
    return examples


def is_example(row: Row, task: PromptTask) -> bool:
    return not isinstance(example_of(row, task, ""), Problem)


def example_of(row: Row, task: PromptTask, where: str) -> PromptExample | Problem:
    """Return the row as the task's example, or the reason why it is none."""
    if problem := bad_cell(row, task, where):
        return problem
    try:
        return task.example(row)
    except ValueError as error:
        return Problem(str(error), where)


def rows_of(table: Table) -> Iterator[Row]:
    names = tuple(table.columns)
    return (dict(zip(names, cells, strict=True)) for cells in zip(*table.columns.values(), strict=True))


def bad_cell(row: Row, task: PromptTask, where: str) -> Problem | None:
    """Say what is wrong with the first cell of a wrong type, or the first empty one that must not be; None for none."""
    for name, kind in task.fields.items():
        value = row.get(name)
        if value is None or value == "":
            return Problem(f"{name!r} is missing", where, "nothing", LISTS.get(name, WORDS[kind]))
        if problem := wrong_type(name, value, kind, where):
            return problem
    others = [(name, str) for name in task.optional] + [(task.references, list)]
    if not isinstance(row.get(task.answer), list):
        others.append((task.answer, str))
    wrong = (wrong_type(name, row[name], kind, where) for name, kind in others if row.get(name) is not None)
    return next((problem for problem in wrong if problem), None)


def wrong_type(name: str, value: Any, kind: type, where: str) -> Problem | None:
    if type(value) is not kind and kind is not object:
        words, found = LISTS.get(name, WORDS[kind]), f"{SHORT.repr(value)}, of type {type(value).__name__}"
        return Problem(f"{name!r} is not {words}", where, found, words)
    if isinstance(value, str) and has_surrogates(value):
        return Problem(f"{name!r} is not valid Unicode", where, SHORT.repr(value), expected="no lone surrogates")
    return None
