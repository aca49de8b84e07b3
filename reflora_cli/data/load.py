"""Find a split on the hub, in the package or in a file, and return its checked Examples."""

from __future__ import annotations

from pathlib import Path

from reflora_cli.builtin.rows import rows as builtin_rows
from reflora_cli.builtin.world import SPLITS
from reflora_cli.data.check import examples_of
from reflora_cli.data.check_prompts import prompt_examples
from reflora_cli.data.decode import COMPRESSED, SUFFIXES, format_of, stem_of
from reflora_cli.data.delimited import delimited_form
from reflora_cli.data.held_out import divided, divided_prompts
from reflora_cli.data.hub import is_hub_name, named_source, read_hub, unknown_split
from reflora_cli.data.layouts import layout_of
from reflora_cli.data.own import own_examples
from reflora_cli.data.read import Table, read_file, table_of
from reflora_cli.data.saved import is_saved, is_saved_rows, read_saved
from reflora_cli.ground.errors import InputError, Problem, near
from reflora_cli.ground.paths import expanded, is_directory, is_file
from reflora_cli.tasks.base import DataTask, LanguageTask, PromptTask, SequenceTask
from reflora_cli.tasks.examples import Example, PromptExample
from reflora_cli.tasks.sources import BuiltinSource

OWN = ("hub", "builtin")
"""The values of `task.data` that mean the task's own source; a folder with such a name is written `./hub`."""
TASKS_FOLDER, JOINT_FOLDER = "dataset", "ft-training_set"
"""The folders of LLM-Adapters' repository with the rows of each task, and with those of all tasks together."""
SHEETS = (".xlsx", ".xls", ".ods", ".numbers")


def load_split(task: SequenceTask, data: str, split: str, limit: int | None) -> list[Example]:
    """Return the first `limit` rows of a split, all of them for None. data: the recipe's `task.data`: hub, builtin,
    hub:NAME, a folder or a file.

    A folder is what `save_to_disk` of the library datasets wrote, or holds `SPLIT.EXT`, `TASK/SPLIT.EXT` or, as that of
    LLM-Adapters, `dataset/TASK/SPLIT.EXT` (TASK without its family). A file, or a saved data set without splits, is
    read for any split. A task that a recipe describes may hold rows out of its training split.
    """
    parts = load_divided(task, data) if split in (task.train, *task.evaluation) else None
    if parts is not None:
        training, held_out = parts
        return (training if split == task.train else held_out)[:limit]
    table = load_table(task, data, split, limit)
    return examples_of(table, task) if task.own is None else own_examples(table, task, task.own)


def load_divided(task: SequenceTask, data: str) -> tuple[list[Example], list[Example]] | None:
    """Return the training rows that are learned from and those that are held out, read once; None if none are."""
    own = task.own
    if own is None or own.held_out is None:
        return None
    examples = own_examples(load_table(task, data, task.train, None), task, own)
    return divided(examples, task, own.held_out, f"task.validation: {data}")


def load_prompts(task: PromptTask, data: str, split: str, limit: int | None) -> list[PromptExample]:
    """Return the first `limit` rows of a split of a language model's task; `data` is explained at `load_split`."""
    parts = load_divided_prompts(task, data) if split in (task.train, *task.evaluation) else None
    if parts is not None:
        training, held_out = parts
        return (training if split == task.train else held_out)[:limit]
    return prompt_examples(load_table(task, data, split, limit), task)


def load_divided_prompts(task: PromptTask, data: str) -> tuple[list[PromptExample], list[PromptExample]] | None:
    """Return the same as `load_divided`, of a language model's task."""
    if task.held_out is None:
        return None
    examples = prompt_examples(load_table(task, data, task.train, None), task)
    return divided_prompts(examples, task.held_out, f"task.validation: {data}")


def load_mixture(task: LanguageTask, data: str, limit: int | None) -> list[PromptExample]:
    """Return training rows of one task, or of all parts of a mixture one after the other, at most `limit` of each.

    If a mixture may have one file with the rows of all its parts, and the file exists, it is read instead.
    """
    if task.joint is not None and data not in OWN:
        joint = joint_file(task, expanded(data))
        if joint is not None:
            return load_prompts(task.joint, str(joint), task.train, limit)
    refuse_undivided(task, data)
    return [example for part in task.parts for example in load_prompts(part, data, part.train, limit)]


def is_undivided(path: Path) -> bool:
    """Whether all rows at a path are one table, which is read for any split."""
    return is_file(path) or is_saved_rows(path)


def joint_file(task: LanguageTask, path: Path) -> Path | None:
    """Return the file with the training rows of all parts of a mixture, if there is one."""
    if is_file(path):
        return path
    files = [file for folder in (path, path / JOINT_FOLDER) for file in data_files(folder)]
    return next((file for stem in task.joint_files for file in files if stem_of(file) == stem), None)


def refuse_undivided(task: LanguageTask, data: str) -> None:
    """Raises InputError where one file or data set would be taken for each part's own file."""
    if len(task.parts) > 1 and data not in OWN and (is_hub_name(data) or is_undivided(expanded(data))):
        what = f"{task.name} has several tasks, not one {'file' if is_file(expanded(data)) else 'data set'} for all"
        raise InputError(Problem(what, "task.data", data, "a directory with a folder for each task"))


def load_table(task: DataTask, data: str, split: str, limit: int | None) -> Table:
    """Return the task's columns of a split."""
    if is_hub_name(data):
        return read_hub(task, named_source(data), split, limit)
    if data not in OWN:
        path = expanded(data)
        if is_saved(path):
            return read_saved(path, task, split, limit)
        return read_file(find_file(path, task, split), task.columns, limit)
    if isinstance(task.source, BuiltinSource):
        return read_builtin(task, task.source, split, limit)
    if task.source is None:
        expected = "a directory or file: jsonl, json, csv, tsv, parquet; or hub:OWNER/NAME"
        raise InputError(Problem(f"task {task.name} needs your own data", "task.data", repr(data), expected))
    if data == "builtin":
        remedy = "set task.data to hub, or to a directory or file"
        raise InputError(Problem(f"{task.name} has no built-in rows", "task.data", repr(data), remedy=remedy))
    return read_hub(task, task.source, split, limit)


def form_of(data: str, task: DataTask, split: str) -> str:
    """Say how the split's file is written where that was found out from the file itself; empty where it was not."""
    if data in OWN or is_hub_name(data) or is_saved(expanded(data)):
        return ""
    path = find_file(expanded(data), task, split)
    return f"{path.name}: {form}" if (form := delimited_form(path)) else ""


def layout_in(data: str, task: PromptTask, split: str) -> str:
    """Say in which of a task's layouts the split's file holds its rows; empty for a task with one layout."""
    return layout_of(load_table(task, data, split, 1), task).name if task.layouts else ""


def find_file(path: Path, task: DataTask, split: str) -> Path:
    """Return the one file with the split. Raises InputError when there is none or more than one."""
    if is_file(path):
        if not format_of(path):
            remedy = "save the sheet as CSV" if path.suffix.lower() in SHEETS else ""
            problem = Problem("the file type is not supported", f"task.data: {path}", path.suffix, kinds(), remedy)
            raise InputError(problem)
        return path
    if not is_directory(path):
        expected = "hub, builtin, or a directory or file that exists"
        remedy = "set the place of the data: task.data=PATH"
        raise InputError(Problem("there is no such directory or file", "task.data", str(path), expected, remedy))
    folders = (path, path / task.short, path / TASKS_FOLDER / task.short)
    there = [file for folder in folders for file in data_files(folder)]
    matches = [file for file in there if stem_of(file) == split]
    if len(matches) > 1:
        found = " and ".join(str(file.relative_to(path)) for file in matches)
        remedy = "keep one of them, or name the file itself as task.data"
        raise InputError(Problem(f"more than one file holds {split!r}", str(path), found, "one", remedy))
    if not matches:
        names = [str(file.relative_to(path)) for file in there] or ["no data file"]
        expected = f"{split}.EXT or {task.short}/{split}.EXT, EXT being {kinds()}"
        remedy = near(split, [stem_of(file) for file in there])
        raise InputError(
            Problem(f"there is no file for split {split!r}", str(path), ", ".join(names), expected, remedy)
        )
    return matches[0]


def data_files(folder: Path) -> list[Path]:
    if not is_directory(folder):
        return []
    try:
        files = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(Problem("the directory cannot be read", str(folder), error.strerror or str(error))) from None
    return [file for file in files if format_of(file) and is_file(file)]


def kinds() -> str:
    return f"{', '.join(suffix[1:] for suffix in SUFFIXES)}; text also with {COMPRESSED}"


def read_builtin(task: DataTask, source: BuiltinSource, split: str, limit: int | None) -> Table:
    if split not in SPLITS:
        raise unknown_split(split, task.name, SPLITS)
    rows = builtin_rows(source.generator, split)[:limit]
    return table_of(list(rows), f"{task.name} {split}", task.columns)
