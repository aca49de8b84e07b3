"""Read the rows that a model is asked about: from the command line, from standard input, or from a file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reflora_cli.data.check import similar
from reflora_cli.data.decode import format_of
from reflora_cli.data.load import SHEETS, kinds
from reflora_cli.data.read import Table, mapping, parsed, read_file, table_of
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.ground.paths import exists, expanded, is_file
from reflora_cli.objectives.asking import Asking

STANDARD_INPUT, COMMAND_LINE = "standard input", "the command line"
STDIN_SIGN = "-"


def read_rows(inputs: Sequence[str], asking: Asking, columns: Sequence[str]) -> Table:
    """Return the rows as a table of the columns that are asked for.

    inputs: texts, or one file; standard input for none. columns: the names that the columns have in the file, in the
    order of those that are asked for; their own for none. Raises InputError for what cannot be read.
    """
    if columns:
        check_names(columns, asking)
    wanted = tuple(columns) or asking.wanted
    if not inputs or list(inputs) == [STDIN_SIGN]:
        lines = lines_of(sys.stdin.buffer.read() if sys.stdin else b"")
        if not is_object(lines[0]):
            return table_of_texts(lines, asking, STANDARD_INPUT)
        table = table_of(objects_of(lines), STANDARD_INPUT, wanted)
    else:
        file = file_among(inputs)
        if file is None:
            return table_of_texts(inputs, asking, COMMAND_LINE)
        table = read_file(file, wanted, None)
    return renamed(table, columns, asking) if columns else table


def check_names(columns: Sequence[str], asking: Asking) -> None:
    """Raises InputError for names that cannot stand for the columns that are asked for."""
    named = (*asking.columns, *asking.optional)
    if not len(asking.columns) <= len(columns) <= len(named) or len(set(columns)) < len(columns):
        expected = f"names for {', '.join(named)}, each once"
        raise InputError(
            Problem(
                "--columns does not name the columns that the task needs", "--columns", ", ".join(columns), expected
            )
        )


def file_among(inputs: Sequence[str]) -> Path | None:
    """Return the file that the inputs name; None if they are texts. Raises InputError for files that cannot be read."""
    files = [path for path in map(Path, filter(None, inputs)) if is_named_file(path)]  # Path("") is the directory
    if not files:
        return None
    path = expanded(str(files[0]))
    if len(inputs) > 1:
        raise InputError(Problem("only one file can be read", COMMAND_LINE, ", ".join(inputs), "texts, or one file"))
    if not exists(path):
        raise InputError(Problem("there is no such file", str(path), expected="a text, or a file that exists"))
    if not is_file(path) or not format_of(path):
        remedy = "save the sheet as CSV" if path.suffix.lower() in SHEETS else "pass lines of text on standard input"
        found = path.suffix if is_file(path) else "no file"
        raise InputError(Problem("the file type is not supported", str(path), found, kinds(), remedy))
    return path


def is_named_file(path: Path) -> bool:
    """Whether an argument is a file rather than a text: something is there, or it is one word with a file's suffix."""
    one_word = len(str(path).split()) == 1
    return exists(expanded(str(path))) or (one_word and bool(format_of(path)))


def table_of_texts(texts: Sequence[str], asking: Asking, where: str) -> Table:
    """Return texts as rows. Raises InputError for a task that reads more than one text of a row."""
    if len(asking.columns) > 1:
        what = f"a row of this task has {len(asking.columns)} texts"
        expected = f"the columns {', '.join(asking.columns)}"
        line = ", ".join(f'"{name}": "..."' for name in asking.columns)
        remedy = f"give a file with these columns, or lines such as {{{line}}} on standard input"
        raise InputError(Problem(what, where, f"{texts[0]!r}" if texts else "nothing", expected, remedy))
    return table_of([{asking.columns[0]: text} for text in texts], where, asking.columns)


def lines_of(data: bytes) -> list[str]:
    """Return the lines of standard input that are not blank. Raises InputError for none, and for other than UTF-8."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(0x0A) + 1
        problem = Problem(
            "this is not UTF-8 text", f"{STANDARD_INPUT}, line {line}", f"byte 0x{data[error.start]:02x}", "UTF-8"
        )
        raise InputError(problem) from None
    lines = [line.removesuffix("\r") for line in text.split("\n") if line.strip()]
    if not lines:
        raise InputError(Problem("there are no rows", STANDARD_INPUT, "nothing", "one text, or JSON object, in a line"))
    return lines


def objects_of(lines: Sequence[str]) -> list[dict[str, Any]]:
    """Return the objects that stand in lines of JSON. Raises InputError with the row that holds none."""
    places = [f"{STANDARD_INPUT}, row {number}" for number in range(1, len(lines) + 1)]
    return [mapping(parsed(line, where), where) for line, where in zip(lines, places, strict=True)]


def is_object(line: str) -> bool:
    if not line.lstrip().startswith("{"):
        return False
    try:
        return isinstance(parsed(line, STANDARD_INPUT), dict)
    except InputError:
        return False


def renamed(table: Table, columns: Sequence[str], asking: Asking) -> Table:
    """Return the table with the task's names of columns. Raises InputError for a column that is not there."""
    missing = [name for name in columns if name not in table.columns]
    if table.height and missing:
        raise InputError(*(absent(name, table, columns) for name in missing))
    ours = dict(zip(columns, (*asking.columns, *asking.optional), strict=False))
    cells = {ours[name]: table.columns[name] for name in columns if name in table.columns}
    first = {ours.get(name, name): value for name, value in table.first.items()}
    return Table(table.where, table.height, tuple(ours.get(name, name) for name in table.names), cells, first)


def absent(name: str, table: Table, columns: Sequence[str]) -> Problem:
    near = similar([name], [own for own in table.names if own not in columns])
    remedy = f"did you mean {near[name]!r}?" if near else ""
    return Problem(f"column {name!r} is missing", table.where, ", ".join(table.names), ", ".join(columns), remedy)
