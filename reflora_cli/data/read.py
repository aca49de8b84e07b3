"""Read the columns of a data file; whatever cannot be read is an InputError that names the row.

There is one short reader for each format, and `datasets` is not used: its JSON parser can crash the process on a broken
line, it takes a column of dates for times, fills a csv row that is too short with empty texts, and names no row when it
fails. Blank lines are no rows; the first row is row 1.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reflora_cli.data.decode import format_of, text_of
from reflora_cli.data.delimited import delimited_rows
from reflora_cli.data.refusal import check_once, refuse
from reflora_cli.ground import strict_json

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """The rows of a file or data set, stored by column.

    where: the source as messages name it. names: all columns that were found. columns: the cells of the columns that
    were asked for. first: all cells of the first row.
    """

    where: str
    height: int
    names: tuple[str, ...]
    columns: dict[str, list[Any]]
    first: Row = field(default_factory=dict)


def read_file(path: Path, wanted: tuple[str, ...], limit: int | None) -> Table:
    """Return the wanted columns of the first `limit` rows, all of them for None; later rows are not read."""
    match format_of(path):
        case ".parquet":
            return parquet_table(path, wanted, limit)
        case ".csv" | ".tsv":
            rows: Iterator[Row] = delimited_rows(path, wanted)
        case _:
            rows = json_rows(path)
    return table_of(list(islice(rows, limit)), str(path), wanted)


def table_of(rows: list[Row], where: str, wanted: tuple[str, ...]) -> Table:
    """Return rows by column; a column that only some rows have is None in the others."""
    names = tuple(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in wanted if name in names}
    return Table(where, len(rows), names, columns, rows[0] if rows else {})


def json_rows(path: Path) -> Iterator[Row]:
    """Return the objects of a file that holds a list of them, or one on each line; its suffix does not tell which."""
    text = text_of(path)
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
        return strict_json.loads(text)
    except strict_json.RepeatedKeyError as error:
        place = f"{where}, line {error.line}" if error.line > 1 else where
        refuse("a key stands twice in one object", place, repr(error.key), "each key once")
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


def parquet_table(path: Path, wanted: tuple[str, ...], limit: int | None) -> Table:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            names = tuple(file.schema_arrow.names)
            check_once([name for name in names if name in wanted], str(path))
            known = [name for name in wanted if name in names]
            table = file.read_row_groups(first_groups(file, limit), columns=known).slice(0, limit)
            first: Row = next((batch.to_pylist()[0] for batch in file.iter_batches(batch_size=1)), {})
            return Table(str(path), table.num_rows, names, table.to_pydict(), first)
    except (pa.ArrowException, OSError, ValueError) as error:
        message = str(error).partition("\n")[0]
        refuse("the file cannot be read as parquet", str(path), message, "a complete parquet file")


def first_groups(file: ParquetFile, limit: int | None) -> list[int]:
    """Return the indices of the row groups with the first `limit` rows, all of them for None."""
    sizes = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
    begins = accumulate(sizes, initial=0)
    return [index for index, begin in zip(range(len(sizes)), begins, strict=False) if limit is None or begin < limit]
