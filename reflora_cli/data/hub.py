"""A split of a data set on the Hugging Face hub -> its columns, through `datasets` and its cache."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from reflora_cli.data.read import Table
from reflora_cli.errors import InputError, Problem, nearest
from reflora_cli.tasks.base import HubSource, Task


def read_hub(task: Task, source: HubSource, split: str, limit: int | None) -> Table:
    """The task's columns of the first `limit` rows of a split, downloaded or from the cache."""
    where = f"{source.repository} {source.config}"
    try:
        with quiet():
            from datasets import load_dataset

            splits = load_dataset(source.repository, source.config)
    except Exception as error:  # unreachable, offline, gone, private, disk full: the user's to mend, in no common type
        found = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        remedy = f"go online once, or name a directory or file with the {split} rows: task.data=DIR"
        expected = "the data set on the Hugging Face hub, or in the local cache from an earlier run"
        raise InputError(
            Problem(f"{task.name} cannot be loaded from the hub", where, found, expected, remedy)
        ) from None
    if split not in splits:
        raise unknown_split(split, where, tuple(splits))
    rows = splits[split]
    rows = rows.select(range(len(rows) if limit is None else min(limit, len(rows))))
    wanted = [name for name in (*task.text, task.label) if name in rows.column_names]
    return Table(f"{where} {split}", len(rows), tuple(rows.column_names), rows.select_columns(wanted)[:])


def unknown_split(split: str, where: str, known: tuple[str, ...]) -> InputError:
    return InputError(Problem(f"there is no split {split!r}", where, ", ".join(known), remedy=nearest(split, known)))


@contextmanager
def quiet() -> Iterator[None]:
    """`datasets` and the hub's client without bars and without the log of their retries: one error says it all."""
    import datasets

    bars = datasets.are_progress_bars_disabled()
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
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
