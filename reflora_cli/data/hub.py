"""Read the columns of a split of a data set on the Hugging Face hub, through `datasets` and its cache."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from reflora_cli.console.stream import is_terminal
from reflora_cli.data.check import check_columns
from reflora_cli.data.check_prompts import rows_of
from reflora_cli.data.read import Table, table_of
from reflora_cli.ground.errors import InputError, Problem, nearest
from reflora_cli.ground.hub_errors import hub_reason
from reflora_cli.tasks.base import DataTask, HubSource, Row


def read_hub(task: DataTask, source: HubSource, split: str, limit: int | None) -> Table:
    """Return the task's columns of the first `limit` rows of a split, downloaded or from the cache.

    Raises InputError when they are not available, and for a row that cannot be converted to the task's columns.
    """
    where = " ".join(filter(None, (source.repository, source.config)))
    own_split = source.splits.get(split, split)
    try:
        with quiet():
            from datasets import load_dataset

            splits = load_dataset(source.repository, source.config)
    except (
        Exception
    ) as error:  # unreachable, offline, gone, private, disk full: the user can correct it, and no type is common to all
        instead = f"a directory or file with the {split} rows: task.data=DIR"
        reason = hub_reason(error, f"datasets/{source.repository}", instead)
        found = reason.found if reason else f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        remedy = reason.remedy if reason else f"go online once, or give {instead}"
        expected = "the data set on the Hugging Face hub, or in the local cache from an earlier run"
        raise InputError(
            Problem(f"{task.name} cannot be loaded from the hub", where, found, expected, remedy)
        ) from None
    if own_split not in splits:
        raise unknown_split(own_split, where, tuple(splits))
    rows = splits[own_split]
    rows = rows.select(range(len(rows) if limit is None else min(limit, len(rows))))
    wanted = [name for name in source.columns or task.columns if name in rows.column_names]
    table = Table(
        f"{where} {own_split}", len(rows), tuple(rows.column_names), rows.select_columns(wanted)[:] if wanted else {}
    )
    return table if source.convert is None else converted(table, source, source.convert, task)


def converted(table: Table, source: HubSource, convert: Callable[[Row], Row], task: DataTask) -> Table:
    """Convert a table with the data set's own columns to one with the task's columns."""
    check_columns(table, source.columns, task.name)
    rows: list[dict[str, Any]] = []
    for number, row in enumerate(rows_of(table), start=1):
        try:
            rows.append(dict(convert(row)))
        except (ValueError, TypeError, KeyError) as error:
            where = f"{table.where}, row {number}"
            raise InputError(
                Problem("the row does not have the fields that this data set's rows had", where, str(error))
            ) from error
    return table_of(rows, table.where, task.columns)


def unknown_split(split: str, where: str, known: tuple[str, ...]) -> InputError:
    return InputError(Problem(f"there is no split {split!r}", where, ", ".join(known), remedy=nearest(split, known)))


@contextmanager
def quiet() -> Iterator[None]:
    """Keep `datasets` and the hub's client from logging their retries; the error at the end is enough. Bars are shown
    on a terminal.
    """
    import datasets

    bars = datasets.are_progress_bars_disabled()
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    if not is_terminal():
        datasets.disable_progress_bars()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()
