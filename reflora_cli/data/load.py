"""Where a split is: on the hub, in the package, or in a file; from there to checked Examples."""

from __future__ import annotations

import os
from pathlib import Path

from reflora_cli.builtin.rows import rows as builtin_rows
from reflora_cli.builtin.world import SPLITS
from reflora_cli.data.check import examples_of
from reflora_cli.data.hub import read_hub, unknown_split
from reflora_cli.data.read import SUFFIXES, Table, read_file, table_of
from reflora_cli.errors import InputError, Problem, nearest
from reflora_cli.tasks.base import BuiltinSource, Example, Task

OWN = ("hub", "builtin")
"""What `task.data` says for the task's own source; a folder of that name is reached as `./hub`."""


def load_split(task: Task, data: str, split: str, limit: int | None) -> list[Example]:
    """The first `limit` rows of a split (all for None). data: as in a recipe: hub, builtin, a folder or a file.

    A folder holds `SPLIT.EXT` or `TASK/SPLIT.EXT` (TASK without its family); a file is whatever split is asked for.
    """
    if data not in OWN:
        table = read_file(find_file(Path(os.path.expanduser(data)), task, split), (*task.text, task.label), limit)
    elif isinstance(task.source, BuiltinSource):
        table = read_builtin(task, task.source, split, limit)
    elif data == "builtin":
        remedy = "task.data=hub, or a directory or file"
        raise InputError(Problem(f"{task.name} has no built-in rows", "task.data", repr(data), remedy=remedy))
    else:
        table = read_hub(task, task.source, split, limit)
    return examples_of(table, task)


def find_file(path: Path, task: Task, split: str) -> Path:
    """The one file with the split; InputError when there is none or more than one."""
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise InputError(Problem("the file is of no known kind", f"task.data: {path}", path.suffix, kinds()))
        return path
    if not path.is_dir():
        expected = "hub, builtin, or a directory or file that exists"
        raise InputError(Problem("there is no such directory or file", "task.data", str(path), expected))
    there = [file for folder in (path, path / task.short) for file in data_files(folder)]
    matches = [file for file in there if file.stem == split]
    if len(matches) > 1:
        found = " and ".join(str(file.relative_to(path)) for file in matches)
        remedy = "keep one of them, or name the file itself as task.data"
        raise InputError(Problem(f"more than one file holds {split!r}", str(path), found, "one", remedy))
    if not matches:
        names = [str(file.relative_to(path)) for file in there] or ["no data file"]
        expected = f"{split}.EXT or {task.short}/{split}.EXT, EXT being {kinds()}"
        near = nearest(split, [file.stem for file in there])
        remedy = near if near.startswith("did you mean") else ""
        raise InputError(
            Problem(f"there is no file for split {split!r}", str(path), ", ".join(names), expected, remedy)
        )
    return matches[0]


def data_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    try:
        files = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(Problem("the directory cannot be read", str(folder), error.strerror or str(error))) from None
    return [file for file in files if file.suffix.lower() in SUFFIXES and file.is_file()]


def kinds() -> str:
    return ", ".join(suffix[1:] for suffix in SUFFIXES)


def read_builtin(task: Task, source: BuiltinSource, split: str, limit: int | None) -> Table:
    if split not in SPLITS:
        raise unknown_split(split, task.name, SPLITS)
    rows = builtin_rows(source.generator, split)[:limit]
    return table_of(list(rows), f"{task.name} {split}", (*task.text, task.label))
