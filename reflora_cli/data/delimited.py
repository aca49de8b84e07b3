"""Read rows of CSV and TSV files as spreadsheets and programs write them.

A comma separates the cells of a csv and a tab those of a tsv. Where the header has none of them, but has semicolons,
for example, semicolons separate the cells. Cells of a csv are quoted where they need it. Cells of a tsv are not: in
GLUE's own tsv files a quote is a letter. The exception is a tsv whose header is quoted, or which is in UTF-16, as
spreadsheets save it. Cells are not converted: "null" and "NA" stay text.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from reflora_cli.data.decode import decoded, format_of
from reflora_cli.data.refusal import check_once, refuse

SEPARATORS = (",", "\t", ";", "|")
SEPARATOR_NAMES = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}
LONGEST_CELL = 2**31 - 1
"""The largest number of characters in a cell; Python's own limit is 128 KiB, which documents exceed."""
HINT = re.compile(r"sep=(.)\r?\n", re.IGNORECASE)
"""The first line in which spreadsheets may name the separator."""


@dataclass(frozen=True)
class Dialect:
    """How cells are written. separator: stands between cells. quoted: cells may be in quotes. spaced: a blank follows
    the separator.
    """

    separator: str
    quoted: bool
    spaced: bool


def delimited_rows(path: Path, wanted: Sequence[str]) -> Iterator[dict[str, str]]:
    """Return the rows by column. A column whose name differs from one of `wanted` only in case or blanks gets that
    name.
    """
    records = numbered(path)
    _, header = next(records, (0, []))
    names = named(header, wanted)
    check_once(names, f"{path}, header")
    for index, record in records:
        if len(record) != len(names):
            expected = f"{len(names)}, as in the header: {', '.join(names)}"
            refuse("the row has another number of cells", f"{path}, row {index}", str(len(record)), expected)
        yield dict(zip(names, record, strict=True))


def named(header: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Return the header's names; one that differs from a wanted name only in case or blanks becomes it."""
    names = [name.strip() for name in header]
    absent = {name.strip().casefold(): name for name in wanted if name not in names}
    return [absent.get(name.casefold(), name) for name in names]


def numbered(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the header with number 0 and the rows from 1 on, without blank rows."""
    text, dialect = opened(path)
    csv.field_size_limit(LONGEST_CELL)
    records = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=dialect.separator,
        quoting=csv.QUOTE_MINIMAL if dialect.quoted else csv.QUOTE_NONE,
        skipinitialspace=dialect.spaced,
        strict=dialect.quoted,
    )
    index = 0
    while True:
        try:
            record = next(records, None)
        except csv.Error as error:
            expected = "one row in each line, quotes in pairs"
            refuse("the row cannot be read", f"{path}, row {index}", str(error), expected)
        if record is None:
            return
        if record:
            yield index, record
            index += 1


def opened(path: Path) -> tuple[str, Dialect]:
    """Return a file's text, without a line that names the separator, and how it is written."""
    text, wide = decoded(path)
    hint = HINT.match(text)
    text = text[hint.end() :] if hint else text
    tabs, header = format_of(path) == ".tsv", next((line for line in io.StringIO(text) if line.strip()), "")
    return text, dialect_of(header, hint[1] if hint else "", tabs=tabs, always_quoted=wide)


def delimited_form(path: Path) -> str:
    """Say what separates the cells of a csv or tsv; empty for other files."""
    if format_of(path) not in (".csv", ".tsv"):
        return ""
    separator = opened(path)[1].separator
    return f"cells separated by {SEPARATOR_NAMES.get(separator, repr(separator))}"


def dialect_of(header: str, hint: str, *, tabs: bool, always_quoted: bool) -> Dialect:
    """Find out from its first line how a file is written. hint: the separator that the file itself names."""
    own = "\t" if tabs else ","
    separator = hint or next((mark for mark in (own, *SEPARATORS) if mark in header), own)
    cells = [cell.strip() for cell in header.split(separator)]
    in_quotes = all(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in cells)
    quoted = not tabs or separator != own or in_quotes or always_quoted
    return Dialect(separator, quoted, quoted and f'{separator} "' in header)
