"""Read the columns of a split of a data set on the Hugging Face hub, through `datasets` and its cache.

It is the task's own, or one that `task.data` names: `hub:NAME`, `hub:OWNER/NAME` or `hub:OWNER/NAME/CONFIG`. How many
parts there are says what they are, so that no name is read in two ways: a configuration follows an owner only.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from reflora_cli.console.stream import is_terminal
from reflora_cli.data.arrow_rows import table_from, with_class_names
from reflora_cli.data.check import check_columns
from reflora_cli.data.check_prompts import rows_of
from reflora_cli.data.read import Table, table_of
from reflora_cli.ground.errors import InputError, Problem, nearest
from reflora_cli.ground.hub_errors import hub_reason
from reflora_cli.tasks.base import DataTask
from reflora_cli.tasks.examples import Row
from reflora_cli.tasks.sources import HubSource

PREFIX = "hub:"
PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,95}")
"""What an owner, a name or a configuration may be."""


def is_hub_name(data: str) -> bool:
    """Whether a recipe's `task.data` names a data set on the hub."""
    return data.startswith(PREFIX)


def named_source(data: str) -> HubSource:
    """Return the data set that `hub:...` names. Raises InputError for what is no name."""
    parts = data.removeprefix(PREFIX).split("/")
    if len(parts) > 3 or not all(PART.fullmatch(part) for part in parts):
        what, expected = "this is no name of a hub data set", "hub:OWNER/NAME, hub:OWNER/NAME/CONFIG or hub:NAME"
        remedy = "leave out the address of the site" if "://" in data else ""
        raise InputError(Problem(what, "task.data", repr(data), expected, remedy))
    return HubSource("/".join(parts[:2]), parts[2] if len(parts) == 3 else None)


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
    table = table_from(rows, f"{where} {own_split}", source.columns or task.columns, limit)
    if source.convert is not None:
        return converted(table, source, source.convert, task)
    return with_class_names(table, rows, task)


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
                Problem("the row does not have the expected fields of this data set", where, str(error))
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
