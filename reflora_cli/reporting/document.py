"""What a report says, before it is written in any format: sections of paragraphs, tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Text:
    """The text of a cell, and whether it is marked as best."""

    text: str
    is_bold: bool = False


@dataclass(frozen=True)
class Table:
    """A table with its caption. The first `texts` columns are names, the others are numbers."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Text, ...], ...]
    texts: int = 1


@dataclass(frozen=True)
class Figure:
    """A figure in two formats. name: that of its files, without a suffix."""

    name: str
    caption: str
    png: bytes
    svg: bytes


@dataclass(frozen=True)
class Section:
    """A part of a report."""

    title: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()


@dataclass(frozen=True)
class Document:
    """A whole report. subtitle: what was read."""

    title: str
    subtitle: str
    sections: tuple[Section, ...]

    @property
    def figures(self) -> tuple[Figure, ...]:
        return tuple(figure for section in self.sections for figure in section.figures)


def make_table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str | Text]], texts: int = 1) -> Table:
    """Return a table of cells that are texts or marked texts."""
    cells = tuple(tuple(cell if isinstance(cell, Text) else Text(cell) for cell in row) for row in rows)
    return Table(caption, tuple(header), cells, texts)
