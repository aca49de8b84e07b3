"""A data file -> its columns; InputError that names the row for whatever cannot be read.

Files are read strictly by ourselves, one short reader for each format, and not through `datasets`: its JSON parser can
crash the process on a broken line, it takes a column of dates for times, fills a csv row that is too short with empty
texts, and tells no row when it fails. Blank lines are no rows; the first row is row 1.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from reflora_cli.errors import InputError, Problem

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """Rows as columns. where: what to call their source; names: all columns found; columns: those asked for."""

    where: str
    height: int
    names: tuple[str, ...]
    columns: dict[str, list[Any]]


def read_file(path: Path, wanted: tuple[str, ...], limit: int | None) -> Table:
    """The wanted columns of the first `limit` rows (all for None); what comes after them is not looked at."""
    match path.suffix.lower():
        case ".parquet":
            return parquet_table(path, wanted, limit)
        case ".csv" | ".tsv":
            rows = delimited_rows(path)
        case _:
            rows = json_rows(path)
    return table_of(list(islice(rows, limit)), str(path), wanted)


def table_of(rows: list[Row], where: str, wanted: tuple[str, ...]) -> Table:
    """Rows as columns; a column that only some rows have is None in the others."""
    names = tuple(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in wanted if name in names}
    return Table(where, len(rows), names, columns)


def json_rows(path: Path) -> Iterator[Row]:
    """A list of objects, or one object on each line, whichever the file holds (its suffix does not tell)."""
    text = decoded(path)
    if text.lstrip().startswith("["):
        for index, row in enumerate(parsed(text, str(path)), start=1):
            yield mapping(row, f"{path}, row {index}")
        return
    lines = (line for line in text.split("\n") if line.strip())  # not splitlines: U+2028 may stand inside a text
    for index, line in enumerate(lines, start=1):
        where = f"{path}, row {index}"
        yield mapping(parsed(line, where), where)


def parsed(text: str, where: str) -> Any:
    expected = "one object in each line, or a list of them"
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{where}, line {error.lineno}, column {error.colno}" if error.lineno > 1 else where
        excerpt = text[max(error.pos - 30, 0) : error.pos + 30]
        refuse("this is not valid JSON", place, f"{error.msg}: {excerpt!r}", expected)
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets thousands deep
        refuse("this JSON cannot be read", where, str(error), expected)


def mapping(row: object, where: str) -> Row:
    if not isinstance(row, dict):
        refuse(
            "the row is not an object", where, f"a value of type {type(row).__name__}", "an object of columns: {...}"
        )
    return row


def delimited_rows(path: Path) -> Iterator[Row]:
    """Comma-separated with quotes, or tab-separated without any: in GLUE's own tsv files a quote is a letter.

    Every cell is the text that it is: "null" and "NA" are words.
    """
    records = numbered(path)
    _, header = next(records, (0, []))
    check_once(header, f"{path}, header")
    for index, record in records:
        if len(record) != len(header):
            expected = f"{len(header)}, as in the header: {', '.join(header)}"
            refuse("the row has another number of cells", f"{path}, row {index}", str(len(record)), expected)
        yield dict(zip(header, record, strict=True))


def numbered(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The header as 0 and the rows from 1, without the blank ones."""
    file = io.StringIO(decoded(path), newline="")
    tabs = path.suffix.lower() == ".tsv"
    records = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.reader(file, strict=True)
    index = 0
    while True:
        try:
            record = next(records, None)
        except csv.Error as error:
            refuse(
                "the row cannot be read", f"{path}, row {index}", str(error), "one row in each line, quotes in pairs"
            )
        if record is None:
            return
        if record:
            yield index, record
            index += 1


def parquet_table(path: Path, wanted: tuple[str, ...], limit: int | None) -> Table:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            names = tuple(file.schema_arrow.names)
            check_once([name for name in names if name in wanted], str(path))
            table = file.read(columns=[name for name in wanted if name in names]).slice(0, limit)
            return Table(str(path), table.num_rows, names, table.to_pydict())
    except (pa.ArrowException, OSError, ValueError) as error:
        message = str(error).partition("\n")[0]
        refuse("the file cannot be read as parquet", str(path), message, "a complete parquet file")


def check_once(names: list[str], where: str) -> None:
    if repeated := [name for name in names if names.count(name) > 1]:
        refuse("a column is named twice", where, repr(repeated[0]), "a different name for each column")


def decoded(path: Path) -> str:
    """The text of the file, without the mark that some programs put before UTF-8."""
    try:
        data = path.read_bytes()
    except OSError as error:
        refuse("the file cannot be read", str(path), error.strerror or str(error), "a file that may be read")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{data[error.start]:02x}"
        refuse("the file is not UTF-8 text", f"{path}, line {line}", found, "UTF-8; save or convert the file as that")


def refuse(what: str, where: str, found: str, expected: str) -> NoReturn:
    # Called where a library's own error is at hand, which says no more to the user: not chained.
    raise InputError(Problem(what, where, found, expected)) from None
