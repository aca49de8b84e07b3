"""Read the directories that `save_to_disk` of the library `datasets` writes: one data set, or one for each split."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from reflora_cli.data.arrow_rows import table_from, with_class_names
from reflora_cli.data.hub import unknown_split
from reflora_cli.data.read import Table
from reflora_cli.data.refusal import refuse
from reflora_cli.ground.paths import is_file
from reflora_cli.tasks.base import DataTask

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

ROWS, SPLITS = "state.json", "dataset_dict.json"
"""The files that tell a directory with one data set, and one with a data set for each split."""


def is_saved_rows(path: Path) -> bool:
    """Whether the directory holds one saved data set, which is read for any split, as a file is."""
    return is_file(path / ROWS)


def is_saved(path: Path) -> bool:
    return is_saved_rows(path) or is_file(path / SPLITS)


def read_saved(path: Path, task: DataTask, split: str, limit: int | None) -> Table:
    """Return the task's columns of the first `limit` rows of a split. Raises InputError for a directory that cannot be
    read, and for a split that it does not hold.
    """
    from datasets import Dataset

    found = saved_at(path)
    if isinstance(found, Dataset):
        rows, where = found, str(path)
    elif split in found:
        rows, where = found[split], str(path / split)
    else:
        raise unknown_split(split, str(path), tuple(found))
    return with_class_names(table_from(rows, where, task.columns, limit), rows, task)


def saved_at(path: Path) -> Dataset | DatasetDict:
    """Return what was saved. Raises InputError for a directory that is not whole."""
    from datasets import load_from_disk

    try:
        return load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError) as error:  # pyarrow's errors are ValueErrors
        found = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        refuse("the saved data set cannot be read", str(path), found, "a whole directory, as save_to_disk writes it")
